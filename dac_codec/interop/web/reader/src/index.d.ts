/** The one error of this package. */
export class DacFormatError extends Error {}

/** The header of a file: FORMAT.md, "Header". */
export interface Header {
  /** 16 hexadecimal digits that identify the weights of the network. */
  readonly fingerprint: string;
  readonly modelName: string;
  readonly sampleRate: number;
  readonly channels: number;
  /** Samples per channel, or null if END gives it. */
  readonly length: number | null;
  /** dB applied before encoding; a decoder applies the negative. */
  readonly gain: number;
  readonly gainFromBeginning: boolean;
  readonly modelSampleRate: number;
  readonly hopLength: number;
  readonly codebooks: number;
  /** Entries of each codebook, or if they differ, at least those of the largest. */
  readonly codebookSize: number;
  /** Entries of each codebook. */
  readonly codebookSizes: readonly number[];
  readonly coding: 0 | 1;
  /** Hz, or null. */
  readonly bandwidth: number | null;
  /** Fingerprint of the context model that the codes need, or null. */
  readonly contextModel: string | null;
  /** Codebooks of each layer; null with coding 0. */
  readonly layers: readonly number[] | null;
  readonly levels: LevelParameters | null;
  readonly channelMask: number | null;
}

/** LEVELS.md, section 1. */
export interface LevelParameters {
  /** Frames from one window to the next. */
  readonly hop: number;
  readonly bands: number;
  readonly top: number;
  readonly lowest: number;
  readonly highest: number;
  /** dB. */
  readonly step: number;
}

/** Band levels of the windows `first` to `first + windows - 1`. */
export interface Levels {
  first: number;
  windows: number;
  /** [C, windows, bands]. */
  values: Int8Array;
}

export interface DecodedChunk {
  /** The first frame. */
  start: number;
  frames: number;
  /** [C, N, F]; -1 where a frame has no code. */
  codes: Int32Array;
  levels: Levels | null;
  /** What was left out. */
  problems: string[];
}

/** Probabilities of codes: ENTROPY.md, section 4. */
export class ContextModel {
  /** The bytes of a context.safetensors file. */
  constructor(bytes: Uint8Array);
  readonly fingerprint: string;
  readonly codebooks: number;
  readonly codebookSize: number;
}

/** A .dac file in memory. Chunks are verified at once, and decoded when they are asked for. */
export class DacFile {
  /**
   * With `recover: false`, damage and truncation throw; else `problems` reports them. With `complete: false`, data is the
   * beginning of a file, which `read` continues.
   */
  constructor(
    data: Uint8Array | ArrayBuffer,
    options?: { contextModel?: ContextModel | null; recover?: boolean; complete?: boolean },
  );
  /** Continues a file that was given with `complete: false`. `bytes` are all bytes so far; `complete`: no more follow. */
  read(bytes: Uint8Array, complete: boolean): void;
  readonly header: Header;
  /** Frames so far. */
  readonly nFrames: number;
  /** Frames of the whole file. While it arrives: by its header, which may be wrong by one; null if that does not say. */
  readonly totalFrames: number | null;
  /** Samples per channel. While the file arrives and its header does not give them, those of the frames so far. */
  readonly length: number;
  /** Seconds. */
  readonly duration: number;
  /** Bytes so far. */
  readonly size: number;
  /** Whether all bytes are there. */
  readonly complete: boolean;
  /** Whether every frame has codes of all codebooks. */
  readonly constant: boolean;
  /** `layers`: how many are there, from the first one on; 1 with coding 0. */
  readonly chunks: readonly { start: number; frames: number; layers: number }[];
  /** Frames that no chunk holds. */
  readonly gaps: readonly { start: number; frames: number }[];
  readonly problems: readonly string[];
  readonly truncated: boolean;
  /** Takes the model that `header.contextModel` names. */
  setContextModel(model: ContextModel): void;
  /** Decodes one chunk, or only its first codebooks. */
  decode(index: number, options?: { codebooks?: number }): DecodedChunk;
  /**
   * Codes [C, N, F] and band levels [C, W, bands] of the whole file. Codes are -1 where a chunk is missing or can't be decoded.
   * A file with more codes than `maxCodes` (2^26) is refused.
   */
  decodeAll(options?: { codebooks?: number; maxCodes?: number }): {
    codes: Int32Array;
    levels: Int8Array | null;
    problems: string[];
  };
}

/** Reads a file while it arrives. */
export class ArrivingFile {
  /**
   * The file so far; null before the end of its header. Of a file ordered by layers, `chunks` are those of which layer 1 is
   * there; their other layers follow. Chunks after damage are found when all bytes are there.
   */
  readonly file: DacFile | null;
  /** Takes the next bytes; returns `file`. */
  push(bytes: Uint8Array): DacFile | null;
  /** Ends the file: no more bytes follow. */
  end(): DacFile;
}

/** A file of the reference implementation, descript-audio-codec. */
export interface LegacyFile {
  /** [C, N, F]. */
  codes: Uint16Array;
  channels: number;
  codebooks: number;
  frames: number;
  /** Frames of each window, which is decoded on its own; 1 to `frames`. */
  chunkLength: number;
  /** Samples per channel of the original. Unverified: the codes may give fewer. */
  originalLength: number;
  /** LUFS of each decoded channel. */
  inputDb: number[];
  /** Hz, of the original. */
  sampleRate: number;
  /** Whether the convolutions of the decoder are padded. False if windows overlap: their sound is then shorter. */
  padding: boolean;
  dacVersion: string;
}

/** Whether bytes, at least the first 6 of a file, are of a file for `readLegacy`. */
export function isLegacy(bytes: Uint8Array): boolean;

/** Reads all of a file of descript-audio-codec. Nothing in it is executed; time and memory are bounded by its size. */
export function readLegacy(data: Uint8Array | ArrayBuffer): LegacyFile;

/** Applies the band levels of a file that has them to the output of the network: LEVELS.md, section 4. */
export class LevelFilter {
  constructor(header: Header);
  /** Samples from one window to the next. */
  readonly hop: number;
  /**
   * The samples `from` to `to - 1` of the filtered signal, of which x is the part that begins at sample `offset`; it is taken
   * as zero outside of x. They depend on x from `from - 2 hop` to `to + 2 hop`. `levelsOf` gives the levels of each band of a
   * window, or null for 0. The window after the last one of a file has the levels of that one.
   */
  apply(
    x: Float32Array,
    offset: number,
    from: number,
    to: number,
    levelsOf: (window: number) => Int8Array | null,
  ): Float32Array;
}

/** Discrete Fourier transforms of one size. */
export class FFT {
  constructor(size: number);
  /** In place, without scaling. */
  transform(re: Float64Array, im: Float64Array): void;
}

export interface WriteHeader {
  fingerprint: string;
  modelName?: string;
  sampleRate: number;
  channels: number;
  length: number;
  gain?: number;
  modelSampleRate: number;
  hopLength: number;
  codebooks: number;
  codebookSize: number;
  /** Entries of each codebook, if they differ. */
  codebookSizes?: readonly number[];
  /** 0, which is the default, packs codes; 1 codes them, by adaptive counts or a context model. */
  coding?: 0 | 1;
  /** Fingerprint of the context model, with coding 1. */
  contextModel?: string | null;
  /** Codebooks of each layer, with coding 1; by default three layers of about the same size. */
  layers?: readonly number[] | null;
  gainFromBeginning?: boolean;
  bandwidth?: number | null;
  channelMask?: number | null;
}

/** A file, from codes [C, N, F] and the context model that the header names: `writeChunks` of `encodeChunks`. */
export function write(
  header: WriteHeader,
  codes: Int32Array | Uint16Array,
  contextModel?: ContextModel | null,
): Uint8Array;

export interface EncodedChunk {
  start: number;
  frames: number;
  /** For each codebook, for each channel. */
  planes: Uint8Array[];
}

/** Codes the planes of a file, chunk by chunk: the part of writing that takes time. */
export function encodeChunks(
  header: WriteHeader,
  codes: Int32Array | Uint16Array,
  contextModel?: ContextModel | null,
): Generator<EncodedChunk>;

/** The file of coded chunks. The header may have fewer codebooks than that for which they were coded. */
export function writeChunks(header: WriteHeader, chunks: readonly EncodedChunk[]): Uint8Array;
