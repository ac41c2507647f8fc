"""Train the context model of a codec: the probabilities with which its files are entropy coded.

    python -m dac_codec.training.context dac-mini-44khz --sounds data/manifest.csv --output context.safetensors

encodes excerpts of the sounds, fits the network to their codes, and prints the share of the bits that the codes of the
split val take. The file belongs beside the codec's weights, where `pretrained.context_model` finds it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dac_codec.bitstream import default_chunk_frames
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.codec import compress
from dac_codec.codec.models import load_model
from dac_codec.common.errors import DacError
from dac_codec.common.files import write_file
from dac_codec.common.manifest import Sound
from dac_codec.common.progress import track
from dac_codec.common.scripts import exit_status
from dac_codec.model import DAC
from dac_codec.training.context_network import ContextNetwork, outputs_of
from dac_codec.training.excerpts import read_excerpt
from dac_codec.training.sounds import find_sounds

EXCERPT_SECONDS = 30.0
"""Length of an excerpt; shorter sounds are used whole."""

_LEAST_FRAMES = 8
_DROPPED = 0.25  # share of the chunks of a step whose frames have a random number of codes

Codes = npt.NDArray[np.int16]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m dac_codec.training.context", description="Train the context model of a codec."
    )
    parser.add_argument("model", help="a name, a folder with a saved model, or a .pth file")
    parser.add_argument("--sounds", required=True, type=Path, help="a manifest, or a folder of sounds")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the context model, a safetensors file")
    parser.add_argument("--minutes", type=float, default=450.0, help="of sound to train on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=7000, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: %(default)s)")
    options = parser.parse_args()
    model = load_model(options.model)
    if model.config.codebook_sizes:
        raise DacError("context models need codebooks of one size: files of this model use adaptive counts")
    random = np.random.default_rng(options.seed)
    splits, unreadable = find_sounds(options.sounds, "train", "val", progress=True)
    for line in unreadable:
        print(f"context: {line}", file=sys.stderr)
    wanted = {"train": options.minutes, "val": options.minutes / 10}
    codes = {split: codes_of(model, splits[split], minutes, random) for split, minutes in wanted.items()}
    network = ContextNetwork(outputs_of(model), torch.Generator().manual_seed(options.seed))
    chunk_frames = default_chunk_frames(model.sample_rate, model.hop_length)
    fit(network, [file for files in codes["train"].values() for file in files], options.steps, random, chunk_frames)
    trained = network.quantized()
    write_file(options.output, trained.to_bytes())
    for domain, files in codes["val"].items():
        print(f"{domain}: {share_of_bits(trained, files, model, chunk_frames):.4f} of the bits")


def codes_of(
    model: DAC, sounds: Sequence[Sound], minutes: float, random: np.random.Generator
) -> dict[str, list[Codes]]:
    """Codes [N, F] of random excerpts by domain: equally much of each domain, and of each speaker in turn.

    There are `minutes` of excerpts in all, if the sounds suffice. Sounds that can't be read are left out.
    """
    domains: dict[str, list[Sound]] = defaultdict(list)
    for sound in sounds:
        domains[sound.domain].append(sound)
    codes: dict[str, list[Codes]] = {}
    length = round(EXCERPT_SECONDS * model.sample_rate)
    most = math.ceil(minutes * 60 * model.sample_rate / model.hop_length / len(domains))
    for domain, members in domains.items():
        found: list[Codes] = []
        for sound in track(list(_in_turn(members, random)), lambda _: 1, f"encoding {domain}", None, True):
            if sum(file.shape[1] for file in found) >= most:
                break
            try:
                excerpt, _ = read_excerpt(sound, model.sample_rate, length, "random", random)
                compressed = compress((excerpt, model.sample_rate), model, effort=1, constant=True)
                found.append(compressed.codes[0].numpy().astype(np.int16))
            except DacError as error:
                print(f"context: {error}", file=sys.stderr)
        codes[domain] = found
    return codes


def _in_turn(sounds: Sequence[Sound], random: np.random.Generator) -> Iterator[Sound]:
    """Sounds in random order, one of each speaker at a time; several excerpts of long ones."""
    speakers: dict[str, list[Sound]] = defaultdict(list)
    for index in random.permutation(len(sounds)):
        sound = sounds[index]
        speakers[sound.speaker or str(sound.path)] += [sound] * max(1, int(sound.duration / EXCERPT_SECONDS))
    for turn in itertools.zip_longest(*map(reversed, speakers.values())):
        yield from (sound for sound in turn if sound is not None)


def fit(
    network: ContextNetwork,
    codes: Sequence[Codes],
    n_steps: int,
    random: np.random.Generator,
    chunk_frames: int,
    learning_rate: float = 3e-3,
) -> None:
    """Train a network in place on the codes [N, F] of files.

    A step has about 8 random chunks of `chunk_frames` frames. The learning rate rises to `learning_rate` and falls.
    Raises a DacError if all files are too short.
    """
    chunks = [chunk for chunk in chunks_of(codes, chunk_frames) if chunk.shape[1] >= _LEAST_FRAMES]
    if not chunks:
        raise DacError(f"there are no sounds of {_LEAST_FRAMES} frames or more to train on")
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, n_steps, pct_start=0.1, div_factor=10, final_div_factor=100
    )
    network.train()
    for _ in track(range(n_steps), lambda _: 1, "training", n_steps, True):
        batch = torch.from_numpy(_batch(chunks, 8 * chunk_frames, random))
        loss = network(batch).sum() / (batch >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def _batch(
    chunks: Sequence[npt.NDArray[np.int32]], n_frames: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Chunks of similar lengths, about `n_frames` in all, as codes [N, B, F]."""
    lengths = np.array([chunk.shape[1] for chunk in chunks])
    length = lengths[random.choice(len(chunks), p=lengths / lengths.sum())]
    similar = np.flatnonzero((lengths >= 0.75 * length) & (lengths <= 1.33 * length))
    chosen = random.choice(similar, min(len(similar), max(1, n_frames // length)), replace=False)
    n_planes = len(chunks[0])
    codes = np.full((n_planes, len(chosen), lengths[chosen].max()), -1, np.int64)
    for row, index in enumerate(chosen):
        codes[:, row, : lengths[index]] = chunks[index]
    n_codes = random.integers(1, n_planes + 1, (len(chosen), -(-codes.shape[2] // 4))).repeat(4, 1)[:, : codes.shape[2]]
    n_codes[random.random(len(chosen)) >= _DROPPED] = n_planes
    codes[np.arange(n_planes)[:, None, None] >= n_codes] = -1
    return codes


def chunks_of(codes: Sequence[Codes], chunk_frames: int) -> list[npt.NDArray[np.int32]]:
    """The chunks [N, F] of the codes of files."""
    return [
        np.ascontiguousarray(file[:, at : at + chunk_frames], np.int32)
        for file in codes
        for at in range(0, file.shape[1], chunk_frames)
    ]


def share_of_bits(coder: CodeModel, codes: Sequence[Codes], model: DAC, chunk_frames: int) -> float:
    """Bits of the coded chunks of files, relative to codes of fixed length."""
    chunks = chunks_of(codes, chunk_frames)
    n_bytes = sum(len(plane) for planes in coder.encode(chunks) for plane in planes)
    return 8 * n_bytes / (sum(chunk.size for chunk in chunks) * math.log2(model.codebook_size))


if __name__ == "__main__":
    sys.exit(exit_status(main))
