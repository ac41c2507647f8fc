// index.d.ts describes what this package exports.
import { decodeCoded, decodePacked } from "./coded.js";
import { Container } from "./container.js";
import { DacFormatError, EndOfBytes } from "./errors.js";
import { expectedFrames, readHeader } from "./header.js";

export { ContextModel } from "./context.js";
export { DacFormatError } from "./errors.js";
export { FFT } from "./fft.js";
export { isLegacy, readLegacy } from "./legacy.js";
export { LevelFilter } from "./levels.js";
export { encodeChunks, write, writeChunks } from "./writer.js";

/** A .dac file in memory. Chunks are found and verified at once, and decoded when they are asked for. */
export class DacFile {
  #container;
  #model = null;

  constructor(data, { contextModel = null, recover = true, complete = true } = {}) {
    const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
    if (!(bytes instanceof Uint8Array)) throw new DacFormatError("a file is a Uint8Array or an ArrayBuffer");
    const { header, end } = readHeader(bytes);
    this.#container = new Container(header, end, recover);
    this.header = header;
    this.read(bytes, complete);
    if (contextModel) this.setContextModel(contextModel);
  }

  read(bytes, complete) {
    const container = this.#container;
    container.read(bytes, complete);
    this.nFrames = container.nFrames;
    this.length = container.length ?? container.covered;
    this.chunks = container.chunks.map((chunk) => ({ start: chunk.start, frames: chunk.frames, layers: layersThere(chunk) }));
    this.gaps = container.gaps;
    this.problems = container.problems;
    this.truncated = container.truncated;
    this.complete = complete;
    this.size = bytes.length;
  }

  get totalFrames() {
    const { length } = this.header;
    return this.complete ? this.nFrames : length === null ? null : expectedFrames(this.header, length);
  }

  get constant() {
    const { header } = this;
    return header.coding === 0 || this.#container.chunks.every(({ counts }) => counts.every((n) => n === header.codebooks));
  }

  get duration() {
    return this.length / this.header.sampleRate;
  }

  setContextModel(model) {
    if (this.header.contextModel === null) return;
    model.check(this.header);
    this.#model = model;
  }

  decode(index, { codebooks = Infinity } = {}) {
    const { header } = this;
    const { bytes, chunks } = this.#container;
    const chunk = chunks[index];
    if (!chunk) throw new DacFormatError(`there is no chunk ${index}`);
    const n = Math.min(codebooks, header.codebooks);
    const place = { start: chunk.start, frames: chunk.frames };
    if (header.coding === 0) {
      return { ...place, codes: decodePacked(bytes, chunk, header, n), levels: null, problems: [] };
    }
    if (header.contextModel !== null && !this.#model)
      throw new DacFormatError(`the file needs the context model ${header.contextModel}`);
    return { ...place, ...decodeCoded(bytes, chunk, header, this.#model, n, this.complete) };
  }

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

/** How many layers of a chunk are there, from the first one on. */
function layersThere({ layers, late }) {
  let count = layers ? layers.length : 1;
  while (late.has(count + 1)) count++;
  return count;
}

/** Reads a file while it arrives. */
export class ArrivingFile {
  #buffer = new Uint8Array(2 ** 16);
  #size = 0;
  file = null;

  push(bytes) {
    const size = this.#size + bytes.length;
    if (size > this.#buffer.length) {
      const larger = new Uint8Array(2 * size);
      larger.set(this.#buffer.subarray(0, this.#size));
      this.#buffer = larger;
    }
    this.#buffer.set(bytes, this.#size);
    this.#size = size;
    return this.#read(false);
  }

  end() {
    return this.#read(true);
  }

  #read(complete) {
    const bytes = this.#buffer.subarray(0, this.#size);
    try {
      if (this.file) this.file.read(bytes, complete);
      else this.file = new DacFile(bytes, { complete });
    } catch (error) {
      if (complete || !(error instanceof EndOfBytes)) throw error;
    }
    return this.file;
  }
}
