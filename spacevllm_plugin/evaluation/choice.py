"""Multiple choice: the options in a question, and the one that an answer chose."""

import re
from dataclasses import dataclass

from ..data.schema import AnnotationRow, RowError
from ..data.shortened import shortened
from ..data.span_parser import answer_part


# Any text must be read in time: as in `span_parser`, runs are possessive, and no two that follow each other overlap.
# `A. text`, `(A) text`, `A) text`, `A: text`, at the start of a line or behind white space.
_OPTION = re.compile(r"(?:^|\s)\(?([A-J])[).:]\s*(.*?)(?=(?<!\s)\s++\(?[A-J][).:]\s|\n|\Z)", re.DOTALL)
_YES_NO = ("yes", "no")

# The letter that stands first, or alone, or behind words that announce it.
_ANNOUNCED = re.compile(
    r"\b(?:answer|option|choice|choose|select|pick)\b(?:\s++(?:is|was|would be|should be))?\s*+(?:[:：]\s*+)?"
    r"(?:option\s*+)?[*(\[\"']*+([A-J])\b(?![a-z'])"
    r"|(?:答案|选项|选择|选)(?:是|为)?\s*+(?:[:：]\s*+)?[(（]?([A-J])(?![A-Za-z])",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^[\s*(\[\"'（]*([A-Ja-j])(?:[\s*)\]\"'）]*$|[).:：,，、）\]]|\*\*)")
_ARTICLE = re.compile(r"[ai]\s++\w")
# Two letters offered as one answer: anywhere, or as all that is said.
_SEVERAL = re.compile(r"(?<![A-Za-z'])[A-J]\)?\s*(?:\b(?:and|or)\b|[&/和或])\s*\(?[A-J](?![A-Za-z'])")
_LISTED = re.compile(r"\W*+[A-J](?:(?:(?=[^\w,，&/]*+[,，&/])\W++|\W*+(?:和|或|and|or)\W*+)[A-J])++\W*+")
# A bare capital: "A" and "I" are words, so they count only where nothing but punctuation follows.
_ALONE = re.compile(r"(?<![A-Za-z'])\(?([B-HJ])\)?(?![A-Za-z'])|\(([AI])\)|(?<![A-Za-z'])([AI])(?=[.)]*\s*$)")


@dataclass(frozen=True)
class Question:
    """A multiple-choice question.

    Attributes:
        options: Letter -> text, as the question lists them; empty where it lists none.
        truth: The right letter, or `yes` or `no`.
    """

    options: dict[str, str]
    truth: str

    @classmethod
    def of(cls, row: AnnotationRow) -> "Question":
        """Read a `qa` row: options from the last user message, the right letter from the last assistant message.

        Raises:
            RowError: The assistant message holds no letter (nor yes or no), or one that is not among the options.
        """
        asked = [message.content for message in row.messages if message.role == "user"]
        told = [message.content for message in row.messages if message.role == "assistant"]
        options = {letter: text.strip() for letter, text in _OPTION.findall(asked[-1])} if asked else {}
        truth = _letter(told[-1], options) if told else None
        if truth is None:
            raise RowError(
                f"annotation {shortened(row.id)}: the assistant message must hold the right option's letter"
            )

        return cls(options, truth)


def read_choice(text: str, question: Question) -> str | None:
    """The option that an answer chose.

    Taken in this order: a letter that stands first (`B`, `(B) text`, `B.`), one that is announced (`the answer is B`), the
    only option whose text the answer repeats, and the only letter that stands alone. Reasoning is left out.

    Returns:
        A letter, or `yes`/`no` where that is asked; None if nothing, something unknown or more than one thing can be read.
    """
    text = answer_part(text).strip()
    if question.truth in _YES_NO:
        return _yes_no(text)

    return _letter(text, question.options)


def _letter(text: str, options: dict[str, str]) -> str | None:
    text = text.strip()
    if text.strip(".! ").lower() in _YES_NO and not options:
        return _yes_no(text)

    if _LISTED.fullmatch(text):
        return None

    leading = _LEADING.match(text)
    if leading:
        return _known(leading.group(1), options)

    announced = {letter for match in _ANNOUNCED.finditer(text) for letter in _announced(text, match, options)}
    if announced:
        # "The answer is not B but C": whoever announces two things says nothing.
        return _known(announced.pop(), options) if len(announced) == 1 else None

    repeated = _repeated(text, options)
    if len(repeated) == 1:
        return repeated[0]

    if _SEVERAL.search(text):
        return None

    alone = {next(filter(None, groups)) for groups in _ALONE.findall(text)}
    return _known(alone.pop(), options) if len(alone) == 1 else None


def _announced(text: str, match: re.Match, options: dict[str, str]) -> set[str]:
    """The letters of an announcement, in capitals; none where it is an article ("the answer is a dog")."""
    start = match.start(1 if match.group(1) else 2)
    several = _SEVERAL.match(text, start)
    if several:
        return set(re.findall(r"[A-J]", several.group()))

    # "The answer is a red box" names the option of that text.
    texts = {letter: option.lower().strip(" .") for letter, option in options.items()}
    spelt = [
        letter
        for letter in texts
        if len(texts[letter]) > 1
        and re.compile(rf"{re.escape(texts[letter])}(?!\w)", re.IGNORECASE).match(text, start)
    ]
    if spelt:
        return {max(spelt, key=lambda letter: len(texts[letter]))}

    return set() if _ARTICLE.match(text, start) else {text[start].upper()}


def _known(letter: str, options: dict[str, str]) -> str | None:
    letter = letter.upper()
    return letter if not options or letter in options else None


def _repeated(text: str, options: dict[str, str]) -> list[str]:
    """Options whose whole text stands in the answer, without those that are part of a longer one that does."""
    text = text.lower()
    texts = {letter: option.lower().strip(" .") for letter, option in options.items()}
    found = [
        letter for letter, option in texts.items() if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text)
    ]
    return [letter for letter in found if not any(texts[letter] in texts[other] for other in found if other != letter)]


def _yes_no(text: str) -> str | None:
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    if first:
        return first.group(1).lower()

    found = {word.lower() for word in re.findall(r"\b(yes|no)\b", text, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None
