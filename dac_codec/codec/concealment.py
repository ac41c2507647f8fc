"""Concealment of missing codes: the last sound fades out within 0.1 s, then silence.

The decoder gets repetitions of the last frame before a gap, and their output is faded out. After a gap the sound fades
in over one frame.

    codes    a b c . . . . . . g h      (. missing)
    decoder  a b c c c c       g h      repetitions until the fade has ended
    gain     1 1 1 / . 0 0 0 0 / 1      (/ fading)

A frame of the decoder's output depends on `decoder_context` frames, so the sound differs from that of the undamaged
file only within that distance of a gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dac_codec.audio import Audio
from dac_codec.audio.samples import block_length
from dac_codec.bitstream import Chunk, Gap, Header
from dac_codec.inference import Context

FADE_SECONDS = 0.1
"""Length of the fade at the start of a gap; silence follows."""


class _Patch(NamedTuple):
    """The replacement of a gap, in samples at the model's rate."""

    start: int  # decoded samples before it
    length: int  # decoded samples in it
    silence: int  # zeros inserted after the fade, which are not decoded
    fades_out: bool  # whether there was sound before it


class Concealer:
    """Fills the gaps between codes, and fades the audio decoded from the filling.

    `context` is that of the model's decoder. `n_frames` counts the frames so far, including those of gaps.
    """

    def __init__(self, header: Header, context: Context) -> None:
        self.n_frames: int = 0
        self._header = header
        self._fade = round(FADE_SECONDS * header.model_sample_rate)
        # Further frames of a gap affect neither its fade nor the sound after it.
        self._most_frames = -(-self._fade // header.hop_length) + context.before + context.after
        self._n_fed = 0
        self._patches: deque[_Patch] = deque()

    def codes(self, events: Iterable[Chunk | Gap]) -> Iterator[Tensor]:
        """Codes [C, N, f] for the decoder, with the gaps filled."""
        last: Tensor | None = None
        n_waiting = 0  # frames missing at the beginning, to be filled with the first frame that comes
        for event in events:
            if isinstance(event, Gap):
                self.n_frames += event.n_frames
                if last is None:
                    n_waiting += event.n_frames
                else:
                    yield self._fill(last, event.n_frames, fades_out=True)
                continue
            codes = torch.from_numpy(event.codes.astype(np.int64))
            if n_waiting:
                yield self._fill(codes[..., :1], n_waiting, fades_out=False)
                n_waiting = 0
            last = codes[..., -1:]
            self.n_frames += codes.shape[-1]
            self._n_fed += codes.shape[-1]
            yield codes
        if n_waiting:
            nothing = torch.zeros(self._header.channels, self._header.n_codebooks, 1, dtype=torch.int64)
            yield self._fill(nothing, n_waiting, fades_out=False)

    def _fill(self, frame: Tensor, n_frames: int, fades_out: bool) -> Tensor:
        hop = self._header.hop_length
        fed = min(n_frames, self._most_frames)
        self._patches.append(_Patch(self._n_fed * hop, fed * hop, (n_frames - fed) * hop, fades_out))
        self._n_fed += fed
        return frame.expand(-1, -1, fed)

    def audio(self, decoded: Iterable[Audio]) -> Iterator[Audio]:
        """Decoded audio [C, t] with the gaps faded, and extended to their full length."""
        position = 0
        for block in decoded:
            start, position = position, position + block.shape[1]
            if not self._patches:
                yield block
                continue
            gain = np.ones(block.shape[1])
            silences: list[tuple[int, int]] = []
            for patch in tuple(self._patches):  # another thread may add to them
                gain *= _gain(patch, np.arange(start, position) - patch.start, self._fade, self._header.hop_length)
                place = patch.start + self._fade
                if patch.silence and start <= place < position:
                    silences.append((place - start, patch.silence))
            block = (block * gain).astype(np.float32)
            done = 0
            for place, length in silences:
                yield block[:, done:place]
                yield from _silence(block.shape[0], length)
                done = place
            yield block[:, done:]
            while self._patches and self._patches[0].start + self._patches[0].length + self._header.hop_length < start:
                self._patches.popleft()


def _gain(patch: _Patch, position: npt.NDArray[np.int64], fade_out: int, fade_in: int) -> npt.NDArray[np.float64]:
    """The factor of decoded samples at `position`, counted from the patch's start; the fades are in samples."""
    out = _fade_out(np.minimum(position, patch.length) / fade_out) if patch.fades_out else np.zeros(len(position))
    back = 1 - (1 - out) * _fade_out((position - patch.length) / fade_in)
    return np.where(position < 0, 1.0, np.where(position < patch.length, out, back))


def _fade_out(time: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From 1 at 0 to 0 at 1, along a cosine."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(time, 0.0, 1.0))


def _silence(channels: int, length: int) -> Iterator[Audio]:
    most = block_length(channels)
    for start in range(0, length, most):
        yield np.zeros((channels, min(most, length - start)), np.float32)
