"""Every way to a model's weights leads to the same network, and every broken one to a clear `CheckpointError`."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.inference import prepare
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained import fingerprint, load, save
from dac_codec.pretrained import models as pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "dac_44khz_tiny.pth"
TINY_BYTES = TINY.read_bytes()
TINY_CONFIG = DACConfig(encoder_dim=8, latent_dim=128, decoder_dim=64, quantizer_dropout=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, small published models, short waits; no test leaves the machine."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DAC_CODEC_CACHE", str(folder))
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PRESETS, "44khz", dataclasses.replace(TINY_CONFIG, quantizer_dropout=0.5))
    monkeypatch.setattr(pretrained, "_RETRY_WAITS_S", (0.01, 0.01, 0.01))
    return folder


@pytest.fixture(scope="module")
def tiny() -> DAC:
    return load(TINY)


@pytest.fixture
def folder(tiny: DAC, tmp_path: Path) -> Path:
    """A folder with a good model, for tests to damage."""
    save(tiny, tmp_path / "model")
    return tmp_path / "model"


def golden(name: str = "dac_44khz_tiny") -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}_io.npz") as arrays:
        return dict(arrays)


def codes(model: DAC, audio: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.encode(torch.from_numpy(audio)).codes.numpy()


def published(
    path: Path,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    kwargs: Callable[[dict[str, Any]], object] = lambda kwargs: None,
) -> Path:
    """A copy of the golden checkpoint at `path`, after the two functions have changed its parts."""
    content = torch.load(TINY, weights_only=True)
    tensors(content["state_dict"])
    kwargs(content["metadata"]["kwargs"])
    torch.save(content, path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_new_names(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        stem, _, part = name.rpartition(".")
        if part in ("weight_g", "weight_v"):
            new = f"{stem}.parametrizations.weight.original{'gv'.index(part[-1])}"
            tensors[new] = tensors.pop(name)


class TestLayouts:
    @pytest.mark.parametrize("name", ["dac_44khz_tiny", "dac_24khz_tiny"])
    def test_published_layout_gives_the_golden_codes(self, name: str) -> None:
        model, expected = load(GOLDEN / f"{name}.pth"), golden(name)
        assert model.name == name
        assert not model.training
        assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
        np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])

    def test_every_layout_gives_the_golden_codes_and_one_fingerprint(
        self, tiny: DAC, folder: Path, tmp_path: Path
    ) -> None:
        expected = golden()
        new_names = published(tmp_path / "new_names.pth", with_new_names)
        assert "weight_g" not in "".join(torch.load(new_names, weights_only=True)["state_dict"])
        for source in (new_names, str(new_names), folder, folder / "model.safetensors", folder / "config.json"):
            model = load(source)
            np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])
            assert fingerprint(model) == fingerprint(tiny)

    def test_loading_leaves_the_random_generator_alone(self) -> None:
        before = torch.get_rng_state()
        load(TINY)
        assert torch.equal(torch.get_rng_state(), before)

    def test_loading_computes_no_initial_values(self) -> None:
        """The compiler is imported by the meta versions of what initialisation uses, which takes over a second."""
        code = "import sys, dac_codec.pretrained as p; p.load(sys.argv[1]); sys.exit('torch._dynamo' in sys.modules)"
        subprocess.run([sys.executable, "-c", code, TINY], check=True, cwd=GOLDEN.parent.parent)

    def test_the_file_can_go_once_it_is_loaded(self, folder: Path) -> None:
        expected, model = golden(), load(folder)
        with (folder / "model.safetensors").open("r+b") as file:
            file.write(bytes(file.seek(0, os.SEEK_END)))
            file.seek(0)
            file.write(bytes(1 << 20))
        np.testing.assert_array_equal(codes(model, expected["audio"]), expected["codes"])

    def test_kwargs_as_the_reference_may_write_them(self, tmp_path: Path, tiny: DAC) -> None:
        def change(kwargs: dict[str, Any]) -> None:
            kwargs.update(codebook_dim=[8] * 9, latent_dim=None, quantizer_dropout=False)

        assert load(published(tmp_path / "model.pth", kwargs=change)).config == tiny.config

    def test_the_class_has_both_methods(self, tiny: DAC, tmp_path: Path) -> None:
        DAC.from_pretrained(TINY, device="cpu").save_pretrained(tmp_path / "copy", dtype="float32")
        copy = DAC.from_pretrained(tmp_path / "copy")
        assert fingerprint(copy) == fingerprint(tiny)
        assert copy.name == "dac_44khz_tiny"


class TestSave:
    def test_float32_is_exact(self, tiny: DAC, folder: Path) -> None:
        stored = safetensors.torch.load_file(folder / "model.safetensors")
        assert stored.keys() == torch.load(TINY, weights_only=True)["state_dict"].keys()
        copy = load(folder)
        for (name, saved), (_, original) in zip(copy.state_dict().items(), tiny.state_dict().items(), strict=True):
            assert torch.equal(saved, original), name
        assert copy.config == tiny.config

    def test_float16_is_loaded_as_float32(self, tiny: DAC, tmp_path: Path) -> None:
        save(tiny, tmp_path / "half", dtype="float16")
        copy = load(tmp_path / "half")
        assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.55 * len(TINY_BYTES)
        for (name, saved), (_, original) in zip(copy.state_dict().items(), tiny.state_dict().items(), strict=True):
            assert saved.dtype == torch.float32
            assert torch.equal(saved, original.half().float()), name
        save(copy, tmp_path / "again")
        assert fingerprint(load(tmp_path / "again")) == fingerprint(copy) != fingerprint(tiny)

    def test_names(self, tmp_path: Path) -> None:
        model = DAC(TINY_CONFIG)
        assert model.name == "unnamed"
        save(model, tmp_path / "folder")
        assert load(tmp_path / "folder").name == "folder"
        save(model, tmp_path / "folder", name="mine")
        assert load(tmp_path / "folder").name == "mine"
        save(load(tmp_path / "folder"), tmp_path / "other")
        assert load(tmp_path / "other").name == "mine"

    @pytest.mark.parametrize("name", ["", "a\nb", "a\x85b", "\udcff", "ä" * 33])
    def test_names_that_no_file_could_hold(self, tiny: DAC, tmp_path: Path, name: str) -> None:
        with pytest.raises(
            CheckpointError, match=r"not 1 to 64 bytes of printable text in UTF-8; give save\(\) another"
        ):
            save(tiny, tmp_path / "model", name=name)
        model = DAC(TINY_CONFIG)
        model.name = name
        with pytest.raises(CheckpointError, match="not 1 to 64 bytes"):
            save(model, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        save(model, tmp_path / "model", name="ä" * 32)
        assert (load(tmp_path / "model").name, model.name) == ("ä" * 32, name)

    def test_names_of_files_are_made_to_fit(self, tmp_path: Path) -> None:
        assert load(published(tmp_path / f"a\n{'ä' * 40}.pth")).name == "a_" + "ä" * 31
        save(DAC(TINY_CONFIG), tmp_path / ("x" * 80))
        assert load(tmp_path / ("x" * 80)).name == "x" * 64
        config_file = tmp_path / ("x" * 80) / "config.json"
        config = json.loads(config_file.read_text())
        del config["name"]
        config_file.write_text(json.dumps(config))
        assert load(tmp_path / ("x" * 80)).name == "x" * 64

    def test_replaces_an_older_model_and_leaves_nothing_else(self, tiny: DAC, folder: Path) -> None:
        (folder / "MODEL_CARD.md").write_text("kept")
        model = DAC(dataclasses.replace(TINY_CONFIG, n_codebooks=2))
        save(model, folder)
        assert fingerprint(load(folder)) == fingerprint(model)
        assert names(folder) == ["MODEL_CARD.md", "config.json", "model.safetensors"]
        modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in names(folder)}
        assert len(modes) == 1  # That of any new file: a temporary file's mode would hide it from other users.

    def test_a_failed_save_leaves_the_old_model(self, tiny: DAC, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: object, **kwargs: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(Path, "write_text", full)  # The second file; the first has been written by then.
        with pytest.raises(CheckpointError, match="can't be written: No space"):
            save(DAC(TINY_CONFIG), folder)
        assert names(folder) == ["config.json", "model.safetensors"]
        assert fingerprint(load(folder)) == fingerprint(tiny)

    def test_a_file_in_the_way(self, tiny: DAC, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match="can't be written"):
            save(tiny, tmp_path / "file")

    @pytest.mark.parametrize(("value", "dtype"), [(1e6, "float16"), (float("nan"), "float32")])
    def test_values_that_could_not_be_loaded(self, tmp_path: Path, value: float, dtype: Any) -> None:
        model = DAC(TINY_CONFIG)
        with torch.no_grad():
            model.quantizer.get_parameter("quantizers.3.codebook.weight")[5, 2] = value
        with pytest.raises(CheckpointError, match=f"quantizers.3.codebook.weight .* {dtype}"):
            save(model, tmp_path / "model", dtype=dtype)
        assert not (tmp_path / "model").exists()

    def test_unknown_dtype(self, tiny: DAC, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="int8"):
            save(tiny, tmp_path, dtype="int8")  # type: ignore[arg-type]


class TestFingerprint:
    def test_is_what_the_docstring_says(self, tiny: DAC) -> None:
        config = tiny.config.to_dict()
        for name in ("quantizer_dropout", "activation", "lookup", "codebook_learning", "causal"):
            del config[name]
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        for name, tensor in sorted(torch.load(TINY, weights_only=True)["state_dict"].items()):
            content += f"\n{name} [{', '.join(map(str, tensor.shape))}]\n".encode() + tensor.numpy().tobytes()
        assert fingerprint(tiny) == hashlib.sha256(content).digest()

    def test_changes_with_the_last_bit_of_a_weight_and_with_the_configuration(self, tiny: DAC) -> None:
        weights, config = load(TINY), load(TINY)
        bias = weights.get_parameter("decoder.model.6.bias")
        with torch.no_grad():
            bias.copy_(torch.nextafter(bias, torch.tensor(1.0)))
        config.config = dataclasses.replace(config.config, sample_rate=48000)
        causal = load(TINY)
        causal.config = dataclasses.replace(causal.config, causal=True)
        assert len({fingerprint(model) for model in (tiny, weights, config, causal)}) == 4
        config.config = dataclasses.replace(tiny.config, quantizer_dropout=0.75)
        assert fingerprint(config) == fingerprint(tiny)

    def test_is_worked_out_again_where_something_has_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed: list[DAC] = []
        digest = pretrained._digest

        def counting(shape: bytes, model: DAC) -> bytes:
            hashed.append(model)
            return digest(shape, model)

        monkeypatch.setattr(pretrained, "_digest", counting)
        model, expected = load(TINY), fingerprint(load(TINY))
        hashed.clear()
        assert [fingerprint(model), fingerprint(prepare(model)), fingerprint(model)] == [expected] * 3
        assert len(hashed) == 1
        bias = model.get_parameter("decoder.model.6.bias")

        def change_in_place() -> None:
            with torch.no_grad():
                bias.add_(1)

        def load_others() -> None:
            model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})

        def assign() -> None:
            model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, assign=True)

        def replace_data() -> None:
            bias.data = bias.data + 1

        def round_all() -> None:
            model.bfloat16().float()

        def train(fused: bool) -> None:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            torch.optim.AdamW(model.parameters(), fused=fused).step()

        def change_shared_memory() -> None:
            model.get_parameter("decoder.model.6.bias").data.numpy()[:] += 1

        def configure() -> None:
            model.config = dataclasses.replace(model.config, sample_rate=48000)

        found = [expected]
        changes = (
            change_in_place,
            load_others,
            round_all,
            replace_data,
            assign,
            partial(train, fused=False),
            partial(train, fused=True),
            change_shared_memory,
            configure,
        )
        for change in changes:
            change()
            found.append(fingerprint(model))
            assert fingerprint(model) == found[-1]
            assert found[-1] == digest(pretrained._shape(model), model)
        assert len(set(found)) == len(found)

    def test_of_inference_tensors(self) -> None:
        with torch.inference_mode():
            model = load(TINY)
            before = fingerprint(model)
            model.get_parameter("decoder.model.6.bias").add_(1)
            assert fingerprint(model) != before

    def test_nothing_is_kept_of_models_that_are_gone(self) -> None:
        fingerprint(load(TINY))
        fingerprint(load(TINY))
        kept = load(TINY)
        fingerprint(kept)
        alive = [memory for memory in pretrained._fingerprints if not memory.expired()]
        assert len(pretrained._fingerprints) == len(alive)


class TestRefused:
    def test_unknown_name_lists_the_names(self) -> None:
        with pytest.raises(CheckpointError, match=r"called '44kHz'; .* 44khz, 44khz-16kbps, 24khz, 16khz"):
            load("44kHz")

    @pytest.mark.parametrize("device", ["gpu", "cuda:77"])
    def test_devices_that_are_not_there(self, device: str) -> None:
        with pytest.raises(DacError, match=f"^can't use the device '{device}': "):
            DAC.from_pretrained(TINY, device)

    def test_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no model, file or folder called .*weights.pth"):
            load(tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"can't be read: .*too long"):
            load("x" * 5000)

    def test_a_path_is_not_a_name(self) -> None:
        with pytest.raises(CheckpointError, match="no model, file or folder called '44khz'"):
            load(Path("44khz"))

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    def test_folder_without_a_file(self, folder: Path, missing: str) -> None:
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
            (f'{{"format": 1, "name": "{"n" * 65}", "model": {{}}}}', 'is not 1 to 64 bytes .* write another "name"'),
            ('{"format": 1, "model": {"encoder_rates": [Infinity]}}', "config.json: "),
            ('{"format": 1, "model": {"sample_rate": "fast"}}', "sample_rate must be a positive integer"),
        ],
    )
    def test_bad_configuration(self, folder: Path, text: str, message: str) -> None:
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
    def test_damaged_safetensors(self, folder: Path, damage: Callable[[bytes], bytes]) -> None:
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
    def test_damaged_checkpoint(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        (tmp_path / "model.pth").write_bytes(damage(TINY_BYTES))
        with pytest.raises(CheckpointError, match=r"model.pth is not a readable PyTorch checkpoint"):
            load(tmp_path / "model.pth")

    def test_inflated_archive(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(TINY) as source, zipfile.ZipFile(tmp_path / "model.pth", "w") as target:
            for entry in source.infolist():
                target.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
        with pytest.raises(CheckpointError, match="its size is wrong"):
            load(tmp_path / "model.pth")

    def test_hostile_pickle_is_not_run(self, tmp_path: Path) -> None:
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
    def test_another_layout(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match="not a model in the published layout"):
            load(tmp_path / "model.pth")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"frobnicate": True, "attn_window": 3}, "model.pth: unknown .*: attn_window, frobnicate"),
            ({"codebook_dim": [8, 8, 8, 8, 8, 8, 8, 8, 4]}, "same width for each codebook"),
            ({"codebook_dim": [8]}, "same width for each codebook"),
            ({"codebook_dim": [], "n_codebooks": 0}, "same width for each codebook"),
            ({"latent_dim": 64}, "block.6.* has the shape .* needs"),
            ({"latent_dim": 10**9}, r"has the shape .* needs \[1000000000"),  # 1.5 TB, if it were allocated
            ({"latent_dim": 10**30}, "impossible sizes"),
            ({"n_codebooks": 8}, "no place for: quantizer.quantizers.8.*and 4 more"),
            ({"n_codebooks": 10}, "lacks tensors .*: quantizer.quantizers.9"),
            ({"n_codebooks": 10**9}, "301 tensors, too few"),
            ({"encoder_rates": [2] * 10_000, "decoder_rates": [2] * 10_000}, "too few|halved"),
        ],
    )
    def test_configuration_that_is_not_the_tensors(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        path = published(tmp_path / "model.pth", kwargs=lambda kwargs: kwargs.update(change))
        with pytest.raises(CheckpointError, match=message):
            load(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("decoder.model.6.bias"), "lacks tensors .*: decoder.model.6.bias$"),
            (lambda t: t.update(extra=torch.ones(1)), "no place for: extra$"),
            (lambda t: t.update({3: torch.ones(1)}), "no place for: 3$"),
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
    def test_bad_tensors(self, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
        path = published(tmp_path / "model.pth", change)
        with pytest.raises(CheckpointError, match=message):
            load(path)

    def test_large_tensors_of_small_storages(self, tmp_path: Path) -> None:
        config = DACConfig(encoder_dim=8, latent_dim=10**8, decoder_dim=64)
        with torch.device("meta"), pretrained._WithoutValues():
            shapes = {name: tensor.shape for name, tensor in pretrained.canonical(DAC(config).state_dict()).items()}
        tensors = {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}
        torch.save({"state_dict": tensors, "metadata": {"kwargs": config.to_dict()}}, tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match="larger than the file"):
            load(tmp_path / "model.pth")


class TestNames:
    def test_published(self) -> None:
        """The four releases of descript-audio-codec 1.0.0 (dac/utils/__init__.py)."""
        assert pretrained.PUBLISHED.keys() == PRESETS.keys()
        assert f"{pretrained.DOWNLOAD_URL}/{pretrained.PUBLISHED['44khz-16kbps']}" == (
            "https://github.com/descriptinc/descript-audio-codec/releases/download/1.0.0/weights_44khz_16kbps.pth"
        )

    def test_bundled(self, tiny: DAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a wheel the folder is in the package; in a checkout it is beside it, and the package goes first."""
        package = tmp_path / "dac_codec"
        monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path / name)
        save(tiny, tmp_path / "checkpoints" / pretrained.DEFAULT_MODEL, name=pretrained.DEFAULT_MODEL)
        save(tiny, tmp_path / "checkpoints" / "other", name="other")
        (tmp_path / "checkpoints" / "empty").mkdir()
        assert load(pretrained.DEFAULT_MODEL).name == pretrained.DEFAULT_MODEL
        assert fingerprint(load(pretrained.DEFAULT_MODEL)) == fingerprint(tiny)
        assert [info.name for info in pretrained.available()][:2] == [pretrained.DEFAULT_MODEL, "other"]

        newer = DAC(dataclasses.replace(TINY_CONFIG, n_codebooks=2))
        save(newer, package / "checkpoints" / pretrained.DEFAULT_MODEL, name=pretrained.DEFAULT_MODEL)
        assert fingerprint(load(pretrained.DEFAULT_MODEL)) == fingerprint(newer)
        bundled = pretrained.available()[0]
        assert (bundled.name, bundled.n_codebooks, bundled.where) == (pretrained.DEFAULT_MODEL, 2, "bundled")

        (package / "checkpoints" / pretrained.DEFAULT_MODEL / "config.json").write_text("{")
        assert pretrained.available()[0].name == "other"
        with pytest.raises(CheckpointError, match="not valid JSON"):
            load(pretrained.DEFAULT_MODEL)

    def test_available(self, cache: Path) -> None:
        models = {info.name: info for info in pretrained.available()}
        assert models["24khz"] == pretrained.ModelInfo("24khz", 24000, 24000.0, 32, "downloadable")
        cache.mkdir()
        (cache / "weights_24khz.pth").touch()
        models = {info.name: info for info in pretrained.available()}
        assert models["24khz"].where == "cached"
        assert models["16khz"].where == "downloadable"

    def test_cache_folder(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pretrained.cache_folder() == cache
        monkeypatch.delenv("DAC_CODEC_CACHE")
        assert pretrained.cache_folder().name == "dac_codec"


@dataclasses.dataclass
class Request:
    """What the server was asked for, and how many bytes of it it sent."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class Server(http.server.ThreadingHTTPServer):
    """A download server on the loopback that misbehaves as the items of `behaviours` say, one for each request.

    "break": closes the connection after half of the file. "stall": sends half, and no more. "ignore range": always
    sends the whole file. "ignore if-range": sends a range even of another file. "wrong range": starts a byte too early.
    An integer: answers with that status.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = TINY_BYTES
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.behaviours: list[str | int] = []
        self.requests: list[Request] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if not self.path.startswith("/storage"):  # As GitHub does.
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/storage{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        request = Request(self.path, self.headers["Range"], self.headers["If-Range"])
        self.server.requests.append(request)
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else "good"
        content, size, start = self.server.content, len(self.server.content), 0
        if isinstance(behaviour, int):
            request.status, content = behaviour, b"sorry"
        elif (
            request.range is None
            or behaviour == "ignore range"
            or (behaviour != "ignore if-range" and request.if_range not in (None, *self.server.headers.values()))
        ):
            request.status = 200
        else:
            start = int(request.range.removeprefix("bytes=").removesuffix("-")) - (behaviour == "wrong range")
            request.status, content = 206, content[start:]
        self.send_response(request.status)
        for item in self.server.headers.items():
            self.send_header(*item)
        self.send_header("Content-Length", str(len(content)))
        if request.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if behaviour in ("break", "stall"):
            content = content[: size // 2]
        request.sent = len(content)  # Before the client can have it and look.
        self.wfile.write(content)
        self.wfile.flush()
        if behaviour == "stall":
            self.server.released.wait(60)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", server.url)
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


HALF = len(TINY_BYTES) // 2
REST = len(TINY_BYTES) - HALF


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {"weights.pth.lock"}


class TestDownload:
    def test_once(self, server: Server, cache: Path, tiny: DAC) -> None:
        model = load("44khz")
        assert model.name == "44khz"
        assert fingerprint(model) == fingerprint(tiny)
        assert (cache / "weights.pth").read_bytes() == TINY_BYTES
        assert files(cache) == {"weights.pth", "weights.pth.json"}
        record = json.loads((cache / "weights.pth.json").read_text())
        assert record["sha256"] == hashlib.sha256(TINY_BYTES).hexdigest()
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert [request.path for request in server.requests] == ["/storage/0.0.1/weights.pth"]

    @pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 01 May 2023 00:00:00 GMT"}, {}])
    def test_broken_connection_is_resumed(
        self, server: Server, cache: Path, tiny: DAC, headers: dict[str, str]
    ) -> None:
        server.headers, server.behaviours = headers, ["break", "good"]
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        first, second = server.requests
        assert (first.range, first.sent) == (None, HALF)
        assert (second.range, second.sent) == (f"bytes={HALF}-", REST)
        assert second.if_range == next(iter(headers.values()), None)
        assert files(cache) == {"weights.pth", "weights.pth.json"}

    def test_weak_etag_is_no_validator(self, server: Server) -> None:
        server.headers, server.behaviours = {"ETag": 'W/"one"'}, ["break", "good"]
        load("44khz")
        assert server.requests[1].if_range is None

    def test_server_that_ignores_range(self, server: Server, cache: Path, tiny: DAC) -> None:
        server.behaviours = ["break", "ignore range"]
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert (server.requests[1].range, server.requests[1].sent) == (f"bytes={HALF}-", len(TINY_BYTES))

    @pytest.mark.parametrize("behaviour", ["good", "ignore if-range"])
    def test_file_that_changes_between_two_attempts(self, server: Server, tmp_path: Path, behaviour: str) -> None:
        (tmp_path / "new").mkdir()
        new_file = published(tmp_path / "new" / "a.pth", lambda tensors: tensors["encoder.block.0.bias"].add_(1))
        server.content = published(tmp_path / "a.pth").read_bytes()
        server.behaviours = ["break", 503, 503, 503]
        with pytest.raises(CheckpointError):
            load("44khz")
        assert len(server.content) == new_file.stat().st_size  # Which thus can't tell one from the other.
        server.content, server.headers, server.behaviours = new_file.read_bytes(), {"ETag": '"two"'}, [behaviour]
        assert fingerprint(load("44khz")) == fingerprint(load(new_file))

    def test_server_that_sends_another_range(self, server: Server, tiny: DAC) -> None:
        server.behaviours = ["break", "wrong range", "good"]
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert [request.range for request in server.requests] == [None, f"bytes={HALF}-", None]

    def test_what_has_arrived_is_kept_for_the_next_call(self, server: Server, cache: Path, tiny: DAC) -> None:
        server.behaviours = ["break", 503, 503, 500]
        with pytest.raises(CheckpointError, match=r"weights.pth can't be downloaded: the server answered 500"):
            load("44khz")
        assert (cache / "weights.pth.part").read_bytes() == TINY_BYTES[:HALF]
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert server.requests[-1].sent == REST

    def test_complete_part_needs_no_server(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pretrained, "_build_published", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load("44khz")
        assert files(cache) == {"weights.pth.part", "weights.pth.part.json"}
        load("44khz")
        assert len(server.requests) == 1

    def test_part_that_the_server_finds_too_long(self, server: Server, cache: Path, tiny: DAC) -> None:
        cache.mkdir()
        (cache / "weights.pth.part").write_bytes(bytes(100))
        url = f"{server.url}/0.0.1/weights.pth"
        (cache / "weights.pth.part.json").write_text(json.dumps({"url": url, "size": None, "validator": None}))
        server.behaviours = [416, "good"]
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert [request.range for request in server.requests] == ["bytes=100-", None]

    @pytest.mark.parametrize("record", [None, "{", '{"url": "http://elsewhere"}'])
    def test_part_of_unknown_origin_is_not_continued(self, server: Server, cache: Path, record: str | None) -> None:
        cache.mkdir()
        (cache / "weights.pth.part").write_bytes(bytes(100))
        if record is not None:
            (cache / "weights.pth.part.json").write_text(record)
        load("44khz")
        assert [request.range for request in server.requests] == [None]

    def test_killed_process_is_continued_by_another(self, server: Server, cache: Path, tiny: DAC) -> None:
        server.behaviours = ["stall"]
        process = subprocess.Popen(
            [sys.executable, "-c", "import dac_codec.pretrained; dac_codec.pretrained.load('44khz')"],
            cwd=GOLDEN.parent.parent,
        )
        part = cache / "weights.pth.part"
        try:
            while not server.requests:
                assert process.poll() is None
                time.sleep(0.01)
            deadline = time.monotonic() + 0.5 * pretrained._TIMEOUT_S  # While the process still waits for more.
            while not part.exists() or part.stat().st_size < HALF:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert [(request.range, request.sent) for request in server.requests] == [
            (None, HALF),
            (f"bytes={HALF}-", REST),
        ]

    def test_two_at_once_download_once(self, server: Server, tiny: DAC) -> None:
        server.behaviours = ["stall", "good"]
        models: list[DAC] = []
        threads = [threading.Thread(target=lambda: models.append(load("44khz"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.2)  # Time for the other one to make the mistake.
        assert len(server.requests) == 1
        server.released.set()
        for thread in threads:
            thread.join()
        assert [fingerprint(model) for model in models] == [fingerprint(tiny)] * 2
        assert [request.sent for request in server.requests] == [HALF, REST]

    def test_html_page(self, server: Server, cache: Path) -> None:
        server.content = b"<!DOCTYPE html><title>Sign in to the hotel's network</title>"
        with pytest.raises(CheckpointError, match=r"sent something else than the model and it was removed: .*readable"):
            load("44khz")
        assert files(cache) == set()

    def test_another_architecture(self, server: Server, cache: Path) -> None:
        server.content = (GOLDEN / "dac_24khz_tiny.pth").read_bytes()
        with pytest.raises(CheckpointError, match=r"it was removed: .* is another model than 44khz"):
            load("44khz")
        assert files(cache) == set()

    @pytest.mark.parametrize("status", [404, 403])
    def test_refusal_is_not_asked_again(self, server: Server, cache: Path, status: int) -> None:
        server.behaviours = [status]
        with pytest.raises(
            CheckpointError, match=f"/0.0.1/weights.pth can't be downloaded: the server answered {status}"
        ):
            load("44khz")
        assert len(server.requests) == 1
        assert files(cache) == set()

    def test_no_network(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(pretrained, "_RETRY_WAITS_S", (-1.0,))  # Which fails: one refusal is enough.
        with pytest.raises(CheckpointError) as caught:
            load("44khz")
        message = str(caught.value)
        assert f"http://127.0.0.1:{port}/0.0.1/weights.pth can't be downloaded: no connection" in message
        assert f"put it at {cache / 'weights.pth'}" in message

    def test_an_address_without_a_scheme(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "mirror.local/dac")
        with pytest.raises(CheckpointError, match=r"mirror\.local/dac.*can't be downloaded: it is no address"):
            load("44khz")

    def test_a_home_folder_of_nobody(self) -> None:
        with pytest.raises(CheckpointError, match="no model, file or folder called '~nobody-at-all/m'"):
            load("~nobody-at-all/m")

    def test_silent_server_times_out(self, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pretrained, "_TIMEOUT_S", 0.2)
        server.behaviours = ["stall", "good"]
        start = time.monotonic()
        load("44khz")
        assert server.requests[1].sent == REST
        assert time.monotonic() - start < 15  # The server would have kept it waiting for 60.

    def test_cache_that_cannot_be_made(self, cache: Path) -> None:
        cache.write_text("a file in the way")
        with pytest.raises(CheckpointError, match=r"weights.pth can't be written"):
            load("44khz")

    def test_file_put_there_by_hand(self, cache: Path, tiny: DAC) -> None:
        cache.mkdir()
        (cache / "weights.pth").write_bytes(TINY_BYTES)
        assert fingerprint(load("44khz")) == fingerprint(tiny)
        assert files(cache) == {"weights.pth", "weights.pth.json"}

    def test_wrong_file_put_there_by_hand_is_refused_and_kept(self, cache: Path) -> None:
        cache.mkdir()
        (cache / "weights.pth").write_bytes((GOLDEN / "dac_24khz_tiny.pth").read_bytes())
        with pytest.raises(CheckpointError, match=r"weights.pth is another model than 44khz"):
            load("44khz")
        assert files(cache) == {"weights.pth"}

    def test_changed_file_is_refused(self, server: Server, cache: Path, tmp_path: Path) -> None:
        load("44khz")
        published(cache / "weights.pth", lambda tensors: tensors["decoder.model.6.bias"].add_(1))
        with pytest.raises(CheckpointError, match=r"weights.pth has changed since it was first used.*Delete it"):
            load("44khz")
        (cache / "weights.pth").unlink()
        load("44khz")

    def test_damaged_record_is_not_ignored(self, server: Server, cache: Path) -> None:
        load("44khz")
        for text in ("{", "[]"):
            (cache / "weights.pth.json").write_text(text)
            with pytest.raises(CheckpointError, match=r"weights.pth.json .*delete it"):
                load("44khz")

    def test_progress_only_on_a_terminal(
        self, server: Server, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load("44khz", progress=True)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        for progress in (False, True):
            for path in cache.iterdir():
                path.unlink()
            load("44khz", progress=progress)
            assert ("weights.pth: 100%" in capsys.readouterr().err) is progress
