"""Sentences as they stand in a prompt."""

import re
import unicodedata


_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " "})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_SPACES = re.compile(r"\s+")


def tidy(text: str) -> str:
    """One line, composed characters, straight quotes, single spaces, no full stop at the end; case and words as given.

    Sentences stand inside quotation marks within a prompt, so one that is wholly quoted loses its own.
    """
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    text = _SPACES.sub(" ", _CONTROL.sub(" ", text)).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()

    return text.rstrip(". ")
