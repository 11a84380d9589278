"""The anchor of a box: where the space decoder's attention looks in the frame, and two figures that tell its health."""

from typing import NamedTuple

import torch


ANCHOR_FIGURES = ("anchor_entropy", "anchor_offset")


class Anchor(NamedTuple):
    """Where each query looks.

    Attributes:
        center: (n, 2) mean of the patch centres, weighted by attention, normalised (x, y).
        entropy: (n,) of the weights, over the logarithm of the number of patches: 1 where all patches have the same
            weight, 0 where one has all of it and no gradient tells the query of the others. Carries no gradient.
    """

    center: torch.Tensor
    entropy: torch.Tensor

    @classmethod
    def of(cls, weights: torch.Tensor, centers: torch.Tensor, mask: torch.Tensor) -> "Anchor":
        """From the attention's weights (n, s), the patch centres (n, s, 2) and which of them exist (n, s)."""
        center = (weights[:, None] @ centers.float())[:, 0]
        entropy = torch.special.entr(weights.detach()).sum(dim=-1)
        return cls(center, entropy / mask.sum(dim=-1).clamp(min=2).log())


@torch.no_grad()
def anchor_sums(anchor: Anchor, targets: torch.Tensor) -> torch.Tensor:
    """Sums that the `ANCHOR_FIGURES` are means of, over the queries that have a target.

    Args:
        anchor: Of n queries.
        targets: (n, 4) true boxes, normalised (cx, cy, w, h); a line of NaN has no target.

    Returns:
        (3,): entropy, distance between the anchor and the true box's centre (in shares of the frame's width and
        height), and the number of queries.
    """
    has_target = torch.isfinite(targets).all(dim=-1)
    offset = (anchor.center - targets[:, :2]).norm(dim=-1)
    figures = torch.stack([anchor.entropy, offset, torch.ones_like(offset)])
    return torch.where(has_target, figures, 0.0).sum(dim=-1)
