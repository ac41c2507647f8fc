"""Codebooks fitted to the latents of an autoencoder, so that joint training starts from something that works."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dac_codec.model import DAC
from dac_codec.training.processes import total


@torch.no_grad()
def initialise(model: DAC, latents: Tensor, generator: torch.Generator, iterations: int = 20) -> None:
    """Fit every quantizer of a model, stage by stage, to what the stages before it leave of the latents.

    Each stage projects on the directions in which its input varies most, all but one of the codebook's dimensions,
    and sets the last one to a constant that is large beside them: seen from that far, angles are distances, so that
    the cosine look-up finds the nearest centroid of an ordinary k-means and the length of a vector is not lost.

    Args:
        model: its `quantizer` is changed in place.
        latents: what its encoder gives for the training data [n, D]; at least a few vectors for each entry.
        generator: source of randomness, on the CPU.
        iterations: of k-means.

    Raises:
        ValueError: a quantizer without projections, or fewer latents than entries.
    """
    if len(latents) < model.codebook_size:
        raise ValueError(f"{len(latents)} latents are too few to fit {model.codebook_size} codebook entries to")
    residual = latents.float()
    for stage in model.quantizer.stages():
        in_proj, out_proj = stage.in_proj, stage.out_proj
        if not isinstance(in_proj, nn.Conv1d) or not isinstance(out_proj, nn.Conv1d):
            raise ValueError("codebooks without projections start from the data by themselves")
        directions = stage.codebook.embedding_dim - 1
        mean = residual.mean(0)
        centred = residual - mean
        _, vectors = torch.linalg.eigh(centred.t() @ centred)
        basis = vectors[:, -directions:]
        points = centred @ basis
        centroids = k_means(points, stage.codebook.num_embeddings, generator, iterations)
        far = 4.0 * points.square().sum(1).mean().sqrt()

        into = torch.cat([basis.t(), basis.new_zeros(1, basis.shape[0])])
        in_proj.weight = _no_zero_rows(into)[..., None]
        _bias(in_proj).copy_(torch.cat([-mean @ basis, far[None]]))
        out_proj.weight = torch.cat([basis, basis.new_zeros(basis.shape[0], 1)], 1)[..., None]
        _bias(out_proj).copy_(mean)
        stage.codebook.weight.copy_(torch.cat([centroids, far.expand(len(centroids), 1)], 1))
        residual = residual - stage(residual.t()[None]).z[0].t()


class Usage(nn.Module):
    """How often each codebook entry is chosen, and a new place for those that hardly ever are.

    An entry that nothing is mapped to gets no gradient and stays where it is while the latents move on. As in
    SoundStream (Zeghidour et al., 2021, section III-C), such an entry becomes a latent of the current batch.

    Args:
        model: its codebooks are watched.
        least_share: an entry that is chosen less often than this share of the mean is moved. Nothing is moved, and
            counting goes on, until the share is worth a use: an entry that has not been seen once in a short while may
            be as good as any.
    """

    def __init__(self, model: DAC, least_share: float = 0.1) -> None:
        super().__init__()
        self.least_share = least_share
        self.register_buffer("uses", torch.zeros(model.n_codebooks, model.codebook_size))

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Count the entries that codes [B, N, F] choose."""
        uses = self.get_buffer("uses")
        rows = codes.transpose(0, 1).flatten(1)
        uses.scatter_add_(1, rows, torch.ones_like(rows, dtype=uses.dtype))

    @torch.no_grad()
    def revive(
        self,
        model: DAC,
        latents: Tensor,
        optimizer: torch.optim.Optimizer,
        fabric: Fabric,
        generator: torch.Generator,
        average: DAC | None = None,
    ) -> int:
        """Move the entries that were hardly used since the last count began, the same in every process, and count anew.

        Args:
            model: its codebooks are changed in place.
            latents: what the current batch looks up [B, N * codebook_dim, F].
            optimizer: of the codebooks; what it remembers of an entry that is moved is forgotten.
            fabric: the processes of the run.
            generator: source of randomness, on the CPU.
            average: a moving average of the model, whose entries move to the same places.

        Returns:
            The number of entries moved.
        """
        uses = total(fabric, self.get_buffer("uses"))
        least = self.least_share * uses.mean(1, keepdim=True)
        if float(least.min()) < 1.0:
            return 0
        unused = uses < least
        averages = model if average is None else average
        for stage, averaged, which, points in zip(
            model.quantizer.stages(),
            averages.quantizer.stages(),
            unused,
            latents.chunk(model.n_codebooks, 1),
            strict=True,
        ):
            candidates = points.transpose(1, 2).flatten(0, 1)
            chosen = torch.randint(len(candidates), (len(which),), generator=generator).to(candidates.device)
            entries = stage.codebook.weight
            # Fabric's broadcast leaves a tensor on the first process's device.
            spare = fabric.broadcast(candidates[chosen]).to(entries)
            for weight in (entries, averaged.codebook.weight):
                weight.copy_(torch.where(which[:, None], spare, weight))
            for memory in optimizer.state.get(entries, {}).values():
                if memory.shape == entries.shape:
                    memory[which] = 0.0
        self.get_buffer("uses").zero_()
        return int(unused.sum())


def _bias(conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _no_zero_rows(weight: Tensor) -> Tensor:
    """Weight norm divides by the length of each row: give the rows that are zero a negligible one."""
    return torch.where(weight.norm(dim=1, keepdim=True) > 0, weight, torch.full_like(weight, 1e-6))


def k_means(points: Tensor, n_centroids: int, generator: torch.Generator, iterations: int) -> Tensor:
    """Lloyd's algorithm on points [n, d] from random points; a centroid without points moves to a random one."""
    start = torch.randperm(len(points), generator=generator)[:n_centroids]
    centroids = points[start].clone()
    for _ in range(iterations):
        nearest = torch.cdist(points, centroids).argmin(1)
        counts = torch.bincount(nearest, minlength=n_centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        spare = points[torch.randint(len(points), (n_centroids,), generator=generator)]
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], spare)
    return centroids
