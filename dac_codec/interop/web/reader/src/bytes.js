import { DacFormatError, EndOfBytes } from "./errors.js";

/** Reads the elements of FORMAT.md from the bytes start .. end-1. */
export class ByteReader {
  constructor(bytes, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.position = start;
    this.end = end;
  }

  get left() {
    return this.end - this.position;
  }

  u8() {
    if (this.position >= this.end) throw new EndOfBytes("the data ends too early");
    return this.bytes[this.position++];
  }

  u32() {
    const b = this.take(4);
    return (b[0] | (b[1] << 8) | (b[2] << 16) | (b[3] << 24)) >>> 0;
  }

  f32() {
    const b = this.take(4);
    return new DataView(b.buffer, b.byteOffset, 4).getFloat32(0, true);
  }

  /**
   * An unsigned LEB128 number of at most 9 bytes and as short as its value allows.
   * Values from 2^53 on, which no number of JavaScript holds exactly, are returned as Infinity.
   */
  varint() {
    let value = 0;
    let scale = 1;
    for (let n = 1; ; n++) {
      const b = this.u8();
      value += (b & 0x7f) * scale;
      scale *= 128;
      if (b < 0x80) {
        if (b === 0 && n > 1) throw new DacFormatError("a varint is longer than its value needs");
        return value <= Number.MAX_SAFE_INTEGER ? value : Infinity;
      }
      if (n === 9) throw new DacFormatError("a varint has more than 9 bytes");
    }
  }

  /** A view of the next `n` bytes. */
  take(n) {
    if (n > this.left) throw new EndOfBytes("the data ends too early");
    this.position += n;
    return this.bytes.subarray(this.position - n, this.position);
  }
}

/** Builds bytes of the elements of FORMAT.md. */
export class ByteWriter {
  constructor() {
    /** @type {number[]} */
    this.bytes = [];
  }

  u8(value) {
    this.bytes.push(value & 0xff);
  }

  u32(value) {
    this.bytes.push(value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24);
  }

  f32(value) {
    this.raw(new Uint8Array(new Float32Array([value]).buffer));
  }

  varint(value) {
    while (value >= 128) {
      this.bytes.push((value % 128) | 0x80);
      value = Math.floor(value / 128);
    }
    this.bytes.push(value);
  }

  /** @param {ArrayLike<number>} values */
  raw(values) {
    for (let i = 0; i < values.length; i++) this.bytes.push(values[i]);
  }
}
