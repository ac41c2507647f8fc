"""Files that ask for more than they hold: sound without end, and hours of computing."""

from __future__ import annotations

import io
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dac_codec import bitstream, pretrained
from dac_codec.audio import samples
from dac_codec.bitstream import Header
from dac_codec.bitstream.chunks import ChunkKind, encode_codes, encode_key
from dac_codec.bitstream.fields import CRC_BYTES, crc32c
from dac_codec.bitstream.header import encode_header
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.codec import DacStream, decompress, decompress_stream, legacy
from dac_codec.common.errors import AudioError, BitstreamError, DacError
from dac_codec.model import DAC
from tests.codec.test_streams import Pipe
from tests.conftest import golden_model

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


def decoded(data: bytes, pipe: bool) -> tuple[bytes, DacError | None]:
    """What `decompress_stream` writes for a file, and its error."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decompress_stream(Pipe(data) if pipe else io.BytesIO(data), target, conceal=True, fmt="raw", device="cpu")  # type: ignore[arg-type]
        except DacError as error:
            return target.getvalue(), error
    return target.getvalue(), None


def of_the_bundled_weights(data: bytes) -> bytes:
    """A file as if today's bundled weights had written it."""
    header = bitstream.Reader(io.BytesIO(data)).header
    assert data.startswith(encode_header(header))
    ours = replace(header, model_fingerprint=pretrained.fingerprint(DAC.from_pretrained(header.model_name))[:8])
    return encode_header(ours) + data[len(encode_header(header)) :]


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("name", ["endless.dac", "gap.dac"])
def test_a_gap_is_bounded_by_the_codes_of_the_file(name: str, pipe: bool) -> None:
    started = time.process_time()
    written, error = decoded(of_the_bundled_weights((CASES / name).read_bytes()), pipe)
    assert isinstance(error, BitstreamError)
    assert "s of missing frames after" in str(error)
    assert "that are allowed" in str(error)
    assert len(written) < 100_000
    assert time.process_time() - started < 20


def with_gaps(header: Header, gap: int, n_gaps: int) -> bytes:
    """A file without an end: `n_gaps` gaps of `gap` frames, each between two frames of codes."""
    data = encode_header(replace(header, n_samples=None))
    payload = encode_codes(header, np.zeros((header.channels, header.n_codebooks, 1), np.uint16))
    chunk = encode_key(ChunkKind.CODES, len(payload)) + payload
    for index in range(n_gaps + 1):
        data += chunk + crc32c(checksum_prefix(index * (gap + 1)) + chunk).to_bytes(CRC_BYTES, "little")
    return data


@pytest.mark.parametrize(("gap", "n_gaps"), [(100, 3), (800, 1)])
def test_gaps_that_the_codes_justify_are_concealed(gap: int, n_gaps: int) -> None:
    header = bitstream.Reader(io.BytesIO((CASES / "gap.dac").read_bytes())).header
    with DacStream(io.BytesIO(with_gaps(header, gap, n_gaps))) as stream:
        assert stream.scan(conceal=True) == (n_gaps * (gap + 1) + 1) * header.hop_length


def test_many_gaps_share_a_budget() -> None:
    """Each of them alone is allowed."""
    header = bitstream.Reader(io.BytesIO((CASES / "gap.dac").read_bytes())).header
    with (
        DacStream(io.BytesIO(with_gaps(header, 400, 200))) as stream,
        pytest.raises(BitstreamError, match="more than the"),
    ):
        stream.scan(conceal=True)


# Files of descript-audio-codec ---------------------------------------------------------------------------------------


def test_a_rate_without_a_common_divisor_is_refused_before_decoding(
    model: DAC, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "_windows", None)
    with pytest.raises(AudioError, match="takes 15838001 filters"):
        decompress(CASES / "legacy_rate.dac", model)


def test_a_claimed_length_is_refused_before_decoding(model: DAC, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bitstream.LegacyFile(np.zeros((1, 1, 50), np.uint16), 50, 10**9, -20.0, 1, 44100, True)
    monkeypatch.setattr(legacy, "_padded", None)
    with pytest.raises(BitstreamError, match="claims 1000000000 samples"):
        decompress(file, model)


def test_more_channels_than_a_sound_file_has(model: DAC) -> None:
    channels = samples.MAX_CHANNELS + 1
    file = bitstream.LegacyFile(np.zeros((channels, 1, 1), np.uint16), 1, 1, -20.0, channels, 44100, True)
    with pytest.raises(BitstreamError, match="channels, expected at most"):
        decompress(file, model)


def test_short_windows_are_decoded_together(model: DAC) -> None:
    """A pass of the network for each of 3,000 windows takes minutes."""
    started = time.process_time()
    waveform, rate = decompress(CASES / "legacy_window.dac", model)
    assert time.process_time() - started < 30
    assert waveform.shape[1] / rate > 30


@pytest.mark.parametrize(("n_frames", "length"), [(10, 3), (12, 4), (5, 5), (300, 1)])
def test_windows_together_equal_windows_alone(n_frames: int, length: int, model: DAC) -> None:
    random = np.random.default_rng(1)
    codes = torch.from_numpy(random.integers(0, 1024, (2, 3, n_frames)))
    decode = legacy._padded(model)
    expected = torch.cat([decode(window) for window in codes.split(length, -1)], -1)
    torch.testing.assert_close(legacy._windows(codes, length, decode), expected, atol=1e-4, rtol=1e-4)
