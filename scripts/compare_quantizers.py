"""Compare the quantizers of `dac_codec.quantization` at equal bits, on two kinds of vectors.

    python scripts/compare_quantizers.py fit results.csv --manifest data/manifest.csv
    python scripts/compare_quantizers.py tables results.csv
    python scripts/compare_quantizers.py plot results.csv --output docs/quantizers-rate.svg

The vectors are successive samples of a Gauss-Markov source of first order, x_t = 0.9 x_{t-1} + w_t, 4 or 16 at a time;
and latents of a model's encoder for clips of a manifest: fitted to the train split, measured on the test split. `fit`
adds a row to the file for each quantizer, and leaves those out that it has: it can be interrupted. Times are of the
processor.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dac_codec import pretrained
from dac_codec import quantization as vq
from dac_codec.common.errors import DacError
from dac_codec.common.manifest import read_split
from dac_codec.common.scripts import exit_status
from dac_codec.quantization.residual import Design

CORRELATION = 0.9
LENGTH = 128
"""Vectors of a clip: the memory of predictive and finite-state quantizers is reset there."""
BITS = (8, 16, 32, 90)
SIZES = {8: [256], 16: [256] * 2, 32: [256] * 4, 90: [512] * 2 + [256] * 9}
"""Codebooks at each rate, small enough for thousands of training vectors. The codec has 9 of 1024 entries: 90 bits."""
BEAM = 4
SOURCES = {"gauss-4": 4, "gauss-16": 16, "latents": 0}
COLUMNS = ("source", "bits", "quantizer", "rate", "train", "test", "fit", "encode", "storage", "entropy", "dead")


class Data(NamedTuple):
    """Vectors to fit to and to measure with [n, D], the first of them in clips of `LENGTH`."""

    train: Tensor
    test: Tensor


def gauss_markov(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Vectors [n, dim] of successive samples of a Gauss-Markov source of variance 1.

    >>> x = gauss_markov(10000, 4, torch.Generator().manual_seed(0))
    >>> round((x[:, 0] * x[:, 1]).mean().item(), 1), round((x[1:, 0] * x[:-1, 3]).mean().item(), 1)
    (0.9, 0.9)
    """
    noise = torch.randn(n * dim, generator=generator, dtype=torch.float64)
    noise[1:] *= math.sqrt(1 - CORRELATION**2)
    span = 256  # 0.9^256 is below 1e-11
    kernel = CORRELATION ** torch.arange(span - 1, -1, -1, dtype=torch.float64)
    padded = torch.nn.functional.pad(noise, (span - 1, 0))
    return torch.nn.functional.conv1d(padded[None, None], kernel[None, None])[0, 0].view(n, dim).float()


def block_bound(dim: int, bits: float) -> float:
    """Greatest possible SNR in dB for vectors of `dim` samples of the source, coded apart from each other.

    The distortion-rate function by reverse water-filling over the eigenvalues of the covariance (Cover & Thomas,
    section 10.3.3). It approaches that of the source as `dim` grows: 10 log10(2^(2 R) / (1 - 0.9^2)) for R > log2(1.9)
    bits a sample.

    >>> round(block_bound(4, 16), 2), round(block_bound(512, 2048) - 10 * math.log10(2**8 / 0.19), 2)
    (29.49, -0.01)
    """
    lags = torch.arange(dim, dtype=torch.float64)
    variances = torch.linalg.eigvalsh(CORRELATION ** (lags[:, None] - lags).abs())
    low, high = 0.0, float(variances.max())
    for _ in range(200):
        level = (low + high) / 2
        rate = float((variances / level).log2().clamp(min=0.0).sum() / 2)
        low, high = (level, high) if rate > bits else (low, level)
    return -10 * math.log10(float(variances.clamp(max=high).mean()))


def latents(manifest: Path, model_name: str, split: str, n: int) -> Tensor:
    """Encoder outputs [n, D] for clips of `LENGTH` frames of a split, domains in turn, at the training's loudness."""
    from dac_codec.training.clips import read_clips
    from dac_codec.training.config import DataConfig

    model = pretrained.load(model_name)
    samples = LENGTH * model.hop_length
    config = DataConfig(
        sounds=str(manifest), validation_clips=2 * n // LENGTH, validation_seconds=samples / model.sample_rate
    )
    sounds = [sound for sound in read_split(manifest, split) if sound.duration > 1.01 * config.validation_seconds]
    clips, _ = read_clips(sounds, config, sample_rate=model.sample_rate)
    full = [clip.audio for clip in clips if clip.audio.shape[1] == samples][: n // LENGTH]
    if len(full) < n // LENGTH:
        raise DacError(
            f"{manifest}: {len(full)} clips of {config.validation_seconds:.2f} s in the {split} split, "
            f"expected {n // LENGTH}; try fewer vectors"
        )
    with torch.no_grad():
        encoded = [model.encoder(audio[None])[0].t() for audio in full]
    return torch.cat(encoded)


def candidates(dim: int, variances: Tensor, bits: int) -> Iterator[tuple[str, vq.Quantizer]]:
    """Names and quantizers that exist at a rate, but for residual ones and those with memory. Those of scalars and
    lattices get principal components, of descending variances [D]."""
    sizes = SIZES[bits]
    if bits <= 10 * dim:
        yield "uniform scalar", vq.UniformQuantizer(vq.allocate(variances, bits))
        yield "Lloyd-Max scalar", vq.LloydMaxQuantizer(vq.allocate(variances, bits), 30)
        yield "finite scalar (FSQ)", vq.FiniteScalarQuantizer(vq.allocate(variances, bits))
        yield "lattice D_4", vq.LatticeQuantizer(dim, _ratios(variances, bits, 4), "D")
        if dim >= 8:
            yield "lattice E_8", vq.LatticeQuantizer(dim, _ratios(variances, bits, 8), "E8")

    if len(sizes) == 1:
        yield "k-means", vq.KMeansQuantizer(dim, sizes[0])
        yield "LBG", vq.KMeansQuantizer(dim, sizes[0], "lbg")
        yield "tree", vq.TreeQuantizer(dim, bits)
        yield "competitive (LVQ)", vq.CompetitiveQuantizer(dim, sizes[0])
    else:
        if len(sizes) <= dim:
            yield "product (PQ)", vq.ProductQuantizer.of_codebooks(dim, sizes)
            yield "optimized product (OPQ)", vq.OptimizedProductQuantizer(dim, sizes, 30)
        half = (len(sizes) + 1) // 2
        parts = [vq.ResidualQuantizer(dim // 2, part, BEAM) for part in (sizes[:half], sizes[half:])]
        yield "product-residual", vq.ProductQuantizer(parts)


def with_memory(dim: int, bits: int) -> Iterator[tuple[str, vq.Quantizer]]:
    """Names and quantizers with memory of past vectors."""
    sizes = SIZES[bits]

    def memoryless() -> vq.Quantizer:
        return vq.KMeansQuantizer(dim, sizes[0]) if len(sizes) == 1 else vq.ResidualQuantizer(dim, sizes, BEAM)

    yield "predictive", vq.PredictiveQuantizer(memoryless(), length=LENGTH, rounds=3)
    yield "finite-state (4)", vq.FiniteStateQuantizer([memoryless() for _ in range(4)], LENGTH, 2)


def residual_rows(data: Data, bits: int) -> Iterator[dict[str, str]]:
    """Rows of the residual and additive quantizers. Joint designs continue from greedy ones, and their time includes
    it."""
    dim, sizes = data.train.shape[1], SIZES[bits]
    rounds = 4 if len(sizes) > 4 else 8
    greedy = vq.ResidualQuantizer(dim, sizes)
    seconds = _fit(greedy, data)
    yield _row("residual, greedy", greedy, data, seconds)
    greedy.beam = BEAM
    yield _row("residual, M-search", greedy, data, seconds)
    # A round of sequential design encodes once for each stage: as many encodings as the interleaved rounds, or more.
    designs: dict[Design, int] = {"sequential": -(-rounds // len(sizes)), "interleaved": rounds}
    for design, n in designs.items():
        joint = vq.ResidualQuantizer(dim, sizes, BEAM, design, n)
        joint.load_state_dict(greedy.state_dict())
        refined = seconds + _refine(joint, data)
        yield _row(f"residual, joint ({design})", joint, data, refined)
    joint.beam = 1
    yield _row("residual, joint, greedy search", joint, data, refined)
    paths = vq.ResidualQuantizer(dim, sizes, BEAM, all_paths=True)
    seconds = _fit(paths, data)
    yield _row("residual, fitted to all paths", paths, data, seconds)
    others: dict[str, vq.AdditiveQuantizer] = {
        "additive": vq.AdditiveQuantizer(dim, sizes, BEAM, rounds),
        "composite": vq.CompositeQuantizer(dim, sizes, 1.0, BEAM, rounds),
    }
    for name, additive in others.items():
        additive.entries.copy_(paths.entries)
        yield _row(name, additive, data, seconds + _refine(additive, data))


def _ratios(variances: Tensor, bits: int, width: int) -> list[int]:
    """Ratios of the Voronoi codes of blocks, by their geometric mean variances."""
    return vq.allocate(variances.view(-1, width).log().mean(1).exp(), bits, width)


def _fit(quantizer: vq.Quantizer, data: Data) -> float:
    """Fit, and return the processor's seconds."""
    start = time.process_time()
    quantizer.fit(data.train, torch.Generator().manual_seed(0))
    return time.process_time() - start


@torch.no_grad()
def _refine(quantizer: vq.ResidualQuantizer, data: Data) -> float:
    """Joint design from the present entries, and the processor's seconds."""
    start = time.process_time()
    quantizer.refine(data.train, torch.Generator().manual_seed(0))
    return time.process_time() - start


def _row(name: str, quantizer: vq.Quantizer, data: Data, fitted: float) -> dict[str, str]:
    start = time.process_time()
    test = vq.snr(data.test, quantizer(data.test))
    encoded = (time.process_time() - start) / len(data.test)
    codes = quantizer.encode(data.train)
    counts = [torch.bincount(code, minlength=size) for code, size in zip(codes.t(), quantizer.sizes, strict=True)]
    shares = [count / count.sum() for count in counts]
    entropy = sum(float(torch.special.entr(share).sum()) for share in shares) / math.log(2)
    dead = sum(int((count == 0).sum()) for count in counts) / sum(quantizer.sizes)
    return {
        "quantizer": name,
        "rate": f"{quantizer.bits:.2f}",
        "train": f"{vq.snr(data.train, quantizer.decode(codes)):.3f}",
        "test": f"{test:.3f}",
        "fit": f"{fitted:.2f}",
        "encode": f"{1e6 * encoded:.1f}",
        "storage": str(quantizer.storage),
        "entropy": f"{entropy:.2f}",
        "dead": f"{100 * dead:.1f}",
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a file of results, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def vectors(source: str, arguments: argparse.Namespace) -> Data:
    """The vectors of a source."""
    sizes = {"train": arguments.train, "test": arguments.test}
    if source == "latents":
        if arguments.manifest is None:
            raise DacError("latents need --manifest; or leave them out with --sources gauss-4 gauss-16")
        return Data(*(latents(arguments.manifest, arguments.model, split, n) for split, n in sizes.items()))
    dim, seeded = SOURCES[source], enumerate(sizes.values())
    return Data(*(gauss_markov(4 * n, dim, torch.Generator().manual_seed(seed)) for seed, n in seeded))


def fit(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing to the file of results."""
    done = {(row["source"], row["bits"], row["quantizer"]) for row in rows_of(arguments.results)}
    if not done:
        arguments.results.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    data = {source: vectors(source, arguments) for source in arguments.sources}
    for bits in arguments.bits:
        for source in arguments.sources:
            for row in rows(data[source], bits, {name for (*place, name) in done if place == [source, str(bits)]}):
                with arguments.results.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, COLUMNS).writerow({"source": source, "bits": bits, **row})
                print(source, bits, *row.values(), sep="\t", flush=True)


def rows(data: Data, bits: int, done: set[str]) -> Iterator[dict[str, str]]:
    """The rows of a rate, but for those that are there."""
    variances, axes = torch.linalg.eigh(torch.cov(data.train.t()))
    rotated = Data(*((part - data.train.mean(0)) @ axes.flip(1) for part in data))

    def fitted(found: Iterator[tuple[str, vq.Quantizer]]) -> Iterator[dict[str, str]]:
        for name, quantizer in found:
            own = rotated if name.split()[0] in ("uniform", "Lloyd-Max", "finite", "lattice") else data
            if name not in done:
                try:
                    yield _row(name, quantizer, own, _fit(quantizer, own))
                except ValueError as error:
                    print(f"{name}: left out: {error}", file=sys.stderr)

    yield from fitted(candidates(len(axes), variances.flip(0), bits))
    if len(SIZES[bits]) > 1 and "composite" not in done:
        yield from (row for row in residual_rows(data, bits) if row["quantizer"] not in done)
    yield from fitted(with_memory(len(axes), bits))


def tables(arguments: argparse.Namespace) -> None:
    """Print Markdown tables: SNR at each rate, and all columns at the rate of `--details`."""
    rows = rows_of(arguments.results)
    for source in dict.fromkeys(row["source"] for row in rows):
        own = {(row["quantizer"], int(row["bits"])): row for row in rows if row["source"] == source}
        print(f"\n### {source}\n\n| quantizer |", *(f"{bits} bits |" for bits in BITS))
        print("|---|" + "---:|" * len(BITS))
        names = dict.fromkeys(row["quantizer"] for row in rows if row["source"] == source)
        for name in sorted(names, key=lambda name: name.startswith(("predictive", "finite-state"))):
            cells = [own.get((name, bits)) for bits in BITS]
            print(
                f"| {name} |",
                *(f"{float(row['test']):.2f} ({float(row['train']):.2f}) |" if row else "n/a |" for row in cells),
            )
        if SOURCES[source]:
            print("| *bound, vectors apart* |", *(f"{block_bound(SOURCES[source], bits):.2f} |" for bits in BITS))
            bounds = (block_bound(512, 512 * bits / SOURCES[source]) for bits in BITS)
            print("| *bound, any memory* |", *(f"{bound:.2f} |" for bound in bounds))
        print(f"\n### {source} at {arguments.details} bits\n")
        print(
            "| quantizer | bits | fit (s) | encode and decode (µs) | numbers stored | entropy (bits) | "
            "unused entries (%) |"
        )
        print("|---|" + "---:|" * 6)
        for (name, bits), row in own.items():
            if bits == arguments.details:
                print(
                    f"| {name} |",
                    *(f"{row[column]} |" for column in ("rate", "fit", "encode", "storage", "entropy", "dead")),
                )


SHOWN = (
    "k-means",
    "Lloyd-Max scalar",
    "optimized product (OPQ)",
    "residual, greedy",
    "residual, M-search",
    "residual, joint (interleaved)",
    "residual, fitted to all paths",
    "additive",
    "predictive",
    "finite-state (4)",
)


def plot(arguments: argparse.Namespace) -> None:
    """Draw held-out SNR over bits, less that of greedy residual quantization (at 8 bits, of k-means)."""
    from matplotlib import pyplot

    values: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows_of(arguments.results):
        values.setdefault((row["source"], row["quantizer"]), {})[int(row["bits"])] = float(row["test"])
    figure, axes = pyplot.subplots(1, len(SOURCES), figsize=(12, 4.2))
    for source, axis in zip(SOURCES, axes, strict=True):
        base = values.get((source, "k-means"), {}) | values.get((source, "residual, greedy"), {})
        for name, mark in zip(SHOWN, "*os+xdv^<>", strict=True):
            own = {bits: value for bits, value in values.get((source, name), {}).items() if bits in base}
            places = [BITS.index(bits) for bits in own]
            axis.plot(places, [own[bits] - base[bits] for bits in own], mark + "-", label=name, ms=5, lw=1)
        axis.set(title=source, xlabel="bits a vector", xticks=range(len(BITS)), xticklabels=BITS)
        axis.set_ylim(bottom=-4)
    axes[0].set_ylabel("dB beyond greedy residual quantization")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(arguments.output)


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fit", help="fit and measure, into a CSV file")
    command.add_argument("results", type=Path)
    command.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    command.add_argument("--bits", nargs="+", type=int, choices=BITS, default=list(BITS))
    command.add_argument("--manifest", type=Path, help="of sounds, for the latents")
    command.add_argument("--model", default=pretrained.DEFAULT_MODEL, help="name, folder or file")
    command.add_argument(
        "--train", type=int, default=6144, help="latents to fit to; four times as many of the other source [6144]"
    )
    command.add_argument("--test", type=int, default=2048, help="latents to measure with, likewise [2048]")
    command.set_defaults(run=fit)
    command = commands.add_parser("tables", help="print results as Markdown")
    command.add_argument("results", type=Path)
    command.add_argument("--details", type=int, choices=BITS, default=32, help="rate of the second table [32]")
    command.set_defaults(run=tables)
    command = commands.add_parser("plot", help="draw SNR over bits")
    command.add_argument("results", type=Path)
    command.add_argument("--output", type=Path, required=True)
    command.set_defaults(run=plot)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))
