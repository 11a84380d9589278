"""CVAT's XML 1.1: a track for each tube on a video, a box for each image; a task of CVAT is one video, or a set of images."""

import re
from typing import BinaryIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from .base import LABEL, Exporter, TubeRecord, by_medium


ATTRIBUTE = "query"
# What XML 1.0 cannot hold, however it is written.
UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def dump(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write what CVAT calls "CVAT for video 1.1", or for images "CVAT for images 1.1"."""
    first = tubes[0]
    root = Element("annotations")
    _text(root, "version", "1.1")
    _add_meta(root, first, len(by_medium(tubes)) if first.is_image else first.num_frames)
    if first.is_image:
        _add_images(root, tubes)
    else:
        for number, tube in enumerate(tubes):
            if len(tube.tube.frames):
                _add_track(root, number, tube)

    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def _add_meta(root: Element, first: TubeRecord, size: int) -> None:
    meta = SubElement(root, "meta")
    task = SubElement(meta, "task")
    _text(task, "name", "images" if first.is_image else first.name)
    _text(task, "size", size)
    _text(task, "mode", "annotation" if first.is_image else "interpolation")
    _text(task, "start_frame", 0)
    _text(task, "stop_frame", size - 1)
    label = SubElement(SubElement(task, "labels"), "label")
    _text(label, "name", LABEL)
    attribute = SubElement(SubElement(label, "attributes"), "attribute")
    facts = {"name": ATTRIBUTE, "mutable": False, "input_type": "text", "default_value": "", "values": ""}
    for key, value in facts.items():
        _text(attribute, key, value)

    if not first.is_image:
        original = SubElement(task, "original_size")
        _text(original, "width", first.width)
        _text(original, "height", first.height)
        _text(meta, "source", first.name)


def _add_track(root: Element, number: int, tube: TubeRecord) -> None:
    track = SubElement(root, "track", id=str(number), label=LABEL, source="auto")
    for run in tube.tube.runs():
        for frame, box, keyframe in zip(run.frames.tolist(), run.boxes.tolist(), run.keyframes.tolist()):
            _add_box(track, tube.query, box, frame=frame, keyframe=int(keyframe), outside=0)

        # A track of CVAT goes on until it is told to leave.
        behind = int(run.frames[-1]) + 1
        if behind < tube.num_frames:
            _add_box(track, tube.query, run.boxes[-1].tolist(), frame=behind, keyframe=1, outside=1)


def _add_images(root: Element, tubes: list[TubeRecord]) -> None:
    for number, group in enumerate(by_medium(tubes).values()):
        first = group[0]
        image = SubElement(
            root, "image", id=str(number), name=_plain(first.name), width=str(first.width), height=str(first.height)
        )
        for tube in group:
            for box in tube.tube.boxes.tolist():
                _add_box(image, tube.query, box, label=LABEL, source="auto")


def _add_box(parent: Element, query: str, box: list[float], **facts: int | str) -> None:
    corners = {name: f"{value:.2f}" for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box)}
    facts_of_box = {name: str(value) for name, value in facts.items()}
    element = SubElement(parent, "box", **facts_of_box, occluded="0", **corners, z_order="0")
    SubElement(element, "attribute", name=ATTRIBUTE).text = _plain(query)


def _text(parent: Element, name: str, value: object) -> None:
    SubElement(parent, name).text = _plain(str(value))


def _plain(text: str) -> str:
    return UNWRITABLE.sub("\ufffd", text)


CVAT = Exporter("cvat", ".xml", "medium", dump)
