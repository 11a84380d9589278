"""`spacevllm-cli`: one file per command; a command's module is imported only when it is used."""

import argparse
import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from .errors import CommandError, UsageError
from .locations import local_path
from .quiet import add_verbose, quiet


# name -> (module, one line of help)
COMMANDS = {
    "ground": ("ground", "find one sentence in one video; print, save or draw the tube"),
    "demo": ("demo", "serve a page to try a model on: upload, ask, look, correct"),
    "predict": ("predict", "ground every row of a JSONL file; batched, resumable"),
    "evaluate": ("evaluate", "score predictions against annotations"),
    "benchmark": ("benchmark", "convert, predict, score and report one of the eleven benchmarks, or all"),
    "render": ("render", "draw tubes on a video, or as a contact sheet"),
    "export": ("export", "write a model as inference engines (vLLM, SGLang) read it"),
    "serve": ("serve", "answer OpenAI's chat requests with text and tubes, by vLLM or SGLang"),
    "export-tubes": ("export_tubes", "write predicted tubes as COCO, YouTube-VIS, CVAT, Label Studio, mp4, gif"),
    "convert": ("convert", "turn the raw annotations of a public data set into annotation rows"),
    "check": ("check", "check every row and every media file; repair what can be repaired"),
    "pack-media": ("pack_media", "put rows and their media into a few large tar files, which training reads"),
    "synth": ("synth", "write a synthetic grounding data set with known tubes"),
    "make-tiny": ("make_tiny", "write a tiny, randomly initialised checkpoint of a backbone"),
    "unistg": ("unistg", "build STVG data from captions with coarse spans, and the training mixture"),
    "doctor": ("doctor", "say what is installed, what is hooked, and what would not work"),
}


class _Parser(argparse.ArgumentParser):
    """Also of the subcommands: these are of the class of what they belong to."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.register("type", Path, local_path)


def build_parser(command: str) -> argparse.ArgumentParser:
    """The argument parser of one command."""
    module_name, help_line = COMMANDS[command]
    module = importlib.import_module(f".{module_name}", package=__package__)
    parser = _Parser(
        prog=f"spacevllm-cli {command}",
        description=help_line[0].upper() + help_line[1:] + ".",
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    add_verbose(parser)
    parser.set_defaults(run=module.run, verbose=False)
    return parser


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_line}" for name, (_, help_line) in COMMANDS.items()]
    return "usage: spacevllm-cli COMMAND ...\n\n" + "\n".join(lines) + "\n\nspacevllm-cli COMMAND --help says more."


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad usage."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2

    if argv[0] not in COMMANDS:
        print(f"spacevllm-cli: unknown command {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2

    # On a CPU, MKL's sums depend on the number of threads unless it is told before its first one, and so would the last
    # digits of boxes: one process of two threads and two of one must write the same bytes. It costs nothing measurable.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

    from ..data.schema import RowError
    from ..data.video import BackendError, MediaError

    args = build_parser(argv[0]).parse_args(argv[1:])
    try:
        with nullcontext() if args.verbose else quiet():
            args.run(args)
    except (CommandError, RowError, MediaError, BackendError, OSError) as err:
        print(f"spacevllm-cli {argv[0]}: {err}", file=sys.stderr)
        return 2 if isinstance(err, UsageError) else 1
    except (ImportError, RuntimeError, AttributeError) as err:
        from ..trials import explain

        line = explain(err)
        if line is None:
            raise

        print(f"spacevllm-cli {argv[0]}: {line}", file=sys.stderr)
        return 1

    return 0


if __name__ == "__main__":
    sys.exit(main())
