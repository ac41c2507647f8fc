"""Initialization of codebooks from the latents of an autoencoder, and revival of entries that are not used."""

from __future__ import annotations

import torch
from einops import rearrange
from lightning_fabric import Fabric
from torch import Tensor, nn

from dac_codec.model import DAC
from dac_codec.quantization import k_means
from dac_codec.training.processes import total

_LEAST_SHARE = 0.1  # of the mean use, below which an entry is replaced


@torch.no_grad()
def initialize(model: DAC, latents: Tensor, generator: torch.Generator) -> None:
    """Fit the codebooks of a model by k-means, each to the residual of the ones before it.

    A codebook of d dimensions gets the d - 1 directions in which its input varies most, and a constant in the last
    dimension that is large beside them. Then the angles of the cosine look-up are in proportion to distances, so that
    it finds the nearest centroid and keeps the length of a vector.

    Args:
        model: its `quantizer` is changed in place.
        latents: encoder outputs for training data [B, D, F], with at least as many frames as entries.
        generator: source of randomness, on the CPU.

    Raises:
        ValueError: a quantizer without projections, or fewer latents than entries.
    """
    residual = rearrange(latents, "b d f -> (b f) d").float()
    if len(residual) < model.codebook_size:
        raise ValueError(f"{len(residual)} latents are too few for {model.codebook_size} codebook entries")
    for stage in model.quantizer.stages():
        in_proj, out_proj = stage.in_proj, stage.out_proj
        if not isinstance(in_proj, nn.Conv1d) or not isinstance(out_proj, nn.Conv1d):
            raise ValueError("codebooks without projections initialize themselves from the data")
        directions = stage.codebook.embedding_dim - 1
        before, after = stage.margins
        seen = residual[:, before : residual.shape[1] - after]
        mean = seen.mean(0)
        centred = seen - mean
        _, vectors = torch.linalg.eigh(centred.t() @ centred)
        basis = vectors[:, -directions:]
        points = centred @ basis
        centroids = k_means(points, stage.codebook.num_embeddings, generator)
        far = 4.0 * points.square().sum(1).mean().sqrt()

        # The last row is small and not zero, since weight normalization divides by the norm of each row.
        in_proj.weight = torch.cat([basis.t(), basis.new_full((1, len(basis)), 1e-6)])[..., None]
        in_proj.get_parameter("bias").copy_(torch.cat([-mean @ basis, far[None]]))
        out_proj.weight = torch.cat([basis, basis.new_zeros(len(basis), 1)], 1)[..., None]
        out_proj.get_parameter("bias").copy_(mean)
        stage.codebook.weight.copy_(torch.cat([centroids, far.expand(len(centroids), 1)], 1))
        residual = residual - stage(residual.t()[None]).z[0].t()


class Usage(nn.Module):
    """Usage counts of codebook entries, and revival of those that are hardly used.

    An entry that no vector is mapped to gets no gradient and stays in place while the latents move. As in SoundStream
    (Zeghidour et al., 2021, section III-C), such an entry is replaced by a latent of the current batch: if it was used
    less often than a tenth of the mean. While a tenth is less than one use, nothing is replaced and counting continues.
    """

    uses: Tensor

    def __init__(self, model: DAC) -> None:
        super().__init__()
        self.register_buffer("uses", torch.zeros(model.n_codebooks, model.codebook_size))

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Add the entries used by codes [B, N, F] to the counts."""
        rows = rearrange(codes, "b n f -> n (b f)")
        self.uses.scatter_add_(1, rows, torch.ones_like(rows, dtype=self.uses.dtype))

    @torch.no_grad()
    def revive(
        self,
        model: DAC,
        latents: Tensor,
        optimizer: torch.optim.Optimizer,
        fabric: Fabric,
        generator: torch.Generator,
        average: DAC,
    ) -> int:
        """Replace hardly used entries of a model in place, the same in every process, and reset the counts.

        Args:
            model: its codebooks are changed.
            latents: inputs of the codebook look-ups in the current batch [B, N * codebook_dim, F].
            optimizer: of the codebooks; its moments of a replaced entry are set to zero.
            fabric: the processes of the run.
            generator: source of randomness, on the CPU.
            average: a moving average of the model, which gets the same entries; or the model itself.

        Returns:
            The number of entries replaced.
        """
        uses = total(fabric, self.uses)
        sizes = torch.tensor(model.quantizer.sizes, device=uses.device)[:, None]
        least = _LEAST_SHARE * uses.sum(1, keepdim=True) / sizes
        if float(least.min()) < 1.0:
            return 0
        unused = (uses < least) & (torch.arange(uses.shape[1], device=uses.device) < sizes)
        stages = zip(model.quantizer.stages(), average.quantizer.stages(), strict=True)
        inputs = latents.chunk(model.n_codebooks, 1)
        for (stage, averaged), rows, points in zip(stages, unused, inputs, strict=True):
            which = rows[: len(stage.codebook.weight)]
            candidates = rearrange(points, "b d f -> (b f) d")
            chosen = torch.randint(len(candidates), (len(which),), generator=generator).to(candidates.device)
            entries = stage.codebook.weight
            # Fabric's broadcast returns a tensor on the device of the first process.
            spare = fabric.broadcast(candidates[chosen]).to(entries)
            for weight in (entries, averaged.codebook.weight):
                weight.copy_(torch.where(which[:, None], spare, weight))
            for memory in optimizer.state.get(entries, {}).values():
                if memory.shape == entries.shape:
                    memory[which] = 0.0
        self.uses.zero_()
        return int(unused.sum())
