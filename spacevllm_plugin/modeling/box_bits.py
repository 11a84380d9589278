"""Box targets on their way to the loss: as the bits of their fp32 numbers, because nobody casts integers.

Floating-point inputs of a model in bf16 are rounded before `forward` sees them, by the trainer under DeepSpeed and by the
wrapper under FSDP: a coordinate then is right to 3.75 pixels of 1920.
"""

import torch


def to_bits(targets: torch.Tensor) -> torch.Tensor:
    """What stands for fp32 targets of any shape, NaN included, in a batch: int32 of the same shape."""
    return targets.view(torch.int32)


def from_bits(targets: torch.Tensor) -> torch.Tensor:
    """Undo `to_bits`; targets that are floating-point numbers already are returned as they are."""
    return targets if targets.is_floating_point() else targets.view(torch.float32)
