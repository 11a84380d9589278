"""Files in object storage and behind web servers: `s3://`, `gs://`, `hf://`, `https://`. fsspec is what talks to them.

The only place that does. For a local path nothing here does more than look at its beginning, and fsspec is not imported.
What is not reached is asked for again, for `SPACEVLLM_STORAGE_SECONDS`, and then is a `StorageError`: the storage's fault
or the network's, and so never the end of one row alone, as a broken file is.
"""

import errno
import hashlib
import logging
import os
import posixpath
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from .media_cache import media_cache
from .members import Member, containing_file, member_of


# By the beginning of an address: the extra that reads it, if there is one; the others come with LLaMA-Factory.
EXTRAS = {"s3": "s3", "gs": "gcs", "hf": None, "https": None, "http": None}
SCHEMES = tuple(f"{scheme}://" for scheme in EXTRAS)
# Where a server sends us on to may be signed, and is in its errors.
QUERY = re.compile(r"(https?://[^\s?]+\?)[^\s'\")]+")
# What signed addresses carry; whoever has one of these can read the file.
SECRET = re.compile(r"x-(amz|goog)-|signature$|^sig$|token|credential|accesskey|key-pair-id|^policy$|password", re.I)
NO_SECRETS = "an address with a password or a signature in it: leave these to the environment"

VARIABLE, SECONDS = "SPACEVLLM_STORAGE_SECONDS", 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
# A folder is listed, a thousand files a request, where at least so many of its files are asked about.
LISTED = 50
REQUESTS_AT_ONCE = 16
# What tells one content of a file from another, in the words of the different storages.
MARKS = (
    "ETag",
    "etag",
    "generation",
    "blob_id",
    "Content-MD5",
    "md5Hash",
    "Digest",
    "LastModified",
    "updated",
    "mtime",
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
Range = tuple[int, int]  # of bytes, half-open


class StorageError(OSError):
    """A storage that cannot be reached, or does not let us in; the message is one line that names the file."""


class Stat(NamedTuple):
    """What tells one content of a file from another, and its bytes."""

    changed: int
    size: int


# Asked for once in a process and in those that fork from it: a file that is replaced meanwhile is not noticed.
_known: dict[str, Stat] = {}


def is_remote(path: Any) -> bool:
    """Whether a path is an address."""
    return isinstance(path, str) and path.startswith(SCHEMES)


def is_ranged(path: Any) -> bool:
    """Whether a file is read in ranges by what stands here: at an address, or inside a tar file, on the disk or at an address."""
    return is_remote(path) or member_of(path) is not None


def holds_secret(path: Any) -> bool:
    """Whether an address has a password or a signature in it: rows and logs are copied about."""
    if not is_remote(path) or not ("@" in path or "?" in path):
        return False

    parts = urlsplit(path)
    # `hf://datasets/owner/name@revision` has its @ elsewhere.
    return "@" in parts.netloc or any(SECRET.search(name) for name, _ in parse_qsl(parts.query, True))


def shown(path: str) -> str:
    """A path or an address as messages have it."""
    return "an address" if holds_secret(path) else path


def suffix(path: str) -> str:
    """What the name of a file ends in, as `os.path.splitext` has it; an address may have a query behind it."""
    return os.path.splitext(path.partition("?")[0] if is_remote(path) else path)[1]


def join(folder: str, path: str) -> str:
    """`os.path.join`, of which either part may be an address."""
    if is_remote(path) or os.path.isabs(path):
        return path

    if not is_remote(folder):
        return os.path.join(folder, path)

    scheme, _, rest = folder.partition("://")
    # A storage knows no `.` and `..`; a slash at the end says that it is a folder.
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}" + "/" * path.endswith("/")


def parent(address: str) -> str:
    """The folder of an address, without a slash at its end."""
    return address.rstrip("/").rpartition("/")[0]


def inside(folder: Path | str, name: str) -> Path | str:
    """A file in a folder: a path, or an address where the folder is one."""
    return join(folder, name) if is_remote(folder) else Path(folder, name)


def absolute(path: str) -> str:
    """`os.path.abspath`, which leaves an address as it is."""
    return path if is_remote(path) else os.path.abspath(path)


def is_folder(path: str) -> bool:
    """Whether a path is a folder; an address is one if it ends with a slash, and nobody is asked."""
    return path.endswith("/") if is_remote(path) else os.path.isdir(path)


def stat(path: str) -> Stat:
    """What is known of a file at an address, or inside a tar file.

    Raises:
        FileNotFoundError: There is none.
        StorageError: The storage cannot be reached.
    """
    member = member_of(path)
    if member is not None:
        return _member_stat(member)

    known = _known.get(path)
    if known is None:
        info = _persist(path, lambda fs: fs.info(path))
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{path}: no such file")

        known = _known[path] = _stat(path, info)

    return known


def _member_stat(member: Member) -> Stat:
    if is_remote(member.shard):
        shard = stat(member.shard)
    else:
        there = os.stat(member.shard)
        shard = Stat(there.st_mtime_ns, there.st_size)

    if member.offset + member.size > shard.size:
        raise FileNotFoundError(f"{member}: the tar file ends before it")

    return Stat(shard.changed, member.size)


def look(paths: Iterable[str]) -> None:
    """Ask about many addresses at once, as far as nothing is known of them, in far fewer requests than one each.

    Those that are not there stay unknown, for `stat` to say so. Local paths are passed over.

    Raises:
        StorageError: The storage cannot be reached.
    """
    folders = defaultdict(list)
    for path in dict.fromkeys(map(containing_file, paths)):
        if is_remote(path) and path not in _known and not is_folder(path):
            folders[parent(path)].append(path)

    single = []
    for folder, files in folders.items():
        if len(files) >= LISTED and not folder.startswith("http"):
            with suppress(FileNotFoundError):
                listing(folder)

        single += [file for file in files if file not in _known]

    def ask(path: str) -> None:
        with suppress(FileNotFoundError):
            stat(path)

    if len(single) == 1:
        ask(single[0])
    elif single:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            list(pool.map(ask, single))


def listing(folder: str) -> list[str]:
    """Addresses of the files in a folder, in no order; what is said of them on the way is remembered.

    Raises:
        FileNotFoundError: There is none.
        StorageError: The storage cannot be reached.
    """

    def ask(fs: Any) -> dict[str, dict]:
        found = fs.ls(folder.rstrip("/"), detail=True)
        return {fs.unstrip_protocol(info["name"]): info for info in found if info["type"] == "file"}

    files = _persist(folder, ask)
    for address, info in files.items():
        if info.get("size") is not None:  # a web server's list has names only
            _known[address] = _stat(address, info)

    return list(files)


def read_ranges(path: str, ranges: list[Range]) -> list[bytes]:
    """Parts of a file: from the cache on this machine if there is one, else all at once from the storage.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The storage cannot be reached.
    """
    member = member_of(path)
    if member is not None:
        path, ranges = member.shard, [(member.offset + begin, member.offset + end) for begin, end in ranges]
        if not is_remote(path):
            return _read_local(path, ranges)

    cached = media_cache()
    keys = [cached.path(path, *stat(path), *part) for part in ranges] if cached else []
    found = {part: data for part, key in zip(ranges, keys) if (data := cached.get(key, part[1] - part[0])) is not None}
    missing = [part for part in dict.fromkeys(ranges) if part not in found]

    def ask(fs: Any) -> None:
        asked = [part for part in missing if part not in found]
        for part, data in zip(asked, _fetch(fs, path, asked)):
            if not isinstance(data, Exception) and len(data) != part[1] - part[0]:
                whole = len(data) > part[1] - part[0]
                data = NoRanges("whole files only: no ranges") if whole else OSError("an answer was cut short")

            found[part] = data

        failed = {part: data for part, data in found.items() if isinstance(data, Exception)}
        for part in failed:
            del found[part]

        if failed:
            raise next(iter(failed.values()))

    if missing:
        _persist(path, ask)

    for part, key in zip(ranges, keys):
        if part in missing:
            cached.put(key, found[part])

    return [found[part] for part in ranges]


def _read_local(path: str, ranges: list[Range]) -> list[bytes]:
    parts = []
    with open(path, "rb") as file:
        for begin, end in ranges:
            file.seek(begin)
            parts.append(file.read(end - begin))
            if len(parts[-1]) != end - begin:
                raise OSError(f"{path}: the file ends at byte {begin + len(parts[-1])}")

    return parts


def read(path: str) -> bytes:
    """A whole file; raises as `read_ranges` does."""
    size = stat(path).size
    return read_ranges(path, [(0, size)])[0] if size else b""


def download(path: str, file: str) -> None:
    """Copy a file from an address to this machine's disk; raises as `read_ranges` does."""
    _persist(path, lambda fs: fs.get_file(path, file))


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A file on this machine's disk: a local one itself, or a copy of a remote one while this lasts, of the same name."""
    if not is_remote(path):
        yield path
        return

    with TemporaryDirectory() as folder:
        copy = os.path.join(folder, path.rpartition("/")[2])
        download(path, copy)
        yield copy


def upload(file: str, path: str) -> None:
    """Copy a file of this machine to an address, where it appears whole; raises `StorageError`."""
    try:
        _persist(path, lambda fs: fs.put_file(file, path))
    except FileNotFoundError:
        raise StorageError(f"{path}: there is no such bucket or repository to write to") from None

    _known.pop(path, None)


class NoRanges(OSError):
    """A web server that sends whole files, whatever it is asked for."""


def _fetch(fs: Any, path: str, ranges: list[Range]) -> list[Any]:
    """Parts of a file, or in their places what went wrong."""
    if fs.async_impl:
        return fs.cat_ranges([path] * len(ranges), *map(list, zip(*ranges)), on_error="return")

    def fetch(part: Range) -> Any:
        try:
            # Its own way reads ahead by megabytes.
            with fs.open(path, "rb", cache_type="none") as file:
                file.seek(part[0])
                return file.read(part[1] - part[0])
        except Exception as err:
            return err

    with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(ranges))) as pool:
        return list(pool.map(fetch, ranges))


def _stat(path: str, info: dict[str, Any]) -> Stat:
    if info.get("size") is None:
        raise StorageError(f"{path}: the server does not say how long it is, so it cannot be read in parts")

    mark = next((str(info[name]).strip('"') for name in MARKS if info.get(name)), "")
    return Stat(int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7]), int(info["size"]))


def _persist(path: str, ask: Callable[[Any], T]) -> T:
    """Ask a storage, again and again if that may help; errors as `read_ranges` has them."""
    if holds_secret(path):
        raise StorageError(NO_SECRETS)

    begin, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return ask(_filesystem(path.partition("://")[0], os.getpid()))
        except Exception as err:
            patience = _patience()
            said = err.__cause__ or err  # fsspec's own words for what a server has answered are fewer
            reason = QUERY.sub(r"\1…", " ".join(f"{type(said).__name__}: {said}".split()))
            status = _status(err)
            if _is_missing(err, status):
                raise FileNotFoundError(f"{path}: no such file") from None

            if isinstance(err, ImportError):
                extra = EXTRAS[path.partition("://")[0]]
                how = f"`pip install 'spacevllm_plugin[{extra}]'`" if extra else reason
                raise StorageError(f"{path}: what reads this is not installed: {how}") from None

            if isinstance(err, PermissionError) or status in (401, 403) or type(err).__name__ == "NoCredentialsError":
                raise StorageError(f"{path}: the storage does not let us in ({reason})") from None

            if getattr(err, "errno", None) in DISK_FULL:
                raise StorageError(f"{path}: cannot be copied to this machine ({reason})") from None

            if isinstance(err, NoRanges) or (status is not None and 400 <= status < 500 and status not in (408, 429)):
                raise StorageError(f"{path}: {reason}") from None

            if time.monotonic() - begin + pause > patience:
                raise StorageError(f"{path}: not reached for {patience:g} seconds ({reason})") from None

        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _patience() -> float:
    """How long a storage that is not reached is asked again, in seconds."""
    given = os.environ.get(VARIABLE)
    try:
        seconds = float(given) if given else SECONDS
    except ValueError:
        seconds = -1.0

    if not seconds >= 0:
        raise StorageError(f"{VARIABLE}={given}: not a number of seconds")

    return seconds


def _status(err: BaseException | None) -> int | None:
    """The HTTP status behind an error, in the words of the different libraries."""
    while err is not None:
        response = getattr(err, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")

        for holder, name in ((err, "status"), (response, "status_code"), (err, "code")):
            status = getattr(holder, name, None)
            if str(status).isdecimal():
                return int(status)

        err = err.__cause__

    return None


def _is_missing(err: Exception, status: int | None) -> bool:
    """A file that is not there; fsspec says the same where a web server is not reached at all, but with a cause."""
    if status is not None:
        return status in (404, 410)

    return isinstance(err, FileNotFoundError) and isinstance(err.__cause__, FileNotFoundError | None)


@cache
def _filesystem(scheme: str, process: int) -> Any:
    """One for each process: a fork must not go on with its parent's connections, nor each thread have its own."""
    import fsspec.asyn

    thread = fsspec.asyn.iothread[0]
    if thread is not None and not thread.is_alive():  # the parent's, which no fork takes along; it would be waited for
        fsspec.asyn.reset_lock()

    if scheme == "gs":  # it logs a stack trace of its own for what is said here in one line
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

    # What it lists it would keep, a kilobyte a file; the hub's knows of no such option.
    options = {} if scheme == "hf" else {"use_listings_cache": False}
    return fsspec.filesystem(scheme, skip_instance_cache=True, **options)
