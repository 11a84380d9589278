"""The thought before an answer, left out of what is shown."""

from collections.abc import Iterable, Iterator


def spoken(pieces: Iterable[str], thought_words: tuple[str, str] | None) -> Iterator[str]:
    """A reply without the thought that it begins with; one that was cut off before it ended leaves nothing.

    Args:
        pieces: The reply, in the pieces that it comes in.
        thought_words: What opens and closes a thought; None for models that do not think.

    Yields:
        Each piece as soon as it is known to be no thought.
    """
    pieces = iter(pieces)
    if thought_words is None:
        yield from pieces
        return

    opening, closing = (word.strip() for word in thought_words)
    held = ""
    for piece in pieces:
        held += piece
        if not opening.startswith(held.strip()[: len(opening)]):
            break

        if held.strip().startswith(opening):
            held = next(_behind(held, pieces, closing), "")
            break

    if held:
        yield held

    yield from pieces


def _behind(held: str, pieces: Iterator[str], closing: str) -> Iterator[str]:
    """The first words behind a thought."""
    while closing not in held:
        piece = next(pieces, None)
        if piece is None:
            return

        held = held[-len(closing) :] + piece  # a thought may be long

    held = held.partition(closing)[2].lstrip()
    while not held:
        piece = next(pieces, None)
        if piece is None:
            return

        held = piece.lstrip()

    yield held
