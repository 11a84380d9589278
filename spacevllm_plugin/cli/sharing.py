"""`--ray` and its companions: of the commands whose work several processes or machines can share."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from .errors import CommandError, UsageError


if TYPE_CHECKING:
    from ..distributed.cluster import Cluster


RETRIES = 3


def add_ray_arguments(parser: argparse.ArgumentParser, retries: bool = True) -> None:
    """Add them.

    Args:
        parser: The command's.
        retries: Add `--retries`, too; the command has one already if not.
    """
    group = parser.add_argument_group("several processes or machines", "by Ray, from the extra `ray`; see docs/ray.md")
    group.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="share the work through Ray: `auto` finds the cluster that this machine belongs to, without an address one of "
        "this machine alone is started",
    )
    group.add_argument(
        "--ray-workers",
        type=int,
        metavar="N",
        help="processes (default: one for each GPU of the cluster, or for each CPU where GPUs are of no use or not there)",
    )
    if retries:
        group.add_argument(
            "--retries",
            type=int,
            metavar="N",
            help=f"with --ray: further tries of what failed or whose process died (default: {RETRIES})",
        )


@contextmanager
def sharing(args: argparse.Namespace) -> Iterator["Cluster | None"]:
    """The cluster that a command asks for, or None; what goes wrong there ends in one line."""
    if args.ray is None:
        if args.ray_workers is not None:
            raise UsageError("--ray-workers goes with --ray")

        yield None
        return

    if args.ray_workers is not None and args.ray_workers < 1:
        raise UsageError("--ray-workers must be at least 1")

    from ..distributed.cluster import Cluster, ClusterError
    from ..distributed.rounds import Stopped

    try:
        with Cluster(args.ray, args.ray_workers, args.verbose, tell) as cluster:
            yield cluster
    except (ClusterError, Stopped) as err:
        raise CommandError(str(err)) from None


def retries_of(args: argparse.Namespace) -> int:
    """What `--retries` says.

    Raises:
        UsageError: It is below 0, or there is nothing to try again.
    """
    if args.retries is None:
        return RETRIES

    if args.retries < 0 or args.ray is None:
        raise UsageError("--retries must be at least 0" if args.ray else "--retries goes with --ray")

    return args.retries


def tell(line: str) -> None:
    """A line on stderr, beside the progress bar."""
    tqdm.write(line, file=sys.stderr)
