"""The frame cache: what it returns, what it forgets, and several processes in it at once."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from spacevllm_plugin.data.frame_cache import FrameCache
from spacevllm_plugin.data.video import VideoRef, content_key


def frames(number, count=4):
    """(count, 3, 16, 16) of one value: 768 bytes a frame and a header of 128."""
    return np.full((count, 3, 16, 16), number, np.uint8)


ENTRY = 4 * 768 + 128


def cache_of(folder, entries):
    return FrameCache(str(folder), entries * ENTRY)


def stored(folder):
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_what_was_put_comes_back_and_nothing_else(tmp_path):
    cache = cache_of(tmp_path, 10)
    path = cache.path("a.mp4", 1)
    assert cache.get(path) is None
    cache.put(path, frames(7))
    assert np.array_equal(cache.get(path), frames(7)) and stored(tmp_path) == ENTRY
    assert cache.get(cache.path("a.mp4", 2)) is None


def test_of_what_other_runs_left_the_longest_unused_goes_first(tmp_path):
    cache = cache_of(tmp_path, 4)
    paths = [cache.path(number) for number in range(5)]
    for number in range(4):
        cache.put(paths[number], frames(number))
        os.utime(paths[number], (number, number))

    assert cache.get(paths[0]) is not None  # used just now: 1 is the oldest
    cache.put(paths[4], frames(4))
    assert cache.get(paths[1]) is None
    assert np.array_equal(cache.get(paths[0]), frames(0)) and np.array_equal(cache.get(paths[4]), frames(4))
    assert stored(tmp_path) <= cache.limit


def test_a_sweep_over_more_than_fits_hits_what_is_there(tmp_path, caplog):
    """Epochs over twice the limit: a cache that pushes out the longest unused entry never hits."""
    hits, begin = [], time.time_ns()
    for _ in range(4):  # epochs, each with a new worker
        cache = FrameCache(str(tmp_path), 8 * ENTRY, begin)
        hits.append(0)
        for number in range(16):
            found = cache.get(cache.path(number))
            if found is None:
                cache.put(cache.path(number), frames(number))
            else:
                assert np.array_equal(found, frames(number))
                hits[-1] += 1

    assert hits == [0, 8, 8, 8] and stored(tmp_path) == cache.limit
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "is full" in caplog.text


def test_the_next_run_makes_room_with_what_it_does_not_use(tmp_path):
    first = cache_of(tmp_path, 8)
    for number in range(8):
        first.put(first.path("old", number), frames(number))

    second = cache_of(tmp_path, 8)
    for _ in range(2):
        for key in [("old", number) for number in range(2)] + [("new", number) for number in range(8)]:
            if second.get(second.path(*key)) is None:
                second.put(second.path(*key), frames(1))

    kept = [second.get(second.path("old", number)) is not None for number in range(8)]
    assert kept == [True] * 2 + [False] * 6
    assert sum(second.get(second.path("new", number)) is not None for number in range(8)) == 6


def test_damaged_entries_and_leftovers(tmp_path):
    cache = cache_of(tmp_path, 2)
    path = cache.path("a")
    cache.put(path, frames(1))
    os.truncate(path, 500)
    assert cache.get(path) is None and not path.exists()

    leftover = path.parent / ".killed.tmp"
    leftover.write_bytes(b"x" * 100)
    os.utime(leftover, (1, 1))
    (tmp_path / ".bytes").write_text("gibberish")
    (tmp_path / "notes.txt").write_text("mine")
    for number in range(4):
        cache.put(cache.path(number), frames(number))

    assert stored(tmp_path) <= cache.limit and not leftover.exists() and (tmp_path / "notes.txt").exists()


def test_one_entry_does_not_push_out_all_others(tmp_path):
    cache = cache_of(tmp_path, 4)
    cache.put(cache.path("small"), frames(1))
    cache.put(cache.path("large"), frames(2, count=12))
    assert cache.get(cache.path("large")) is None and cache.get(cache.path("small")) is not None


def test_unusable_options_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="frame_cache_gb: 0"):
        FrameCache.create(str(tmp_path), 0)

    with pytest.raises(ValueError, match="frame_cache_dir: .*file.* cannot be used"):
        FrameCache.create(str(tmp_path / "file" / "deeper"), 1)


def test_a_folder_that_vanishes_is_a_warning(tmp_path):
    cache = FrameCache.create(str(tmp_path / "gone"), 1)
    (tmp_path / "gone").rmdir()
    with pytest.warns(RuntimeWarning, match="frame cache"):
        cache.put(cache.path("a"), frames(1))

    assert cache.get(cache.path("a")) is None


def test_changed_files_have_another_key(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    before = content_key(VideoRef(str(path)), [0, 1])
    assert content_key(VideoRef(str(path)), [0, 1]) == before != content_key(VideoRef(str(path)), [0, 2])
    path.write_bytes(b"12")
    assert content_key(VideoRef(str(path)), [0, 1]) != before

    images = [tmp_path / f"{number}.png" for number in range(2)]
    for image in images:
        image.write_bytes(b"1")

    ref = VideoRef(frames=tuple(map(str, images)))
    both, first = content_key(ref, [0, 1]), content_key(ref, [0])
    images[1].write_bytes(b"12")
    assert content_key(ref, [0, 1]) != both and content_key(ref, [0]) == first


def work(folder, seed, failures):
    """Read and write 30 entries at random where 8 fit: every hit is whole and right, and the limit holds."""
    cache, rng = cache_of(folder, 8), np.random.default_rng(seed)
    for _ in range(150):
        number = int(rng.integers(30))
        path = cache.path(number)
        found = cache.get(path)
        if found is None:
            cache.put(path, frames(number))
        elif not np.array_equal(found, frames(number)):
            failures.put(f"{number}: other pixels")


def test_several_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    workers = [context.Process(target=work, args=(tmp_path, seed, failures)) for seed in range(4)]
    for worker in workers:
        worker.start()

    largest = 0
    while any(worker.is_alive() for worker in workers):
        sizes = []
        for path in tmp_path.glob("??/*.npy"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                pass

        largest = max(largest, *sizes, 0)
        time.sleep(0.01)

    assert [worker.exitcode for worker in workers] == [0] * 4 and failures.empty()
    assert largest == ENTRY  # no reader can meet a file that is not whole
    assert 0 < stored(tmp_path) <= 8 * ENTRY and not list(tmp_path.glob("??/*.tmp"))
    assert int((tmp_path / ".bytes").read_text()) == stored(tmp_path)


def write_for_ever(folder):
    cache, number = cache_of(folder, 8), 0
    while True:
        cache.put(cache.path(os.getpid(), number), frames(1))
        number += 1


def test_killed_writers_leave_a_cache_that_works(tmp_path):
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        worker = context.Process(target=write_for_ever, args=(tmp_path,))
        worker.start()
        while not list(tmp_path.glob("??/*.npy")):
            time.sleep(0.01)

        time.sleep(0.2)
        worker.kill()
        worker.join()

    cache = cache_of(tmp_path, 8)
    for number in range(20):
        cache.put(cache.path(number), frames(number))

    assert np.array_equal(cache.get(cache.path(0)), frames(0))
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*.npy")) <= cache.limit
