import { ByteReader } from "./bytes.js";
import { layersOf, parseCoded, parsePacked } from "./coded.js";
import { positionOf, positionedCrc, crc32c } from "./crc32c.js";
import { DacFormatError, EndOfBytes } from "./errors.js";
import { lengthFits } from "./header.js";

const END = 0;
const CODES = 1;
const ANCILLARY = 2;
const CRITICAL = 3;

const WINDOW = 2 ** 20; // frames that may be missing in one place
const ATTEMPT = 64; // cost of a place where the search for chunks looks closer, in bytes passed to the checksum

class Unsupported extends DacFormatError {}

/** The chunks of a file, with their checksums verified and without decoding codes. */
export class Container {
  /**
   * @param {import("./index.js").Header} header
   * @param {number} start the position of the first chunk
   * @param {boolean} recover continue after damage
   */
  constructor(header, start, recover) {
    this.bytes = new Uint8Array(0);
    this.position = start;
    this.ended = false;
    this.complete = false;
    this.header = header;
    this.recover = recover;
    this.chunks = [];
    this.gaps = [];
    this.problems = [];
    this.repeated = [];
    this.byStart = new Map();
    this.nFrames = 0;
    this.length = header.length;
    this.truncated = false;
    // Bytes that the search for chunks may pass to the checksum. It bounds the work on hostile files.
    this.budget = 2 ** 20;
  }

  /**
   * Reads on. While more bytes may come, it stops at the first chunk that is not intact.
   * @param {Uint8Array} bytes the file so far
   * @param {boolean} complete no more bytes will come
   */
  read(bytes, complete) {
    this.budget += 16 * (bytes.length - this.bytes.length);
    this.bytes = bytes;
    this.complete = complete;
    if (!this.ended) this.#readAll();
    if (!complete) return;
    if (this.ended && this.position < bytes.length) this.#problem("there are bytes after the end of the file");
    this.#useRepeated();
    this.#checkLayers();
  }

  #problem(message) {
    if (!this.recover) throw new DacFormatError(message);
    this.problems.push(message);
  }

  #readAll() {
    const { bytes } = this;
    while (!this.ended) {
      const { position } = this;
      let chunk;
      try {
        chunk = this.#chunk(position);
        if (chunk.kind === CODES || chunk.kind === END) {
          const { checksum, first, covered } = chunk;
          if (positionedCrc(this.nFrames, bytes, first, covered) !== checksum)
            throw new DacFormatError("its checksum does not match");
        }
      } catch (error) {
        if (!(error instanceof DacFormatError) || error instanceof Unsupported) throw error;
        if (!this.complete) return;
        const found = this.recover ? this.#search(position) : null;
        if (!found) {
          this.#cutShort(position, error);
          return;
        }
        if (found.position > position) this.problems.push(`damaged at byte ${position}: ${error.message}`);
        const missing = found.start === undefined ? 0 : found.start - this.nFrames;
        if (missing) this.#addGap(this.nFrames, missing);
        chunk = found;
      }
      this.#take(chunk);
      this.position = chunk.end;
      this.ended = chunk.kind === END;
    }
  }

  /** The chunk at a position. Its checksum is verified here if it does not depend on the frames before. */
  #chunk(position) {
    const { bytes, header } = this;
    const reader = new ByteReader(bytes, position);
    const key = reader.varint();
    const kind = key % 4;
    const size = Math.floor(key / 4);
    if (size > 2 ** 22) throw new DacFormatError("a chunk is longer than 2^22 bytes");
    const start = reader.position;
    if (size + 4 > reader.left) throw new EndOfBytes("the file ends inside a chunk");
    reader.take(size);
    const end = reader.position;
    const checksum = reader.u32();
    const chunk = { kind, position, first: position, covered: end, checksum, end: reader.position };
    if (kind === CODES) {
      const parse = header.coding === 0 ? parsePacked : parseCoded;
      return Object.assign(chunk, parse(bytes, start, end, header), { late: new Map() });
    }
    if (kind === END) {
      const payload = new ByteReader(bytes, start, end);
      chunk.length = header.length === null ? payload.varint() : header.length;
      if (payload.left) throw new DacFormatError("the END chunk has the wrong size");
      return chunk;
    }
    if (crc32c(bytes, position, end) !== checksum) throw new DacFormatError("its checksum does not match");
    if (kind === CRITICAL) throw new Unsupported("the file needs a newer reader: it has an unknown critical chunk");
    return Object.assign(chunk, { body: start, bodyEnd: end });
  }

  #take(chunk) {
    const { header } = this;
    if (chunk.kind === CODES) {
      chunk.start = this.nFrames;
      this.chunks.push(chunk);
      this.byStart.set(chunk.start, chunk);
      this.nFrames += chunk.frames;
    } else if (chunk.kind === END) {
      this.length = chunk.length;
      if (chunk.length === Infinity || !lengthFits(header, this.nFrames, chunk.length)) {
        this.#problem(`${this.nFrames} frames do not fit a length of ${chunk.length} samples`);
        this.#limitLength();
      }
    } else if (header.coding === 1) this.#takeAncillary(chunk);
  }

  #takeAncillary({ body, bodyEnd }) {
    const { bytes, header } = this;
    const reader = new ByteReader(bytes, body, bodyEnd);
    try {
      const type = reader.varint();
      if (type === 1) {
        const start = reader.varint();
        const number = reader.varint();
        if (number < 2 || number > layersOf(header)) throw new DacFormatError(`there is no layer ${number}`);
        const chunk = this.byStart.get(start);
        if (chunk && number > chunk.layers.length && !chunk.late.has(number))
          chunk.late.set(number, { start: reader.position, end: bodyEnd, crc: null });
      } else if (type === 2) {
        const start = reader.varint();
        const fields = parseCoded(bytes, reader.position, bodyEnd, header);
        if (fields.layers.length !== 1) throw new DacFormatError("a repeated layer 1 has more layers");
        this.repeated.push({ start, ...fields, late: new Map(), repeated: true });
      }
    } catch (error) {
      if (!(error instanceof DacFormatError)) throw error;
      this.#problem(error.message);
    }
  }

  /** The file ends before END, or what is left of it is damaged. */
  #cutShort(position, error) {
    if (!this.recover) {
      const what = error instanceof EndOfBytes ? "the file is truncated" : "the file is damaged";
      throw new DacFormatError(`${what} at byte ${position}: ${error.message}`);
    }
    this.truncated = true;
    const what = error instanceof EndOfBytes ? "truncated" : "damaged up to its end";
    this.problems.push(`the file is ${what} at byte ${position}`);
    this.#limitLength();
  }

  /** Samples per channel of the frames so far. */
  get covered() {
    const { header } = this;
    const rate = BigInt(header.hopLength) * BigInt(header.sampleRate);
    return Number((BigInt(this.nFrames) * rate) / BigInt(header.modelSampleRate));
  }

  #limitLength() {
    this.length = Math.min(this.length ?? Infinity, this.covered);
  }

  #addGap(start, frames) {
    this.gaps.push({ start, frames });
    this.problems.push(`frames ${start} to ${start + frames - 1} are missing`);
    this.nFrames += frames;
  }

  /** The next intact chunk from a position on: FORMAT.md, "Reading damaged files". */
  #search(position) {
    let candidate = this.#candidate(position, this.nFrames);
    while (candidate && candidate.start > this.nFrames && candidate.kind === CODES) {
      // The next intact chunk, or the end of the file, must confirm that frames are missing.
      let next = this.#candidate(candidate.end, 0);
      while (next && next.start === undefined) next = this.#candidate(next.end, 0);
      if (!next || next.start >= candidate.start + candidate.frames) break;
      candidate = this.#candidate(candidate.position + 1, this.nFrames);
    }
    return candidate;
  }

  /** Whether the bytes at a position may be a chunk; a quick check without exceptions. */
  #plausible(position) {
    const { bytes, header } = this;
    const kind = bytes[position] & 3;
    if (kind === CRITICAL || (kind === ANCILLARY && header.coding === 0)) return false;
    let key = 0;
    let at = position;
    for (let scale = 1; ; scale *= 128) {
      key += (bytes[at] & 0x7f) * scale;
      if (bytes[at++] < 0x80) break;
      if (at - position === 4) return false; // a key is below 2^25
    }
    const size = key >> 2;
    if (size > 2 ** 22 || at + size + 4 > bytes.length) return false;
    if (kind === END) return header.length === null ? size >= 1 && size <= 9 : size === 0;
    if (kind === ANCILLARY) return size > 2 && (bytes[at] === 1 || bytes[at] === 2);
    return header.coding === 0 ? size > 1 : size > 3 && bytes[at] >= 1 && bytes[at] <= layersOf(header);
  }

  /** The first bytes from a position on that have the form of a chunk and a valid checksum, for some position >= least. */
  #candidate(position, least) {
    const { bytes, header } = this;
    for (; position + 5 <= bytes.length; position++) {
      if (!this.#plausible(position)) continue;
      const kind = bytes[position] & 3;
      this.budget -= ATTEMPT;
      let chunk;
      try {
        if (kind === ANCILLARY) this.budget -= new ByteReader(bytes, position).varint() >> 2;
        if (this.budget < 0) return null;
        chunk = this.#chunk(position);
      } catch (error) {
        if (!(error instanceof DacFormatError)) throw error;
        continue;
      }
      if (kind === ANCILLARY) return chunk;
      this.budget -= chunk.covered - chunk.first;
      if (this.budget < 0) return null;
      chunk.start = positionOf(chunk.checksum, bytes, chunk.first, chunk.covered);
      if (chunk.start < least || chunk.start > this.nFrames + WINDOW) continue;
      if (kind === CODES || lengthFits(header, chunk.start, chunk.length)) return chunk;
    }
    return null;
  }

  /** Puts repeated layers 1 where chunks are missing. */
  #useRepeated() {
    for (const chunk of this.repeated) {
      const end = chunk.start + chunk.frames;
      const index = this.gaps.findIndex((gap) => gap.start <= chunk.start && end <= gap.start + gap.frames);
      if (index < 0) continue;
      const gap = this.gaps[index];
      const rest = [
        { start: gap.start, frames: chunk.start - gap.start },
        { start: end, frames: gap.start + gap.frames - end },
      ];
      this.gaps.splice(index, 1, ...rest.filter(({ frames }) => frames > 0));
      this.chunks.push(chunk);
      this.problems.push(`frames ${chunk.start} to ${end - 1} come from a repeated layer 1`);
    }
    this.chunks.sort((a, b) => a.start - b.start);
  }

  /** Reports layers that no chunk holds. */
  #checkLayers() {
    if (this.header.coding === 0 || this.truncated) return;
    const count = layersOf(this.header);
    const lacking = this.chunks.filter((chunk) => !chunk.repeated && chunk.layers.length + chunk.late.size < count);
    if (lacking.length) this.#problem(`layers are missing in ${lacking.length} of ${this.chunks.length} chunks`);
  }
}
