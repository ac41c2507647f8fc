import { DacFormatError } from "./errors.js";

// The range coder of ENTROPY.md, section 1, over one plane. Both coders are called alike, so that a model of the codes serves
// both: `symbol` of the encoder is given a symbol and returns it, that of the decoder returns the next one.

export class RangeEncoder {
  constructor() {
    this.parts = []; // of each symbol: b_k, and the size of its part
  }

  /**
   * Codes symbol `k`; the other arguments are those of the decoder.
   * @returns {number} k
   */
  symbol(weights, total, size, k) {
    let below = 0;
    for (let j = 0; j < k; j++) below += weights[j];
    const bound = (sum, n) => Math.floor((sum * (65536 - size)) / total) + n;
    const start = bound(below, k);
    this.parts.push(start, bound(below + weights[k], k + 1) - start);
    return k;
  }

  /** @returns {Uint8Array} the bytes of the plane */
  finish() {
    const bytes = []; // the last one first
    let state = 0;
    for (let n = this.parts.length - 2; n >= 0; n -= 2) {
      const [start, size] = [this.parts[n], this.parts[n + 1]];
      if (state >>> 16 >= size) {
        bytes.push(state & 0xff, (state >>> 8) & 0xff);
        state >>>= 16;
      }
      state = Math.floor(state / size) * 65536 + (state % size) + start;
    }
    for (; state; state >>>= 8) bytes.push(state & 0xff);
    return Uint8Array.from(bytes.reverse());
  }
}

export class RangeDecoder {
  /** @param {Uint8Array} bytes the bytes of the plane */
  constructor(bytes) {
    const n = bytes.length;
    if (n > 0 && bytes[0] === 0) throw new DacFormatError("a plane starts with a zero byte");
    const head = n <= 4 ? n : n % 2 ? 3 : 4;
    this.bytes = bytes;
    this.position = head;
    this.state = 0;
    for (let i = 0; i < head; i++) this.state = this.state * 256 + bytes[i];
  }

  /**
   * The next symbol of an alphabet of `size` symbols.
   * @param {ArrayLike<number>} weights integers of 0 or more
   * @param {number} total their sum, below 2^36
   * @param {number} size
   * @returns {number}
   */
  symbol(weights, total, size) {
    const s = this.state & 0xffff;
    const scale = 65536 - size;
    // Products are below 2^52, so quotients of floating point, rounded down, are exact.
    let sum = 0;
    let low = 0;
    let k = 0;
    for (;;) {
      sum += weights[k];
      const high = k + 1 === size ? 65536 : Math.floor((sum * scale) / total) + k + 1;
      if (s < high) {
        this.state = (high - low) * (this.state >>> 16) + s - low;
        break;
      }
      low = high;
      k++;
    }
    if (this.state < 65536 && this.position < this.bytes.length) {
      this.state = this.state * 65536 + this.bytes[this.position] * 256 + this.bytes[this.position + 1];
      this.position += 2;
    }
    return k;
  }

  /** Refuses a plane that does not end as an encoder ends it. */
  finish() {
    if (this.state !== 0 || this.position !== this.bytes.length) throw new DacFormatError("a plane ends wrongly");
  }
}
