"""LLaMA-Factory's Muon (`use_muon`) on a CPU: the same iteration in fp32, since bf16 products are emulated there.

As a script, `torchrun … fp32_muon.py RECIPE.yaml [KEY=VALUE …]`, it trains like `llamafactory-cli train` with that.
"""

import torch


# Those of the upstream function.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(gradient: torch.Tensor, steps: int) -> torch.Tensor:
    """Newton-Schulz iteration of `llamafactory.third_party.muon.muon.zeropower_via_newtonschulz5`, in fp32.

    Args:
        gradient: A matrix.
        steps: Iterations.

    Returns:
        A matrix of the same shape whose singular values lie near one.
    """
    a, b, c = COEFFICIENTS
    x = gradient.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x

    return x.T if is_tall else x


def use_fp32() -> None:
    """Replace the iteration in this process; on CPUs without bf16 units upstream's takes some forty times as long."""
    from llamafactory.third_party.muon import muon

    muon.zeropower_via_newtonschulz5 = orthogonalise


if __name__ == "__main__":
    from llamafactory.train.tuner import run_exp

    use_fp32()
    run_exp()
