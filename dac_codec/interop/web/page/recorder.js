// Sends the samples of its input, mixed to one channel, to the page.
class RecorderProcessor extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) {
      const mono = new Float32Array(input[0].length);
      for (const channel of input) for (let n = 0; n < mono.length; n++) mono[n] += channel[n] / input.length;
      this.port.postMessage(mono, [mono.buffer]);
    }
    return true;
  }
}

registerProcessor("recorder", RecorderProcessor);
