import { DacFormatError } from "./errors.js";

// A restricted interpreter for the pickles that NumPy writes of dicts of numbers, strings and arrays. It calls nothing: it
// executes the few pickle operations (PEP 307, PEP 3154) that such pickles consist of, with stand-ins for the few NumPy
// functions that they name, and refuses everything else. Integers are BigInt, floats number, bytes Uint8Array, dicts Map.

const MOST_OPERATIONS = 1000; // and memo indices; files of descript-audio-codec take about 150
const MOST_NAME = 64; // bytes of a line of GLOBAL, with its end
const NUMBER = /^(b1|[iu][1248]|f[248])$/;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The functions and classes that a pickle may name. */
const GLOBALS = new Map([
  ["numpy.core.multiarray _reconstruct", Symbol("reconstruct")],
  ["numpy.core.multiarray scalar", Symbol("scalar")],
  ["numpy ndarray", Symbol("ndarray")],
  ["numpy dtype", Symbol("dtype")],
  ["_codecs encode", Symbol("encode")],
]);
for (const name of ["_reconstruct", "scalar"])
  GLOBALS.set(`numpy._core.multiarray ${name}`, GLOBALS.get(`numpy.core.multiarray ${name}`));
const [RECONSTRUCT, SCALAR, NDARRAY, DTYPE, ENCODE] = GLOBALS.values();
const MARK = Symbol("mark");

function refuse(message) {
  throw new DacFormatError(message);
}

class Tuple extends Array {}

/** Whether a value of a pickle is a number or truth value that equals n. */
const equals = (value, n) => ["bigint", "number", "boolean"].includes(typeof value) && Number(value) === n;

/** Whether a value of a pickle is a list, which a tuple is not. */
const isList = (value) => Array.isArray(value) && !(value instanceof Tuple);

/** Stand-in for `numpy.dtype`: a kind and size such as "u2", then, from its state, a byte order. */
class Dtype {
  order = null;

  constructor(name) {
    this.name = name;
  }

  setState(state) {
    if (this.order !== null || !(state instanceof Tuple) || state.length !== 8 || !equals(state[0], 3))
      refuse("the state of a dtype is not as NumPy writes it");
    const order = state[1];
    if (!["<", ">", "|"].includes(order) || (order === "|") !== ["b1", "i1", "u1", "O8"].includes(this.name))
      refuse(`the byte order of dtype ${this.name} is wrong`);
    this.order = order;
  }
}

/** Stand-in for `numpy.ndarray`: created empty, then filled once from its state. */
export class PickledArray {
  /** @type {number[] | null} */
  shape = null;
  #dtype = new Dtype("O8");
  #isFortran = false;
  #data = null;

  setState(state) {
    const wrong = "the state of an array is not as NumPy writes it";
    if (this.shape !== null || !(state instanceof Tuple) || state.length !== 5 || !equals(state[0], 1)) refuse(wrong);
    const [, shape, dtype, isFortran, data] = state;
    if (!(shape instanceof Tuple) || shape.length > 3) refuse("the shape of an array must be a tuple of at most 3 numbers");
    if (!shape.every((length) => typeof length === "bigint" && length >= 0n))
      refuse("the shape of an array must consist of non-negative integers");
    if (!(dtype instanceof Dtype) || typeof isFortran !== "boolean") refuse(wrong);
    this.shape = Array.from(shape, Number);
    [this.#dtype, this.#isFortran, this.#data] = [dtype, isFortran, data];
  }

  get isInteger() {
    return "iu".includes(this.#dtype.name[0]);
  }

  /**
   * Reads the numbers: `get` gives the one at an offset in bytes, `strides` are the bytes from one to the next along each axis.
   * Checks that the bytes are there. Integers of 64 bits are BigInt, truth values are 0 and others.
   */
  reader() {
    const { name, order } = this.#dtype;
    if (order === null || !NUMBER.test(name)) refuse(`expected an array of numbers, found dtype ${name}`);
    const [shape, data] = [this.shape, this.#data];
    if (shape === null || !(data instanceof Uint8Array)) refuse("an array in the file has no data");
    const width = Number(name[1]);
    const product = (lengths) => lengths.reduce((size, length) => size * length, width);
    const size = product(shape);
    if (data.length !== size) refuse(`an array [${shape.join(", ")}] takes ${size} bytes, found ${data.length}`);
    const view = new DataView(data.buffer, data.byteOffset, size);
    const wide = width === 8 ? "Big" : "";
    const kind = { b: "Uint", f: "Float", i: `${wide}Int`, u: `${wide}Uint` }[name[0]];
    const read = name === "f2" ? getFloat16 : view[`get${kind}${8 * width}`];
    const strides = shape.map((_, axis) => product(this.#isFortran ? shape.slice(0, axis) : shape.slice(axis + 1)));
    return { get: (at) => read.call(view, at, order !== ">"), strides };
  }

  /** The values of an array of at most one dimension, as those of a pickle. */
  values() {
    const { get, strides } = this.reader();
    const convert = this.isInteger ? BigInt : this.#dtype.name === "b1" ? Boolean : Number;
    return Array.from({ length: this.shape[0] ?? 1 }, (_, n) => convert(get(n * (strides[0] ?? 0))));
  }

  /** The element of a zero-dimensional array: a number, or the object in an object array. */
  item() {
    if (this.shape?.length !== 0) refuse("expected an array of a single element");
    if (this.#dtype.name !== "O8") return this.values()[0];
    if (!isList(this.#data) || this.#data.length !== 1) refuse("expected an array of a single object");
    return this.#data[0];
  }
}

/** A method for a DataView, which some browsers have not. */
function getFloat16(at, little) {
  const bits = this.getUint16(at, little);
  const [exponent, fraction] = [(bits >> 10) & 31, (bits & 1023) / 1024];
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
}

/**
 * The object in a pickle. The number of operations is bounded, no operation makes an object larger than its bytes in the file
 * (`_codecs.encode`, which does, has a budget), and none walks through nested objects.
 * @param {Uint8Array} bytes
 */
export function unpickle(bytes) {
  return new Interpreter(bytes).run();
}

/** The stack machine. */
class Interpreter {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.at = 0;
    this.stack = [];
    this.memo = new Map();
    this.encodeBudget = bytes.length;
  }

  run() {
    for (let n = 0; ; n++) {
      if (n === MOST_OPERATIONS) refuse(`the pickle takes more than ${MOST_OPERATIONS} operations`);
      const opcode = this.take(1)[0];
      if (opcode === 0x2e) break; // STOP
      const operation = OPERATIONS.get(opcode);
      if (!operation) refuse(`the pickle holds operation 0x${opcode.toString(16)}, which NumPy does not write here`);
      operation(this);
    }
    const result = this.pop();
    if (this.stack.length || this.at < this.bytes.length) refuse("the pickle leaves unused values or bytes");
    return result;
  }

  // Arguments of operations

  take(n) {
    if (n > this.bytes.length - this.at) refuse("the file ends early, within its pickle");
    this.at += n;
    return this.bytes.subarray(this.at - n, this.at);
  }

  /** @param {number} width bytes of an unsigned number: 1, 2 or 4 */
  unsigned(width) {
    return this.take(width).reduceRight((value, byte) => 256 * value + byte, 0);
  }

  text(bytes) {
    try {
      return utf8.decode(bytes);
    } catch {
      return refuse("a string in the pickle is not valid UTF-8");
    }
  }

  line() {
    const end = this.bytes.subarray(this.at, this.at + MOST_NAME).indexOf(0x0a);
    if (end < 0) refuse("a name in the pickle has no end");
    return this.text(this.take(end + 1).subarray(0, end));
  }

  /** A signed integer of at most 255 bytes. */
  long() {
    const bytes = this.take(this.unsigned(1));
    const value = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    return BigInt.asIntN(8 * bytes.length, value);
  }

  // The stack

  push(value) {
    this.stack.push(value);
  }

  pop() {
    if (!this.stack.length || this.stack.at(-1) === MARK) refuse("the pickle takes a value from an empty stack");
    return this.stack.pop();
  }

  popMany(n) {
    return Array.from({ length: n }, () => this.pop()).reverse();
  }

  popToMark() {
    const at = this.stack.lastIndexOf(MARK);
    if (at < 0) refuse("the pickle takes values up to a missing mark");
    return this.stack.splice(at).slice(1);
  }

  append(items) {
    const target = this.pop();
    if (!isList(target)) refuse("the pickle appends to an object that is no list");
    target.push(...items);
    this.push(target);
  }

  setItems(items) {
    const target = this.pop();
    const isKey = (_, n) => n % 2 || typeof items[n] === "string";
    if (!(target instanceof Map) || items.length % 2 || !items.every(isKey))
      refuse("the pickle must fill dicts with pairs whose keys are strings");
    for (let n = 0; n < items.length; n += 2) target.set(items[n], items[n + 1]);
    this.push(target);
  }

  memoize(index) {
    if (index >= MOST_OPERATIONS) refuse(`the pickle writes memo entry ${index}, the limit is ${MOST_OPERATIONS}`);
    this.memo.set(index, this.pop());
    this.push(this.memo.get(index));
  }

  recall(index) {
    if (!this.memo.has(index)) refuse(`the pickle reads memo entry ${index}, which does not exist`);
    this.push(this.memo.get(index));
  }

  pushGlobal(module, name) {
    if (typeof module !== "string" || typeof name !== "string") refuse("the pickle uses a name that is no string");
    const full = `${module} ${name}`;
    if (!GLOBALS.has(full)) refuse(`the pickle names ${JSON.stringify(full.slice(0, 100))}, which NumPy does not write here`);
    this.push(GLOBALS.get(full));
  }

  build() {
    const [target, state] = this.popMany(2);
    if (!(target instanceof PickledArray || target instanceof Dtype))
      refuse("the pickle sets the state of an object that has none");
    target.setState(state);
    this.push(target);
  }

  /** Pushes the stand-in for the result of a call. */
  reduce() {
    const [called, given] = this.popMany(2);
    const [a, b, c] = Array.isArray(given) ? given : [];
    const count = Array.isArray(given) ? given.length : 0;
    const isType = typeof a === "string" && (a === "O8" || NUMBER.test(a));
    if (called === RECONSTRUCT && count === 3 && a === NDARRAY && isZeroShape(b) && isLetterB(c)) this.push(new PickledArray());
    else if (called === DTYPE && count === 3 && isType && equals(b, 0) && equals(c, 1)) this.push(new Dtype(a));
    else if (called === SCALAR && count === 2 && a instanceof Dtype && b instanceof Uint8Array) {
      const scalar = new PickledArray();
      scalar.setState(Tuple.of(1n, new Tuple(), a, false, b));
      this.push(scalar);
    } else if (called === ENCODE && count === 2 && typeof a === "string" && b === "latin1") this.push(this.encode(a));
    else refuse("the pickle makes a call that NumPy does not write");
  }

  /** Text in Latin-1, which is how protocol 2 stores bytes. */
  encode(text) {
    this.encodeBudget -= text.length;
    if (this.encodeBudget < 0) refuse("the pickle encodes more text than it holds");
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n++) {
      bytes[n] = text.charCodeAt(n);
      if (bytes[n] !== text.charCodeAt(n)) refuse("the pickle encodes text that is not Latin-1");
    }
    return bytes;
  }
}

const isZeroShape = (value) => Array.isArray(value) && value.length === 1 && equals(value[0], 0);
const isLetterB = (value) => value instanceof Uint8Array && value.length === 1 && value[0] === 0x62;

function checkProtocol(protocol) {
  if (protocol < 2 || protocol > 5) refuse("the pickle must have protocol 2, 3, 4 or 5");
}

/** What each allowed opcode does. */
const OPERATIONS = new Map([
  [0x80, (m) => checkProtocol(m.unsigned(1))], // PROTO
  [0x95, (m) => m.take(8)], // FRAME, a hint for readers of streams
  [0x28, (m) => m.push(MARK)], // MARK
  [0x4e, (m) => m.push(null)], // NONE
  [0x88, (m) => m.push(true)], // NEWTRUE
  [0x89, (m) => m.push(false)], // NEWFALSE
  [0x4b, (m) => m.push(BigInt(m.unsigned(1)))], // BININT1
  [0x4d, (m) => m.push(BigInt(m.unsigned(2)))], // BININT2
  [0x4a, (m) => m.push(BigInt(m.unsigned(4) | 0))], // BININT
  [0x8a, (m) => m.push(m.long())], // LONG1
  [0x47, (m) => m.push(m.view.getFloat64(m.take(8).byteOffset - m.bytes.byteOffset))], // BINFLOAT
  [0x43, (m) => m.push(m.take(m.unsigned(1)))], // SHORT_BINBYTES
  [0x42, (m) => m.push(m.take(m.unsigned(4)))], // BINBYTES
  [0x8c, (m) => m.push(m.text(m.take(m.unsigned(1))))], // SHORT_BINUNICODE
  [0x58, (m) => m.push(m.text(m.take(m.unsigned(4))))], // BINUNICODE
  [0x29, (m) => m.push(new Tuple())], // EMPTY_TUPLE
  [0x85, (m) => m.push(Tuple.of(...m.popMany(1)))], // TUPLE1
  [0x86, (m) => m.push(Tuple.of(...m.popMany(2)))], // TUPLE2
  [0x87, (m) => m.push(Tuple.of(...m.popMany(3)))], // TUPLE3
  [0x74, (m) => m.push(Tuple.of(...m.popToMark()))], // TUPLE
  [0x5d, (m) => m.push([])], // EMPTY_LIST
  [0x61, (m) => m.append(m.popMany(1))], // APPEND
  [0x65, (m) => m.append(m.popToMark())], // APPENDS
  [0x7d, (m) => m.push(new Map())], // EMPTY_DICT
  [0x73, (m) => m.setItems(m.popMany(2))], // SETITEM
  [0x75, (m) => m.setItems(m.popToMark())], // SETITEMS
  [0x94, (m) => m.memoize(m.memo.size)], // MEMOIZE
  [0x71, (m) => m.memoize(m.unsigned(1))], // BINPUT
  [0x72, (m) => m.memoize(m.unsigned(4))], // LONG_BINPUT
  [0x68, (m) => m.recall(m.unsigned(1))], // BINGET
  [0x6a, (m) => m.recall(m.unsigned(4))], // LONG_BINGET
  [0x63, (m) => m.pushGlobal(m.line(), m.line())], // GLOBAL
  [0x93, (m) => m.pushGlobal(...m.popMany(2))], // STACK_GLOBAL
  [0x52, (m) => m.reduce()], // REDUCE
  [0x62, (m) => m.build()], // BUILD
]);
