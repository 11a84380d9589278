"""Language models that are mixtures of experts: the loss that keeps their routers from choosing the same few."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


ROUTER_PART = "loss_router"


def probabilities(scores: torch.Tensor) -> torch.Tensor:
    """What a router's recorded scores mean, (tokens, experts), fp32.

    transformers records logits, but earlier releases what they had already made of them; its own loss takes both for
    logits, which leaves little of the second kind's differences.
    """
    scores = scores.float()
    normalised = (scores >= 0).all() & ((scores.sum(dim=-1) - 1).abs() < 1e-3).all()
    return torch.where(normalised, scores, scores.softmax(dim=-1))  # not `if`: the host would wait


def load_balancing_loss(
    routers: tuple[torch.Tensor, ...], experts_per_token: int, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """The Switch Transformer's loss (arXiv 2101.03961, equations 4 to 6), as transformers has it: over all layers at once.

    Args:
        routers: Each layer's scores, (batch * sequence, experts).
        experts_per_token: Experts that a token goes through.
        attention_mask: (batch, sequence), how often a token counts; None, or of another shape: all count once.

    Returns:
        (), `experts_per_token` where all experts are chosen alike.
    """
    device, (tokens, experts) = routers[0].device, routers[0].shape
    counts = torch.ones(tokens, 1, device=device)
    if attention_mask is not None and attention_mask.dim() == 2:
        counts = attention_mask.to(device).reshape(-1, 1).float()

    chosen, expected = torch.zeros(experts, device=device), torch.zeros(experts, device=device)
    for scores in routers:
        shares = probabilities(scores.to(device))
        choices = torch.zeros_like(shares).scatter_(1, shares.topk(experts_per_token).indices, 1.0)
        chosen = chosen + (choices * counts).sum(dim=0)
        expected = expected + (shares * counts).sum(dim=0)

    total = len(routers) * counts.sum()
    return experts * (chosen / total * (expected / total)).sum()


class RouterLossMixin:
    """Before a `SpaceVLLMMixin` whose language model records `router_logits`.

    The weight is `router_aux_loss_coef` of the language model's config; with 0 there is no such loss.
    """

    @property
    def extra_loss_weights(self) -> dict[str, float]:
        """See `SpaceVLLMMixin`."""
        weight = self.config.get_text_config().router_aux_loss_coef
        return {ROUTER_PART: weight} if weight else {}

    def run_language_model(self, **inputs: Any) -> Any:
        """See `SpaceVLLMMixin`."""
        if self.extra_loss_weights and torch.is_grad_enabled():
            inputs["output_router_logits"] = True

        return super().run_language_model(**inputs)

    def extra_losses(self, outputs: Any, attention_mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """See `SpaceVLLMMixin`."""
        chosen = self.config.get_text_config().num_experts_per_tok
        return {ROUTER_PART: load_balancing_loss(outputs.router_logits, chosen, attention_mask)}

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint
    ) -> None:
        # Reentrant checkpointing (LLaMA-Factory's default) runs layers without gradients at first, and what is recorded
        # there teaches the routers nothing.
        if self.extra_loss_weights:
            gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func)
