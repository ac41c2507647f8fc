"""Compare what M-search can rank paths by, and what its codes lose when later ones are left out.

    python scripts/rank_paths.py recordings/ --paths 4 16 --codebooks 9 6 3

prints the measures of each domain (subfolders, or the manifest's) for the greedy look-up and their differences from it:

    look-up      squared distances of all look-ups so far
    latents      squared error of the latents
    both         what `dac_codec.model.search` uses
    decoder      error of the latents weighted by A = E[J^T J], J being the decoder's Jacobian at the quantized latents,
                 estimated with random probes on the first clips

The docs/notes page of search and variable rate has the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dac_codec import DAC, audio, codec
from dac_codec.codec.encoding import TARGET_LUFS
from dac_codec.common.scripts import exit_status
from dac_codec.evaluation.clips import Clip, find_clips
from dac_codec.evaluation.metrics import METRICS
from dac_codec.model import direct_sum
from dac_codec.model.quantizer import VectorQuantize

MEASURES = [metric for metric in METRICS if metric.name in ("mel_distance", "si_sdr", "pesq", "stoi")]
PROBES, PROBED_CLIPS = 4, 12


def codes_of(model: DAC, z: Tensor, n_paths: int, look_up: float, latents: float, factor: Tensor | None) -> Tensor:
    """Codes [1, N, F] of latents [1, D, F] by M-search, from the definition.

    `look_up` and `latents` weight the two distances; `factor` [D, R] maps latents to where their error is measured.
    """
    residual = z[0].t()[:, None]  # [F, paths, D]
    look_ups = torch.zeros(residual.shape[:2])
    codes = torch.zeros(*residual.shape[:2], 0, dtype=torch.int64)
    for stage in model.quantizer.stages():
        outputs = outputs_of(stage)
        points = stage.inputs(residual.flatten(0, 1).t()[None])[0].t().view(*residual.shape[:2], -1)
        distances = torch.cdist(points, stage.codebook.weight[None]).square() + look_ups[..., None]
        errors = torch.cdist(*((residual, outputs[None]) if factor is None else (residual @ factor, outputs @ factor)))
        costs = (look_up * distances + latents * errors.square()).flatten(1)
        chosen = costs.topk(min(n_paths, costs.shape[1]), largest=False).indices
        parents, entries = chosen // len(outputs), chosen % len(outputs)
        look_ups = distances.flatten(1).gather(1, chosen)
        residual = residual.gather(1, parents[..., None].expand(-1, -1, residual.shape[2])) - outputs[entries]
        codes = torch.cat([codes.gather(1, parents[..., None].expand(-1, -1, codes.shape[2])), entries[..., None]], 2)
    return codes[:, 0].t()[None]


def outputs_of(stage: VectorQuantize) -> Tensor:
    """The latents [K, D] of a codebook's entries."""
    return stage.outputs(stage.codebook.weight.t()[None])[0].t()


def decoder_factor(model: DAC, latents: list[Tensor]) -> Tensor:
    """L [D, D] with L L^T = E[J^T J], scaled to a mean eigenvalue of 1."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(model.config.latent_width, model.config.latent_width, dtype=torch.float64)
    for z in latents:
        with torch.enable_grad():
            quantized = model.quantizer(z).z[..., :200].detach().requires_grad_(True)
            decoded = model.decoder(quantized)
            for _ in range(PROBES):
                probe = torch.randn(decoded.shape, generator=generator)
                gradient = torch.autograd.grad(decoded, quantized, probe, retain_graph=True)[0][0].double()
                total += gradient @ gradient.t()
    values, vectors = torch.linalg.eigh(total * len(total) / total.trace())
    factor: Tensor = vectors * values.clamp(min=0).sqrt()
    return factor.float()


def network_inputs(clips: list[Clip], rate: int) -> Iterator[Tensor]:
    """Audio [1, 1, T] at the network's loudness."""
    for clip in clips:
        gain = audio.gain_to(TARGET_LUFS, audio.loudness(clip.waveform, rate), float(np.abs(clip.waveform).max()))
        yield torch.from_numpy(audio.apply_gain(clip.waveform, gain))[None]


@torch.no_grad()
def main() -> None:
    """Measure and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder, a sound file or a manifest")
    parser.add_argument("--model", default="dac-mini-44khz", help="name or path, with euclidean look-up [%(default)s]")
    parser.add_argument("--paths", nargs="+", type=int, default=[4, 16], help="paths to keep [4 16]")
    parser.add_argument("--codebooks", nargs="+", type=int, default=[9], help="first codes to decode [9]")
    arguments = parser.parse_args()

    plain = DAC.from_pretrained(arguments.model).eval()
    model = codec.load_model(arguments.model, "cpu")
    rate = model.sample_rate
    clips = find_clips(arguments.data, rate)
    signals = list(network_inputs(clips, rate))
    latents = [plain.encoder(plain.preprocess(signal)) for signal in signals]
    ins = [direct_sum.projections(stage)[0][0].square().sum() for stage in plain.quantizer.stages()]
    both = direct_sum.LATENT_WEIGHT * float(torch.stack(ins).mean()) / plain.config.latent_width
    rankings: dict[str, tuple[float, float, Tensor | None]] = {
        "look-up": (1.0, 0.0, None),
        "latents": (0.0, 1.0, None),
        "both": (1.0, both, None),
        "decoder": (0.0, 1.0, decoder_factor(plain, latents[:PROBED_CLIPS])),
    }
    variants = {"greedy": [plain.quantizer(z).codes for z in latents]}
    for n_paths in arguments.paths:
        for name, ranking in rankings.items():
            variants[f"{name}, M = {n_paths}"] = [codes_of(plain, z, n_paths, *ranking) for z in latents]
    for n in arguments.codebooks:
        for domain in sorted({clip.domain for clip in clips}):
            chosen = [index for index, clip in enumerate(clips) if clip.domain == domain]
            measures = [metric for metric in MEASURES if metric.applies_to(domain)]
            print(f"{domain}, {len(chosen)} clips, the first {n} codes: {', '.join(one.label for one in measures)}")
            reference = None
            for name, codes in variants.items():
                rows = []
                for index in chosen:
                    original = signals[index][0].numpy()
                    decoded = model.decode_codes(codes[index][:, :n])[0, :, : original.shape[1]].numpy()
                    rows.append([one.measure(decoded, original, rate) for one in measures])
                means = np.nanmean(rows, axis=0)
                reference = means if reference is None else reference
                shown = means if name == "greedy" else means - reference
                print(f"  {name:18}", "  ".join(f"{value:+.4f}" for value in shown), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
