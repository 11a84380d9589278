"""`spacevllm-cli convert`: raw annotations of a public data set into annotation rows."""

import argparse
import inspect
from dataclasses import MISSING, fields
from pathlib import Path

from ..converters import SOURCES, Report, SourceError, convert, summary_path
from ..converters.probing import knowing, wanted
from ..data.output import destination
from ..data.shortened import shortened
from .errors import CommandError
from .outputs import apart_from, check_outputs
from .sharing import add_ray_arguments, retries_of, sharing, tell


# A path, and a case or a parser's reason.
MESSAGE_WIDTH = 500

EXAMPLE = f"spacevllm-cli convert vidstg {SOURCES['vidstg'].example}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a subparser for each source, with the source's own options."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, source in SOURCES.items():
        sub = sources.add_parser(
            name,
            help=inspect.getdoc(source).splitlines()[0].rstrip("."),
            description=inspect.getdoc(source),
            epilog=f"example:\n  spacevllm-cli convert {name} {source.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for f in fields(source):
            required = f.default is MISSING
            sub.add_argument(
                f"--{f.name.replace('_', '-')}",
                dest=f.name,
                required=required,
                default=None if required else f.default,
                **{"help": f.metadata["help"], "type": f.metadata["type"], "choices": f.metadata["choices"]},
            )

        sub.add_argument(
            "--out",
            type=Path,
            required=True,
            metavar="ROWS.jsonl",
            help="annotation rows; ROWS.jsonl.summary.json and an entry in dataset_info.json are written beside it (not "
            "beside a pipe or another stream, such as /dev/stdout)",
        )
        sub.set_defaults(ray=None, ray_workers=None, retries=None)
        if source.probes:
            add_ray_arguments(sub)


def run(args: argparse.Namespace) -> None:
    """Convert and say what became of the items."""
    source_class = SOURCES[args.source]
    options = {f"--{f.name.replace('_', '-')}": getattr(args, f.name) for f in fields(source_class)}
    check_outputs({option: path for option, path in options.items() if isinstance(path, Path)}, {"--out": args.out})
    with apart_from(args.out):
        _convert(source_class, args)


def _convert(source_class: type, args: argparse.Namespace) -> None:
    retries = retries_of(args)
    try:
        source = source_class(**{f.name: getattr(args, f.name) for f in fields(source_class)})
        known = {}
        with sharing(args) as cluster:
            if cluster is not None and (refs := wanted(source)):
                from ..distributed.media import probe_shared

                known = probe_shared(cluster.crew, retries, tell, refs)

        with knowing(known):
            report = convert(source, args.out)
    except SourceError as err:
        raise CommandError(shortened(str(err), MESSAGE_WIDTH)) from None

    print(_table(report))
    if destination(args.out) is not None:
        where = f"{source.dataset} in {args.out.parent / 'dataset_info.json'}"
        print(f"\n{args.out} ({where}); {summary_path(args.out).name}")

    if source.note:
        print(f"note: {source.note}")


def _table(report: Report) -> str:
    summary = report.summary()
    lines = [(name, "", count) for name, count in summary["rows"].items()]
    for part in ("repaired", "dropped"):
        place = next(i for i, line in enumerate(lines) if line[0] == part)
        lines[place + 1 : place + 1] = [("", reason, count) for reason, count in summary[part].items()]

    width = max(len(reason) for _, reason, _ in lines)
    return "\n".join(f"{name:<9} {reason:<{width}} {count:>8}" for name, reason, count in lines)
