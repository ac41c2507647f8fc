"""The decoder on codes that arrive in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from dac_codec.inference.network import Step
from dac_codec.inference.prepared import prepare_cached
from dac_codec.inference.stream import Stream
from dac_codec.model import DAC
from dac_codec.model.decoder import pad_to_length


class StreamingDecoder(Stream):
    """Decodes codes chunk by chunk, to the audio that `model.decode_codes` gives for the whole signal, up to rounding.

    A sample is returned as soon as the frames that it depends on have arrived: after F frames, all of F * hop samples
    but the last `decoder_look_ahead`.

    Args:
        model: any model; one that is not prepared is prepared with `exact=True`.
        batch_size: signals in parallel.

    Raises:
        ValueError: `batch_size` is less than 1.
    """

    def __init__(self, model: DAC, batch_size: int = 1) -> None:
        self._hop_length, self._latent_width = model.hop_length, model.config.latent_width
        prepared = prepare_cached(model)
        super().__init__(prepared.decoder_network.new_stream(), batch_size)
        self._quantizer = prepared.folded_quantizer

    @property
    def samples_owed(self) -> int:
        """Samples of the frames so far that were not returned yet: those that `flush` would return now."""
        return self._n_taken * self._hop_length - self._n_given

    def push(self, codes: Tensor) -> Tensor:
        """Take the next frames.

        Args:
            codes: [B, n, f], f >= 0; n may be less than the number of codebooks.

        Returns:
            The samples [B, 1, t], t >= 0, that are known by now and were not returned before.

        Raises:
            ValueError: a wrong shape, codes that are not integers or outside their codebook, or the signal has ended.
        """
        return self.give(self._network.step(self.take(codes)))

    def flush(self) -> Tensor:
        """End the signal.

        Returns:
            The samples [B, 1, t] that were not returned before; F * hop in all.

        Raises:
            ValueError: the signal has ended.
        """
        return self.give(self._network.step(self.end()))

    @torch.no_grad()
    def take(self, codes: Tensor) -> Step:
        """The network's input for the next frames, as for `push`."""
        self._check_open()
        if codes.ndim != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes must be [{self.batch_size}, n, f], not {list(codes.shape)}")
        if codes.shape[-1] == 0:
            return Step(self._empty(self._latent_width), last=False)
        z = self._quantizer.decode(codes.to(self.device))
        self._n_taken += codes.shape[-1]
        return Step(z, last=False)

    def end(self) -> Step:
        """The network's input at the end of the signal, as for `flush`."""
        self._check_open()
        self._ended = True
        # An empty signal has no audio: padding alone must not give any.
        return Step(self._empty(self._latent_width), last=self._n_taken > 0)

    def give(self, step: Step) -> Tensor:
        """The samples [B, 1, t] in the network's output."""
        audio, last = step
        if audio.shape[-1] == 0:
            return self._empty(1)
        if last:
            audio = pad_to_length(audio, self.samples_owed)
        self._n_given += audio.shape[-1]
        return audio

    def _empty(self, channels: int) -> Tensor:
        return torch.empty(self.batch_size, channels, 0, dtype=self.dtype, device=self.device)
