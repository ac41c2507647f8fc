"""A program of a user, for type checkers: `mypy --strict` accepts it beside the installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import dac_codec
from dac_codec import DAC, DacError, DacFile, DacStream, StreamingDecoder, StreamingEncoder, corpus, interop


def in_memory(model: DAC, folder: Path) -> int:
    waveform = (0.1 * np.random.default_rng(0).standard_normal((1, 8820))).astype(np.float32)
    file = dac_codec.compress((waveform, 44100), model, bitrate=3000)
    file.save(folder / "a.dac")
    assert DacFile.load(folder / "a.dac") == file
    decoded, sample_rate = dac_codec.decompress(folder / "a.dac", model)
    seconds: float = file.duration - decoded.shape[-1] / sample_rate
    codes: torch.Tensor = model.encode(decoded[None], n_quantizers=4).codes
    audio: torch.Tensor = model.decode_codes(codes)
    return round(seconds) + audio.shape[-1]


def in_blocks(model: DAC, folder: Path) -> int:
    with DacStream(folder / "a.dac") as stream:
        n_samples: int = sum(block.shape[-1] for block in stream.blocks(model, conceal=True))
    written = dac_codec.decompress_stream(folder / "a.dac", folder / "a.wav", model)
    n_bytes: int = dac_codec.compress_stream(folder / "a.wav", folder / "b.dac", model).n_bytes
    encoder, decoder = StreamingEncoder(model, n_quantizers=2), StreamingDecoder(model)
    codes = torch.cat([encoder.push(torch.zeros(1, 1, 4410)), encoder.flush()], -1)
    audio = torch.cat([decoder.push(codes), decoder.flush()], -1)
    return n_samples + written.n_samples + n_bytes + audio.shape[-1]


def elsewhere(model: DAC, folder: Path) -> list[Path]:
    processor = interop.DACProcessor(model)
    inputs = processor([np.zeros(4410, np.float32)], sampling_rate=44100, return_tensors="pt")
    codes: torch.Tensor = processor.encode(**inputs)["audio_codes"]
    tokens = corpus.patterns.delay(codes.transpose(1, 2), padding=model.codebook_size)
    assert torch.equal(corpus.patterns.undelay(tokens), codes.transpose(1, 2))
    model.save_pretrained(folder / "mine", dtype="float16")
    return interop.convert_model(folder / "mine", folder / "ours", "ours")


def main(folder: Path) -> None:
    model = dac_codec.prepare(DAC.from_pretrained("dac-mini-44khz"))
    try:
        print(in_memory(model, folder), in_blocks(model, folder), elsewhere(model, folder))
    except DacError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
