import { ByteWriter } from "./bytes.js";
import { crc32c, positionedCrc } from "./crc32c.js";
import { DacFormatError } from "./errors.js";
import { bitsOf, lengthFits, readHeader } from "./header.js";

/** Packs one plane of codes, most significant bit first. */
function pack(codes, bits, out) {
  let held = 0;
  let nHeld = 0;
  for (const code of codes) {
    held = ((held << bits) | code) & 0xffffff;
    nHeld += bits;
    while (nHeld >= 8) {
      nHeld -= 8;
      out.u8(held >> nHeld);
    }
  }
  if (nHeld) out.u8(held << (8 - nHeld));
}

/**
 * A file with coding 0.
 * @param {import("./index.js").WriteHeader} header
 * @param {Int32Array | Uint16Array} codes [C, N, F]
 * @returns {Uint8Array}
 */
export function write(header, codes) {
  const { channels: C, codebooks: N, codebookSize: K, length } = header;
  const F = codes.length / (C * N);
  if (!Number.isInteger(F)) throw new DacFormatError("the codes are not [C, N, F]");
  const sizes = header.codebookSizes ?? new Array(N).fill(K);
  if (sizes.length !== N) throw new DacFormatError(`there are ${sizes.length} sizes of ${N} codebooks`);
  const sizeAt = (n) => sizes[Math.floor(n / F) % N];
  if (codes.some((code, n) => !(code >= 0 && code < sizeAt(n)))) throw new DacFormatError("a code is not in its codebook");
  const sized = sizes.some((size) => size < K);
  if (!/^[0-9a-f]{16}$/.test(header.fingerprint)) throw new DacFormatError("the fingerprint is not 16 hexadecimal digits");
  const body = new ByteWriter();
  body.varint(sized ? 3 : 1);
  body.raw(header.fingerprint.match(/../g).map((digits) => parseInt(digits, 16)));
  body.varint(header.sampleRate);
  body.varint(C);
  body.varint(length + 1);
  body.f32(header.gain ?? 0);
  body.varint(header.modelSampleRate);
  body.varint(header.hopLength);
  body.varint(N);
  body.varint(K);
  body.u8(0);
  const name = new TextEncoder().encode(header.modelName ?? "");
  if (name.length) {
    body.varint(1);
    body.varint(name.length);
    body.raw(name);
  }
  if (sized) {
    const value = new ByteWriter();
    sizes.forEach((size) => value.varint(size));
    body.varint(8);
    body.varint(value.bytes.length);
    body.raw(value.bytes);
  }
  const file = new ByteWriter();
  file.raw([0x8a, 0x44, 0x41, 0x43, 1]);
  file.varint(body.bytes.length);
  file.raw(body.bytes);
  file.u32(crc32c(Uint8Array.from(file.bytes)));
  readHeader(Uint8Array.from(file.bytes)); // refuses what breaks a rule
  if (!lengthFits(header, F, length)) throw new DacFormatError(`${F} frames do not fit ${length} samples`);

  const chunk = (kind, payload, position) => {
    const data = new ByteWriter();
    data.varint(payload.length * 4 + kind);
    data.raw(payload);
    file.raw(data.bytes);
    file.u32(positionedCrc(position, Uint8Array.from(data.bytes), 0, data.bytes.length));
  };
  const seconds = Math.ceil((3.5 * header.modelSampleRate) / header.hopLength / 8) * 8;
  const perChunk = Math.max(1, Math.min(seconds, Math.floor(2 ** 20 / (C * N))));
  for (let start = 0; start < F; start += perChunk) {
    const end = Math.min(start + perChunk, F);
    const payload = new ByteWriter();
    payload.varint(end - start);
    for (let i = 0; i < N; i++)
      for (let c = 0; c < C; c++) pack(codes.subarray((c * N + i) * F + start, (c * N + i) * F + end), bitsOf(sizes[i]), payload);
    chunk(1, payload.bytes, start);
  }
  chunk(0, [], F);
  return Uint8Array.from(file.bytes);
}
