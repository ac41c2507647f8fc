import { DacFormatError } from "./errors.js";

const TYPES = { I8: Int8Array, I32: Int32Array };

/**
 * The int8 and int32 arrays of a safetensors file.
 * @param {Uint8Array} bytes
 * @returns {Map<string, {shape: number[], data: Int8Array | Int32Array, raw: Uint8Array}>}
 */
export function parseSafetensors(bytes) {
  const refuse = (what) => {
    throw new DacFormatError(`this is no context model: ${what}`);
  };
  if (bytes.length < 8) refuse("the file is too short");
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  if (length > bytes.length - 8) refuse("the file is too short");
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  } catch {
    refuse("its header is not JSON");
  }
  if (typeof header !== "object" || header === null) refuse("its header is no object");
  const arrays = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const Type = Object.hasOwn(TYPES, entry?.dtype) ? TYPES[entry.dtype] : undefined;
    const { shape, data_offsets: offsets } = entry ?? {};
    const areSizes = (x) => Array.isArray(x) && x.every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!Type || !areSizes(shape) || !areSizes(offsets) || offsets.length !== 2) refuse(`array ${name}`);
    const size = shape.reduce((a, b) => a * b, Type.BYTES_PER_ELEMENT);
    const [begin, end] = offsets;
    if (end - begin !== size || 8 + length + end > bytes.length) refuse(`array ${name} has the wrong size`);
    const raw = bytes.slice(8 + length + begin, 8 + length + end); // a copy, which is aligned
    arrays.set(name, { shape, raw, data: new Type(raw.buffer) });
  }
  return arrays;
}
