"""What the temporal sets share: a span in seconds, and the video's own facts where the files are at hand."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.schema import Media, Target
from ..data.video import MediaError, VideoInfo, VideoRef
from .base import Report, Sample, existing, option
from .media_name import is_media_name
from .probing import ProbingSource, probe
from .text import tidy


VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".3gp", ".flv", ".wmv")

Span = tuple[float, float]

SECONDS_ONLY = "without --media-dir the rows hold seconds only: no frame numbers, frame rate or size"


def find_video(folder: Path, name: str) -> str | None:
    """The name of a video in a folder: as annotated, or with another suffix; None if there is none."""
    # The annotated name may have no suffix but a dot.
    stems = (name, Path(name).stem) if Path(name).suffix.lower() in VIDEO_SUFFIXES else (name,)
    candidates = (name, *(stem + suffix for stem in stems for suffix in VIDEO_SUFFIXES))
    # Of a name that is too long, `os.path` says that there is no such file; a `Path` raises.
    return next((candidate for candidate in candidates if os.path.isfile(folder / candidate)), None)


def paired(
    video: str, timestamps: list[Span], sentences: list[str], report: Report
) -> Iterator[tuple[int, Span, str]]:
    """Index, span and sentence for each sentence of a video; none, and a drop, where the two lists differ in length."""
    if len(timestamps) != len(sentences):
        report.drop("malformed", f"{video}: {len(timestamps)} timestamps, {len(sentences)} sentences")
        return

    for index, (span, sentence) in enumerate(zip(timestamps, sentences)):
        yield index, span, sentence


@dataclass(kw_only=True)
class MomentSource(ProbingSource):
    """A set of sentences and spans in seconds (vtg rows)."""

    probes = True

    media_dir: Path | None = option(
        "media folder; the videos in it are probed, so that rows have frame numbers, frame rate and size",
        Path,
        default=None,
    )

    @property
    def note(self) -> str | None:
        """What the rows will lack."""
        return SECONDS_ONLY if self.media_dir is None else None

    def moment(
        self,
        report: Report,
        sample_id: str,
        video: str,
        sentence: str,
        spans: list[Span],
        length: float | None = None,
        keep_all: bool = False,
    ) -> Sample | None:
        """One sample, or None if it had to be dropped.

        Args:
            report: Takes what is dropped.
            sample_id: The sample's id.
            video: File name below `folder`; any suffix will do where the file is at hand.
            sentence: As annotated.
            spans: Start and end in seconds; the longest that is left becomes the target, the first of equals.
            length: Seconds of the video as the annotations have it; None takes the file's, where it is at hand.
            keep_all: Write all spans as `windows_seconds`.
        """
        query = tidy(sentence)
        if not query:
            return report.drop("no_sentence", sample_id)

        if not is_media_name(video):
            return report.drop("bad_media_name", f"{sample_id}: {video}")

        info = None
        if self.media_dir is not None:
            folder = existing(self.media_dir / self.folder, "--media-dir")
            found = find_video(folder, video)
            if found is None:
                return report.drop("no_video", f"{sample_id}: {self.folder}/{video}")

            video = found
            try:
                info = probe(VideoRef(path=str(folder / video)))
            except MediaError as err:
                return report.drop("video_unreadable", f"{sample_id}: {err}")

        if length is None and info is not None:
            length = info.timeline.seconds(info.timeline.num_frames)

        cut = [(max(start, 0.0), end if length is None else min(end, length)) for start, end in spans]
        windows = [window for window in cut if window[0] < window[1]]
        if not windows:
            return report.drop("empty_span", sample_id)

        span = max(windows, key=lambda window: window[1] - window[0])
        if info is not None and info.timeline.frame_at(span[0]) >= info.timeline.num_frames:
            return report.drop("span_after_video", sample_id)

        return Sample(
            id=sample_id,
            task="vtg",
            query=query,
            medium=video,
            media=_media(info),
            target=Target(
                span_seconds=span,
                span_frames=info.timeline.span_frames(span) if info is not None else None,
                windows_seconds=windows if keep_all else None,
            ),
            repairs=set() if windows == [tuple(map(float, window)) for window in spans] else {"span_cut_to_video"},
        )


def _media(info: VideoInfo | None) -> Media | None:
    if info is None:
        return None

    timeline = info.timeline
    return Media(width=info.width, height=info.height, fps=timeline.fps, num_frames=timeline.num_frames)
