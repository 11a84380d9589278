"""How pictures leave a backend."""

from collections.abc import Callable

from PIL import Image


# Takes a native frame's number and its picture: in any order, perhaps from several threads at once, and once more where a
# backend gives a file up and another begins anew.
Keep = Callable[[int, Image.Image], None]
