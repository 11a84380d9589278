"""What a medium may be called in raw annotations: a file below its folder, by a name that every system can have."""

import re


# As the common file systems and kernels have them, in bytes.
LONGEST_PART, LONGEST_PATH = 255, 4095

# Control characters (NUL and line breaks among them), halves of surrogate pairs, and what parts paths and drives elsewhere.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]|^[A-Za-z]:")


def is_media_name(name: str) -> bool:
    """Whether a path, as annotated, leads to something below the folder that it is relative to, wherever that is."""
    if _UNFIT.search(name) or name.startswith("/") or len(name.encode()) > LONGEST_PATH:
        return False

    parts = name.split("/")
    if ".." in parts or any(len(part.encode()) > LONGEST_PART for part in parts):
        return False

    # A suffix alone is what an empty name leaves.
    stem, dot, rest = parts[-1].rpartition(".")
    return bool((stem if dot else rest).strip())
