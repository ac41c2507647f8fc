// Sound from files and codes from sound, block by block. The networks are passed in as functions, so that this runs in a
// worker of the page and under Node.
import { FFT, LevelFilter } from "../reader/src/index.js";

export const BLOCK_SECONDS = 2;
const STOP_BAND_DB = 80;
const TRANSITION_HZ = 500;
const MOST_REACH = 2048;
export const MOST_CHANNELS = 32; // of sound in a browser
const FADE_SECONDS = 0.005; // around frames that are missing
const TAIL_SECONDS = 0.01; // of a block, after its end

/**
 * What a site knows of its model.
 * @typedef {object} Model
 * @property {string} name
 * @property {string} fingerprint
 * @property {number} sampleRate
 * @property {number} hopLength
 * @property {number} codebooks
 * @property {number} codebookSize entries of the largest codebook
 * @property {number[]} codebookSizes entries of each codebook
 * @property {boolean} reference whether descript-audio-codec has such models
 * @property {{before: number, after: number}} encoder frames around a frame that its codes depend on
 * @property {{before: number, after: number}} decoder frames around a frame that its samples depend on
 */

/** Removes frequencies 500 Hz above a limit: a linear-phase Kaiser filter without delay. */
export class LowPass {
  /** `bandwidth` is in Hz, or null. */
  constructor(sampleRate, bandwidth) {
    this.reach = 0;
    if (bandwidth === null || bandwidth + TRANSITION_HZ > sampleRate / 2) return;
    const count = (STOP_BAND_DB - 7.95) / ((14.36 * TRANSITION_HZ) / sampleRate);
    this.reach = Math.min(MOST_REACH, Math.ceil(count / 2));
    const beta = 0.1102 * (STOP_BAND_DB - 8.7);
    const cutoff = (2 * (bandwidth + TRANSITION_HZ / 2)) / sampleRate;
    const taps = Float64Array.from({ length: 2 * this.reach + 1 }, (_, i) => {
      const n = i - this.reach;
      const sinc = n === 0 ? 1 : Math.sin(Math.PI * cutoff * n) / (Math.PI * cutoff * n);
      return sinc * bessel(beta * Math.sqrt(Math.max(0, 1 - (n / this.reach) ** 2)));
    });
    const sum = taps.reduce((a, b) => a + b);
    this.fft = new FFT(4 * MOST_REACH);
    this.re = new Float64Array(4 * MOST_REACH);
    this.im = new Float64Array(4 * MOST_REACH);
    taps.forEach((tap, i) => (this.re[i] = tap / sum / this.re.length));
    this.fft.transform(this.re, this.im);
  }

  /** Filters a part of a signal: output sample n is input sample n + reach, filtered. The output is 2 reach shorter. */
  apply(x) {
    if (!this.reach) return x;
    const size = this.re.length;
    const step = size - 2 * this.reach;
    const y = new Float32Array(x.length - 2 * this.reach);
    for (let start = 0; start < y.length; start += step) {
      const re = new Float64Array(size);
      const im = new Float64Array(size);
      re.set(x.subarray(start, start + size));
      this.fft.transform(re, im);
      for (let k = 0; k < size; k++) {
        const real = re[k] * this.re[k] - im[k] * this.im[k];
        im[k] = re[k] * this.im[k] + im[k] * this.re[k];
        re[k] = real;
      }
      this.fft.transform(im, re); // inverse
      const n = Math.min(step, y.length - start);
      for (let i = 0; i < n; i++) y[start + i] = re[2 * this.reach + i];
    }
    return y;
  }
}

/** The modified Bessel function I0. */
function bessel(x) {
  let [term, sum] = [1, 1];
  for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

/**
 * Decodes a file in blocks, each with the frames around it that its samples depend on, so that it is a part of the whole.
 * The file may still arrive: see `update`.
 */
export class Decoder {
  /**
   * @param {import("../reader/src/index.js").DacFile} file
   * @param {Model} model
   * @param {(codes: Int32Array, codebooks: number, frames: number) => Promise<Float32Array>} network codes [N, F] to sound
   */
  constructor(file, model, network) {
    const { header } = file;
    const fits = header.hopLength === model.hopLength && header.modelSampleRate === model.sampleRate;
    if (!fits || header.codebookSize !== model.codebookSize || header.codebooks > model.codebooks)
      throw new Error("The header of this file does not fit its model.");
    if (header.channels > MOST_CHANNELS) throw new Error(`This file has ${header.channels} channels, more than ${MOST_CHANNELS}.`);
    this.file = file;
    this.model = model;
    this.network = network;
    this.hop = header.hopLength;
    this.filter = header.levels ? new LevelFilter(header) : null;
    this.lowPass = new LowPass(header.modelSampleRate, header.bandwidth);
    this.gain = 10 ** (-header.gain / 20);
    this.tail = Math.round(TAIL_SECONDS * header.modelSampleRate);
    this.reach = (this.filter ? 2 * this.filter.hop : 0) + this.lowPass.reach;
    this.blockFrames = Math.max(1, Math.round((BLOCK_SECONDS * header.modelSampleRate) / this.hop));
    this.chunks = new Map();
    this.problems = new Set();
    this.update();
  }

  /**
   * Takes note of the bytes of the file that have arrived.
   * @returns {boolean} whether the whole is longer or shorter than it seemed, so that blocks must be decoded again
   */
  update() {
    const { file, hop, frames, length } = this;
    const { header } = file;
    this.frames = file.totalFrames;
    /** Samples per channel at the model's rate. */
    this.length = Math.min(this.frames * hop, Math.round((file.length * header.modelSampleRate) / header.sampleRate));
    this.blocks = Math.ceil(this.length / (this.blockFrames * hop));
    const after = this.model.decoder.after + Math.ceil((this.reach + this.tail) / hop);
    /** Number of blocks, from the first one on, whose frames have arrived. */
    this.ready = file.nFrames >= this.frames ? this.blocks : Math.max(0, Math.floor((file.nFrames - after) / this.blockFrames));
    if (file.complete) this.chunks.clear(); // their numbers and problems may be others now
    return frames !== this.frames || length !== this.length;
  }

  /** How many layers a block would be decoded with. */
  layers(index) {
    const { before, after } = this.model.decoder;
    const { first, last } = this.#place(index);
    return this.#indices(first - before, last + after).reduce((least, n) => Math.min(least, this.file.chunks[n].layers), Infinity);
  }

  /**
   * One block of sound at the model's rate, for each channel, and some samples after its end as they are with the same
   * layers, so that a player can fade into a next block that has more layers.
   * @param {number} [codebooks] decode only the first ones
   * @returns {Promise<{start: number, channels: Float32Array[], tails: Float32Array[]}>}
   */
  async block(index, codebooks = Infinity) {
    const { hop, filter, lowPass } = this;
    const { start, end, first, last } = this.#place(index);
    const size = Math.min(this.blockFrames * hop, end - start);
    const [from, to] = [start - lowPass.reach, end + lowPass.reach];
    const [a, b] = [Math.max(0, from), Math.min(this.frames * hop, to)];
    const offset = first * hop;
    const [channels, tails] = [[], []];
    for (let c = 0; c < this.file.header.channels; c++) {
      let x = await this.#decoded(c, first, last, codebooks);
      if (filter) x = filter.apply(x, offset, a, b, (window) => this.#levels(c, window, codebooks));
      else x = x.subarray(a - offset, b - offset);
      const sound = lowPass.apply(padded(x, a - from, to - b)).map((sample) => sample * this.gain);
      channels.push(sound.slice(0, size));
      tails.push(sound.slice(size));
    }
    return { start, channels, tails };
  }

  /** The samples of a block with its tail, and the frames of the network's output that they depend on; beyond the ends it is zero. */
  #place(index) {
    const { hop, reach } = this;
    const start = index * this.blockFrames * hop;
    const end = Math.min(start + this.blockFrames * hop + this.tail, this.length);
    const first = Math.max(0, Math.floor((start - reach) / hop));
    return { start, end, first, last: Math.min(this.frames, Math.ceil((end + reach) / hop)) };
  }

  /** The network's output for the frames first .. last-1 of a channel. */
  async #decoded(channel, first, last, codebooks) {
    const { before, after } = this.model.decoder;
    const { codebooks: N } = this.file.header;
    const from = Math.max(0, first - before);
    const to = Math.min(this.frames, last + after);
    const codes = new Int32Array(N * (to - from)).fill(-1);
    const missing = new Uint8Array(to - from).fill(1);
    for (const chunk of this.#chunksOf(from, to, codebooks)) {
      const [a, b] = [Math.max(from, chunk.start), Math.min(to, chunk.start + chunk.frames)];
      missing.fill(0, a - from, b - from);
      for (let i = 0; i < N; i++) {
        const at = (channel * N + i) * chunk.frames - chunk.start;
        codes.set(chunk.codes.subarray(at + a, at + b), i * (to - from) + a - from);
      }
    }
    const sound = await this.network(codes, N, to - from);
    if (missing.includes(1)) this.#silence(sound, missing);
    return sound.subarray((first - from) * this.hop, (last - from) * this.hop);
  }

  /** Makes missing frames silent, and fades the sound around them. */
  #silence(sound, missing) {
    const { hop } = this;
    const fade = Math.round(FADE_SECONDS * this.model.sampleRate);
    for (let t = 0; t < missing.length; t++) {
      if (!missing[t]) continue;
      sound.fill(0, t * hop, (t + 1) * hop);
      for (let n = 0; n < fade; n++) {
        if (t && !missing[t - 1] && t * hop > n) sound[t * hop - 1 - n] *= n / fade;
        if (t + 1 < missing.length && !missing[t + 1] && (t + 1) * hop + n < sound.length) sound[(t + 1) * hop + n] *= n / fade;
      }
    }
  }

  /** The numbers of the chunks that have some of the frames from .. to-1. */
  #indices(from, to) {
    const { chunks } = this.file;
    const found = [];
    let low = 0; // the first chunk that ends after `from`
    for (let high = chunks.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (chunks[middle].start + chunks[middle].frames <= from) low = middle + 1;
      else high = middle;
    }
    for (let index = low; index < chunks.length && chunks[index].start < to; index++) found.push(index);
    return found;
  }

  /** The chunks that have some of the frames from .. to-1, decoded with the first codebooks or more. */
  #chunksOf(from, to, codebooks) {
    return this.#indices(from, to).map((index) => this.#chunk(index, codebooks)).filter((chunk) => chunk);
  }

  #chunk(index, codebooks) {
    const { layers } = this.file.chunks[index];
    const known = this.chunks.get(index);
    if (known?.layers !== layers || known.codebooks < codebooks) {
      let chunk = null;
      try {
        chunk = this.file.decode(index, { codebooks });
        chunk.problems.forEach((text) => this.problems.add(text));
      } catch (error) {
        this.problems.add(`part ${index + 1} is left out: ${error.message}`);
      }
      this.chunks.set(index, { layers, codebooks, chunk });
      if (this.chunks.size > 64) this.chunks.delete(this.chunks.keys().next().value);
    }
    return this.chunks.get(index).chunk;
  }

  /** The levels of a window, or null. The window after the last one has those of the last one. */
  #levels(channel, window, codebooks) {
    const { hop, bands } = this.file.header.levels;
    const windows = Math.ceil(this.frames / hop);
    const j = Math.min(window, windows - 1);
    if (j < 0) return null;
    const [chunk] = this.#chunksOf(j * hop, j * hop + 1, codebooks);
    if (!chunk || !chunk.levels) return null;
    const { first, windows: count, values } = chunk.levels;
    const at = (channel * count + j - first) * bands;
    return values.subarray(at, at + bands);
  }
}

function padded(x, before, after) {
  if (!before && !after) return x;
  const out = new Float32Array(before + x.length + after);
  out.set(x, before);
  return out;
}

/**
 * The codes of a sound.
 * @param {Float32Array[]} channels at the model's rate and loudness
 * @param {Model} model
 * @param {(sound: Float32Array) => Promise<{codes: BigInt64Array, codebooks: number, frames: number}>} network
 * @param {(share: number) => void} [progress]
 * @returns {Promise<{codes: Int32Array, frames: number}>} codes [C, N, F] of all codebooks
 */
export async function encode(channels, model, network, progress = () => {}) {
  const { hopLength: hop, codebooks: N } = model;
  const { before, after } = model.encoder;
  const frames = Math.ceil(channels[0].length / hop);
  const step = Math.max(1, Math.round((BLOCK_SECONDS * model.sampleRate) / hop));
  const codes = new Int32Array(channels.length * N * frames);
  for (let c = 0; c < channels.length; c++) {
    for (let first = 0; first < frames; first += step) {
      const last = Math.min(first + step, frames);
      const [from, to] = [Math.max(0, first - before), Math.min(frames, last + after)];
      const sound = new Float32Array((to - from) * hop);
      sound.set(channels[c].subarray(from * hop, to * hop));
      const found = await network(sound);
      for (let i = 0; i < N; i++)
        for (let t = first; t < last; t++) codes[(c * N + i) * frames + t] = Number(found.codes[i * found.frames + t - from]);
      progress((c * frames + last) / (channels.length * frames));
    }
  }
  return { codes, frames };
}
