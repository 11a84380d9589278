"""What one layer of a language model sees, without keeping what all of them see."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def layer_input(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects the states that go into a layer while the block runs: those of its first call in this thread.

    The input of a layer rather than the output of the one before: layers return tensors or tuples, and what wraps them
    (FSDP, ZeRO-3) hangs itself on outputs. It is `hidden_states[i]` of the transformers library for layer `i`, except
    in the first layers of Qwen3-VL, between which vision features are added. Gradient checkpointing calls layers once
    more in the backward pass, behind the block.

    Args:
        layer: Takes its states, (batch, sequence, d), as its first positional argument.

    Yields:
        A list, which holds the states once the layer has been called.
    """
    states: list[torch.Tensor] = []
    thread = threading.get_ident()  # a server may run the same layers in others

    def keep(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if not states and threading.get_ident() == thread:
            states.append(args[0])

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield states
    finally:
        handle.remove()
