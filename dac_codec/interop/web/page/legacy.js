// Files of descript-audio-codec, decoded as it does: window by window, then each channel at the loudness that the file states.
import { readLegacy } from "../reader/src/index.js";
import { BLOCK_SECONDS, MOST_CHANNELS } from "./codec.js";
import { joined } from "./graph.js";
import { loudness } from "./loudness.js";

const MOST_GAIN_DB = 700;
const MOST_SAMPLES = 2 ** 27; // of all channels, which are in memory together
const BEFORE_BLOCKS = 0.9; // share of the work

/** Collects a file while it arrives. */
export class ArrivingLegacy {
  #parts = [];

  push(bytes) {
    this.#parts.push(bytes);
    return null;
  }

  end() {
    const bytes = joined(this.#parts);
    return { complete: true, size: bytes.length, ...readLegacy(bytes) };
  }
}

/** Decodes a whole file, since its gain depends on all of it, and gives it in blocks like `Decoder`. */
export class LegacyDecoder {
  /** Share of the work that is done before blocks are given. */
  done = 0;
  problems = new Set();
  #sound = null;

  /**
   * @param {import("../reader/src/index.js").LegacyFile & {size: number}} content
   * @param {import("./codec.js").Model} model
   * @param {{fewest: number, short: number}} graph as of `withoutPadding`
   * @param {(codes: Int32Array, codebooks: number, frames: number, padding: boolean) => Promise<Float32Array>} network
   *   codes of windows [B, N, F] to sound
   * @param {() => void} onprogress
   */
  constructor(content, model, graph, network, onprogress = () => {}) {
    const { channels, codebooks, frames, codes, sampleRate, originalLength, chunkLength, padding, size } = content;
    if (!model.reference) throw new Error(`This is a file of descript-audio-codec, which has no models like ${model.name}.`);
    if (channels > MOST_CHANNELS) throw new Error(`This file has ${channels} channels, more than ${MOST_CHANNELS}.`);
    const entries = codes.reduce((most, code) => Math.max(most, code), 0) + 1;
    if (codebooks > model.codebooks || entries > model.codebookSize)
      throw new Error(
        `This file has ${codebooks} codebooks of ${entries} entries; ` +
          `${model.name} has ${model.codebooks} of ${model.codebookSize}.`,
      );
    const smallest = Math.min(chunkLength, frames % chunkLength || chunkLength);
    if (!padding && smallest < graph.fewest)
      throw new Error(`This file has a window of ${smallest} frames; without padding it takes ${graph.fewest}.`);
    Object.assign(this, { content, model, graph, network, onprogress, hop: model.hopLength });
    this.#checkLength(frames * this.hop);
    if (channels * frames * this.hop > MOST_SAMPLES)
      throw new Error("This file is too long for this page: a file of descript-audio-codec is decoded as a whole.");
    const header = { channels, codebooks, sampleRate, levels: null };
    this.file = { header, size, duration: originalLength / sampleRate, problems: [], complete: true, constant: true };
    const length = Math.round((originalLength * model.sampleRate) / sampleRate);
    this.length = Math.min(length, (frames + 2) * this.hop); // low rates let a file ask for more than its codes give
    this.blockFrames = Math.max(1, Math.round((BLOCK_SECONDS * model.sampleRate) / this.hop));
    this.blocks = this.ready = Math.ceil(this.length / (this.blockFrames * this.hop));
  }

  update() {
    return false;
  }

  layers() {
    return 1;
  }

  /** One block of sound at the model's rate, for each channel. */
  async block(index) {
    this.#sound ??= this.#decode();
    const start = index * this.blockFrames * this.hop;
    const end = Math.min(start + this.blockFrames * this.hop, this.length);
    return { start, channels: (await this.#sound).map((x) => x.slice(start, end)), tails: [] };
  }

  /** Refuses a file that states more samples than its sound has, but for those that odd strides leave out. */
  #checkLength(samples) {
    const { sampleRate, originalLength } = this.content;
    const ratio = sampleRate / this.model.sampleRate;
    const found = Math.floor(samples * ratio);
    if (originalLength - found > 2 * this.hop * Math.max(1, Math.floor(ratio)))
      throw new Error(`This file claims ${originalLength} samples, but its codes give ${found}.`);
  }

  async #decode() {
    const { content, length, model } = this;
    const sounds = [];
    for (let c = 0; c < content.channels; c++) {
      const decoded = await this.#channel(c);
      this.#checkLength(decoded.length);
      const gain = content.inputDb[c] - loudness([decoded], model.sampleRate);
      if (Math.abs(gain) > MOST_GAIN_DB) throw new Error(`This file has a gain of ${gain.toFixed()} dB.`);
      const sound = new Float32Array(length);
      sound.set(decoded.subarray(0, length).map((sample) => sample * 10 ** (gain / 20)));
      sounds.push(sound);
    }
    return sounds;
  }

  /** The sound of a channel: its windows in a row, short ones decoded together, long ones in blocks. */
  async #channel(c) {
    const { content, hop, graph } = this;
    const { codebooks: N, frames: F, chunkLength, padding } = content;
    const { before, after } = this.model.decoder;
    const most = Math.max(this.blockFrames, graph.fewest);
    const sound = new Float32Array(F * hop);
    let n = 0;
    for (let window = 0; window < F; ) {
      const length = Math.min(chunkLength, F - window);
      const count = Math.max(1, Math.min(Math.floor(most / length), Math.floor((F - window) / length)));
      for (let first = window, last; first < window + length; first = last) {
        last = window + length - first < 2 * most ? window + length : first + most;
        const [from, to] = [Math.max(window, first - before), Math.min(window + length, last + after)];
        const decoded = await this.network(this.#codes(c, from, to, length, count), N, to - from, padding);
        const size = decoded.length / count;
        const lead = ((to - from) * hop - size) / 2; // without padding, the sound begins later and ends earlier
        const start = first === window ? 0 : (first - from) * hop - lead;
        const end = last === window + length ? size - graph.short : (last - from) * hop - lead;
        for (let w = 0; w < count; w++) {
          sound.set(decoded.subarray(w * size + start, w * size + end), n);
          n += end - start;
        }
        this.done = (BEFORE_BLOCKS * (c + (last + (count - 1) * length) / F)) / content.channels;
        this.onprogress();
      }
      window += count * length;
    }
    return sound.subarray(0, n);
  }

  /** Codes [B, N, f] of the frames from .. to-1 of a channel, and of those in the next windows. */
  #codes(c, from, to, length, count) {
    const { codes, codebooks: N, frames: F } = this.content;
    const found = new Int32Array(count * N * (to - from));
    for (let row = 0; row < count * N; row++) {
      const at = (c * N + (row % N)) * F + Math.floor(row / N) * length;
      found.set(codes.subarray(at + from, at + to), row * (to - from));
    }
    return found;
  }
}
