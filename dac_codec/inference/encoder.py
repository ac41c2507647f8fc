"""The encoder on audio that comes in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from dac_codec.inference.prepared import encoder_network, folded_quantizer
from dac_codec.inference.stream import Stream
from dac_codec.model import DAC
from dac_codec.model.checks import check_samples, checked_quantizers


class StreamingEncoder(Stream):
    """Encodes audio chunk by chunk, with the codes that `model.encode` gives for the whole.

    A frame's codes come as soon as the audio is there that they depend on (`encoder_look_ahead`). Convolutions round
    differently from one length to another, so that a code may differ from the whole's where two entries are equally
    near to the rounding of the model's type; nothing else can make a difference.

    Args:
        model: any model.
        n_quantizers: codebooks to use; None means all.
        batch_size: signals that go side by side.

    Raises:
        ValueError: `n_quantizers` is not between 1 and the number of codebooks, or `batch_size` is less than 1.
    """

    def __init__(self, model: DAC, n_quantizers: int | None = None, batch_size: int = 1) -> None:
        self.n_quantizers = checked_quantizers(n_quantizers, model.n_codebooks)
        self._hop_length = model.hop_length
        super().__init__(encoder_network(model), batch_size)
        with torch.no_grad():
            self._quantizer = folded_quantizer(model)

    def push(self, chunk: Tensor) -> Tensor:
        """Take the next samples.

        Args:
            chunk: audio [B, 1, t], t >= 0, at the model's rate, floating point; brought to the model's device and type.

        Returns:
            The codes [B, N, f] that are known by now and were not returned before, f >= 0.

        Raises:
            ValueError: a wrong shape, samples that are integers, or the signal has ended.
        """
        self._check_open()
        if chunk.ndim != 3 or chunk.shape[:2] != (self.batch_size, 1):
            raise ValueError(f"a chunk must be [{self.batch_size}, 1, t], not {list(chunk.shape)}")
        check_samples(chunk)
        self._n_taken += chunk.shape[-1]
        return self._step(chunk, last=False)

    def flush(self) -> Tensor:
        """End the signal, filled with zeros to a whole frame as `model.preprocess` does.

        Returns:
            The codes [B, N, f] that were not returned before; all in all there are ceil(T / hop) frames.

        Raises:
            ValueError: the signal has ended before.
        """
        self._check_open()
        self._ended = True
        missing = -self._n_taken % self._hop_length
        # A signal without a sample has no frame, and none must come of the layers' padding alone.
        return self._step(torch.zeros(self.batch_size, 1, missing), last=self._n_taken > 0)

    @torch.no_grad()
    def _step(self, audio: Tensor, last: bool) -> Tensor:
        z = self._layers.step(audio.transpose(1, 2), last)
        if z.shape[1] == 0:
            return torch.empty(self.batch_size, self.n_quantizers, 0, dtype=torch.int64, device=self.device)
        self._n_given += z.shape[1]
        return self._quantizer.codes(z, self.n_quantizers)
