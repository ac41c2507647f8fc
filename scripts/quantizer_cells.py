"""Draw the cells of each quantizer of `dac_codec.quantization` in two dimensions.

python scripts/quantizer_cells.py --output docs/quantizers-cells.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from compare_quantizers import gauss_markov

from dac_codec import quantization as vq
from dac_codec.common.scripts import exit_status
from dac_codec.quantization.predictive import SequenceQuantizer


def draw(output: Path) -> None:
    """Draw the cells and entries of each quantizer at 4 bits for two correlated Gaussian dimensions."""
    from matplotlib import pyplot

    generator = torch.Generator().manual_seed(0)
    x = gauss_markov(4000, 2, generator)
    labels = (x[:, 0] * x[:, 1] > 0.5).long()
    lvq = vq.LearningVectorQuantizer(2, 16, "lvq3")
    lvq.fit(x, generator, labels)
    shown: dict[str, vq.Quantizer] = {
        "uniform scalar, 4 x 4": vq.UniformQuantizer([4, 4]),
        "Lloyd-Max scalar, 4 x 4": vq.LloydMaxQuantizer([4, 4]),
        "finite scalar (FSQ), 5 x 3": vq.FiniteScalarQuantizer([5, 3]),
        "lattice D_2, Voronoi code": vq.LatticeQuantizer(2, [4], "D"),
        "k-means": vq.KMeansQuantizer(2, 16),
        "tree": vq.TreeQuantizer(2, 4),
        "competitive learning": vq.CompetitiveQuantizer(2, 16),
        "LVQ3, two classes": lvq,
        "product, 4 x 4": vq.ProductQuantizer.of_codebooks(2, [4, 4]),
        "optimized product, 4 x 4": vq.OptimizedProductQuantizer(2, [4, 4]),
        "residual, greedy, 4 + 4": vq.ResidualQuantizer(2, [4, 4]),
        "residual, joint, M-search": vq.ResidualQuantizer(2, [4, 4], 4, "interleaved"),
        "additive, 4 + 4": vq.AdditiveQuantizer(2, [4, 4]),
        "composite, 4 + 4": vq.CompositeQuantizer(2, [4, 4]),
        "predictive, after (1, 1)": vq.PredictiveQuantizer(vq.KMeansQuantizer(2, 16)),
        "finite-state, after (1, 1)": vq.FiniteStateQuantizer([vq.KMeansQuantizer(2, 16) for _ in range(4)]),
    }
    side = 160
    axis = torch.linspace(-3.2, 3.2, side)
    grid = torch.cartesian_prod(axis, axis)
    figure, axes = pyplot.subplots(4, 4, figsize=(9, 9.4))
    for (title, quantizer), panel in zip(shown.items(), axes.flat, strict=True):
        if quantizer is not lvq:
            quantizer.fit(x, generator)
        if isinstance(quantizer, SequenceQuantizer):
            # Each point of the grid follows the vector (1, 1), at which a sequence starts.
            quantizer.length = 2
            decoded = quantizer(torch.stack([torch.ones_like(grid), grid], 1).flatten(0, 1))[1::2]
        else:
            decoded = quantizer(grid)
        entries, cell = decoded.unique(dim=0, return_inverse=True)
        colours = torch.randperm(len(entries), generator=torch.Generator().manual_seed(3)) % 20
        panel.imshow(
            colours[cell].view(side, side).t(), origin="lower", extent=(-3.2, 3.2, -3.2, 3.2), cmap="tab20", alpha=0.5,
            interpolation="nearest",
        )  # fmt: skip
        panel.scatter(*x[:300].t(), s=1, color="0.3", linewidths=0)
        panel.scatter(*entries.t(), s=9, color="black")
        panel.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[])
        panel.set_title(title, fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=75)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a .png file")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))  # ValueError: an unknown suffix, by Matplotlib
