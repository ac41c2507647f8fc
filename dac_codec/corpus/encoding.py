"""The codes of sounds: what a worker does, wherever it runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dac_codec import audio, bitstream, codec
from dac_codec.codec import batches
from dac_codec.codec.rate import Rate
from dac_codec.common import native
from dac_codec.common.errors import AudioError, DacError
from dac_codec.common.threads import available_cores, parallel_map
from dac_codec.corpus.sources import Item, Source
from dac_codec.model import DAC

_GROUP, _GROUP_IN_BATCHES = 8, 64
"""Sounds that a worker gets at once: few on a CPU, and on a GPU enough for some of similar length."""


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know.

    Attributes:
        model: an argument of `DAC.from_pretrained`.
        n_quantizers: codebooks to use; None: all.
        device: as for `codec.load_model`.
        as_files: whether the outcome is a .dac file instead of codes.
    """

    model: str
    n_quantizers: int | None = None
    device: str = "auto"
    as_files: bool = False

    @property
    def uses_batches(self) -> bool:
        return batches.uses_batches(self.device)

    @property
    def group_size(self) -> int:
        """Sounds that a worker gets at once."""
        return _GROUP_IN_BATCHES if self.uses_batches else _GROUP


class Tokens(NamedTuple):
    """The codes of a sound.

    Attributes:
        id: of the sound.
        header: of its .dac file; `n_samples` is given.
        codes: [C, F, N], uint16; or the whole .dac file.
        columns: what its source says about it.
    """

    id: str
    header: bitstream.Header
    codes: npt.NDArray[np.uint16] | bytes
    columns: dict[str, Any]


class Failure(NamedTuple):
    """A sound without codes, and why."""

    id: str
    reason: str


Outcome = Tokens | Failure


@cache
def load(settings: Settings) -> tuple[DAC, Rate]:
    """The model of a process, and its rate: the same codebooks in every frame, the nearest entries.

    Raises a DacError if the model can't be loaded, or does not fit.
    """
    model = codec.load_model(settings.model, settings.device)
    return model, codec.choose_rate(model, settings.n_quantizers, constant=True, effort=0)


def encode(settings: Settings, group: Source) -> list[Outcome]:
    """The outcome of each sound of a group, in order. A sound that fails is a `Failure`, whatever the reason.

    The codes are those of `compress(constant=True)` with one core. On a GPU, short sounds share batches.
    """
    model, rate = load(settings)
    n_cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with native.apart():
            if not settings.uses_batches:
                return [_outcome(settings, item, partial(_compressed, model, rate, item)) for item in _items(group)]
            return _encode_in_batches(settings, model, rate, list(_items(group)))
    finally:
        torch.set_num_threads(n_cores)


def _items(group: Source) -> Iterator[Item]:
    """The items of a group; the error in place of those that can't be read."""
    n_items = 0
    try:
        for item in group:
            n_items += 1
            yield item
    except AudioError as error:
        yield from [Item(group.name, error, {})] * max(1, len(group) - n_items)


def _outcome(settings: Settings, item: Item, compress: Callable[[], bytes]) -> Outcome:
    try:
        data = compress()
        header, codes, _ = bitstream.loads(data)
        content = data if settings.as_files else codes.transpose(0, 2, 1).astype(np.uint16, order="C")
        return Tokens(item.id, header, content, item.columns)
    except MemoryError:
        return Failure(item.id, "not enough memory")
    except Exception as error:  # a run of days does not end for a single sound
        reason = "" if isinstance(error, (DacError, OSError)) else f"{type(error).__name__}: "
        return Failure(item.id, reason + " ".join(str(error).split()))


def _reader(item: Item) -> audio.Reader:
    if isinstance(item.sound, AudioError):
        raise item.sound
    source = item.sound if isinstance(item.sound, Path) else io.BytesIO(item.sound)
    return audio.Reader(source, item.id, warn=False)


def _checked(result: codec.Compressed) -> None:
    """Raise an AudioError if a part of the sound is missing."""
    if result.missing:
        raise AudioError(result.missing)


def _compressed(model: DAC, rate: Rate, item: Item) -> bytes:
    """The .dac file of a sound."""
    data = io.BytesIO()
    with _reader(item) as reader:
        _checked(codec.compress_stream(reader, data, model, rate.n_quantizers, effort=0, constant=True))
    return data.getvalue()


def _encode_in_batches(settings: Settings, model: DAC, rate: Rate, items: list[Item]) -> list[Outcome]:
    """The outcome of each sound. Long ones go through the network alone."""

    def read(item: Item) -> Any:
        try:
            with _reader(item) as reader:
                return batches.read_sound(reader, model, rate)
        except Exception as error:
            return error

    read_sounds = list(parallel_map(read, items, available_cores()))
    outputs = iter(batches.compute([sound for sound in read_sounds if isinstance(sound, batches.ShortFile)]))

    def compress(item: Item, sound: Any) -> bytes:
        if sound is None:
            return _compressed(model, rate, item)
        output = next(outputs) if isinstance(sound, batches.ShortFile) else sound
        if isinstance(output, Exception):
            raise output
        data = io.BytesIO()
        _checked(sound.write(output, data))
        return data.getvalue()

    return [
        _outcome(settings, item, partial(compress, item, sound)) for item, sound in zip(items, read_sounds, strict=True)
    ]
