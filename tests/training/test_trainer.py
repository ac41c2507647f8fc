"""Runs through all phases: learning, output files, resuming, failures."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.model import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.pretrained import folder_of
from dac_codec.training import checkpoint
from dac_codec.training.config import DiscriminatorConfig, LoggerConfig
from dac_codec.training.runlog import RunLog
from dac_codec.training.trainer import Trainer
from tests.conftest import GOLDEN
from tests.training.conftest import assert_equal, log_of, small_run
from tests.training.test_config import config_of

ALONE = {"quantize": False, "adversarial": False}


@pytest.mark.slow
def test_phases_lead_to_a_model_that_loads(tmp_path: Path, manifest: Path) -> None:
    phases = [{"until": 30} | ALONE, {"until": 50, "adversarial": False}, {"until": 52}]
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": phases}))
    run.run()
    steps = [line for line in log_of(tmp_path) if "mel" in line]
    assert steps[-1]["mel"] < 0.8 * steps[0]["mel"]
    assert "codebook" not in steps[0]
    assert steps[-1]["codebook"] > 0.0
    assert steps[-1]["discriminator"] > 0.0
    assert "adversarial" not in steps[-3]
    model = DAC.from_pretrained(tmp_path / "model")
    assert torch.equal(model.encoder.block[0].bias, run.model.encoder.block[0].bias)


def test_a_validation_writes_numbers_sounds_and_pictures(tmp_path: Path, manifest: Path) -> None:
    Trainer(
        small_run(tmp_path, manifest, trainer={"phases": [{"until": 2}], "validate_every": 1, "validation_examples": 1})
    ).run()
    found = [line for line in log_of(tmp_path) if "val/mel_distance" in line]
    assert [line["step"] for line in found] == [1, 2]
    for stage in range(3):
        assert 0.0 <= found[-1][f"val/codebook_entropy_{stage}"] <= 5.0
        assert 0.0 < found[-1][f"val/codebook_use_{stage}"] <= 1.0
    (sound,) = (tmp_path / "validation" / "step-00000002").glob("*.flac")
    assert soundfile.info(sound).frames == soundfile.info(tmp_path / "validation" / "original" / sound.name).frames
    assert sound.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    best = min(line["val/mel_distance"] for line in found)
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["best"] == best
    assert DAC.from_pretrained(tmp_path / "best").n_codebooks == 3


def test_a_share_of_the_excerpts_bypasses_the_quantizer(tmp_path: Path, manifest: Path) -> None:
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": [{"until": 1, "quantize": 0.5}]}))
    real = torch.randn(40, 1, 32 * run.model.hop_length, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fakes = {
            share: run._generator(real, share, torch.Generator().manual_seed(0))[0] for share in (False, 0.5, True)
        }
    as_they_are, quantized = (
        ((fakes[0.5] - fakes[share]).abs().amax((1, 2)) < 1e-6).tolist() for share in (False, True)
    )
    assert [one != other for one, other in zip(as_they_are, quantized, strict=True)] == [True] * 40
    assert 10 < sum(quantized) < 30


@pytest.mark.parametrize(
    "options", [{"ema": 0.5}, {"precision": "bf16-mixed"}, {"optimizer": "muon", "cooldown": 2, "quantizer_rate": 0.5}]
)
def test_options_of_the_trainer(tmp_path: Path, manifest: Path, options: dict[str, Any]) -> None:
    run = Trainer(small_run(tmp_path, manifest, trainer={"decay": 0.5} | options))
    run.run()
    steps = [line for line in log_of(tmp_path) if "mel" in line]
    ends = [1.0, 1.0, 1.0, 0.5 if "cooldown" in options else 1.0]
    assert [line["learning_rate"] for line in steps] == pytest.approx(
        [2e-3 * 0.5**step * end for step, end in enumerate(ends)]
    )
    rates = [group["lr"] for group in run.optimizers["generator_optimizer"].param_groups]
    assert rates[1:] == ([rates[0] / 2] if "quantizer_rate" in options else [])
    assert ("muon" in run.optimizers and len(run.optimizers["muon"].state) > 10) is ("optimizer" in options)
    exported = DAC.from_pretrained(tmp_path / "model").encoder.block[0].weight
    followed = torch.equal(exported, run.model.encoder.block[0].weight)
    assert followed is ("ema" not in options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_training_is_the_same_training(
    tmp_path: Path, manifest: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradient norms of every step agree; wrong gradients would change the losses of the next one."""
    # Without code generation, which takes minutes.
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile(module, backend="aot_eager"))
    one_block = {"encoder_rates": [32], "decoder_rates": [32]}  # tracing takes the most time
    for name, compiled in (("plain", False), ("compiled", True)):
        settings = {"precision": precision, "compile": compiled}
        Trainer(small_run(tmp_path / name, manifest, model=one_block, trainer=settings)).run()
    plain, compiled_too = (
        [line for line in log_of(tmp_path / name) if "mel" in line] for name in ("plain", "compiled")
    )
    assert len(plain) == 4
    tolerance = 1e-3 if precision == "32-true" else 0.05
    for one, other in zip(plain, compiled_too, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-5)


def test_losses_are_float32_in_bf16(tmp_path: Path, manifest: Path) -> None:
    values = {}
    dtypes = set()
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        run = Trainer(small_run(folder, manifest, trainer={"precision": precision, "phases": [{"until": 1}]}))
        run.losses.register_forward_hook(lambda _, inputs, losses: dtypes.update(one.dtype for one in losses.values()))
        run.losses.mel.register_forward_hook(lambda _, inputs, loss: dtypes.add(inputs[0].magnitude(32).dtype))
        run.run()
        values[precision] = log_of(folder)[0]
    assert dtypes == {torch.float32}
    for name, value in values["32-true"].items():
        if not name.startswith("gradient") and name not in ("codebook", "commitment"):
            assert values["bf16-mixed"][name] == pytest.approx(value, rel=0.05)
    assert values["bf16-mixed"]["mel"] != values["32-true"]["mel"]


def test_the_best_distance_is_reset_when_quantization_begins(tmp_path: Path, manifest: Path) -> None:
    """Distances without a quantizer do not count then, and the moving average gets the fitted codebooks."""
    phases = [{"until": 2} | ALONE, {"until": 3}]
    settings = {"validate_every": 1, "ema": 0.999, "codebook_batches": 20, "phases": phases}
    run = Trainer(small_run(tmp_path, manifest, trainer=settings))
    mel_distance = run.validation.mel_distance.forward
    unquantized = iter((0.001, 0.001) * 2)
    run.validation.mel_distance.forward = lambda *spectra: (  # type: ignore[method-assign]
        mel_distance(*spectra) if run.phase(run.step - 1).quantize else torch.tensor(next(unquantized))
    )
    run.run()
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["step"] == 3
    assert run.ema is not None
    average, now = (one.quantizer.state_dict() for one in (run.ema.module, run.model))
    for name, value in now.items():
        if not name.endswith("bias"):
            assert float((average[name] - value).norm()) <= 0.2 * float(value.norm()), name


def test_codebooks_are_fitted_at_the_beginning_of_a_phase(tmp_path: Path, manifest: Path) -> None:
    phases = [{"until": 2}, {"until": 4, "fit_codebooks": True}, {"until": 5}]
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": [one | {"adversarial": False} for one in phases]}))
    fitted = []
    fit = run._fit_codebooks
    run._fit_codebooks = lambda: (fitted.append(run.step), fit())  # type: ignore[method-assign,assignment,func-returns-value]
    run.run()
    assert fitted == [2]


def test_an_interrupted_validation_is_repeated_once(tmp_path: Path, manifest: Path) -> None:
    run = Trainer(small_run(tmp_path, manifest))
    validate = run.validation.run
    run.validation.run = lambda *arguments: (  # type: ignore[method-assign]
        signal.raise_signal(signal.SIGINT) or validate(*arguments)
    )
    run.run()
    assert not [line for line in log_of(tmp_path) if "val/mel_distance" in line]
    for _ in range(2):
        Trainer(small_run(tmp_path, manifest)).run()
        assert [line["step"] for line in log_of(tmp_path) if "val/mel_distance" in line] == [4]
        assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["validated"] == 4


def test_accumulated_batches_are_one_large_batch(tmp_path: Path, manifest: Path) -> None:
    model = {
        "encoder_dim": 4, "encoder_rates": [4, 8], "decoder_dim": 16, "decoder_rates": [8, 4], "n_codebooks": 3,
        "codebook_size": 32, "quantizer_dropout": 0.0,
    }  # fmt: skip
    logs = []
    for name, sizes in (("large", {"batch_size": 4}), ("small", {"batch_size": 2, "accumulate": 2})):
        Trainer(small_run(tmp_path / name, manifest, model=model, trainer=sizes)).run()
        logs.append([line for line in log_of(tmp_path / name) if "mel" in line])
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"optimizer": "muon", "revive_every": 3}])
def test_a_resumed_run_is_bit_exact(tmp_path: Path, manifest: Path, options: dict[str, Any]) -> None:
    phases = [{"until": 3} | ALONE, {"until": 12}]
    settings = {"ema": 0.9, "cooldown": 6, "save_every": 6, "validate_every": 3} | options
    Trainer(small_run(tmp_path / "whole", manifest, trainer=settings | {"phases": phases})).run()

    run = Trainer(small_run(tmp_path / "parts", manifest, trainer=settings | {"phases": phases}))
    stop_after(run, 6)
    run.run()
    assert [line for line in log_of(tmp_path / "parts") if "mel" in line][-1]["step"] == 6
    Trainer(small_run(tmp_path / "parts", manifest, trainer=settings | {"phases": phases})).run()

    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    whole, parts = (
        checkpoint.load(tmp_path / name / "checkpoints" / "step-00000012.pt") for name in ("whole", "parts")
    )
    assert_equal({**whole, "config": None}, {**parts, "config": None})


def stop_after(run: Trainer, step: int) -> None:
    """Stop a run after a step by Ctrl-C."""
    report = run._report

    def and_stop(*arguments: Any) -> None:
        report(*arguments)
        if run.step == step:
            signal.raise_signal(signal.SIGINT)

    run._report = and_stop  # type: ignore[method-assign]


def test_an_update_that_is_not_finite_is_left_out(
    tmp_path: Path, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is logged, and the run continues; ten in a row end it."""
    run = Trainer(small_run(tmp_path, manifest))
    run.run()
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": [{"until": 30}], "revive_every": 1}))
    forward, wrong = run.losses.forward, {4, *range(10, 30)}

    def losses(fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mel": fake.sum() * float("nan")} if run.step in wrong else forward(fake, real)

    run.losses.forward = losses  # type: ignore[method-assign]
    with pytest.raises(DacError, match=r"mel is nan.* at step 20, as in the 9 steps before"):
        run.run()
    assert sum("generator's update is left out" in record.getMessage() for record in caplog.records) == 10
    assert all(bool(tensor.isfinite().all()) for tensor in run.model.state_dict().values())
    (failure,) = tmp_path.glob("failed-generator-*.pt")
    state = checkpoint.load(failure)
    assert state["step"] == 10  # the first of the ten
    assert state["batch"][0].shape == (2, 1, run.config.excerpt_length)
    assert_equal(state["model"], run.model.state_dict())


def test_unreadable_files_are_logged_once(tmp_path: Path, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": [{"until": 12}]}))
    run.run()
    assert sum("broken.flac" in record.getMessage() for record in caplog.records) == 1
    assert [line for line in log_of(tmp_path) if "mel" in line][-1]["skipped_files"] == 1


def test_fine_tuning_from_published_weights(tmp_path: Path, manifest: Path) -> None:
    published = GOLDEN / "dac_44khz_tiny.pth"
    config = DAC.from_pretrained(published).config.to_dict()
    phases = [{"until": 2, "generator": False}, {"until": 4}]
    run = Trainer(
        small_run(tmp_path / "one", manifest, model=config, trainer={"init_from": str(published), "phases": phases})
    )
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert run.discriminator is not None
    critic = run.discriminator.discriminators[0].conv_post.bias.clone()
    stop_after(run, 2)
    run.run()
    assert_equal(before, run.model.state_dict())
    assert not torch.equal(critic, run.discriminator.discriminators[0].conv_post.bias)
    run = Trainer(small_run(tmp_path / "one", manifest, model=config, trainer={"phases": phases}))
    run.run()
    assert not torch.equal(before["encoder.block.0.bias"], run.model.encoder.block[0].bias)

    # From our own export, with the discriminators.
    again = Trainer(
        small_run(tmp_path / "two", manifest, model=config, trainer={"init_from": str(tmp_path / "one" / "model")})
    )
    assert again.discriminator is not None
    assert run.discriminator is not None
    assert_equal(run.discriminator.state_dict(), again.discriminator.state_dict())
    with pytest.raises(CheckpointError, match="another shape"):
        Trainer(small_run(tmp_path / "three", manifest, trainer={"init_from": str(published)}))


def test_the_bundled_discriminators_are_loaded(
    tmp_path: Path, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = Trainer(
        small_run(
            tmp_path,
            manifest,
            model=config_of("experiment=mini").model.to_dict(),
            discriminator={"periods": [2], "fft_sizes": [1024, 512], "bands": DiscriminatorConfig().bands},
            trainer={"init_from": "dac-mini-44khz"},
        )
    )
    folder = folder_of("dac-mini-44khz")
    assert folder is not None
    bundled = Discriminator(periods=())
    assert checkpoint.load_discriminator(bundled, folder) == []
    assert run.discriminator is not None
    for index in (1, 2):
        assert_equal(bundled.discriminators[index].state_dict(), run.discriminator.discriminators[index].state_dict())
    assert "with random weights, as dac-mini-44khz has none: period 2" in caplog.text


def test_resume_auto_never_and_from_a_path(tmp_path: Path, manifest: Path) -> None:
    Trainer(small_run(tmp_path / "one", manifest)).run()
    with pytest.raises(CheckpointError, match="resume=auto"):
        Trainer(small_run(tmp_path / "one", manifest, resume="never"))
    newest = tmp_path / "one" / "checkpoints" / "step-00000004.pt"
    assert Trainer(small_run(tmp_path / "two", manifest, resume=str(newest))).step == 4
    wider = small_run(tmp_path / "one", manifest, model={"decoder_dim": 32})
    with pytest.raises(CheckpointError, match=r"does not fit.*decoder_dim is 32, was"):
        Trainer(wider)
    causal = small_run(tmp_path / "one", manifest, model={"causal": True})  # whose weights have the same shapes
    with pytest.raises(CheckpointError, match=r"does not fit.*causal is True, was False"):
        Trainer(causal)
    longer = {"phases": [{"until": 6}], "save_every": 2}
    Trainer(small_run(tmp_path / "one", manifest, trainer=longer)).run()
    with pytest.raises(CheckpointError, match=r"later step than .*remove step-00000006\.pt"):
        Trainer(small_run(tmp_path / "one", manifest, resume=str(newest), trainer=longer))
    newest.with_name("step-00000006.pt").unlink()
    assert Trainer(small_run(tmp_path / "one", manifest, resume=str(newest), trainer=longer)).step == 4


def test_discriminators_can_be_added_to_a_run(tmp_path: Path, manifest: Path) -> None:
    Trainer(small_run(tmp_path, manifest, trainer={"phases": [{"until": 4, "adversarial": False}]})).run()
    run = Trainer(small_run(tmp_path, manifest, trainer={"phases": [{"until": 4, "adversarial": False}, {"until": 6}]}))
    assert run.step == 4
    run.run()
    assert "adversarial" in log_of(tmp_path)[-2]


def test_a_folder_without_sounds(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DacError, match="empty"):
        Trainer(small_run(tmp_path / "run", tmp_path / "empty"))


def test_damaged_lines_of_the_log_are_removed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2}\n{"step": 3}\n{"step": 2')
    RunLog(tmp_path, LoggerConfig(), {}, 2).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_tensorboard(tmp_path: Path, manifest: Path) -> None:
    """Curves, audio and spectrograms; a resumed run hides what a crash left behind."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"phases": [{"until": 2}], "validation_examples": 1}
    run = Trainer(small_run(tmp_path, manifest, trainer=settings, logger={"tensorboard": True}))
    run.run()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = log_of(tmp_path)
    for line in lines:
        for name, value in line.items():
            if name != "step":
                values = {event.step: event.value for event in found.Scalars(name)}
                assert values[line["step"]] == pytest.approx(value, rel=1e-6)
    (sound,), (image,) = found.Tags()["audio"], found.Tags()["images"]
    assert sound.replace("audio/", "spectrogram/") == image
    assert found.Audio(sound)[0].sample_rate == 44100
    assert found.Images(image)[0].encoded_image_string.startswith(b"\x89PNG")

    RunLog(tmp_path, LoggerConfig(tensorboard=True), {}, 1).close()
    again = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert max(event.step for name in again.Tags()["scalars"] for event in again.Scalars(name)) <= 1


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DacError, match=r"pip install 'dac_codec\[tensorboard\]'"):
        RunLog(tmp_path, LoggerConfig(tensorboard=True), {}, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(tmp_path: Path, manifest: Path, compiled: bool) -> None:
    settings = {
        "accelerator": "cuda",
        "precision": "bf16-mixed",
        "ema": 0.9,
        "workers": 1,
        "optimizer": "muon",
        "revive_every": 2,
        "compile": compiled,
        "phases": [{"until": 2, "quantize": False}, {"until": 6}],
    }
    Trainer(small_run(tmp_path, manifest, trainer=settings)).run()
    assert log_of(tmp_path)[0]["gpu_gib"] > 0.0
    assert np.isfinite(log_of(tmp_path)[-2]["mel"])


def test_a_run_without_a_terminal_prints_its_progress(
    tmp_path: Path, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first and the last report, and where the weights are."""
    settings = {"phases": [{"until": 4000}], "max_steps": 3, "log_every": 1}
    with caplog.at_level("INFO"):
        Trainer(small_run(tmp_path, manifest, trainer=settings)).run()
    lines = [record.getMessage() for record in caplog.records]
    said = [line for line in lines if line.startswith("step ")]
    assert [line.partition(":")[0] for line in said] == ["step 1 of 3", "step 3 of 3"]
    assert all(" s a step, 0:00:0" in line and "mel " in line for line in said)
    assert f"the model is in {tmp_path / 'model'}, its best state so far in {tmp_path / 'best'}" in lines
