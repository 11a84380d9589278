"""Which files a benchmark is made of, and how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..converters.base import Source
from ..converters.charades_sta import CharadesSTA
from ..converters.egoschema import EgoSchema
from ..converters.hcstvg import HCSTVG1, HCSTVG2
from ..converters.mvbench import MVBench
from ..converters.refcoco import RefCOCO
from ..converters.tempcompass import KINDS, TempCompass
from ..converters.videomme import VideoMME
from ..converters.vidstg import VidSTG
from ..evaluation import Rules


@dataclass(frozen=True)
class Scoring:
    """One way to score; the first of a benchmark's is its headline."""

    protocol: str = "native"
    rules: Rules = Rules()

    @property
    def name(self) -> str:
        """As it stands in reports."""
        shift, end_shift = self.rules.gt_shift, self.rules.gt_end_shift
        parts = (
            self.protocol,
            f"gt {shift:+d}" if shift else "",
            f"gt end {end_shift:+d}" if end_shift else "",
            "above threshold" if self.rules.strict else "",
        )
        return ", ".join(filter(None, parts))


# HC-STVG's true spans begin and end a frame late in TubeDETR's files; the STCAT family cuts their last frame.
_LATE, _SHORTENED = Rules(gt_shift=1), Rules(gt_end_shift=-1)
_HCSTVG = (
    Scoring(),
    Scoring("tubedetr", _LATE),
    *(Scoring(protocol, _SHORTENED) for protocol in ("stcat", "cgstvg", "tastvg")),
    Scoring("hcstvg"),
    Scoring("stalign"),
)
_VIDSTG = tuple(map(Scoring, ("native", "tubedetr", "stcat", "cgstvg", "tastvg", "stalign")))
_CHARADES = (Scoring(), Scoring(rules=Rules(strict=True)))
_REC = tuple(map(Scoring, ("native", "mdetr", "mattnet", "qwenvl")))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: As in `spacevllm-cli benchmark NAME`.
        task: `stvg`, `vtg`, `rec` or `qa`.
        needs: Files and folders below the data folder without which it cannot run.
        sources: The converters' sources, given the folders `raw` and `media`.
        scorings: How it is scored, the headline first.
    """

    name: str
    task: str
    needs: tuple[str, ...]
    sources: Callable[[Path, Path], list[Source]]
    scorings: tuple[Scoring, ...] = (Scoring(),)

    def missing(self, data_dir: Path) -> list[str]:
        """What of `needs` is not there."""
        return [path for path in self.needs if not (data_dir / path).exists()]


def _refer(name: str, splits: tuple[str, ...]) -> Benchmark:
    return Benchmark(
        name,
        "rec",
        (f"raw/refer/{name}", "media/coco/train2014"),
        lambda raw, media: [RefCOCO(refer_dir=raw / "refer", dataset_name=name, split=split) for split in splits],
        _REC,
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "hcstvg-v1",
            "stvg",
            ("raw/hcstvg1/test.json", "media/hcstvg"),
            lambda raw, media: [HCSTVG1(annotations=raw / "hcstvg1/test.json", split="test")],
            _HCSTVG,
        ),
        Benchmark(
            "hcstvg-v2",
            "stvg",
            ("raw/hcstvg2/valv2.json", "media/hcstvg"),
            lambda raw, media: [HCSTVG2(annotations=raw / "hcstvg2/valv2.json", split="val")],
            _HCSTVG,
        ),
        Benchmark(
            "vidstg",
            "stvg",
            ("raw/vidstg/test_annotations.json", "raw/vidor/validation", "media/vidor"),
            lambda raw, media: [
                VidSTG(annotations=raw / "vidstg/test_annotations.json", boxes=raw / "vidor/validation", split="test")
            ],
            _VIDSTG,
        ),
        Benchmark(
            "charades-sta",
            "vtg",
            ("raw/charades/charades_sta_test.txt", "raw/charades/Charades_v1_test.csv", "media/charades"),
            # Without a media folder: a missing video is then a miss, not one item less in the mean.
            lambda raw, media: [
                CharadesSTA(
                    annotations=raw / "charades/charades_sta_test.txt",
                    lengths=raw / "charades/Charades_v1_test.csv",
                    split="test",
                )
            ],
            _CHARADES,
        ),
        _refer("refcoco", ("val", "testA", "testB")),
        _refer("refcoco+", ("val", "testA", "testB")),
        _refer("refcocog", ("val", "test")),
        Benchmark(
            "mvbench",
            "qa",
            ("raw/mvbench", "media/mvbench"),
            lambda raw, media: [MVBench(annotations=raw / "mvbench", media_dir=media)],
        ),
        Benchmark(
            "videomme",
            "qa",
            ("raw/videomme/test-00000-of-00001.parquet", "media/videomme"),
            lambda raw, media: [VideoMME(annotations=raw / "videomme/test-00000-of-00001.parquet")],
        ),
        Benchmark(
            "tempcompass",
            "qa",
            (*(f"raw/tempcompass/{kind}.json" for kind in KINDS), "media/tempcompass"),
            lambda raw, media: [
                TempCompass(annotations=raw / f"tempcompass/{kind}.json", kind=kind) for kind in KINDS
            ],
        ),
        Benchmark(
            "egoschema",
            "qa",
            ("raw/egoschema/questions.json", "raw/egoschema/subset_answers.json", "media/egoschema"),
            lambda raw, media: [
                EgoSchema(annotations=raw / "egoschema/questions.json", answers=raw / "egoschema/subset_answers.json")
            ],
        ),
    )
}
