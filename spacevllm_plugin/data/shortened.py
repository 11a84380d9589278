"""Ids and texts of users' files as parts of messages: they may have megabytes, line breaks, or what no terminal shows."""

WIDTH = 80


def shortened(text: str, width: int = WIDTH) -> str:
    """A text as one printable line, without its middle where it has more than `width` characters; its end may tell ids apart."""
    if len(text) > width:
        tail = width // 3
        text = f"{text[: width - tail - 1]}…{text[-tail:]}"

    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
