"""`spacevllm-cli benchmark`: a benchmark from raw files to its report."""

import argparse
import sys
from functools import cache, partial
from pathlib import Path

from .errors import CommandError, UsageError
from .loading import add_model_arguments, check_model, load, parse_arguments
from .outputs import check_outputs
from .sharing import add_ray_arguments, retries_of, sharing, tell


EXAMPLE = (
    "spacevllm-cli benchmark hcstvg-v1 --model out/merged --data-dir data --out results/hcstvg-v1\n"
    "  torchrun --nproc-per-node 8 --no-python spacevllm-cli benchmark all --model out/merged --data-dir data --out results"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from ..scoreboard import BENCHMARKS

    parser.add_argument("name", choices=[*BENCHMARKS, "all"], metavar="NAME", help=f"{', '.join(BENCHMARKS)}, or all")
    add_model_arguments(parser)
    parser.add_argument(
        "--data-dir",
        type=Path,
        required=True,
        metavar="D",
        help="folder with `raw` and `media`, laid out as data_info/README.md has it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="R",
        help="folder of the run: rows, predictions, report.json, report.md, pictures (`all`: a folder for each "
        "benchmark in it); run again to go on",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="rows at once (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N rows only, for a trial")
    add_ray_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run one benchmark, or all that are found."""
    from ..scoreboard import BENCHMARKS
    from ..scoreboard.ranks import join

    if args.limit is not None and args.limit < 1 or args.batch_size < 1:
        raise UsageError("--limit and --batch-size take numbers above 0")

    check_outputs(folders={"--out": args.out})
    if args.name != "all" and (missing := BENCHMARKS[args.name].missing(args.data_dir)):
        raise CommandError(f"{args.name}: not in {args.data_dir}: {', '.join(missing)}")

    retries = retries_of(args)
    ranks = join()
    try:
        if args.ray is not None and ranks.world > 1:
            raise UsageError("--ray starts processes of its own: leave torchrun out")

        with sharing(args) as cluster:
            if cluster is None:
                shared = {"engine": cache(partial(load, args))}
            else:
                check_model(args)
                hire = partial(cluster.crew, use_gpus=True)
                engine = partial(load, args)
                shared = {"engine": engine, "hire": hire, "retries": retries, "tell": tell}

            if args.name == "all":
                _run_all(args, ranks, shared)
            else:
                _print_report(_run_one(args, ranks, args.name, args.out, **shared), args.out)
    finally:
        ranks.leave()


def _run_one(args: argparse.Namespace, ranks, name: str, out: Path, engine, **crew) -> dict | None:
    from ..converters import SourceError
    from ..scoreboard import BENCHMARKS, Run
    from ..scoreboard.settings import Settings, SettingsError

    settings = Settings(
        model=args.model,
        adapter=args.adapter,
        arguments=parse_arguments(args.arg),
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        limit=args.limit,
    )
    try:
        return Run(BENCHMARKS[name], settings, args.data_dir, out, ranks, **crew)(engine)
    except (SourceError, SettingsError) as err:
        raise CommandError(f"{name}: {err}") from None


def _print_report(report: dict | None, out: Path) -> None:
    if report is not None:
        from ..scoreboard.overview import overview_table

        print(overview_table([report]))
        print(", ".join(f"{name} {count}" for name, count in report["counts"].items()) + f": {out / 'report.md'}")


def _run_all(args: argparse.Namespace, ranks, shared: dict) -> None:
    from ..scoreboard import BENCHMARKS
    from ..scoreboard.overview import write_overview

    missing = {name: paths for name, b in BENCHMARKS.items() if (paths := b.missing(args.data_dir))}
    found = [name for name in BENCHMARKS if name not in missing]
    if ranks.first:
        for name, paths in missing.items():
            print(f"{name}: not run, {', '.join(paths)} missing in {args.data_dir}", file=sys.stderr)

    if not found:
        raise CommandError(f"no benchmark's data in {args.data_dir}")

    reports, failed = [], {}
    for name in found:
        try:
            reports.append(_run_one(args, ranks, name, args.out / name, **shared))
        except CommandError as err:
            # The other processes are waiting at this benchmark: they cannot be told to go on with the next.
            if ranks.world > 1:
                raise

            failed[name] = str(err).removeprefix(f"{name}: ")
            print(f"{name}: {failed[name]}", file=sys.stderr)

    if ranks.first:
        print(write_overview(reports, missing, failed, args.out))

    if failed:
        raise CommandError(f"{len(failed)} of {len(found)} benchmarks stopped: {', '.join(failed)}")
