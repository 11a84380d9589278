"""What the multiple-choice sets share: one video, one question, lettered options."""

import string
from dataclasses import dataclass

from ..data.schema import Media
from .base import Report, Sample, Source


# Behind the options, as these benchmarks are commonly asked.
ASK_LETTER = "Answer with the option's letter from the given choices directly."
ASK_YES_NO = "Please answer yes or no."


@dataclass(kw_only=True)
class QuestionSource(Source):
    """A set of questions about one video each (qa rows)."""

    def choice(
        self,
        report: Report,
        sample_id: str,
        video: str,
        question: str,
        options: list[str],
        right: int,
        group: str | None = None,
        tags: dict[str, str] | None = None,
        media: Media | None = None,
    ) -> Sample | None:
        """One multiple-choice sample, or None if it had to be dropped.

        Args:
            report: Takes what is dropped.
            sample_id: The sample's id.
            video: File name below `folder`.
            question: As annotated, without the options.
            options: Their texts, without letters.
            right: Index of the right one.
            group: As in `AnnotationRow`.
            tags: As in `AnnotationRow`.
            media: The video's facts, where only a part of it is looked at.
        """
        options = [one_line(option) for option in options]
        if not question.strip() or not options or not all(options):
            return report.drop("no_question", sample_id)

        if not 0 <= right < len(options):
            return report.drop("answer_not_among_options", sample_id)

        if len(options) > len(string.ascii_uppercase):
            return report.drop("malformed", f"{sample_id}: {len(options)} options, more than letters")

        lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options)]
        return Sample(
            id=sample_id,
            task="qa",
            query=one_line(question),
            medium=video,
            media=media,
            target=None,
            group=group,
            question="\n".join([one_line(question), *lines, ASK_LETTER]),
            reply=string.ascii_uppercase[right],
            tags=tags,
        )


def one_line(text: str) -> str:
    """A text without line breaks and doubled spaces."""
    return " ".join(text.split())
