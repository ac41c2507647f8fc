// The decoder's ONNX graph, and the same without the padding of its convolutions, in which each input of a residual unit is
// cut to the length of what is added to it.
const text = new TextDecoder();
const ascii = (value) => new TextEncoder().encode(value);

// Numbers of fields in onnx.proto
const GRAPH = 7;
const NODE = { input: 1, output: 2, kind: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, ints: 8 };
const [NODES, INITIALIZERS] = [1, 5];
const TENSOR = { dims: 1, type: 2, name: 8, raw: 9 };
const INT64 = 7;

/** The fields of a protobuf message: number, value, and all their bytes. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const start = at;
    const key = varint();
    const wire = key & 7;
    let value;
    if (wire === 0) value = varint();
    else {
      const size = wire === 2 ? varint() : wire === 1 ? 8 : 4;
      value = bytes.subarray(at, (at += size));
    }
    yield { number: key >> 3, value, bytes: bytes.subarray(start, at) };
  }
}

function varint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.of(...bytes, value);
}

/** Arrays of bytes as one. */
export function joined(parts) {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A field: a number, or bytes with their length. */
function field(number, value) {
  if (typeof value === "number") return joined([varint(8 * number), varint(value)]);
  return joined([varint(8 * number + 2), varint(value.length), value]);
}

/** The name of an attribute. */
const nameOf = (bytes) => text.decode([...fields(bytes)].find(({ number }) => number === ATTRIBUTE.name).value);

/** Fields of a node, its inputs, outputs and kind, and the first integer of each attribute. */
function parsed(bytes) {
  const parts = [...fields(bytes)];
  const texts = (wanted) => parts.filter(({ number }) => number === wanted).map(({ value }) => text.decode(value));
  const attributes = {};
  for (const { number, value } of parts)
    if (number === NODE.attribute)
      attributes[nameOf(value)] = [...fields(value)].find((part) => part.number === ATTRIBUTE.ints)?.value;
  return { parts, inputs: texts(NODE.input), output: texts(NODE.output)[0], kind: texts(NODE.kind)[0], attributes };
}

/** A sum whose first input is cut by a Pad of negative size, which the initializer `pads` gives. */
function cutSum({ parts, inputs, output }, pads) {
  const name = `${output}_cut`;
  const input = (value) => field(NODE.input, ascii(value));
  const pad = [input(inputs[0]), input(pads), field(NODE.output, ascii(name)), field(NODE.kind, ascii("Pad"))];
  const others = parts.filter(({ number }) => number !== NODE.input).map((part) => part.bytes);
  return [pad, [input(name), input(inputs[1]), ...others]];
}

/**
 * @param {Uint8Array} bytes of decoder_model.onnx
 * @returns {{unpadded: Uint8Array, fewest: number, short: number}} the graph without padding; frames that it takes for a
 *   sample, at least; and samples that the decoder with padding gives less than the graph, which repeats the last one
 */
export function withoutPadding(bytes) {
  const cut = new Map(); // samples that are missing on either side of a value
  const sizes = new Set(); // of cuts
  const convolutions = [];
  const changed = (node) => {
    const { parts, inputs, output, kind, attributes } = node;
    const cuts = inputs.map((name) => cut.get(name) ?? 0);
    cut.set(output, Math.max(...cuts));
    if (kind === "Conv" || kind === "ConvTranspose") {
      const { kernel_shape: kernel, strides: stride, dilations: dilation, pads: padding } = attributes;
      convolutions.push({ isTransposed: kind === "ConvTranspose", kernel, stride, padding, span: dilation * (kernel - 1) });
      cut.set(output, kind === "Conv" ? cuts[0] + padding : 0);
      const kept = parts.filter(({ number, value }) => number !== NODE.attribute || nameOf(value) !== "pads"); // zero then
      return [kept.map((part) => part.bytes)];
    }
    if (kind !== "Add" || cuts[0] >= cuts[1]) return [parts.map((part) => part.bytes)];
    sizes.add(cuts[1] - cuts[0]);
    return cutSum(node, `cut_${cuts[1] - cuts[0]}`);
  };
  const model = [...fields(bytes)].map(({ number, value, bytes: whole }) => {
    if (number !== GRAPH) return whole;
    const content = [...fields(value)].flatMap((part) =>
      part.number === NODES ? changed(parsed(part.value)).map((node) => field(NODES, joined(node))) : [part.bytes],
    );
    for (const size of sizes) content.push(field(INITIALIZERS, padsOf(size)));
    return field(GRAPH, joined(content));
  });
  return { unpadded: joined(model), ...limitsOf(convolutions) };
}

/** The tensor `cut_size`: pads that take `size` samples from either side of [B, C, T]. */
function padsOf(size) {
  const values = BigInt64Array.of(0n, 0n, -BigInt(size), 0n, 0n, -BigInt(size));
  const raw = new Uint8Array(values.buffer);
  return joined([
    field(TENSOR.dims, values.length),
    field(TENSOR.type, INT64),
    field(TENSOR.name, ascii(`cut_${size}`)),
    field(TENSOR.raw, raw),
  ]);
}

/** `fewest` and `short` of `withoutPadding`. */
function limitsOf(convolutions) {
  let [fewest, short] = [1, 0];
  for (const { isTransposed, kernel, stride, span } of [...convolutions].reverse())
    fewest = isTransposed ? Math.max(1, Math.ceil((fewest - kernel) / stride) + 1) : fewest + span;
  for (const { isTransposed, kernel, stride, padding } of convolutions)
    if (isTransposed) short = stride * short + stride + 2 * padding - kernel;
  return { fewest, short };
}
