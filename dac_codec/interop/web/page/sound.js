// Sound from files and from the microphone, at the model's rate.

/**
 * @param {ArrayBuffer} bytes of a sound file in a format that the browser knows
 * @param {number} rate
 * @returns {Promise<Float32Array[]>}
 */
export async function decodeSound(bytes, rate) {
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error("This is neither a .dac file nor a sound file that this browser can read.");
  }
  return Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
}

async function resampled(samples, from, to) {
  if (from === to) return samples;
  const context = new OfflineAudioContext(1, Math.ceil((samples.length * to) / from), to);
  const buffer = context.createBuffer(1, samples.length, from);
  buffer.copyToChannel(samples, 0);
  const node = new AudioBufferSourceNode(context, { buffer });
  node.connect(context.destination);
  node.start();
  return (await context.startRendering()).getChannelData(0);
}

// Fetched with the page, which needs no network afterwards.
const recorderModule = fetch(new URL("recorder.js", import.meta.url)).then(async (response) =>
  URL.createObjectURL(await response.blob()),
);

/** Records the microphone until it is stopped. */
export class Recorder {
  async start() {
    if (!navigator.mediaDevices) throw new Error("Recording needs a page on https or localhost.");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.context = new AudioContext();
    try {
      await this.context.audioWorklet.addModule(await recorderModule);
    } catch (error) {
      this.release();
      throw error;
    }
    this.node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    this.parts = [];
    this.node.port.onmessage = ({ data }) => this.parts.push(data);
    this.context.createMediaStreamSource(this.stream).connect(this.node);
  }

  /** @param {number} rate @returns {Promise<Float32Array[]>} one channel */
  async stop(rate) {
    const { sampleRate } = this.context;
    await this.release();
    const samples = new Float32Array(await new Blob(this.parts).arrayBuffer());
    if (!samples.length) throw new Error("Nothing was recorded.");
    return [await resampled(samples, sampleRate, rate)];
  }

  release() {
    this.stream.getTracks().forEach((track) => track.stop());
    return this.context.close();
  }
}
