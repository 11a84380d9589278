"""Every video of a data set is opened once, before LLaMA-Factory forks the processes that tokenise its rows."""

from contextlib import ExitStack
from typing import Any

from tqdm import tqdm

from ..data.facts import has_clock
from ..data.media_index import MediaIndexWriter, survey
from ..data.storage import REQUESTS_AT_ONCE, is_remote, look
from ..data.video import VideoRef
from ..data.video.index_store import MEMORY, OVERHEAD
from .cache import comes_first, distinct_paths
from .options import RunOptions


ROWS_AT_ONCE = 10_000


def survey_videos(dataset: Any, options: RunOptions, data_args: Any, training_args: Any, logger: Any) -> None:
    """Find out about the videos of a converted data set.

    Args:
        dataset: With the column `_videos`.
        options: The run's.
        data_args: LLaMA-Factory's.
        training_args: LLaMA-Factory's; the first process of those that share a cache writes the media index.
        logger: LLaMA-Factory's.
    """
    files = _video_files(dataset)
    most = MEMORY // OVERHEAD
    if options.indexes is None and len(files) > most:
        logger.warning_rank0(
            f"{len(files)} videos are more than the {most} whose facts a process keeps in memory: each process that "
            "tokenises opens them again. With `media_index: FILE` each is opened once, and in later runs not at all."
        )
        return

    with ExitStack() as stack:
        shelf = options.indexes
        if options.media_index is not None and comes_first(data_args, training_args):
            shelf = stack.enter_context(MediaIndexWriter(options.media_index))

        look(files)
        # What lies far away is waited for, not computed.
        at_least = REQUESTS_AT_ONCE if any(map(is_remote, files)) else 1
        workers = max(data_args.preprocessing_num_workers or 1, at_least)
        for _ in tqdm(survey(files, shelf, workers), "Looking at videos", len(files), disable=None):
            pass


def _video_files(dataset: Any) -> list[str]:
    """The distinct video files of the rows that a selection has left in."""
    paths: set[str | None] = set()
    for batch in dataset.select_columns(["_videos"]).with_format("arrow").iter(ROWS_AT_ONCE):
        paths.update(VideoRef.parse(video).path for video in distinct_paths(batch, "_videos"))

    return sorted(path for path in paths - {None} if has_clock(VideoRef(path)))
