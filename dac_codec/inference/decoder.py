"""The decoder on codes that come in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from dac_codec.inference.prepared import decoder_network, folded_quantizer
from dac_codec.inference.stream import Stream
from dac_codec.model import DAC
from dac_codec.model.decoder import pad_to_length


class StreamingDecoder(Stream):
    """Decodes codes chunk by chunk, to the audio that `model.decode_codes` gives for the whole, up to rounding.

    A sample comes as soon as the frames are there that it depends on: after F frames, all but the last
    `decoder_look_ahead` of F * hop samples have come.

    Args:
        model: any model.
        batch_size: signals that go side by side.

    Raises:
        ValueError: `batch_size` is less than 1.
    """

    def __init__(self, model: DAC, batch_size: int = 1) -> None:
        self._hop_length = model.hop_length
        super().__init__(decoder_network(model), batch_size)
        self._latent_width = model.config.latent_width
        with torch.no_grad():
            self._quantizer = folded_quantizer(model)

    @property
    def samples_owed(self) -> int:
        """Samples of the frames so far that have not been returned yet: what `flush` would return now."""
        return self._n_taken * self._hop_length - self._n_given

    def push(self, codes: Tensor) -> Tensor:
        """Take the next frames.

        Args:
            codes: [B, n, f], f >= 0; n may be less than the number of codebooks.

        Returns:
            The samples [B, 1, t] that are known by now and were not returned before, t >= 0.

        Raises:
            ValueError: a wrong shape, codes that are no integers or outside their codebook, or the signal has ended.
        """
        self._check_open()
        if codes.ndim != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes must be [{self.batch_size}, n, f], not {list(codes.shape)}")
        if codes.shape[-1] == 0:
            return self._nothing(1)
        with torch.no_grad():
            z = self._quantizer.decode(codes.to(self.device))
        self._n_taken += codes.shape[-1]
        return self._step(z, last=False)

    def flush(self) -> Tensor:
        """End the signal.

        Returns:
            The samples [B, 1, t] that were not returned before; all in all there are F * hop.

        Raises:
            ValueError: the signal has ended before.
        """
        self._check_open()
        self._ended = True
        # The layers' padding alone, without a frame, must not become audio.
        return self._step(self._nothing(self._latent_width).transpose(1, 2), last=self._n_taken > 0)

    @torch.no_grad()
    def _step(self, z: Tensor, last: bool) -> Tensor:
        audio = self._layers.step(z, last).transpose(1, 2)
        if audio.shape[-1] == 0:
            return self._nothing(1)
        if last:
            audio = pad_to_length(audio, self.samples_owed)
        self._n_given += audio.shape[-1]
        return audio

    def _nothing(self, channels: int) -> Tensor:
        return torch.empty(self.batch_size, channels, 0, dtype=self.dtype, device=self.device)
