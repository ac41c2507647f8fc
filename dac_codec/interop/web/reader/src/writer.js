import { ByteWriter } from "./bytes.js";
import { MOST_CODES, MOST_FRAMES, coderOf, typicalLength } from "./coded.js";
import { crc32c, positionedCrc } from "./crc32c.js";
import { DacFormatError } from "./errors.js";
import { bitsOf, lengthFits, readHeader } from "./header.js";
import { RangeEncoder } from "./rangecoder.js";

/** The bytes that `fill` writes to a ByteWriter. */
function bytes(fill) {
  const data = new ByteWriter();
  fill(data);
  return Uint8Array.from(data.bytes);
}

/** Packs one plane of codes, most significant bit first. */
function pack(codes, bits) {
  return bytes((data) => {
    let held = 0;
    let nHeld = 0;
    for (const code of codes) {
      held = ((held << bits) | code) & 0xffffff;
      nHeld += bits;
      while (nHeld >= 8) {
        nHeld -= 8;
        data.u8(held >> nHeld);
      }
    }
    if (nHeld) data.u8(held << (8 - nHeld));
  });
}

/** Entries of each codebook. */
function sizesOf({ codebooks: N, codebookSize: K, codebookSizes }) {
  const sizes = codebookSizes ?? new Array(N).fill(K);
  if (sizes.length !== N) throw new DacFormatError(`there are ${sizes.length} sizes of ${N} codebooks`);
  return sizes;
}

/** Codebooks of each layer: three layers of about the same size, unless the header gives them. */
function layerSizesOf({ codebooks: N, layers }) {
  const count = Math.min(3, N);
  return layers ?? Array.from({ length: count }, (_, layer) => Math.floor(N / count) + (layer < N % count ? 1 : 0));
}

function fromHex(text) {
  if (!/^[0-9a-f]{16}$/.test(text)) throw new DacFormatError(`the fingerprint ${text} is not 16 hexadecimal digits`);
  return text.match(/../g).map((digits) => parseInt(digits, 16));
}

function headerBytes(header) {
  if (header.levels) throw new DacFormatError("band levels are not written");
  const sizes = sizesOf(header);
  const sized = sizes.some((size) => size < header.codebookSize);
  const coded = header.coding === 1;
  const varints = (...values) => bytes((data) => values.forEach((value) => data.varint(value)));
  const extensions = [
    [1, new TextEncoder().encode(header.modelName ?? "")],
    [2, header.gainFromBeginning ? [1] : []],
    [3, header.bandwidth ? varints(header.bandwidth) : []],
    [4, coded && header.contextModel ? fromHex(header.contextModel) : []],
    [5, coded ? varints(...layerSizesOf(header)) : []],
    [7, header.channelMask ? varints(header.channelMask) : []],
    [8, sized ? varints(...sizes) : []],
  ];
  const body = bytes((data) => {
    data.varint(sized ? 3 : 1);
    data.raw(fromHex(header.fingerprint));
    data.varint(header.sampleRate);
    data.varint(header.channels);
    data.varint(header.length + 1);
    data.f32(header.gain ?? 0);
    data.varint(header.modelSampleRate);
    data.varint(header.hopLength);
    data.varint(header.codebooks);
    data.varint(header.codebookSize);
    data.u8(header.coding ?? 0);
    for (const [tag, value] of extensions) {
      if (!value.length) continue;
      data.varint(tag);
      data.varint(value.length);
      data.raw(value);
    }
  });
  const all = bytes((data) => {
    data.raw([0x8a, 0x44, 0x41, 0x43, 1]);
    data.varint(body.length);
    data.raw(body);
    data.u32(crc32c(Uint8Array.from(data.bytes)));
  });
  readHeader(all); // refuses what breaks a rule
  return all;
}

/** Codes the planes of a file, chunk by chunk: the part of writing that takes time. */
export function* encodeChunks(header, codes, contextModel = null) {
  headerBytes(header); // refuses what breaks a rule
  const { channels: C, codebooks: N, coding = 0 } = header;
  const F = codes.length / (C * N);
  if (!Number.isInteger(F)) throw new DacFormatError("the codes are not [C, N, F]");
  const sizes = sizesOf(header);
  const sizeAt = (n) => sizes[Math.floor(n / F) % N];
  if (codes.some((code, n) => !(code >= 0 && code < sizeAt(n)))) throw new DacFormatError("a code is not in its codebook");
  if (contextModel) contextModel.check(header);
  else if (header.contextModel) throw new DacFormatError(`the context model ${header.contextModel} is not given`);
  const most = Math.min(coding === 1 ? MOST_FRAMES : MOST_CODES, Math.floor(MOST_CODES / (C * N)));
  const typical = 8 * Math.ceil((7 * header.modelSampleRate) / (2 * header.hopLength * 8));
  const perChunk = Math.min(typical, Math.max(1, most - (most % 8)));
  for (let start = 0; start < F; start += perChunk) {
    const frames = Math.min(perChunk, F - start);
    const counts = new Uint8Array(frames).fill(N);
    const coders = Array.from({ length: C }, () => coding === 1 && coderOf(header, contextModel, frames));
    const planes = [];
    for (let i = 0; i < N; i++) {
      for (let c = 0; c < C; c++) {
        const at = (c * N + i) * F + start;
        const ours = codes.subarray(at, at + frames);
        if (coding === 1) {
          const encoder = new RangeEncoder();
          coders[c].plane(i, encoder, ours, counts, sizes[i]);
          planes.push(encoder.finish());
        } else planes.push(pack(ours, bitsOf(sizes[i])));
      }
    }
    yield { start, frames, planes };
  }
}

/** The payload of CODES with coding 1, and how many of its bytes the checksum of the chunk covers. */
function codedPayload(header, { frames, planes }) {
  const { channels: C, codebooks: N, codebookSize } = header;
  const typical = typicalLength(frames, bitsOf(codebookSize));
  let first = 0;
  const layers = layerSizesOf(header).map((count) => {
    const ours = planes.slice(first * C, (first + count) * C);
    first += count;
    return bytes((data) => {
      for (const { length } of ours.slice(0, -1)) data.varint(length < typical ? 2 * (typical - length) - 1 : 2 * (length - typical));
      ours.forEach((plane) => data.raw(plane));
    });
  });
  const head = bytes((data) => {
    data.varint(frames);
    for (let c = 0; c < C; c++) data.varint(N + 1);
    for (const layer of layers.slice(1)) {
      data.varint(layer.length);
      if (layer.length) data.u32(crc32c(layer));
    }
    data.raw(layers[0]);
  });
  let covered = 0;
  const payload = bytes((data) => {
    data.varint(layers.length);
    data.varint(head.length);
    data.raw(head);
    covered = data.bytes.length;
    layers.slice(1).forEach((layer) => data.raw(layer));
  });
  return { payload, covered };
}

/** The payload of CODES with coding 0. */
function packedPayload({ channels: C, codebooks: N }, { frames, planes }) {
  const payload = bytes((data) => {
    data.varint(frames);
    planes.slice(0, N * C).forEach((plane) => data.raw(plane));
  });
  return { payload, covered: payload.length };
}

/** The file of coded chunks. The header is as for `encodeChunks`, or has fewer codebooks. */
export function writeChunks(header, chunks) {
  const file = new ByteWriter();
  file.raw(headerBytes(header));
  const chunk = (kind, payload, covered, position) => {
    const data = new ByteWriter();
    data.varint(payload.length * 4 + kind);
    covered += data.bytes.length;
    data.raw(payload);
    file.raw(data.bytes);
    file.u32(positionedCrc(position, Uint8Array.from(data.bytes), 0, covered));
  };
  let frames = 0;
  for (const one of chunks) {
    const { payload, covered } = header.coding === 1 ? codedPayload(header, one) : packedPayload(header, one);
    chunk(1, payload, covered, one.start);
    frames += one.frames;
  }
  if (!lengthFits(header, frames, header.length)) throw new DacFormatError(`${frames} frames do not fit ${header.length} samples`);
  chunk(0, [], 0, frames);
  return Uint8Array.from(file.bytes);
}

export function write(header, codes, contextModel = null) {
  return writeChunks(header, [...encodeChunks(header, codes, contextModel)]);
}
