"""Where things stand on a page."""

from typing import Any


def move_before(block: Any, other: Any) -> None:
    """Put a block before another one that stands in the same place."""
    children = other.parent.children
    block.parent.children.remove(block)
    children.insert(children.index(other), block)
    block.parent = other.parent
