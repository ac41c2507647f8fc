// CRC-32C (Castagnoli), reflected: FORMAT.md, "Checksum".
const TABLE = new Uint32Array(256);
const REVERSE = new Uint32Array(256); // by the high byte of a register: undoes one step of TABLE
for (let n = 0; n < 256; n++) {
  let r = n;
  for (let k = 0; k < 8; k++) r = r & 1 ? (r >>> 1) ^ 0x82f63b78 : r >>> 1;
  TABLE[n] = r;
}
for (let n = 0; n < 256; n++) REVERSE[TABLE[n] >>> 24] = (TABLE[n] << 8) ^ n;

/** The register after feeding the bytes start .. end-1. */
function feed(register, bytes, start, end) {
  for (let i = start; i < end; i++) register = TABLE[(register ^ bytes[i]) & 0xff] ^ (register >>> 8);
  return register >>> 0;
}

/** The register before the bytes start .. end-1 were fed: the inverse of `feed`. */
function unfeed(register, bytes, start, end) {
  for (let i = end - 1; i >= start; i--) register = (register << 8) ^ REVERSE[register >>> 24] ^ bytes[i];
  return register >>> 0;
}

const EIGHT = new Uint8Array(8);

/** The checksum over the bytes start .. end-1. */
export function crc32c(bytes, start = 0, end = bytes.length) {
  return ~feed(0xffffffff, bytes, start, end) >>> 0;
}

/**
 * The position P < 2^32 with which a checksum over P (u64) and the bytes start .. end-1 is valid: FORMAT.md, "Reading damaged
 * files".
 */
export function positionOf(checksum, bytes, start, end) {
  const register = unfeed(~checksum >>> 0, bytes, start, end); // after P
  return ~unfeed(register, EIGHT, 0, 8) >>> 0; // a register of ones plus the low word of P, times x^64
}

/** The checksum over a position (u64) and the bytes start .. end-1. */
export function positionedCrc(position, bytes, start, end) {
  const p = new Uint8Array(8);
  new DataView(p.buffer).setBigUint64(0, BigInt(position), true);
  return ~feed(feed(0xffffffff, p, 0, 8), bytes, start, end) >>> 0;
}
