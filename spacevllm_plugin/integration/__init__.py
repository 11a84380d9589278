"""Everything that touches LLaMA-Factory; no other folder imports it. `bootstrap.TOUCH_POINTS` lists the hooks."""

import functools
import sys


@functools.cache
def is_supported() -> bool:
    """Whether the installed LLaMA-Factory is one we know how to hook; if not, says so once and hooks nothing."""
    from .compatibility import find_problem

    problem = find_problem()
    if problem is not None:
        print(f"spacevllm_plugin is inactive: {problem}", file=sys.stderr)

    return problem is None
