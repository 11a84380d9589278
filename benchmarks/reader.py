"""Our video reader against LLaMA-Factory's own reading loop: seconds for 64 uniform frames of a clip.

`python benchmarks/reader.py [--out reader.json]` makes H.264 clips (x264's defaults, three B-frames) of 10, 60 and 300
seconds at 360p and 720p with a keyframe every 12, 48 and 250 frames, and reads each with both sides in turn in one run,
with one and with two decoding threads on our side (LLaMA-Factory leaves the threads to PyAV, which decodes such files
with one). Neither side resizes. Both start from a closed file: our side's `probe` is timed too. The pictures of both
sides are compared.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from spacevllm_plugin.data.video import VideoRef, probe, read
from spacevllm_plugin.data.video.backends import BACKENDS, BackendError, choose
from spacevllm_plugin.data.video.backends import VARIABLE as BACKEND
from spacevllm_plugin.data.video.backends.threads import VARIABLE as THREADS
from spacevllm_plugin.data.video.index_store import recent


FPS, FRAMES = 25, 64
SIZES = {360: (640, 360), 720: (1280, 720), 1080: (1920, 1080)}


def scene(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Smooth noise that pans, a square of noise that moves over it, and grain: (height, width, 3) uint8."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8)
    wall = np.asarray(Image.fromarray(small).resize((2 * width, height), Image.BICUBIC))
    grain = rng.integers(-6, 7, (4, height, width, 1), dtype=np.int16)
    side = height // 4
    square = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
    for number in range(count):
        left = 3 * number % width
        picture = np.clip(wall[:, left : left + width] + grain[number % 4], 0, 255).astype(np.uint8)
        x = round((width - side) * (0.5 + 0.5 * np.sin(number / 20)))
        y = round((height - side) * (0.5 + 0.5 * np.cos(number / 13)))
        picture[y : y + side, x : x + side] = square
        yield picture


def encode(path: Path, height: int, gop: int) -> None:
    """About ten seconds in whole closed groups of pictures."""
    options = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "crf": "26"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = SIZES[height]
        stream.pix_fmt = "yuv420p"
        for picture in scene(*SIZES[height], 10 * FPS // gop * gop):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))

        output.mux(stream.encode(None))


def repeat(segment: Path, path: Path, seconds: int) -> None:
    """Write the packets of a segment over and over, to the first keyframe after `seconds`: no encoding of minutes."""
    with av.open(str(segment)) as source, av.open(str(path), "w") as output:
        given = source.streams.video[0]
        packets = [packet for packet in source.demux(given) if packet.dts is not None]
        stream = output.add_stream_from_template(given)
        written, tick = 0, packets[0].duration
        while True:
            for number, packet in enumerate(packets):
                if packet.is_keyframe and written >= seconds * FPS:
                    return

                copy = av.Packet(bytes(packet))
                shift = (written - number) * tick
                copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
                copy.is_keyframe, copy.time_base, copy.stream = packet.is_keyframe, packet.time_base, stream
                output.mux(copy)
                written += 1


def lf_reader() -> Callable[[str], list[Image.Image]]:
    """LLaMA-Factory's loop with the options that make it take 64 uniform frames and resize none."""
    from llamafactory.data.mm_plugin import get_mm_plugin

    plugin = get_mm_plugin("llava_next_video", video_token="<video>")
    options = {"video_fps": float(FPS), "video_maxlen": FRAMES, "image_max_pixels": 2**40, "image_min_pixels": 1}
    return lambda path: plugin._regularize_videos([path], **options)["videos"][0]


def our_reader(backend: str, threads: int) -> Callable[[str], list[Image.Image]]:
    """The same frames through our reader, with nothing remembered of the file."""

    def use(path: str) -> list[Image.Image]:
        os.environ[BACKEND], os.environ[THREADS] = backend, str(threads)
        recent.clear()
        ref = VideoRef(path)
        last = probe(ref).timeline.num_frames - 1
        return list(read(ref, np.linspace(0, last, FRAMES).astype(np.int32).tolist()))

    return use


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reader.json"), help="JSON (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts (default: %(default)s)")
    parser.add_argument("--heights", type=int, nargs="+", choices=SIZES, default=[360, 720])
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 60, 300])
    parser.add_argument("--gops", type=int, nargs="+", default=[12, 48, 250])
    args = parser.parse_args()

    sides = {"llamafactory": lf_reader(), "pyav, 1 thread": our_reader("pyav", 1), "pyav": our_reader("pyav", 2)}
    for name in BACKENDS[1:]:
        try:
            choose(name)
            sides[name] = our_reader(name, 2)
        except BackendError as err:
            print(err)

    results = []
    print(
        f"seconds (CPU seconds), and how many times faster than LLaMA-Factory; two threads unless said\n{'':16}",
        end="",
    )
    print("".join(f"{name:>26}" for name in sides))
    with tempfile.TemporaryDirectory() as folder:
        for height in args.heights:
            for gop in args.gops:
                segment, clip = Path(folder, "segment.mp4"), Path(folder, "clip.mp4")
                encode(segment, height, gop)
                for seconds in args.seconds:
                    repeat(segment, clip, seconds)
                    results.append(measure(sides, clip, args.repeats, height, gop, seconds))

    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(sides: dict, clip: Path, repeats: int, height: int, gop: int, seconds: int) -> dict:
    """Time all sides in turn, `repeats` times, and print a line of medians."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    reference: list[bytes] = []
    largest = 0
    for turn in range(repeats):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            images = side(str(clip))
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            if turn == 0:
                pixels = [np.asarray(image).astype(np.int16) for image in images]
                reference = reference or pixels
                largest = max(largest, *(int(np.abs(a - b).max()) for a, b in zip(reference, pixels, strict=True)))

    line, result = f"{height}p {seconds:3} s /{gop:3} ", {"height": height, "seconds": seconds, "gop": gop}
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values))
        ratio = statistics.median(lf[0] / own[0] for lf, own in zip(times["llamafactory"], values))
        result[name] = {"seconds": wall, "cpu_seconds": cpu, "ratio": ratio}
        line += f"{wall:9.2f} ({cpu:6.2f}) {ratio:6.1f}x"

    result["largest_pixel_difference"] = largest
    print(line, f"  pixels differ by at most {largest}", flush=True)
    return result


if __name__ == "__main__":
    main()
