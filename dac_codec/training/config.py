"""The settings of a training run: the schema of `configs/`, validated before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dac_codec.model import DACConfig
from dac_codec.model.discriminator import BANDS

Share = Annotated[float, Field(ge=0.0, le=1.0)]
ModelConfig = Annotated[
    DACConfig, BeforeValidator(lambda value: DACConfig.from_dict(value) if isinstance(value, Mapping) else value)
]


class _Section(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DiscriminatorConfig(_Section):
    """The discriminators: see `dac_codec.model.discriminator.Discriminator`."""

    rates: tuple[PositiveInt, ...] = ()
    periods: tuple[PositiveInt, ...] = (2, 3, 5, 7, 11)
    fft_sizes: tuple[PositiveInt, ...] = (2048, 1024, 512)
    bands: tuple[tuple[Share, Share], ...] = BANDS


class DataConfig(_Section):
    """What to train and validate on.

    Attributes:
        sounds: a folder, a manifest, or a mapping from domains to lists of them: see
            `dac_codec.training.sounds.find_sounds`.
        least_bandwidth: Hz; sounds with a lower bandwidth in their manifest are left out.
        excerpt: duration of an excerpt in seconds, rounded to whole frames.
        weights: how often each domain is drawn, relative to the others; domains that are not named are never drawn.
            null: all equally often, which is the paper's balanced sampling; "by_duration": in proportion to duration.
        quietest: LUFS; a quieter excerpt is replaced by another one.
        tries: excerpts that are drawn in all; if each is too quiet, the loudest is used.
        channel: of a file with several: "mix" is their mean, "random" one of them.
        speed: share of the excerpts that are resampled to 0.7 to 1.7 times their speed, uniformly on a log scale. Pitch
            and tempo change together.
        rotate_phase: rotate all phases of an excerpt by a uniformly random angle.
        background: share of the excerpts to which another one is added, 5 to 30 dB below it.
        reverberation: share of the excerpts that get the echoes of a random room of 0.1 to 0.8 s.
        tilt: share of the excerpts that are amplified or attenuated by up to 4 dB per octave.
        clipping: share of the excerpts that are clipped, 1 to 15 dB below their peak.
        low_pass: share of the excerpts that are low-pass filtered at a random cutoff, as lossy codecs and lower sample
            rates do. A model trained without such sounds adds noise above their cutoff.
        attenuation: half of the excerpts are attenuated by up to this many dB, since whole files have quiet passages.
        silence: share of the excerpts whose beginning or end is replaced by digital silence.
        distinct: number of excerpts before they repeat; null: they never do.
        validation_clips, validation_seconds: number of validation clips, and their greatest duration.
    """

    sounds: str | dict[str, str | list[str]]
    least_bandwidth: NonNegativeFloat = 0.0
    excerpt: PositiveFloat = 0.38
    weights: dict[str, Annotated[FiniteFloat, Field(ge=0.0)]] | Literal["by_duration"] | None = None
    quietest: float = -40.0
    tries: PositiveInt = 8
    channel: Literal["mix", "random"] = "mix"
    speed: Share = 0.0
    rotate_phase: bool = True
    background: Share = 0.0
    reverberation: Share = 0.0
    tilt: Share = 0.0
    low_pass: Share = 0.0
    clipping: Share = 0.0
    attenuation: NonNegativeFloat = 0.0
    silence: Share = 0.0
    distinct: PositiveInt | None = None
    validation_clips: PositiveInt = 48
    validation_seconds: PositiveFloat = 5.0


class LossConfig(_Section):
    """Weights and scales of the losses; the defaults are the paper's (section 3.4).

    A weight of 0 leaves the loss out; without `adversarial` and `feature_matching` there are no discriminators.

    Attributes:
        compressed, envelope: weights of `compressed_distance` and `envelope_distance` of `dac_codec.common.spectral`,
            which are not in the paper.
        centred: whether the mean of each excerpt is removed before the spectral losses. The logarithm is steep near 0,
            so that otherwise the constant offset dominates the gradient, and clipping it removes the rest.
    """

    mel: NonNegativeFloat = 15.0
    stft: NonNegativeFloat = 0.0
    waveform: NonNegativeFloat = 0.0
    si_sdr: NonNegativeFloat = 0.0
    compressed: NonNegativeFloat = 0.0
    envelope: NonNegativeFloat = 0.0
    adversarial: NonNegativeFloat = 1.0
    feature_matching: NonNegativeFloat = 2.0
    codebook: NonNegativeFloat = 1.0
    commitment: NonNegativeFloat = 0.25
    mel_bands: tuple[PositiveInt, ...] = (5, 10, 20, 40, 80, 160, 320)
    mel_windows: tuple[PositiveInt, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    stft_windows: tuple[PositiveInt, ...] = (2048, 512)
    centred: bool = False

    @model_validator(mode="after")
    def _one_window_for_each_scale(self) -> LossConfig:
        if len(self.mel_bands) != len(self.mel_windows):
            raise ValueError(f"mel_bands has {len(self.mel_bands)} scales, and mel_windows has {len(self.mel_windows)}")
        return self


class Phase(_Section):
    """A part of a run: the steps from the end of the phase before it to `until`.

    Attributes:
        until: first step after the phase.
        quantize: share of the excerpts, chosen at random, that pass the quantizer; true for all, false for none. The
            gradient of the others is exact, without the straight-through estimate (Défossez et al., "Moshi", 2024,
            section 3.3). Where quantization begins after another phase, codebooks are initialized by k-means.
        fit_codebooks: whether k-means fits the codebooks at the beginning of the phase although quantization has begun
            before: entries that learn by gradient lag behind an encoder that changes fast.
        adversarial: whether there are adversarial and feature matching losses, and the discriminators are trained.
        generator: whether encoder, quantizer and decoder are trained; if not, the discriminators are trained alone.
    """

    until: PositiveInt
    quantize: Share = 1.0
    fit_codebooks: bool = False
    adversarial: bool = True
    generator: bool = True


class TrainerConfig(_Section):
    """How to train.

    Attributes:
        folder: of the run, for all files that it writes.
        phases: in order; the last one's `until` is the length of the run in steps.
        max_steps: a shorter length of the run, as for a trial; null for that of the phases.
        batch_size, accumulate: excerpts in a batch, and batches in a step, of one process.
        learning_rate: of AdamW with betas 0.8 and 0.99, for generator and discriminators; Muon's is derived from it.
        optimizer: of the generator's convolutions: "adamw", as in the paper, or "muon"; all else has AdamW.
        quantizer_rate: learning rate of the quantizer, as a share of the others'. Below 1, AdamW updates all of it, as
            Muon turns a projection by the same angle however small its gradient is.
        revive_every: steps after which codebook entries that were hardly used are replaced by latents; 0: never, as in
            the paper.
        decay: factor on the learning rate at each step.
        cooldown: steps at the end over which the learning rate falls linearly to zero.
        clip_generator, clip_discriminator: largest norm of the gradient.
        ema: decay of an exponential moving average of the generator's weights, which is then validated and exported
            instead of them; null for none.
        seed: of all randomness.
        fan_in_init: initialize convolutions by PyTorch's default, scaled by their fan-in, instead of the paper's
            truncated normal, with which a narrow network attenuates its input too much.
        rotation_trick: whether the gradient of a codebook's input is the entry's, turned and scaled as the entry is to
            the input, instead of straight-through: see `dac_codec.model.quantizer.rotated`.
        decoder_only: whether encoder and codebooks stay as they are.
        codebook_batches: batches whose latents initialize the codebooks where quantization begins.
        init_from: pretrained weights, as `DAC.from_pretrained` takes them. Discriminators beside them, as our own
            exports have, are loaded too if they are of the same period or window as those of the run.
        log_every, save_every, validate_every: in steps.
        keep_last: number of checkpoints to keep besides the best one.
        validation_examples: clips of which decoded audio and spectrograms are written at each validation.
        workers: processes that read audio.
        accelerator, devices, nodes, strategy, precision: as in Lightning Fabric: "auto", "cpu" or "cuda"; processes on
            each node; nodes; "auto" or "ddp"; "32-true" or "bf16-mixed".
        compile: whether encoder, decoder and discriminators are compiled by torch.compile, which takes minutes.
    """

    folder: str
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 72
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    quantizer_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    revive_every: NonNegativeInt = 0
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.999996
    cooldown: NonNegativeInt = 0
    clip_generator: PositiveFloat = 1000.0
    clip_discriminator: PositiveFloat = 10.0
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    seed: NonNegativeInt = 0
    fan_in_init: bool = False
    rotation_trick: bool = False
    decoder_only: bool = False
    codebook_batches: PositiveInt = 200
    init_from: str | None = None
    log_every: PositiveInt = 20
    save_every: PositiveInt = 1000
    validate_every: PositiveInt = 1000
    keep_last: PositiveInt = 2
    validation_examples: NonNegativeInt = 4
    workers: NonNegativeInt = 4
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False

    @model_validator(mode="after")
    def _phases_in_order(self) -> TrainerConfig:
        ends = [phase.until for phase in self.phases]
        if any(one >= other for one, other in pairwise(ends)):
            raise ValueError(f"each phase must end later than the one before it, not at {ends}")
        return self

    @property
    def n_steps(self) -> int:
        """Length of the run in steps."""
        return min(self.phases[-1].until, self.max_steps or self.phases[-1].until)


class LoggerConfig(_Section):
    """Logs besides `log.jsonl` in the folder of the run.

    Attributes:
        wandb: Weights & Biases: "off"; "offline", for `wandb sync` later; "online" if the user is logged in, or else
            offline.
        project: its project there.
        tensorboard: whether to write files for TensorBoard, to the folder "tensorboard".
    """

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "dac_codec"
    tensorboard: bool = False


class TrainConfig(_Section):
    """All settings of a run.

    Attributes:
        resume: "auto" continues the run in the folder, if there is one; "never" refuses such a folder; a path continues
            from that checkpoint.
    """

    model: ModelConfig = DACConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    data: DataConfig
    loss: LossConfig = LossConfig()
    trainer: TrainerConfig
    logger: LoggerConfig = LoggerConfig()
    resume: str = "auto"

    @model_validator(mode="after")
    def _codebooks_can_start(self) -> TrainConfig:
        model, trainer = self.model, self.trainer
        averages = model.codebook_learning == "moving_average"
        starts = any(phase.fit_codebooks or not phase.quantize for phase in trainer.phases)
        if trainer.decoder_only and (trainer.revive_every or averages or starts):
            raise ValueError(
                "trainer.decoder_only keeps the codebooks: trainer.revive_every must be 0, every phase must quantize "
                "and not fit_codebooks, and codebooks can't be moving averages"
            )
        if averages and trainer.revive_every:
            raise ValueError(
                "trainer.revive_every must be 0: moving-average codebooks replace unused entries themselves"
            )
        finite_scalars = model.quantizer == "fsq"
        if finite_scalars and (trainer.revive_every or trainer.rotation_trick):
            raise ValueError("trainer.revive_every must be 0 and trainer.rotation_trick false: fsq has no codebooks")
        fitted = any(phase.fit_codebooks for phase in trainer.phases)
        begins = len({phase.quantize > 0 for phase in trainer.phases}) == 2
        if averages or finite_scalars or not (fitted or begins):
            return self  # without k-means
        width = model.latent_width // model.groups
        if not 2 <= model.codebook_dim <= width + 1:
            raise ValueError(
                f"model.codebook_dim: k-means for the codebooks needs 2 to {width + 1} dimensions (the width of the "
                f"latents of a group plus one), not {model.codebook_dim}"
            )
        n_latents = trainer.codebook_batches * trainer.batch_size * self.excerpt_length // model.hop_length
        if n_latents < model.codebook_size:
            raise ValueError(
                f"trainer.codebook_batches: {trainer.codebook_batches} batches have {n_latents} latents, too few for "
                f"k-means of {model.codebook_size} codebook entries"
            )
        return self

    @property
    def adversarial(self) -> bool:
        """Whether any phase needs discriminators."""
        wanted = self.loss.adversarial > 0 or self.loss.feature_matching > 0
        return wanted and any(phase.adversarial for phase in self.trainer.phases)

    @property
    def excerpt_length(self) -> int:
        """Length of an excerpt in samples: its duration, rounded to whole frames."""
        hop = self.model.hop_length
        return max(1, round(self.data.excerpt * self.model.sample_rate / hop)) * hop

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Validate the values of a configuration file.

        Raises:
            ValueError: an unknown setting or a wrong value; the message names each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError("; ".join(map(_message, error.errors()))) from error

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON types; the inverse of `parse`."""
        return self.model_dump(mode="json", exclude={"model"}) | {"model": self.model.to_dict()}


def _message(error: Any) -> str:
    """Setting and reason of a pydantic error, without the types that pydantic tried and adds to the location."""
    setting = ".".join(str(part) for part in error["loc"] if str(part).isidentifier() or isinstance(part, int))
    reason = f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"
    own = {
        "extra_forbidden": "no such setting",
        "missing": "must be given",
        "value_error": error["msg"].removeprefix("Value error, "),
    }
    return f"{setting}: {own.get(error['type'], reason)}"
