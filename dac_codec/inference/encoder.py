"""The encoder on audio that arrives in chunks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dac_codec.inference.network import Step
from dac_codec.inference.prepared import prepare_cached
from dac_codec.inference.stream import Stream
from dac_codec.model import DAC
from dac_codec.model.checks import check_samples


class Frames(NamedTuple):
    """Encoded frames, on the CPU.

    Attributes:
        codes: [B, N, F].
        errors: squared errors of the latents with the first 1 to N codes [B, N, F]; their unit is
            `FoldedQuantizer.scale`.
        power: mean square of the samples [B, F]; those after the signal's end are zeros.
    """

    codes: Tensor
    errors: Tensor
    power: Tensor


def frame_power(audio: Tensor, hop_length: int) -> Tensor:
    """Mean square [B, F] of the samples of each frame of audio [B, 1, T]; zeros follow its end."""
    squares = F.pad(audio[:, 0].double().square(), (0, -audio.shape[-1] % hop_length))
    return squares.view(len(audio), -1, hop_length).mean(2)


class StreamingEncoder(Stream):
    """Encodes audio chunk by chunk, to the codes that `model.encode` gives for the whole signal.

    A frame's codes are returned as soon as the audio that they depend on has arrived (`encoder_look_ahead`). Rounding
    depends on the length of a convolution's input, so that a code may differ from the whole signal's where two entries
    are equally near within the rounding of the model's type.

    Args:
        model: any model; one that is not prepared is prepared with `exact=True`.
        n_quantizers: codebooks to use; None means all.
        batch_size: signals in parallel.
        n_paths: paths that are searched, see `PreparedDAC.look_up`.

    Raises:
        ValueError: `n_quantizers` is not between 1 and the number of codebooks, or `batch_size` or `n_paths` is less
            than 1.
    """

    def __init__(self, model: DAC, n_quantizers: int | None = None, batch_size: int = 1, n_paths: int = 1) -> None:
        self.n_quantizers: int = model.quantizer.checked(n_quantizers)
        self._hop_length = model.hop_length
        prepared = prepare_cached(model)
        super().__init__(prepared.encoder_network.new_stream(), batch_size)
        self._look_up = prepared.look_up(n_paths)

    def push(self, chunk: Tensor) -> Tensor:
        """Take the next samples.

        Args:
            chunk: audio [B, 1, t], t >= 0, at the model's rate, floating point, of any device and type.

        Returns:
            The codes [B, N, f], f >= 0, that are known by now and were not returned before.

        Raises:
            ValueError: a wrong shape, integer samples, or the signal has ended.
        """
        return self.codes(self._network.step(self.take(chunk)).signal)

    def flush(self) -> Tensor:
        """End the signal, zero-padded to a whole frame as in `model.preprocess`.

        Returns:
            The codes [B, N, f] that were not returned before; ceil(T / hop) frames in all.

        Raises:
            ValueError: the signal has ended.
        """
        return self.codes(self._network.step(self.end()).signal)

    def take(self, chunk: Tensor) -> Step:
        """The network's input for the next samples, as for `push`."""
        self._check_open()
        if chunk.ndim != 3 or chunk.shape[:2] != (self.batch_size, 1):
            raise ValueError(f"a chunk must be [{self.batch_size}, 1, t], not {list(chunk.shape)}")
        check_samples(chunk)
        self._n_taken += chunk.shape[-1]
        return Step(chunk, last=False)

    def end(self) -> Step:
        """The network's input at the end of the signal, as for `flush`."""
        self._check_open()
        self._ended = True
        missing = -self._n_taken % self._hop_length
        # An empty signal has no frame: padding alone must not give one.
        return Step(torch.zeros(self.batch_size, 1, missing), last=self._n_taken > 0)

    @torch.no_grad()
    def codes(self, z: Tensor) -> Tensor:
        """The codes [B, N, f] of latents [B, D, f]."""
        if z.shape[-1] == 0:
            return torch.empty(self.batch_size, self.n_quantizers, 0, dtype=torch.int64, device=self.device)
        return self._look_up(z, self.n_quantizers)
