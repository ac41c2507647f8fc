"""Joint design of the codebooks of a trained codec, on latents of its encoder; the other weights stay as they are.

Training finds codebooks one after the other, by small steps. Here, M-search for the codes of all latents, and least
squares for the entries of all codebooks at once, take turns (Barnes & Frost, "Vector quantizers with direct sum
codebooks", 1993; `quantization.residual` has the plain form). Both minimize what the search ranks its paths by
(`model.direct_sum`), so that neither raises it. With cosine look-up, the look-ups' distances are not quadratic in the
entries, and only the latents' error is minimized.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec import pretrained
from dac_codec.common.errors import AudioError, DacError
from dac_codec.common.manifest import Sound
from dac_codec.common.progress import progress_bar, track
from dac_codec.common.signals import pass_on
from dac_codec.common.threads import StopFlag
from dac_codec.inference import PreparedDAC, prepare
from dac_codec.model import DAC, DACConfig
from dac_codec.model.config import QuantizerKind
from dac_codec.model.direct_sum import DirectSum
from dac_codec.model.quantizer import MovingAverageQuantize, ResidualVectorQuantize
from dac_codec.model.search import PathSearch
from dac_codec.quantization import allocate, snr
from dac_codec.quantization.base import nearest
from dac_codec.quantization.least_squares import least_squares
from dac_codec.training import codebooks
from dac_codec.training.clips import clips_of
from dac_codec.training.config import DataConfig, LossConfig, Phase, TrainConfig, TrainerConfig
from dac_codec.training.sounds import Source, find_sounds
from dac_codec.training.trainer import Trainer

PATHS = (1, 4)
"""Paths of the searches that are measured: greedy, and that of effort 1."""

EXCERPT_SECONDS = 5.0
"""Length of the clips that latents are made of; shorter sounds are used whole."""

_FRAMES_AT_ONCE = 8192
_LATENTS_PER_ENTRY = 64
"""Most latents per codebook entry that k-means is given."""
_RIDGE = 10.0
"""Weight of an old entry in least squares, in latents: rarely used entries stay near it."""
_LOSSES = LossConfig(
    mel=6.0, stft=4.0, waveform=180.0, si_sdr=0.6, envelope=8.0, adversarial=0.0, feature_matching=0.0, centred=True
)
"""Losses of fine-tuning: those of `configs/loss/mini.yaml`."""
_BATCH, _LEARNING_RATE, _VALIDATION_CLIPS = 8, 1e-4, 24


class Shape(NamedTuple):
    """What to fit, where it differs from the model's own quantizer; None keeps the model's value.

    Attributes:
        quantizer, groups, n_codebooks, codebook_size: as in `DACConfig`. Finite scalars get as many bits as the model
            has, divided among the principal components of the latents, and take no other numbers.
    """

    quantizer: QuantizerKind | None = None
    groups: int | None = None
    n_codebooks: int | None = None
    codebook_size: int | None = None

    def config(self, config: DACConfig) -> DACConfig:
        """A model's configuration in this shape, not for finite scalars. Raises a DacError if it is invalid."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        if "n_codebooks" in given or "codebook_size" in given:
            given["codebook_sizes"] = ()
        if given.get("quantizer") in ("residual", "additive"):
            given.setdefault("groups", 1)
        if given.get("quantizer") == "additive":
            given["lookup"] = "euclidean"
        if config.quantizer == "fsq":
            given["codebook_dim"] = 8
        return _replaced(config, **given)


class Refitted(NamedTuple):
    """A model with other codebooks.

    Attributes:
        model: its name is "unnamed".
        before, after: signal-to-noise ratio in dB of held-out latents by each number of `PATHS`.
        mel_distances: of held-out clips before and after fine-tuning of the decoder; None without.
        minutes: of sound that was fitted to.
        unreadable: files that can't be read: path and reason of each.
    """

    model: DAC
    before: dict[int, float]
    after: dict[int, float]
    mel_distances: tuple[float, float] | None
    minutes: float
    unreadable: list[str]


def refit_model(
    model: str | os.PathLike[str] | DAC,
    sounds: Source,
    shape: Shape | None = None,
    minutes: float = 60.0,
    rounds: int = 4,
    n_paths: int = 4,
    steps: int = 0,
    seed: int = 0,
    progress: bool = False,
    sample_rate: int | None = None,
) -> Refitted:
    """Fit the codebooks of a model to sounds, or a quantizer of another shape that k-means initializes; see `refit`.

    Args:
        model: a model, which is not modified, or what `DAC.from_pretrained` takes.
        sounds: a folder or a manifest: see `find_sounds`. The split "train" is fitted to, "val" measured on.
        shape: of the quantizer; None for the model's.
        minutes: of sound to fit to; a tenth as much is measured on.
        rounds, n_paths: as for `refit`.
        steps: of fine-tuning the decoder on all sounds afterwards; 0: it stays as it is.
        seed: of the choice of sounds.
        progress: whether to show progress bars.
        sample_rate: of the new model, in Hz; None for the model's. The network's weights stay as they are.

    Raises:
        CheckpointError: the model can't be loaded.
        DacError: sounds can't be read or are too few, or the codebooks can't be refitted.
    """
    loaded = model if isinstance(model, DAC) else pretrained.load(model, progress=progress)
    shape = shape or Shape()
    original = copy.deepcopy(loaded).cpu().float().eval()
    original.config = _replaced(original.config, sample_rate=sample_rate or original.sample_rate)
    is_finite_scalar = (shape.quantizer or loaded.config.quantizer) == "fsq"
    if is_finite_scalar and shape[1:] != (None, None, None):
        raise DacError("finite scalars get the bits of the model: leave out groups, codebooks and their size")
    config = original.config if is_finite_scalar else shape.config(original.config)
    _check_projections(original.quantizer)
    splits, unreadable = find_sounds(sounds, "train", "val", progress=progress)
    network = prepare(original)
    z = latents_of(network, splits["train"], minutes, seed, progress)
    held_out = latents_of(network, splits["val"], minutes / 10, seed, progress)
    before = {n: latents_snr(original.quantizer, held_out, n) for n in PATHS}
    if is_finite_scalar:
        fitted = finite_scalars(original, z)
    else:
        fitted = original if config == original.config else _with_quantizer(original, config, z, seed)
        refit(fitted.quantizer, z, rounds, n_paths, progress)
    fitted.name, fitted.weights_file = "unnamed", None
    after = {n: latents_snr(fitted.quantizer, held_out, n) for n in PATHS}
    mel_distances = finetune(fitted, sounds, steps, seed, progress) if steps else None
    return Refitted(fitted, before, after, mel_distances, len(z) / fitted.config.frame_rate / 60, unreadable)


def _replaced(config: DACConfig, **changes: Any) -> DACConfig:
    """`dataclasses.replace`. Raises a DacError for an invalid value."""
    try:
        return replace(config, **changes)
    except ValueError as error:
        raise DacError(str(error)) from error


def finetune(model: DAC, sounds: Source, steps: int, seed: int = 0, progress: bool = False) -> tuple[float, float]:
    """Continue training the decoder of a model, in place, with the reconstruction losses of `loss=mini`.

    Args:
        model: in float32.
        sounds: as for `refit_model`.
        steps: of batches of 8 excerpts; the learning rate falls to 0.
        seed: of the choice of excerpts.
        progress: whether to show a progress bar.

    Returns:
        The mean mel distance of held-out clips before and after.

    Raises:
        DacError: losses or gradients are not finite, or sounds can't be read.
    """
    with tempfile.TemporaryDirectory() as folder:  # the run's own files
        settings = TrainerConfig(
            folder=folder,
            phases=(Phase(until=steps, adversarial=False),),
            decoder_only=True,
            batch_size=_BATCH,
            learning_rate=_LEARNING_RATE,
            decay=1.0,
            cooldown=steps,
            clip_generator=10.0,
            save_every=steps,
            validate_every=steps,
            validation_examples=0,
            workers=0,
            seed=seed,
        )
        data = DataConfig(sounds=_as_setting(sounds), validation_clips=_VALIDATION_CLIPS)
        trainer = Trainer(TrainConfig(model=model.config, data=data, loss=_LOSSES, trainer=settings), progress)
        trainer.model.load_state_dict(model.state_dict())
        found = trainer.validation.run(trainer.model, 0, True, StopFlag())
        stopped_by = trainer.run()
    if stopped_by is not None:
        pass_on(stopped_by)
        raise KeyboardInterrupt
    assert found is not None
    model.decoder.load_state_dict(trainer.model.decoder.state_dict())
    return found[0]["val/mel_distance"], trainer.best


def _as_setting(sounds: Source) -> str | dict[str, str | list[str]]:
    if not isinstance(sounds, Mapping):
        return os.fspath(sounds)
    return {
        domain: os.fspath(places) if isinstance(places, str | os.PathLike) else [os.fspath(place) for place in places]
        for domain, places in sounds.items()
    }


@torch.no_grad()
def _with_quantizer(model: DAC, config: DACConfig, z: Tensor, seed: int) -> DAC:
    """The model with a quantizer of another configuration, by k-means of latents z [n, D].

    If only the search differs (residual or additive), the codebooks are those of the model.
    """
    if config.codebook_dim > config.latent_width // config.groups + 1:
        raise DacError(f"{config.groups} groups have fewer channels than the {config.codebook_dim} of a codebook")
    other = _with_networks(model, config)
    if config.to_dict() | {"quantizer": ""} == model.config.to_dict() | {"quantizer": ""}:
        other.quantizer.load_state_dict(model.quantizer.state_dict())
        return other
    generator = torch.Generator().manual_seed(seed)
    some = z[torch.randperm(len(z), generator=generator)[: _LATENTS_PER_ENTRY * config.codebook_size]]
    try:
        codebooks.initialize(other, some.t()[None], generator)
    except ValueError as error:
        raise DacError(str(error)) from error
    return other


def _with_networks(model: DAC, config: DACConfig) -> DAC:
    """A model with encoder and decoder of another one, and a new quantizer."""
    other = DAC(config).eval()
    other.encoder.load_state_dict(model.encoder.state_dict())
    other.decoder.load_state_dict(model.decoder.state_dict())
    return other


@torch.no_grad()
def finite_scalars(model: DAC, z: Tensor) -> DAC:
    """A model with finite scalar quantization, at the bits of a frame of `model`, fitted to latents z [n, D].

    The numbers are principal components, with levels by reverse water-filling (`quantization.allocate`). Of a grid of
    scales in front of tanh, the one with the least error is taken for all; the output projections are least squares.
    """
    mean = z.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(z.t().double()))
    most = sum((size - 1).bit_length() for size in model.config.sizes)
    # Codes are stored in whole bits, which are more than the logarithm of their levels.
    tried = (allocate(variances.flip(0).clamp(min=0), bits) for bits in range(most, 0, -1))
    levels = next(levels for levels in tried if sum((level - 1).bit_length() for level in levels) <= most)
    kept = [index for index, level in enumerate(levels) if level > 1]
    sizes = tuple(levels[index] for index in kept)
    config = replace(
        model.config,
        quantizer="fsq",
        groups=1,
        n_codebooks=len(sizes),
        codebook_sizes=sizes,
        codebook_size=max(sizes),
        codebook_dim=1,
        lookup="euclidean",
        quantizer_dropout=0.0,
    )
    other = _with_networks(model, config)
    basis = axes.flip(1)[:, kept].float()
    spread = variances.flip(0)[kept].sqrt().float()
    stages, best = other.quantizer.stages(), math.inf
    for half in (0.7, 1.0, 1.4, 2.0, 2.8):
        directions = basis / (half * spread)
        points = ((z - mean) @ directions).tanh()
        values = [stage.codebook.weight[:, 0] for stage in stages]
        codes = [nearest(own[:, None], grid[:, None]) for own, grid in zip(points.t(), values, strict=True)]
        entries = torch.stack([grid[code] for grid, code in zip(values, codes, strict=True)], 1)
        design = torch.cat([entries, torch.ones(len(z), 1)], 1).double()
        outputs = torch.linalg.solve(design.t() @ design, design.t() @ z.double())
        error = float((z - design @ outputs).square().sum())
        if error < best:
            best, found = error, (directions, outputs.float())
    directions, outputs = found
    for index, stage in enumerate(stages):
        assert isinstance(stage.in_proj, nn.Conv1d)
        assert isinstance(stage.out_proj, nn.Conv1d)
        stage.in_proj.weight = directions[:, index][None, :, None]
        stage.in_proj.get_parameter("bias").copy_(-mean @ directions[:, index : index + 1])
        stage.out_proj.weight = outputs[index][:, None, None]
        stage.out_proj.get_parameter("bias").copy_(outputs[-1] if index == 0 else torch.zeros_like(mean))
    return other


def latents_of(
    model: PreparedDAC, sounds: Sequence[Sound], minutes: float, seed: int = 0, progress: bool = False
) -> Tensor:
    """Encoder outputs [n, D] for clips of the sounds, the same for the same seed; domains take turns.

    Args:
        model: the model, prepared.
        sounds: files to take clips from. Those that can't be read are left out.
        minutes: of sound; less if there is not as much.
        seed: of the choice.
        progress: whether to show a progress bar.

    Raises:
        AudioError: no sound can be read.
    """
    most = math.ceil(60 * minutes / EXCERPT_SECONDS)
    skipped: dict[Sound, str] = {}
    clips = clips_of(sounds, EXCERPT_SECONDS, most, skipped, sample_rate=model.sample_rate, seed=seed)
    found: list[Tensor] = []
    seconds = 0.0
    with progress_bar("encoding", round(60 * minutes), progress, unit=" s", leave=False) as bar, torch.no_grad():
        for clip in clips:
            if seconds >= 60 * minutes:
                break
            audio = F.pad(clip.audio, (0, -clip.audio.shape[1] % model.hop_length))
            found.append(model.encoder_network.whole(audio[None])[0].t().float())
            before, seconds = int(seconds), seconds + clip.audio.shape[1] / model.sample_rate
            bar.update(int(seconds) - before)
    if not found:
        reason = f", the first is {next(iter(skipped.values()))}" if skipped else ""
        raise AudioError(f"no clip in {len(sounds)} sounds, of which {len(skipped)} can't be read{reason}")
    return torch.cat(found)


@torch.no_grad()
def latents_snr(quantizer: ResidualVectorQuantize, z: Tensor, n_paths: int) -> float:
    """Signal-to-noise ratio in dB of latents z [n, D] that are quantized with all codebooks."""
    decoded = [quantizer.from_codes(codes.t()[None])[0][0].t() for codes in _codes(quantizer, z, n_paths)]
    return snr(z, torch.cat(decoded))


@torch.no_grad()
def refit(
    quantizer: ResidualVectorQuantize, z: Tensor, rounds: int = 4, n_paths: int = 4, progress: bool = False
) -> None:
    """Design the codebooks jointly, starting from the present entries, in place.

    The entries with the least error of all rounds are kept, those that it started from included. Memory is 4 (D + 17 N)
    bytes for each latent, N being the number of codebooks of 8 dimensions.

    Args:
        quantizer: on the CPU, in float32; any but one with moving averages.
        z: latents to fit to [n, D], more than entries of a codebook.
        rounds: of codes and entries.
        n_paths: of the search.
        progress: whether to show a progress bar.

    Raises:
        DacError: codebooks without projections, or too few latents.
    """
    _check_projections(quantizer)
    stages = quantizer.stages()
    if len(z) < quantizer.codebook_size:
        raise DacError(
            f"{len(z)} latents are too few for codebooks of {quantizer.codebook_size} entries: more sounds are needed"
        )
    system = DirectSum.of(quantizer)
    target = system.target(z)
    sizes = [len(stage.codebook.weight) for stage in stages]
    starts = torch.tensor([sum(sizes[:index]) for index in range(len(sizes))])
    entries = torch.cat([stage.codebook.weight for stage in stages])
    kept, least, rows = entries, math.inf, None
    for turn in track(range(rounds + 1), lambda _: 1, "refitting", rounds + 1, progress):
        fresh = torch.cat(list(_codes(quantizer, z, n_paths))) + starts
        error = system.errors(target, fresh, entries)
        if (total := float(error.sum())) < least:
            kept, least = entries, total
        if rows is not None:  # the search may miss the codes of the round before
            fresh = torch.where((error < system.errors(target, rows, entries))[:, None], fresh, rows)
        rows = fresh
        if turn < rounds:
            entries = least_squares(target, rows, entries, _RIDGE * system.unit, maps=system.maps)
            _place(quantizer, entries.split(sizes))
    _place(quantizer, kept.split(sizes))


def _check_projections(quantizer: ResidualVectorQuantize) -> None:
    if any(isinstance(stage, MovingAverageQuantize) for stage in quantizer.stages()):
        raise DacError("codebooks that were learned by moving averages have no projections and can't be refitted")


def _codes(quantizer: ResidualVectorQuantize, z: Tensor, n_paths: int) -> Iterator[Tensor]:
    """Codes [n, N] of parts of latents [n, D]; finite scalars have no paths, and additive quantization its own."""
    searched = not quantizer.is_finite_scalar and not quantizer.is_additive
    search = PathSearch(quantizer) if searched else None
    for part in z.split(_FRAMES_AT_ONCE):
        rows = part.t()[None]
        codes = quantizer(rows).codes if search is None else search.codes(rows, quantizer.n_codebooks, n_paths)
        yield codes[0].t()


def _place(quantizer: ResidualVectorQuantize, entries: Sequence[Tensor]) -> None:
    for stage, own in zip(quantizer.stages(), entries, strict=True):
        stage.codebook.weight.copy_(own)
