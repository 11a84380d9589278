"""Every distinct medium of a data set, examined once, in several processes, and remembered from run to run."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from pydantic_core import from_json

from ..data.facts import Facts
from ..data.output import appended
from ..data.schema import RowError
from ..data.storage import look
from ..data.video import MediaError, Shelf, VideoRef
from ..data.video import identity as file_identity
from ..data.video.index import Index
from .media import Fault, Found, Identity, Job, examine, identity


CRASHED = "the process that read it died"

Examined = tuple[Job, Found | Fault]
Share = Callable[[list[Job]], Iterable[Examined]]


class Library:
    """What is known of media files.

    Files that were examined without a fault are written to `memory`, one line each with their size and time of change,
    so that a run that was killed goes on where it stopped. Faults are looked at again: they may have been mended or
    may have been the disk's.

    Args:
        memory: JSONL file; made if it is not there.
        workers: Processes.
        share: Examines media elsewhere instead.
        shelf: Media index, whose word is taken for the video files that it knows, and which gets what is found out.
    """

    def __init__(self, memory: Path, workers: int, share: Share | None = None, shelf: Shelf | None = None) -> None:
        self.counts = {"files": 0, "examined": 0, "remembered": 0, "unusable": 0}
        self._found: dict[str, Facts | Fault] = {}
        self._workers, self._share = workers, share
        self._shelf = shelf
        self._pool: ProcessPoolExecutor | None = None
        self._remembered = _read_memory(memory)
        self._memory = appended(memory)

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

        self._memory.close()

    def __getitem__(self, job: Job) -> Facts | Fault:
        """What was found; only for jobs that `examine_all` has seen."""
        return self._found[job.key]

    def examine_all(self, jobs: Iterable[Job], done: Callable[[], None] = lambda: None) -> None:
        """Examine media that are not known yet; `done` is called after each."""
        merged: dict[str, Job] = {}
        for job in jobs:
            twin = merged.get(job.key)
            merged[job.key] = job if twin is None else replace(job, moments=job.moments | twin.moments)

        look(file for key, job in merged.items() if key in self._remembered for file in job.files)
        waiting = [job for job in merged.values() if not self._known(job)]
        for job, answer in self._examine(waiting):
            self._note(job, answer)
            done()

    def _known(self, job: Job) -> bool:
        found = self._found.get(job.key)
        if found is not None:
            return isinstance(found, Fault) or found.know(job.moments)

        facts = self._recall(job)
        if facts is None:
            return False

        self._found[job.key] = facts
        self.counts["files"] += 1
        self.counts["remembered"] += 1
        return True

    def _recall(self, job: Job) -> Facts | None:
        """What an earlier run found, if the medium is as it was then."""
        known, facts = self._remembered.pop(job.key, (None, None))
        if job.indexed:
            ref = VideoRef.parse(job.source)
            index = self._indexed(ref.path)
            if index is None:
                return None

            if job.reading is None:
                info = index.info
                return Facts.of_video(ref, info.width, info.height, info.timeline, job.moments)

        return facts if facts is not None and facts.know(job.moments) and identity(job) == known else None

    def _indexed(self, path: str) -> Index | None:
        try:
            return self._shelf.load(file_identity(path))
        except MediaError:
            return None

    def _note(self, job: Job, answer: Found | Fault) -> None:
        first = job.key not in self._found
        self.counts["files"] += first
        if isinstance(answer, Fault):
            self._found[job.key] = answer
            self.counts["unusable"] += first
            return

        (size, changed), facts, entry = answer
        if entry is not None:
            self._shelf.save(*entry)

        known = self._found.get(job.key)
        if isinstance(known, Facts) and known.seconds and facts.seconds:
            facts = replace(facts, seconds=known.seconds | facts.seconds)

        self._found[job.key] = facts
        self.counts["examined"] += first
        line = {"key": job.key, "size": size, "mtime_ns": changed, **facts.to_json()}
        self._memory.write((json.dumps(line, ensure_ascii=False) + "\n").encode(errors="surrogateescape"))
        self._memory.flush()  # so that a killed run leaves it

    def _examine(self, jobs: list[Job]) -> Iterable[Examined]:
        if not jobs:
            return

        if self._share is not None:
            yield from self._share(jobs)
            return

        self._pool = self._pool or _new_pool(self._workers)
        futures: dict[Future, Job] = {}
        unanswered = []
        try:
            for job in jobs:
                futures[self._pool.submit(examine, job)] = job
        except BrokenProcessPool:
            unanswered += jobs[len(futures) :]

        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                unanswered.append(futures[future])

        # A file that kills its reader takes the whole pool with it: find out which one it is.
        if unanswered:
            self._pool.shutdown()
            self._pool = None
            for job in unanswered:
                yield job, _examine_alone(job)


def _examine_alone(job: Job) -> Found | Fault:
    with _new_pool(1) as pool:
        try:
            return pool.submit(examine, job).result()
        except BrokenProcessPool:
            return Fault("media-broken", f"{job.source}: {CRASHED}")


def _new_pool(workers: int) -> ProcessPoolExecutor:
    # Forking a process that has threads (as decoders start them) may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent)


def _die_with_parent() -> None:
    """Workers of a killed run would wait for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_memory(path: Path) -> dict[str, tuple[Identity, Facts]]:
    """Files examined by earlier runs; a last line that a killed run left unfinished is cut off."""
    if not path.exists():
        return {}

    entries = {}
    with open(path, "rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break

            try:
                entry = from_json(line)
                key, known = entry.pop("key"), (entry.pop("size"), entry.pop("mtime_ns"))
                entries[key] = (known, Facts.from_json(entry))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise RowError(f"{path} was not written by a check: remove it, or name another file") from None

            whole += len(line)

        file.truncate(whole)

    return entries
