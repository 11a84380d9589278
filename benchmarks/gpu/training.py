"""One optimizer step."""

from collections.abc import Callable, Iterable
from functools import partial

import torch

from gpu.engines import device
from gpu.measuring import Measurement, measured


Loss = Callable[[], torch.Tensor]


def adamw(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The recipes' optimizer."""
    return torch.optim.AdamW(parameters, lr=1e-5)


def step(loss_of: Loss, optimizer: torch.optim.Optimizer, half: bool) -> float:
    """Forward, backward and the optimizer; returns the loss.

    Args:
        loss_of: Forward.
        optimizer: Of the trained parameters.
        half: Under bf16 autocast.

    Raises:
        ValueError: The loss is no number.
    """
    try:
        with torch.autocast(device(), dtype=torch.bfloat16, enabled=half):
            loss = loss_of()

        loss.backward()
        optimizer.step()
    finally:
        optimizer.zero_grad()  # also of a step that ran out of memory

    if not loss.isfinite():
        raise ValueError(f"the loss is {loss.item()}")

    return loss.item()


def fresh_step(loss_of: Loss, parameters: list[torch.nn.Parameter], half: bool) -> Measurement:
    """The second step of a fresh optimizer: its states are there, and nobody else's."""
    one = partial(step, loss_of, adamw(parameters), half)
    one()
    return measured(one)
