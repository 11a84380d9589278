"""Tubes to export, what they should be, and readers that know each format's rules but nothing of how we write it."""

import csv
import json
from itertools import pairwise
from xml.etree import ElementTree

from spacevllm_plugin.data.schema import PredictionRow
from spacevllm_plugin.exporters import TubeRecord


QUERY = "the man in <red> & “blue”"


def record(name="a", span=(2, 8), boxes=None, media="videos/v.mp4", count=12, status="ok", clip=None):
    """A prediction on a video of `count` frames of 100 x 80 pixels, boxes by frame; without a span where it is None."""
    boxes = {0: (0, 0, 20, 20), 5: (30, 10, 60, 40), 11: (50, 30, 90, 70)} if boxes is None else boxes
    prediction = PredictionRow(
        id=name,
        text="From 1.0 to 4.0 seconds.",
        status=status,
        span_frames=span,
        span_seconds=None if span is None else (span[0] / 2, span[1] / 2),
        frames=list(boxes),
        boxes=list(boxes.values()),
    )
    return TubeRecord(name, QUERY, media, 100, 80, prediction, fps=2.0, num_frames=count, clip=clip)


def image_record(name="i", box=(10, 5, 60, 50.25), media="images/i.png"):
    boxes = {"frames": [0], "boxes": [box]} if box else {}
    return TubeRecord(name, QUERY, media, 100, 80, PredictionRow(id=name, text="Here.", **boxes))


def between(first, last, part):
    return [a + part * (b - a) for a, b in zip(first, last)]


def expected(tube):
    """Box by native frame: straight lines between the predicted ones, held at the ends, cut to the picture."""
    prediction = tube.prediction
    if prediction.status != "ok" or not prediction.frames:
        return {}

    start, end = (0, 1) if tube.is_image else prediction.span_frames or (0, 0)
    known = dict(zip(prediction.frames, prediction.boxes))
    found = {}
    for frame in range(max(start, tube.frame_range[0]), min(end, tube.frame_range[1])):
        before = max((k for k in known if k <= frame), default=min(known))
        after = min((k for k in known if k >= frame), default=max(known))
        part = 0 if before == after else (frame - before) / (after - before)
        box = between(known[before], known[after], part)
        box = [min(max(value, 0), limit) for value, limit in zip(box, (tube.width, tube.height) * 2)]
        if round(box[0], 2) < round(box[2], 2) and round(box[1], 2) < round(box[3], 2):
            found[frame] = box

    return found


def corners(x, y, width, height):
    return [x, y, x + width, y + height]


def read_csv(file):
    tubes = {}
    with open(file, encoding="utf-8", newline="") as text:
        for line in csv.DictReader(text):
            box = [float(line[name]) for name in ("x1", "y1", "x2", "y2")]
            tubes.setdefault(line["id"], {})[int(line["frame"])] = box

    return tubes


def read_coco(file):
    from pycocotools.coco import COCO

    coco = COCO(str(file))
    tracks = {track["id"]: track["tube_id"] for track in coco.dataset["tracks"]}
    tubes = {}
    for image_id in coco.getImgIds():
        (image,) = coco.loadImgs(image_id)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            frames = tubes.setdefault(tracks[annotation["track_id"]], {})
            assert image["frame_index"] not in frames
            frames[image["frame_index"]] = corners(*annotation["bbox"])
            assert coco.annToMask(annotation).shape == (image["height"], image["width"])

    return tubes


def read_youtube_vis(file):
    data = json.loads(file.read_text())
    videos = {video["id"]: video for video in data["videos"]}
    categories = {category["id"] for category in data["categories"]}
    tubes = {}
    for annotation in data["annotations"]:
        video = videos[annotation["video_id"]]
        lists = [annotation[name] for name in ("bboxes", "areas", "segmentations")]
        assert {video["length"]} == {len(video["file_names"]), *map(len, lists)}
        assert all(len({value is None for value in values}) == 1 for values in zip(*lists))
        assert annotation["category_id"] in categories and annotation["iscrowd"] == 0
        first = int(video["file_names"][0].rpartition("/")[2][:-4]) if video["length"] > 1 else 0
        boxes = {first + n: corners(*box) for n, box in enumerate(annotation["bboxes"]) if box is not None}
        tubes[annotation["tube_id"]] = boxes

    return tubes


def read_cvat(file, names):
    """By its keyframes alone, as CVAT's server reads it: linear in between, held until `outside`."""
    root = ElementTree.parse(file).getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    size = int(root.findtext("meta/task/size"))
    labels = {label.findtext("name") for label in root.iter("label")}
    tubes = {}
    for track in root.iter("track"):
        assert track.get("label") in labels
        boxes = [(int(box.get("frame")), box) for box in track.iter("box")]
        assert all(a < b for (a, _), (b, _) in pairwise(boxes))
        keys = [(frame, box) for frame, box in boxes if box.get("keyframe") == "1"]
        found = {}
        for (frame, box), (after, following) in pairwise([*keys, (size, keys[-1][1])]):
            if box.get("outside") == "0":
                target = cvat_corners(box) if following.get("outside") == "1" else cvat_corners(following)
                for number in range(frame, after):
                    found[number] = between(cvat_corners(box), target, (number - frame) / (after - frame))

        # The others say the same.
        shown = {frame: cvat_corners(box) for frame, box in boxes if box.get("outside") == "0"}
        assert shown.keys() == found.keys()
        assert all(close(shown[frame], found[frame], 0.011) for frame in shown)
        tubes[names[int(track.get("id"))]] = found

    for number, image in enumerate(root.iter("image")):
        for box in image.iter("box"):
            tubes[names[number]] = {0: cvat_corners(box)}

    return tubes


def cvat_corners(box):
    return [float(box.get(name)) for name in ("xtl", "ytl", "xbr", "ybr")]


def read_label_studio(file, size=(100, 80)):
    """As its editor plays it: linear to the next keyframe, gone behind one that is not enabled; frames from 1."""
    tubes = {}
    for task in json.loads(file.read_text()):
        names = {tube["region"]: tube["id"] for tube in task["data"]["tubes"]}
        for region in task["predictions"][0]["result"]:
            value, found = region["value"], {}
            for here, after in pairwise([*value.get("sequence", [{"frame": 1, **value}]), None]):
                box = pixels(here, size)
                found[here["frame"] - 1] = box
                if here.get("enabled", False):
                    steps = after["frame"] - here["frame"]
                    for step in range(1, steps):
                        found[here["frame"] - 1 + step] = between(box, pixels(after, size), step / steps)

            tubes[names[region["id"]]] = found

    return tubes


def pixels(value, size):
    x, y, width, height = (value[name] * side / 100 for name, side in zip(("x", "y", "width", "height"), size * 2))
    return corners(x, y, width, height)


def close(a, b, slack=0.0151):
    return all(abs(x - y) <= slack for x, y in zip(a, b))


def thin(box):
    """Whether rounding decides if this is a box at all."""
    return min(box[2] - box[0], box[3] - box[1]) < 0.03


def same(found, tubes):
    """Whether what was read is the tubes that there are, frame by frame, to the formats' hundredth of a pixel."""
    wanted = {tube.id: expected(tube) for tube in tubes}
    assert found.keys() <= wanted.keys()
    for name, boxes in wanted.items():
        read = found.get(name, {})
        assert all(thin({**boxes, **read}[frame]) for frame in boxes.keys() ^ read.keys()), name
        assert all(close(read[frame], boxes[frame]) for frame in boxes.keys() & read.keys()), name

    return True
