"""Files for the JavaScript reader, and what the Python package reads from them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import (
    Chunk,
    Coding,
    Gap,
    Header,
    LevelParameters,
    Order,
    Reader,
    Writer,
    dumps,
    thin,
    with_length,
)
from dac_codec.bitstream.chunks import ChunkKind
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.bitstream.container import ChunkWriter
from dac_codec.bitstream.context_model import ContextModel
from dac_codec.codec.levels import LevelFilter
from dac_codec.common.errors import TruncatedBitstreamError

CONTEXT = Path(__file__).parents[3] / "checkpoints/dac-mini-44khz/context.safetensors"
HEADER = Header(b"\x01\x23\x45\x67\x89\xab\xcd\xef", "tiny", 44100, 1, None, -3.5, 44100, 512, 9, 1024)


@cache
def context_model() -> ContextModel:
    """That of the bundled model."""
    return ContextModel.load(CONTEXT)


def random_codes(header: Header, n_frames: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Codes [C, N, F] of which a third repeat those before; with coding LAYERED, a random number in each frame."""
    shape = (header.channels, header.n_codebooks, n_frames)
    sizes = np.array(header.codebook_sizes or (header.codebook_size,) * header.n_codebooks)
    codes = rng.integers(0, sizes[:, None], shape, dtype=np.int32)
    for t in range(1, n_frames):
        same = rng.random(shape[:2]) < 1 / 3
        codes[..., t] = np.where(same, codes[..., t - 1], codes[..., t])
    if header.coding is Coding.LAYERED:
        steps = rng.integers(-1, 2, (header.channels, n_frames)).cumsum(axis=-1) + header.n_codebooks // 2
        n_codes = np.clip(steps, 0, header.n_codebooks)
        codes[np.arange(header.n_codebooks)[:, None] >= n_codes[:, None]] = -1
    return codes


def random_levels(header: Header, n_frames: int, rng: np.random.Generator) -> npt.NDArray[np.int8] | None:
    """Levels [C, bands, W], half of them 0."""
    if header.levels is None:
        return None
    shape = (header.channels, header.levels.bands, header.levels.n_windows(n_frames))
    levels = rng.integers(header.levels.lowest, header.levels.highest + 1, shape, dtype=np.int8)
    return np.where(rng.random(shape) < 0.5, levels, np.int8(0))


def written(
    header: Header,
    n_frames: int,
    seed: int,
    chunk_frames: int | None = None,
    model: CodeModel | None = None,
    redundancy: bool = False,
) -> bytes:
    """A file of random codes."""
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    with Writer(stream, header, chunk_frames, model, redundancy) as writer:
        writer.write(random_codes(header, n_frames, rng), random_levels(header, n_frames, rng))
        writer.close(header.covered_samples(n_frames) if header.n_samples is None else None)
    return stream.getvalue()


def whole(n_frames: int, seed: int, model: CodeModel | None = None, silent: bool = False, **fields: Any) -> bytes:
    """A file of random codes, or zeros, of all codebooks in every frame, in chunks of the usual length."""
    rng = np.random.default_rng(seed)
    header = replace(HEADER, n_samples=HEADER.covered_samples(n_frames), **fields)
    codes = random_codes(replace(header, coding=Coding.FIXED, layers=(), context_fingerprint=None), n_frames, rng)
    return dumps(header, codes * 0 if silent else codes, model=model)


def whole_files() -> dict[str, bytes]:
    """Files that the JavaScript writer writes from the same codes."""
    context = context_model()
    coded: dict[str, Any] = {"coding": Coding.LAYERED}
    by_context = coded | {"context_fingerprint": context.fingerprint}
    sized = coded | {"n_codebooks": 4, "codebook_sizes": (1024, 300, 2, 64)}
    return {
        "whole_packed": whole(330, 16, channels=2, bandwidth=8000, gain_source=1),
        "whole_packed_sizes": whole(77, 17, n_codebooks=3, codebook_sizes=(1024, 300, 2), channels=2),
        "whole_adaptive": whole(330, 18, **coded, channels=2),
        "whole_adaptive_wide": whole(50, 19, **coded, n_codebooks=2, codebook_size=65536),
        "whole_adaptive_sizes": whole(60, 20, **sized, layers=(1, 3), channels=3, channel_mask=7),
        "whole_adaptive_silent": whole(700, 21, **coded, silent=True),
        "whole_context": whole(30, 22, context, **by_context, channels=2),
        "whole_context_silent": whole(310, 23, context, **by_context, n_codebooks=1, silent=True),
        "whole_context_few": whole(20, 24, context, **by_context, n_codebooks=4),
        "whole_empty": whole(0, 25, **coded),
    }


def files() -> dict[str, bytes]:
    """Intact files of every kind."""
    coded = replace(HEADER, coding=Coding.LAYERED)
    context = context_model()
    by_context = replace(coded, context_fingerprint=context.fingerprint)
    levels = LevelParameters()
    stereo = {"channels": 2, "levels": levels}
    found = {
        "constant": written(replace(HEADER, n_samples=HEADER.covered_samples(700)), 700, 1),
        "odd_width": written(replace(HEADER, codebook_size=1000, n_codebooks=3, channels=2), 77, 2, chunk_frames=9),
        "adaptive": written(coded, 200, 3, chunk_frames=60),
        "adaptive_small": written(replace(coded, codebook_size=2, n_codebooks=2, layers=()), 50, 4),
        "adaptive_uneven": written(replace(coded, codebook_size=1000, n_codebooks=5, layers=(1, 4)), 90, 5),
        "adaptive_wide": written(replace(coded, codebook_size=65536, n_codebooks=2, layers=()), 90, 6),
        "sizes": written(replace(HEADER, n_codebooks=3, channels=2, codebook_sizes=(1024, 300, 2)), 77, 14),
        "adaptive_sizes": written(
            replace(coded, n_codebooks=4, layers=(2, 2), codebook_sizes=(1024, 300, 2, 64)), 90, 15, chunk_frames=40
        ),
        "context": written(by_context, 150, 7, chunk_frames=60, model=context),
        "context_long": written(by_context, 2584, 13, model=context),
        "context_stereo": written(replace(by_context, **stereo), 90, 8, chunk_frames=33, model=context),
        "levels": written(replace(coded, **stereo), 131, 9, chunk_frames=30),
        "levels_other": written(
            replace(coded, levels=LevelParameters(3, 17, 8000, 1.5, -3, 12), hop_length=320), 131, 10, chunk_frames=29
        ),
        "redundant": written(replace(coded, levels=levels), 100, 11, chunk_frames=16, redundancy=True),
        "empty": written(replace(HEADER, n_samples=0), 0, 12),
    }
    found |= whole_files()
    for name in ("context_stereo", "levels"):
        found[f"{name}_by_layers"] = thin(found[name], order=Order.LAYERS)
    return found


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with a few bytes changed, removed or inserted behind its header, or cut short."""
    body = data[5] + 10
    kind = int(rng.integers(4))
    if kind == 3:
        return data[: int(rng.integers(body, len(data)))]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(body, len(changed)))
        n = int(rng.integers(1, 40))
        noise = rng.bytes(n)
        changed[at : at + (n if kind != 1 else 0)] = b"" if kind == 2 else noise
    return bytes(changed)


def with_invalid_layers(data: bytes) -> dict[str, bytes]:
    """The file with a layer of its second chunk that breaks a rule under a valid CRC: each of its layers in turn."""
    reader = Reader(io.BytesIO(data))
    chunks = list(reader.coded())
    assert reader.n_samples is not None
    found = {}
    for index in range(len(chunks[1].layers)):
        stream = io.BytesIO()
        writer = ChunkWriter(stream, replace(reader.header, n_samples=reader.n_samples))
        for number, chunk in enumerate(chunks):
            layers = list(chunk.layers)
            if number == 1:
                layers[index] = (layers[index] or b"") + b"\x07"
            writer.write_codes(replace(chunk, layers=tuple(layers)), len(layers))
        writer.write(ChunkKind.END, b"")
        found[f"invalid-damaged-layer-{index}"] = stream.getvalue()
    return found


def expected(data: bytes) -> dict[str, Any]:
    """What `Reader` returns of a file, and what is missing."""
    reader = Reader(io.BytesIO(data), lambda _: context_model())
    header = reader.header
    chunks: list[Chunk] = []
    n_frames, truncated, damaged = 0, False, False
    n_samples = None
    try:
        for event in reader.events():
            n_frames += event.n_frames
            if isinstance(event, Gap):
                damaged = True
            else:
                chunks.append(event)
                damaged |= bool(event.missing_layers)
        n_samples = reader.n_samples
    except TruncatedBitstreamError:
        truncated = True
    codes = np.full((header.channels, header.n_codebooks, n_frames), -1, dtype=np.int32)
    levels = None
    if header.levels is not None:
        shape = (header.channels, header.levels.n_windows(n_frames), header.levels.bands)
        levels = np.zeros(shape, dtype=np.int8)
    for chunk in chunks:
        codes[..., chunk.first_frame : chunk.first_frame + chunk.n_frames] = chunk.codes
        if levels is not None and chunk.levels is not None and header.levels is not None:
            first = header.levels.n_windows(chunk.first_frame)
            levels[:, first : first + chunk.levels.shape[-1]] = chunk.levels.transpose(0, 2, 1)
    length = with_length(header, n_samples, n_frames).n_samples
    found = {"header": header, "codes": codes, "levels": levels, "length": length}
    return {**found, "truncated": truncated, "damaged": damaged or truncated}


def write_cases(folder: Path, damage: int) -> None:
    """Files, and their content as JSON and raw arrays; `damage` damaged variants of each."""
    intact = files()
    for name, data in with_invalid_layers(intact["levels"]).items():
        save_case(folder / name, data)
    for name, data in intact.items():
        save_case(folder / name, data, intact=True)
        for seed in range(0 if name.startswith(("empty", "context_long", "whole")) else damage):
            rng = np.random.default_rng([seed, len(data)])
            save_case(folder / f"{name}-damaged-{seed}", damaged(data, rng))


def save_case(path: Path, data: bytes, intact: bool = False) -> None:
    """One file, with its content beside it. `intact`: no byte was changed."""
    content = expected(data)
    header: Header = content.pop("header")
    codes, levels = content.pop("codes"), content.pop("levels")
    path.with_suffix(".dac").write_bytes(data)
    codes.tofile(path.with_suffix(".codes"))
    if levels is not None:
        levels.tofile(path.with_suffix(".levels"))
        if intact and header.channels == 2:
            _save_filtered(path, header, levels)
    content |= {"frames": codes.shape[-1], "levels": levels is not None, "intact": intact}
    path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def _save_filtered(path: Path, header: Header, levels: npt.NDArray[np.int8]) -> None:
    """Noise, and the noise with the levels applied."""
    n_frames = 131 if levels.shape[1] == 33 else 90
    noise = np.random.default_rng(0).standard_normal((header.channels, n_frames * header.hop_length))
    audio = noise.astype(np.float32)
    filtered = LevelFilter(header)
    filtered.add(0, levels.transpose(0, 2, 1))
    blocks = list(filtered.blocks([audio]))
    audio.tofile(path.with_suffix(".input"))
    np.concatenate(blocks, axis=-1).astype(np.float32).tofile(path.with_suffix(".output"))
