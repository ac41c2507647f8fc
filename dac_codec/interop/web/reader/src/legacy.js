import { DacFormatError } from "./errors.js";
import { PickledArray, unpickle } from "./pickle.js";

// Files of the reference implementation, descript-audio-codec 1.0.0: the result of `numpy.save` for a dict.

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // of every .npy file
const MOST_HEADER = 4096;
const MOST_SAMPLE_RATE = 2 ** 24 - 1;
const METADATA = ["input_db", "original_length", "sample_rate", "chunk_length", "channels", "padding", "dac_version"];
const HEADER = /^\{'descr': '\|O', 'fortran_order': (False|True), 'shape': \(\), \} *\n$/; // the only one for a dict
const VERSION = /^[0-9]{1,4}(\.[0-9]{1,4}){1,3}$/;

/** Whether bytes, at least the first 6 of a file, are of a file for `readLegacy`. */
export function isLegacy(bytes) {
  return MAGIC.every((byte, n) => bytes[n] === byte);
}

/** Reads a file of descript-audio-codec. Nothing in it is executed; time and memory are bounded by its size. */
export function readLegacy(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  if (!(bytes instanceof Uint8Array)) throw new DacFormatError("a file is a Uint8Array or an ArrayBuffer");
  const content = unpickle(pickleIn(bytes));
  check(content instanceof PickledArray, "the file holds no array");
  const artifacts = fieldsOf(content.item(), "the file", ["codes", "metadata"]);
  const metadata = fieldsOf(artifacts.get("metadata"), "metadata", METADATA);
  const codes = codesOf(artifacts.get("codes"));
  const plain = (name) => plainOf(metadata.get(name), name);
  const integer = (name, most) => {
    const value = plain(name);
    const isValid = typeof value === "bigint" && value >= 1n && value <= most;
    check(isValid, `${name} must be an integer in 1..${most}, found ${shown(value)}`);
    return Number(value);
  };
  const channels = integer("channels", 2n ** 32n - 1n);
  check(channels === codes.channels, `channels must be ${codes.channels}, found ${channels}`);
  const file = {
    ...codes,
    chunkLength: integer("chunk_length", BigInt(codes.frames)),
    originalLength: integer("original_length", 2n ** 63n - 1n),
    inputDb: levelsOf(metadata.get("input_db"), channels),
    sampleRate: integer("sample_rate", BigInt(MOST_SAMPLE_RATE)),
    padding: plain("padding"),
    dacVersion: plain("dac_version"),
  };
  check(typeof file.padding === "boolean", `padding must be True or False, found ${shown(file.padding)}`);
  const { dacVersion } = file;
  const isVersion = typeof dacVersion === "string" && VERSION.test(dacVersion);
  check(isVersion, `dac_version must look like '1.0.0', found ${shown(dacVersion)}`);
  return file;
}

function check(isValid, message) {
  if (!isValid) throw new DacFormatError(message);
}

/** A number, truth value or string for a message. */
function shown(value) {
  const text = typeof value === "string" ? JSON.stringify(value.slice(0, 30)) : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/** Checks the .npy header, and returns the pickle after it. */
function pickleIn(bytes) {
  check(isLegacy(bytes), "not a file of descript-audio-codec: it must begin with \\x93NUMPY");
  const [major, minor] = bytes.subarray(6, 8);
  check([1, 2, 3].includes(major) && minor === 0, `the .npy header must have version 1.0, 2.0 or 3.0, found ${major}.${minor}`);
  const start = major === 1 ? 10 : 12;
  const size = bytes.subarray(8, start).reduceRight((value, byte) => 256 * value + byte, 0);
  const isThere = size <= MOST_HEADER && start + size <= bytes.length;
  check(isThere, `the .npy header claims ${size} bytes, the file has ${bytes.length}`);
  const header = String.fromCharCode(...bytes.subarray(start, start + size));
  check(HEADER.test(header), `the .npy header must describe a single Python object, found ${shown(header)}`);
  return bytes.subarray(start + size);
}

/** A dict with exactly these keys. */
function fieldsOf(content, what, names) {
  check(content instanceof Map, `${what} must be a dict`);
  const missing = names.filter((name) => !content.has(name));
  const unknown = [...content.keys()].filter((name) => !names.includes(name));
  const lists = `missing [${missing.join(", ")}], unknown [${unknown.slice(0, 5).map(shown).join(", ")}]`;
  check(!missing.length && !unknown.length, `${what} must hold other fields: ${lists}`);
  return content;
}

/** A number, truth value or string, or the one in a zero-dimensional array. Other values may be nested, and are not shown. */
function plainOf(value, name) {
  const found = value instanceof PickledArray && value.shape?.length === 0 ? value.item() : value;
  const isPlain = ["bigint", "number", "boolean", "string"].includes(typeof found);
  check(isPlain, `${name} in metadata must be a number or a string`);
  return found;
}

/** LUFS of each channel, of which the file has one for all or one for each. */
function levelsOf(value, channels) {
  const isRow = value instanceof PickledArray && value.shape?.length === 1;
  const values = isRow ? value.values() : [plainOf(value, "input_db")];
  const isCount = [1, channels].includes(values.length);
  check(isCount, `input_db must be one value, or ${channels}, found ${values.length}`);
  const levels = values.map((level) => {
    const number = typeof level === "string" ? NaN : Math.fround(Number(level));
    check(Number.isFinite(number), `input_db must be a finite float32, found ${shown(level)}`);
    return number;
  });
  return levels.length === channels ? levels : new Array(channels).fill(levels[0]);
}

/** Codes [C, N, F] of any integer type. */
function codesOf(array) {
  check(array instanceof PickledArray, "codes must be an array");
  const { get, strides } = array.reader();
  check(array.isInteger, "codes must be an integer array");
  const { shape } = array;
  const isShape = shape.length === 3 && !shape.includes(0);
  check(isShape, `codes must have shape [C, N, F] and no empty axis, found [${shape.join(", ")}]`);
  const [channels, codebooks, frames] = shape;
  const codes = new Uint16Array(channels * codebooks * frames);
  let at = 0;
  for (let c = 0; c < channels; c++)
    for (let i = 0; i < codebooks; i++)
      for (let t = 0; t < frames; t++) {
        const code = get(c * strides[0] + i * strides[1] + t * strides[2]);
        check(code >= 0 && code <= 0xffff, "codes must be in 0..65535");
        codes[at++] = Number(code);
      }
  return { codes, channels, codebooks, frames };
}
