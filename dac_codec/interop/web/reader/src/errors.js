/** The one error of this package: bytes that are no valid .dac file, context model or argument. */
export class DacFormatError extends Error {
  constructor(message) {
    super(message);
    this.name = "DacFormatError";
  }
}

/** Thrown inside the package where the bytes end too early; with more of them there may be no error. */
export class EndOfBytes extends DacFormatError {}
