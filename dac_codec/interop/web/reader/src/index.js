import { decodeCoded, decodePacked } from "./coded.js";
import { Container } from "./container.js";
import { DacFormatError } from "./errors.js";
import { readHeader } from "./header.js";

export { ContextModel } from "./context.js";
export { DacFormatError } from "./errors.js";
export { FFT } from "./fft.js";
export { LevelFilter } from "./levels.js";
export { write } from "./writer.js";

/** A .dac file in memory. Chunks are found and verified at once, and decoded when they are asked for. */
export class DacFile {
  #bytes;
  #chunks;
  #model;

  /**
   * @param {Uint8Array | ArrayBuffer} data
   * @param {{contextModel?: import("./context.js").ContextModel | null, recover?: boolean}} [options] the context model
   *   that the header names; with `recover: false`, damage and truncation throw
   */
  constructor(data, { contextModel = null, recover = true } = {}) {
    const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
    if (!(bytes instanceof Uint8Array)) throw new DacFormatError("a file is a Uint8Array or an ArrayBuffer");
    const { header, end } = readHeader(bytes);
    const container = new Container(bytes, header, end, recover);
    this.#bytes = bytes;
    this.#chunks = container.chunks;
    this.#model = null;
    this.header = header;
    this.nFrames = container.nFrames;
    this.length = container.length;
    this.chunks = container.chunks.map(({ start, frames }) => ({ start, frames }));
    this.gaps = container.gaps;
    this.problems = container.problems;
    this.truncated = container.truncated;
    this.size = bytes.length;
    if (contextModel) this.setContextModel(contextModel);
  }

  /** Seconds of sound. */
  get duration() {
    return this.length / this.header.sampleRate;
  }

  /** @param {import("./context.js").ContextModel} model */
  setContextModel(model) {
    const { header } = this;
    if (header.contextModel === null) return;
    if (model.fingerprint !== header.contextModel)
      throw new DacFormatError(`the file needs the context model ${header.contextModel}, this is ${model.fingerprint}`);
    if (model.codebooks < header.codebooks || model.codebookSize !== header.codebookSize)
      throw new DacFormatError("the context model has other codebooks than the file");
    this.#model = model;
  }

  /**
   * Decodes one chunk.
   * @param {number} index
   * @param {{codebooks?: number}} [options] decode only the first codebooks
   * @returns {import("./index.js").DecodedChunk}
   */
  decode(index, { codebooks = Infinity } = {}) {
    const { header } = this;
    const chunk = this.#chunks[index];
    if (!chunk) throw new DacFormatError(`there is no chunk ${index}`);
    const n = Math.min(codebooks, header.codebooks);
    const place = { start: chunk.start, frames: chunk.frames };
    if (header.coding === 0) {
      return { ...place, codes: decodePacked(this.#bytes, chunk, header, n), levels: null, problems: [] };
    }
    if (header.contextModel !== null && !this.#model)
      throw new DacFormatError(`the file needs the context model ${header.contextModel}`);
    return { ...place, ...decodeCoded(this.#bytes, chunk, header, this.#model, n) };
  }

  /**
   * Decodes all chunks. Where a chunk is missing or can't be decoded, codes are -1.
   * @param {{codebooks?: number, maxCodes?: number}} [options] refuse a file with more codes than this (2^26)
   * @returns {{codes: Int32Array, levels: Int8Array | null, problems: string[]}} codes [C, N, F], levels [C, W, bands]
   */
  decodeAll({ codebooks = Infinity, maxCodes = 2 ** 26 } = {}) {
    const { channels: C, codebooks: N, levels } = this.header;
    const F = this.nFrames;
    if (C * N * F > maxCodes) throw new DacFormatError(`the file has ${C * N * F} codes, more than ${maxCodes}`);
    const codes = new Int32Array(C * N * F).fill(-1);
    const windows = levels ? Math.ceil(F / levels.hop) : 0;
    const all = levels ? new Int8Array(C * windows * levels.bands) : null;
    const problems = [...this.problems];
    for (let index = 0; index < this.chunks.length; index++) {
      const { start, frames } = this.chunks[index];
      let chunk;
      try {
        chunk = this.decode(index, { codebooks });
      } catch (error) {
        if (!(error instanceof DacFormatError) || (this.header.contextModel !== null && !this.#model)) throw error;
        problems.push(`frames ${start} to ${start + frames - 1} are damaged: ${error.message}`);
        continue;
      }
      problems.push(...chunk.problems.map((text) => `frames ${start} to ${start + frames - 1}: ${text}`));
      for (let plane = 0; plane < C * N; plane++)
        codes.set(chunk.codes.subarray(plane * frames, (plane + 1) * frames), plane * F + start);
      if (!chunk.levels) continue;
      const size = chunk.levels.windows * levels.bands;
      for (let c = 0; c < C; c++) {
        const at = (c * windows + chunk.levels.first) * levels.bands;
        all.set(chunk.levels.values.subarray(c * size, (c + 1) * size), at);
      }
    }
    return { codes, levels: all, problems };
  }
}
