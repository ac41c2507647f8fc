"""Published weights are compared with the SHA-256 that the package knows, or said to be not verified."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dac_codec import pretrained
from dac_codec.codec import compress, decompress
from dac_codec.codec.models import model_of
from dac_codec.common.errors import CheckpointError
from dac_codec.model import DAC
from dac_codec.pretrained import models
from tests.conftest import load_script
from tests.pretrained.test_download import Server, server
from tests.pretrained.weights import TINY_BYTES

__all__ = ["server"]
DIGEST = hashlib.sha256(TINY_BYTES).hexdigest()


def know(digest: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "published_digests", lambda: dict.fromkeys(models.PUBLISHED, digest))


def test_the_data_has_a_digest_or_null_for_each_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    digests = models.published_digests()
    assert list(digests) == list(models.PUBLISHED)
    assert all(digest is None or (len(digest) == 64 and int(digest, 16)) for digest in digests.values())


@pytest.mark.usefixtures("server")
def test_weights_without_a_known_digest_are_said_to_be_not_verified() -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="weights of 44khz are not verified"):
            pretrained.load("44khz")
    assert not next(info for info in models.available() if info.name == "44khz").verified


@pytest.mark.usefixtures("server")
@pytest.mark.filterwarnings("error")
def test_weights_with_the_known_digest_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    know(DIGEST, monkeypatch)
    pretrained.load("44khz")
    assert next(info for info in models.available() if info.name == "44khz").verified


def test_weights_with_another_digest_are_refused(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know("0" * 64, monkeypatch)
    with pytest.raises(CheckpointError, match=f"the SHA-256 {DIGEST}, expected 000"):
        pretrained.load("44khz")
    assert not (cache / "weights.pth").exists()
    assert not (cache / "weights.pth.part").exists()
    (cache / "weights.pth").write_bytes(TINY_BYTES)  # put there by hand
    with pytest.raises(CheckpointError, match="it is not the published file"):
        pretrained.load("44khz")
    assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore:.*not verified")
def test_a_file_starts_no_download(server: Server, tiny: DAC) -> None:
    file = compress(([[0.1, -0.1] * 2000], 44100), tiny)  # type: ignore[arg-type]
    file = replace(file, header=replace(file.header, model_name="44khz"))
    with pytest.raises(CheckpointError, match=r"about 300 MB.*pass the model '44khz' to download"):
        decompress(file)
    assert server.requests == []
    assert model_of(file.header, None, ask=lambda name: name == "44khz").name == "44khz"
    assert decompress(file)[1] == 44100  # it is there now
    assert len(server.requests) == 1


def test_a_maintainer_records_the_digests(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("record_digests")
    monkeypatch.setattr(script, "TARGET", tmp_path / "sha256.json")
    monkeypatch.setattr(models, "PUBLISHED", {"44khz": models.PUBLISHED["44khz"]})
    monkeypatch.setattr(sys, "argv", ["record_digests.py"])
    script.main()
    assert json.loads((tmp_path / "sha256.json").read_text()) == {"44khz": DIGEST}
