"""Every layout of a model's weights leads to the same network, and every broken one to a `CheckpointError`."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.package
from torch import Tensor

from dac_codec.common.errors import CheckpointError
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained import canonical, fingerprint, load, save
from dac_codec.pretrained.checkpoints import SkippedInit
from tests.pretrained.weights import GOLDEN, TINY, TINY_BYTES, TINY_CONFIG, published


def golden(name: str = "dac_44khz_tiny") -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}_io.npz") as arrays:
        return dict(arrays)


def codes(model: DAC, audio: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.encode(torch.from_numpy(audio)).codes.numpy()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_new_names(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        stem, _, part = name.rpartition(".")
        if part in ("weight_g", "weight_v"):
            new = f"{stem}.parametrizations.weight.original{'gv'.index(part[-1])}"
            tensors[new] = tensors.pop(name)


@pytest.mark.parametrize("name", ["dac_44khz_tiny", "dac_24khz_tiny"])
def test_published_layout_gives_the_golden_codes(name: str) -> None:
    model, expected = load(GOLDEN / f"{name}.pth"), golden(name)
    assert model.name == name
    assert not model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])


def test_every_layout_gives_the_golden_codes_and_one_fingerprint(tiny: DAC, folder: Path, tmp_path: Path) -> None:
    expected = golden()
    new_names = published(tmp_path / "new_names.pth", with_new_names)
    assert "weight_g" not in "".join(torch.load(new_names, weights_only=True)["state_dict"])
    for source in (new_names, str(new_names), folder, folder / "model.safetensors", folder / "config.json"):
        model = load(source)
        np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])
        assert fingerprint(model) == fingerprint(tiny)


def test_loading_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    load(TINY)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_computes_no_initial_values() -> None:
    """The compiler is imported by the meta versions of what initialisation uses, which takes over a second."""
    code = "import sys, dac_codec.pretrained as p; p.load(sys.argv[1]); sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, TINY], check=True, cwd=GOLDEN.parent.parent)


def test_the_file_can_be_deleted_after_loading(folder: Path) -> None:
    expected, model = golden(), load(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(file.seek(0, os.SEEK_END)))
        file.seek(0)
        file.write(bytes(1 << 20))
    np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])


def test_kwargs_as_the_reference_may_write_them(tmp_path: Path, tiny: DAC) -> None:
    def change(kwargs: dict[str, Any]) -> None:
        kwargs.update(codebook_dim=[8] * 9, latent_dim=None, quantizer_dropout=False)

    assert load(published(tmp_path / "model.pth", kwargs=change)).config == tiny.config


def test_the_class_has_both_methods(tiny: DAC, tmp_path: Path) -> None:
    DAC.from_pretrained(TINY, device="cpu").save_pretrained(tmp_path / "copy", dtype="float32")
    copy = DAC.from_pretrained(tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(tiny)
    assert copy.name == "dac_44khz_tiny"


# Saving ---------------------------------------------------------------------------------------------------------


def test_float32_is_exact(tiny: DAC, folder: Path) -> None:
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert stored.keys() == torch.load(TINY, weights_only=True)["state_dict"].keys()
    copy = load(folder)
    for (name, saved), (_, original) in zip(copy.state_dict().items(), tiny.state_dict().items(), strict=True):
        assert torch.equal(saved, original), name
    assert copy.config == tiny.config


def test_float16_is_loaded_as_float32(tiny: DAC, tmp_path: Path) -> None:
    save(tiny, tmp_path / "half", dtype="float16")
    copy = load(tmp_path / "half")
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.55 * len(TINY_BYTES)
    for (name, saved), (_, original) in zip(copy.state_dict().items(), tiny.state_dict().items(), strict=True):
        assert saved.dtype == torch.float32
        assert torch.equal(saved, original.half().float()), name
    save(copy, tmp_path / "again")
    assert fingerprint(load(tmp_path / "again")) == fingerprint(copy) != fingerprint(tiny)


def test_names(tmp_path: Path) -> None:
    model = DAC(TINY_CONFIG)
    assert model.name == "unnamed"
    save(model, tmp_path / "folder")
    assert load(tmp_path / "folder").name == "folder"
    save(model, tmp_path / "folder", name="mine")
    assert load(tmp_path / "folder").name == "mine"
    save(load(tmp_path / "folder"), tmp_path / "other")
    assert load(tmp_path / "other").name == "mine"


@pytest.mark.parametrize("name", ["", "a\nb", "a\x85b", "\udcff", "ä" * 33])
def test_invalid_names_are_refused(tiny: DAC, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"not 1 to 64 bytes of printable text in UTF-8; give save\(\) another"):
        save(tiny, tmp_path / "model", name=name)
    model = DAC(TINY_CONFIG)
    model.name = name
    with pytest.raises(CheckpointError, match="not 1 to 64 bytes"):
        save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    save(model, tmp_path / "model", name="ä" * 32)
    assert (load(tmp_path / "model").name, model.name) == ("ä" * 32, name)


def test_names_of_files_are_shortened(tmp_path: Path) -> None:
    assert load(published(tmp_path / f"a\n{'ä' * 40}.pth")).name == "a_" + "ä" * 31
    save(DAC(TINY_CONFIG), tmp_path / ("x" * 80))
    assert load(tmp_path / ("x" * 80)).name == "x" * 64
    config_file = tmp_path / ("x" * 80) / "config.json"
    config = json.loads(config_file.read_text())
    del config["name"]
    config_file.write_text(json.dumps(config))
    assert load(tmp_path / ("x" * 80)).name == "x" * 64


def test_replaces_an_older_model_and_leaves_nothing_else(tiny: DAC, folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("kept")
    model = DAC(dataclasses.replace(TINY_CONFIG, n_codebooks=2))
    save(model, folder)
    assert fingerprint(load(folder)) == fingerprint(model)
    assert names(folder) == ["MODEL_CARD.md", "config.json", "model.safetensors"]
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in names(folder)}
    assert len(modes) == 1  # That of any new file: a temporary file's mode would hide it from other users.


def test_a_failed_save_leaves_the_old_model(tiny: DAC, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if content[:1] != b"{":  # the weights; config.json has been written by then
            raise OSError("No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="can't be written: No space"):
        save(DAC(TINY_CONFIG), folder)
    assert names(folder) == ["config.json", "model.safetensors"]
    assert fingerprint(load(folder)) == fingerprint(tiny)


def test_a_file_instead_of_the_folder(tiny: DAC, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="can't be written"):
        save(tiny, tmp_path / "file")


@pytest.mark.parametrize(("value", "dtype"), [(1e6, "float16"), (float("nan"), "float32")])
def test_values_that_are_not_finite(tmp_path: Path, value: float, dtype: Any) -> None:
    model = DAC(TINY_CONFIG)
    with torch.no_grad():
        model.quantizer.get_parameter("quantizers.3.codebook.weight")[5, 2] = value
    with pytest.raises(CheckpointError, match=f"quantizers.3.codebook.weight .* {dtype}"):
        save(model, tmp_path / "model", dtype=dtype)
    assert not (tmp_path / "model").exists()


def test_unknown_dtype(tiny: DAC, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8"):
        save(tiny, tmp_path, dtype="int8")  # type: ignore[arg-type]


# Refused --------------------------------------------------------------------------------------------------------


def test_an_archive_with_code(tmp_path: Path) -> None:
    """`dac.DAC.save` writes one by default."""
    with torch.package.PackageExporter(tmp_path / "weights.pth") as archive:
        archive.save_pickle("dac", "dac.pth", {"weights": [1.0]})
    with pytest.raises(CheckpointError, match=r"torch\.package wrote it, with code; save it with package=False"):
        load(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.safetensors", "model.safetensors"])
def test_tensors_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Those of a published network have its configuration."""
    file = tmp_path / name
    config = dataclasses.replace(TINY_CONFIG, n_codebooks=TINY_CONFIG.n_codebooks + 1)
    file.write_bytes(safetensors.torch.save(canonical(DAC(config).state_dict())))
    with pytest.raises(CheckpointError, match=r"no config.json beside it, and its tensors are not those of 44khz, "):
        load(file)
    monkeypatch.setitem(PRESETS, "other", config)
    assert load(file).config == config
    file.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(file)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_folder_without_a_file(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"has no {missing}"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("\xff", "describes no model|not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "describes no model"),
        ('{"format": 1, "model": 3}', "describes no model"),
        ('{"format": 2, "model": {}}', "format 2 and this version reads 1"),
        ('{"format": 1, "name": 7, "model": {}}', "the name 7"),
        ('{"format": 1, "name": "a\\nb", "model": {}}', "the name 'a"),
        ('{"format": 1, "model": {"depth": 3, "width": 4}}', "unknown .*: depth, width"),
        ('{"format": 1, "model": {"encoder_rates": 3}}', "config.json: encoder_rates must be integers"),
        (f'{{"format": 1, "name": "{"n" * 65}", "model": {{}}}}', 'is not 1 to 64 bytes .* change its "name"'),
        ('{"format": 1, "model": {"encoder_rates": [Infinity]}}', "config.json: "),
        ('{"format": 1, "model": {"sample_rate": "fast"}}', "sample_rate must be a positive integer"),
    ],
)
def test_bad_configuration(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1000],
        lambda data: data[:-1],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"<" + data[9:],
    ],
)
def test_damaged_safetensors(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"<!DOCTYPE html><title>Not found</title>",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1000],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    ],
)
def test_damaged_checkpoint(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "model.pth").write_bytes(damage(TINY_BYTES))
    with pytest.raises(CheckpointError, match=r"model.pth is not a readable PyTorch checkpoint"):
        load(tmp_path / "model.pth")


def test_inflated_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(TINY) as source, zipfile.ZipFile(tmp_path / "model.pth", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="its size is wrong"):
        load(tmp_path / "model.pth")


def test_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    torch.save({"state_dict": Hostile(), "metadata": {"kwargs": {}}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        load(tmp_path / "model.pth")
    assert not marker.exists()
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert marker.exists()  # It would have run.


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {}, "metadata": {"kwargs": 1}}])
def test_another_layout(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="not a model in the published layout"):
        load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frobnicate": True, "attn_window": 3}, "model.pth: unknown .*: attn_window, frobnicate"),
        ({f"a{i:03}" * 100: 1 for i in range(100)}, "^.{,900}and 90 more$"),
        ({"codebook_dim": [8, 8, 8, 8, 8, 8, 8, 8, 4]}, "same width for each codebook"),
        ({"codebook_dim": [8]}, "same width for each codebook"),
        ({"codebook_dim": [], "n_codebooks": 0}, "same width for each codebook"),
        ({"latent_dim": 64}, "block.6.* has the shape .* needs"),
        ({"latent_dim": 10**9}, r"has the shape .* needs \[1000000000"),  # 1.5 TB, if it were allocated
        ({"latent_dim": 10**30}, "impossible sizes"),
        ({"n_codebooks": 7}, "does not have: quantizer.quantizers.7.*and 4 more"),
        ({"n_codebooks": 10}, "lacks tensors .*: quantizer.quantizers.9"),
        ({"n_codebooks": 10**9}, "301 tensors, too few"),
        ({"encoder_rates": [2] * 10_000, "decoder_rates": [2] * 10_000}, "too few|halved"),
    ],
)
def test_configuration_that_is_not_the_tensors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = published(tmp_path / "model.pth", kwargs=lambda kwargs: kwargs.update(change))
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.model.6.bias"), "lacks tensors .*: decoder.model.6.bias$"),
        (lambda t: t.update(extra=torch.ones(1)), "does not have: extra$"),
        (lambda t: t.update({3: torch.ones(1)}), "does not have: 3$"),
        (lambda t: t["decoder.model.6.bias"].fill_(float("nan")), "decoder.model.6.bias has values .* not finite"),
        (lambda t: t["decoder.model.6.bias"].fill_(float("inf")), "decoder.model.6.bias has values .* not finite"),
        (lambda t: t.update({"decoder.model.6.bias": torch.ones(2)}), r"has the shape \[2\], .* needs \[1\]"),
        (lambda t: t.update({"decoder.model.6.bias": torch.ones(1).int()}), "not a tensor of floating-point"),
        (lambda t: t.update({"decoder.model.6.bias": torch.ones(1).to_sparse()}), "not a tensor of floating-point"),
        (lambda t: t.update({"decoder.model.6.bias": 1.0}), "not a tensor of floating-point"),
        (lambda t: t.update({"decoder.model.6.bias": torch.ones(1, device="meta")}), "has no values"),
        (
            lambda t: t.update({"decoder.model.6.parametrizations.weight.original0": torch.ones(1, 1, 1)}),
            "same tensor twice",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_bad_tensors(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    path = published(tmp_path / "model.pth", change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_large_tensors_with_small_storages(tmp_path: Path) -> None:
    config = DACConfig(encoder_dim=8, latent_dim=10**8, decoder_dim=64)
    with torch.device("meta"), SkippedInit():
        shapes = {name: tensor.shape for name, tensor in canonical(DAC(config).state_dict()).items()}
    tensors = {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": tensors, "metadata": {"kwargs": config.to_dict()}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="larger than the file"):
        load(tmp_path / "model.pth")
