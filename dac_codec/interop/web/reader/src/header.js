import { ByteReader } from "./bytes.js";
import { crc32c } from "./crc32c.js";
import { DacFormatError, EndOfBytes } from "./errors.js";
import { isLegacy } from "./legacy.js";

const MAGIC = [0x8a, 0x44, 0x41, 0x43];
const MAX_RATE = 2 ** 24 - 1;

/** @returns {never} */
function refuse(what) {
  throw new DacFormatError(`the header is invalid: ${what}`);
}

function inRange(value, low, high, what) {
  if (!(value >= low && value <= high)) refuse(`${what} is ${value}, not ${low} to ${high}`);
  return value;
}

function modelName(value) {
  if (value.length > 64) refuse("the model name has more than 64 bytes");
  let name = "";
  try {
    name = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value);
  } catch {
    refuse("the model name is not UTF-8");
  }
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) refuse("the model name has control characters");
  return name;
}

function layerSizes(value, codebooks) {
  const reader = new ByteReader(value);
  const sizes = [];
  while (reader.left) sizes.push(inRange(reader.varint(), 1, codebooks, "the size of a layer"));
  inRange(sizes.length, 1, 32, "the number of layers");
  if (sizes.reduce((a, b) => a + b) !== codebooks) refuse("the layers don't add up to the codebooks");
  return sizes;
}

function levelParameters(value) {
  const reader = new ByteReader(value);
  const hop = inRange(reader.varint(), 1, 64, "the hop of the band levels");
  const bands = inRange(reader.varint(), 1, Math.min(256, 16 * hop), "the number of bands");
  const top = inRange(reader.varint(), 1, MAX_RATE, "the top of the band levels");
  const lowest = inRange(reader.varint(), 0, 15, "the lowest level");
  const highest = inRange(reader.varint(), 0, 15 - lowest, "the highest level");
  const step = reader.f32();
  if (!(step > 0 && Number.isFinite(step))) refuse(`the step of the band levels is ${step}`);
  if (reader.left) refuse("the extension of the band levels is too long");
  return { hop, bands, top, lowest, highest, step };
}

function channelMask(value, channels) {
  const reader = new ByteReader(value);
  const mask = inRange(reader.varint(), 1, 2 ** 32 - 1, "the channel mask");
  let bits = 0;
  for (let rest = mask; rest; rest = Math.floor(rest / 2)) bits += rest % 2;
  if (reader.left || bits !== channels) refuse("the channel mask doesn't fit the channels");
  return mask;
}

function codebookSizes(value, header) {
  inRange(header.codebooks, 1, 1024, "the number of codebooks of different sizes");
  const reader = new ByteReader(value);
  const sizes = [];
  while (reader.left) sizes.push(inRange(reader.varint(), 2, header.codebookSize, "the size of a codebook"));
  if (sizes.length !== header.codebooks) refuse(`it has the sizes of ${sizes.length} codebooks`);
  return sizes;
}

function extensions(reader, header, sized) {
  const seen = new Set();
  while (reader.left) {
    const tag = reader.varint();
    const value = reader.take(reader.varint());
    const known = tag >= 1 && tag <= (sized ? 8 : 7);
    if (!known || (header.coding === 0 && tag >= 4 && tag <= 6)) continue;
    if (seen.has(tag)) refuse(`extension ${tag} occurs twice`);
    seen.add(tag);
    if (tag === 1) header.modelName = modelName(value);
    else if (tag === 2) header.gainFromBeginning = value.length === 1 && value[0] === 1;
    else if (tag === 3) {
      const number = new ByteReader(value);
      header.bandwidth = inRange(number.varint(), 1, MAX_RATE, "the bandwidth");
      if (number.left) refuse("the bandwidth is too long");
    } else if (tag === 4) {
      if (value.length !== 8) refuse("the context model is not 8 bytes");
      header.contextModel = hex(value);
    } else if (tag === 5) header.layers = layerSizes(value, header.codebooks);
    else if (tag === 6) header.levels = levelParameters(value);
    else if (tag === 7) header.channelMask = channelMask(value, header.channels);
    else header.codebookSizes = codebookSizes(value, header);
  }
}

/** Bytes as hexadecimal digits. */
export function hex(bytes) {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * The header at the beginning of a file, and the position after it.
 * @param {Uint8Array} bytes
 * @returns {{header: import("./index.js").Header, end: number}}
 */
export function readHeader(bytes) {
  if (isLegacy(bytes)) throw new DacFormatError("this is a file of descript-audio-codec, which readLegacy reads");
  if (MAGIC.some((b, i) => i < bytes.length && bytes[i] !== b)) throw new DacFormatError("this is no .dac file");
  const start = new ByteReader(bytes, 4);
  let end;
  try {
    const version = start.u8();
    if (version !== 1) throw new DacFormatError(`the file has version ${version}; this reader knows version 1`);
    const length = start.varint();
    if (length > 4096) refuse(`its body has ${length} bytes, more than 4096`);
    start.take(length);
    const checksum = start.u32();
    end = start.position - 4;
    if (checksum !== crc32c(bytes, 0, end)) refuse("its checksum does not match");
    const body = new ByteReader(bytes, end - length, end);
    return { header: readBody(body), end: start.position };
  } catch (error) {
    if (!(error instanceof EndOfBytes)) throw error;
    if (end === undefined) throw new EndOfBytes("the file ends inside its header");
    refuse("too short");
  }
}

function readBody(body) {
  const features = body.varint();
  if (features % 2 !== 1) refuse("its checksums are not positioned");
  if (features !== 1 && features !== 3) throw new DacFormatError("the file needs a newer reader: it has features unknown to this one");
  const header = { fingerprint: hex(body.take(8)) };
  header.sampleRate = inRange(body.varint(), 1, MAX_RATE, "the sample rate");
  header.channels = inRange(body.varint(), 1, 65535, "the number of channels");
  const length = body.varint();
  if (length === Infinity) refuse("the length is 2^53 samples or more");
  header.length = length === 0 ? null : length - 1;
  header.gain = body.f32();
  if (!Number.isFinite(header.gain)) refuse("the gain is not finite");
  header.modelSampleRate = inRange(body.varint(), 1, MAX_RATE, "the model sample rate");
  header.hopLength = inRange(body.varint(), 1, header.modelSampleRate, "the hop length");
  header.codebooks = inRange(body.varint(), 1, Math.floor(65536 / header.channels), "the number of codebooks");
  header.codebookSize = inRange(body.varint(), 2, 65536, "the codebook size");
  header.coding = body.u8();
  if (header.coding > 1) throw new DacFormatError(`the file needs a newer reader: it has coding ${header.coding}`);
  if (header.modelSampleRate > header.sampleRate * header.hopLength) refuse("the frame rate exceeds the sample rate");
  if (header.coding === 1) inRange(header.codebooks, 1, 64, "the number of codebooks");
  Object.assign(header, { modelName: "", gainFromBeginning: false, bandwidth: null, contextModel: null });
  Object.assign(header, { layers: null, levels: null, channelMask: null, codebookSizes: null });
  extensions(body, header, features === 3);
  if (features === 3 && !header.codebookSizes) refuse("the sizes of the codebooks are missing");
  header.codebookSizes ??= new Array(header.codebooks).fill(header.codebookSize);
  if (header.coding === 1 && !header.layers) refuse("the sizes of the layers are missing");
  return Object.freeze(header);
}

/** The width of a code in bits. */
export function bitsOf(codebookSize) {
  return 32 - Math.clz32(codebookSize - 1);
}

/** The number of frames for a length in samples per channel; a file may have one more or one less. */
export function expectedFrames(header, length) {
  const per = BigInt(header.sampleRate) * BigInt(header.hopLength);
  return Number((BigInt(length) * BigInt(header.modelSampleRate) + per - 1n) / per);
}

/** Whether a file of `frames` frames can have a length of `length` samples per channel. */
export function lengthFits(header, frames, length) {
  return Math.abs(frames - expectedFrames(header, length)) <= 1 && (frames > 0 || length === 0);
}
