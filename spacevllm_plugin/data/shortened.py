"""Ids and texts of users' files as parts of messages: they may have megabytes, line breaks, or what no terminal shows."""

WIDTH = 80


def shortened(text: str, width: int = WIDTH) -> str:
    """A text as one printable line of `width` characters at most, without its middle: its end, too, may tell ids apart."""
    if len(text) <= width and len(line := _printable(text)) <= width:
        return line

    tail = width // 3
    head = width - tail - 1
    return f"{_printable(text[:head])[:head]}…{_printable(text[-tail:])[-tail:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
