import { DacFormatError } from "./errors.js";

/** The range coder of ENTROPY.md, section 1, over one plane. */
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
