"""What a prompt says and shows: frames, times, captions, queries, targets and tensors of every kind of medium."""

import copy
import gc
import math
import re

import numpy as np
import pytest
import torch
from conftest import picture, prompt, staq_id, text_of, user, write_image, write_video
from PIL import Image
from transformers.image_utils import SizeDict

from spacevllm_plugin.backbones.qwen3_vl.prompter import Qwen3VLPrompter
from spacevllm_plugin.data.schema import AnnotationRow, Media, Message, Target
from spacevllm_plugin.data.targets import normalise_box, pixel_box, query_targets
from spacevllm_plugin.data.video import MediaError, VideoRef, read
from spacevllm_plugin.modeling.configuration import GroundingOptions
from spacevllm_plugin.modeling.layout import Layout


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files of every kind; picture numbers tell frames of different files apart."""
    folder = tmp_path_factory.mktemp("media")
    frames = [write_image(folder / f"f{number}.png", 70 + number) for number in range(3)]
    return {
        "five": write_video(folder / "five.mp4", 5),
        "two": write_video(folder / "two.mp4", 2, fps=2, first=20),
        "one": write_video(folder / "one.mp4", 1, first=30),
        "twelve": write_video(folder / "twelve.mp4", 12, fps=2),
        "portrait": write_video(folder / "portrait.mp4", 4, width=48, height=80, first=40),
        "vfr": write_video(folder / "vfr.mp4", 4, times=[0, 100, 700, 1500], first=60),
        "clip": VideoRef(str(folder / "five.mp4"), clip=(1, 4)).encode(),
        "frames": frames,
        "fast_frames": VideoRef(frames=tuple(frames), fps=10.0).encode(),
        "image": write_image(folder / "image.png", 90),
        "wide": write_image(folder / "wide.png", 91, width=96, height=48),
    }


def lines_of(engine, item):
    inputs = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
    return [Layout(*line) for line in inputs["staq_layout"].tolist()]


def queries_of(engine, item):
    return [i for i, token in enumerate(item.token_ids) if token == staq_id(engine)]


def captions(engine, item):
    """The caption of every query, as text."""
    texts = []
    for position, line in zip(queries_of(engine, item), lines_of(engine, item), strict=True):
        start = position + line.caption_offset
        texts.append(text_of(engine, item.token_ids[start : start + line.caption_length]))

    return texts


def times_in(engine, item):
    """Frame times as the prompt states them, one list for each video."""
    text = text_of(engine, item.token_ids)
    if engine.prompter.video_suffix(item.videos[0]):
        return [stated.split(",") for stated in re.findall(r"located at ([\d.,s]*)\.", text)]

    return [re.findall(r"<([\d.]+) seconds>", text)]


def is_pairwise(engine):
    return engine.prompter.temporal_patch_size == 2


# (video, native frames, seconds of each, and the same where two frames make one temporal patch)
VIDEOS = {
    "five": ([0, 1, 2, 3, 4], [0, 0.25, 0.5, 0.75, 1.0], [[0, 1], [2, 3], [4, 4]], [0.125, 0.625, 1.0]),
    "one": ([0], [0.0], [[0, 0]], [0.0]),
    "portrait": ([0, 1, 2, 3], [0, 0.25, 0.5, 0.75], [[0, 1], [2, 3]], [0.125, 0.625]),
    "vfr": ([0, 1, 2, 3], [0, 0.1, 0.7, 1.5], [[0, 1], [2, 3]], [0.05, 1.1]),
    "clip": ([1, 2, 3], [0.25, 0.5, 0.75], [[1, 2], [3, 3]], [0.375, 0.75]),
    "frames": ([0, 1, 2], [0, 0.5, 1.0], [[0, 1], [2, 2]], [0.25, 1.0]),
    "fast_frames": ([0, 1, 2], [0, 0.1, 0.2], [[0, 1], [2, 2]], [0.05, 0.2]),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_and_times_of_a_video(engine, media, name):
    item = prompt(engine, "<video>Where is it?", videos=[media[name]])
    frames, seconds, pairs, pair_seconds = VIDEOS[name]
    groups = pairs if is_pairwise(engine) else [[frame] for frame in frames]
    seconds = pair_seconds if is_pairwise(engine) else seconds
    plan = item.videos[0]
    assert plan.groups == groups and plan.seconds == pytest.approx(seconds, abs=1e-3)
    assert all(frame in group for frame, group in zip(plan.frames, groups, strict=True))

    lines = lines_of(engine, item)
    assert len(queries_of(engine, item)) == len(lines) == len(groups)
    assert [line.frame_index for line in lines] == list(range(len(groups)))
    assert {line.num_frames for line in lines} == {len(groups)}
    assert [line.milliseconds for line in lines] == pytest.approx([1000 * moment for moment in seconds], abs=1)
    assert captions(engine, item) == ["Where is it?"] * len(groups)
    pattern = "{:.1f}" if engine.template.mm_plugin.backbone == "qwen3_vl" else "{:.2f}s"
    assert times_in(engine, item) == [[pattern.format(moment) for moment in plan.seconds]]


def test_the_sentence_of_times_counts_what_is_seen_and_tells_how_long_the_clip_is(engine, media):
    if engine.template.mm_plugin.backbone == "qwen3_vl":
        pytest.skip("states times before each frame instead")

    item = prompt(engine, "<video>Where is it?", videos=[media["clip"]])
    count = 2 if is_pairwise(engine) else 3
    assert f"lasts for 0.75 seconds, and {count} frames" in text_of(engine, item.token_ids)


def test_the_right_pictures_reach_the_model(engine, media):
    """Decoded frames are the ones the plan names: every picture of these files differs from every other."""
    for name, number in {"five": 0, "clip": 0, "vfr": 60, "two": 20, "frames": 70}.items():
        plan = prompt(engine, "<video>Where is it?", videos=[media[name]]).videos[0]
        frames = [frame for group in plan.groups for frame in group]
        for frame, image in zip(frames, read(plan.ref, frames), strict=True):
            error = [np.abs(np.asarray(image).astype(int) - picture(number + frame + off)).mean() for off in (0, 1)]
            assert error[0] < 12 and error[1] > 40


def test_llava_frames_are_those_of_its_own_processor(make_engine, media):
    """We resize before the processor, so that small frames can be cached: not a bit may differ."""
    engine = make_engine("llava_onevision")
    item = prompt(engine, "<video>Where is it?", videos=[media["portrait"]])
    (plan,) = item.videos
    ours = engine.prompter.model_inputs([item.token_ids], [[]], [[plan]])["pixel_values"]
    frames = torch.from_numpy(np.stack([np.asarray(image) for image in read(plan.ref, plan.shown)]))
    whole = engine.processor.video_processor(
        videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )
    assert torch.equal(ours, whole["pixel_values_videos"][0])


@pytest.mark.parametrize("backbone", ["qwen3_vl", "qwen2_5_vl"])
def test_qwen_frames_are_those_of_its_own_processor_to_within_a_level(make_engine, media, backbone):
    """Pillow and torchvision round differently: one of 255 levels at most."""
    engine = make_engine(backbone, video_max_pixels=32 * 32)
    plan = prompt(engine, "<video>Where is it?", videos=[media["portrait"]]).videos[0]
    ours = engine.prompter._pictures(plan)
    frames = torch.from_numpy(np.stack([np.asarray(image) for image in read(plan.ref, plan.shown)]))
    own = engine.processor.video_processor
    size = SizeDict(height=ours.shape[2], width=ours.shape[3])
    theirs = own.resize(frames.permute(0, 3, 1, 2), size=size, resample=own.resample)
    assert size != SizeDict(height=plan.height, width=plan.width)
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["twelve", "frames"])
def test_full_size_frames_are_let_go_one_by_one(make_engine, media, monkeypatch, name):
    """128 of them at 1080p would be a gigabyte; no more than one for each decoding thread may be there at once."""
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "2")
    prompter = make_engine("qwen3_vl", video_max_pixels=32 * 32).prompter
    _, (plan,) = prompter.plan([], [media[name]])
    alive, resize = [], type(prompter).resize

    def counted(*args):
        things = gc.get_objects()
        alive.append(sum(type(thing) is Image.Image and thing.size == (48, 48) for thing in things))
        return resize(*args)

    monkeypatch.setattr(type(prompter), "resize", counted)
    assert prompter._pictures(plan).shape == (len(plan.frames), 3, 32, 32)
    assert len(alive) == len(plan.frames) and max(alive) <= 2


def test_long_videos_are_processed_in_pieces_to_the_same_tensors(engine, tmp_path):
    """The processors' intermediate results of all frames at once are many times as large as the frames."""
    videos = [write_video(tmp_path / f"{count}.mp4", count, first=count) for count in (40, 17)]
    _, plans = engine.prompter.plan([], videos)
    frames = [engine.prompter._pictures(plan) for plan in plans]
    ours = engine.prompter.tensors(plans, frames, [engine.prompter.grid(plan) for plan in plans])
    options = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
    whole = [engine.processor.video_processor(videos=[one], **options) for one in frames]
    if "pixel_values" in ours:
        assert torch.equal(ours["pixel_values"], torch.cat([one["pixel_values_videos"][0] for one in whole]))
    else:
        for name in ("pixel_values_videos", "video_grid_thw"):
            assert torch.equal(ours[name], torch.cat([one[name] for one in whole]))


def test_tensors_of_a_row_are_those_of_its_media_in_turn(engine, media):
    item = prompt(engine, "<video>a <image>b <video>c?", [media["image"]], [media["five"], media["two"]])
    whole = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
    parts = []
    for content, images, videos in (
        ("<video>c?", [], [media["five"]]),
        ("<image>c?", [media["image"]], []),
        ("<video>c?", [], [media["two"]]),
    ):
        part = prompt(engine, content, images, videos)
        parts.append(engine.prompter.model_inputs([part.token_ids], [part.images], [part.videos]))

    for name in whole:
        if name == "staq_layout":
            continue

        assert torch.equal(whole[name], torch.cat([part[name] for part in parts if name in part])), name

    keep = [*range(5), 7]  # all but where the caption is
    expected = torch.cat([part["staq_layout"][:, keep] for part in parts])
    assert torch.equal(whole["staq_layout"][:, keep], expected)


def test_two_videos_of_different_lengths_in_one_turn(engine, media):
    item = prompt(engine, "<video>and <video>Which has a dog?", videos=[media["five"], media["two"]])
    counts = [3, 1] if is_pairwise(engine) else [5, 2]
    lines = lines_of(engine, item)
    assert [(line.frame_index, line.num_frames) for line in lines] == [(i, n) for n in counts for i in range(n)]
    assert captions(engine, item) == ["Which has a dog?"] * sum(counts)
    times = times_in(engine, item)
    seconds = [plan.seconds for plan in item.videos]
    assert len(sum(times, [])) == sum(counts)
    assert [float(time.rstrip("s")) for time in sum(times, [])] == pytest.approx(sum(seconds, []), abs=0.051)


def test_two_videos_in_two_turns_each_with_its_own_caption(engine, media):
    messages = [
        user("<video>Where is the dog?"),
        {"role": "assistant", "content": "From 0.0 to 1.0 seconds."},
        user("<video>And where is the cat?"),
    ]
    item = prompt(engine, messages, videos=[media["two"], media["five"]])
    counts = [1, 3] if is_pairwise(engine) else [2, 5]
    first, second = ["Where is the dog?"] * counts[0], ["And where is the cat?"] * counts[1]
    assert captions(engine, item) == first + second


def test_a_later_turn_without_media_leaves_the_caption_alone(engine, media):
    messages = [user("<video>Where is the dog?"), {"role": "assistant", "content": "Here."}, user("Is it brown?")]
    item = prompt(engine, messages, videos=[media["two"]])
    assert set(captions(engine, item)) == {"Where is the dog?"}


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ("<video>Where is it?", "Where is it?"),
        ("<video>\nWhere is it?", "Where is it?"),
        ("<video>\n\nWhere is it?", "Where is it?"),
        ("<video> Where is it?", "Where is it?"),
        ("<video>1. (Where) is it?", "1. (Where) is it?"),
        ("Look at this: <video>Where is it?", "Where is it?"),
        ("Where is it?<video>", "Where is it?"),
        ("Where is it? <video>", "Where is it?"),
        ("Where is it?\n<video>\n", "Where is it?"),
        ("Where is it.<video>", "Where is it."),
        ("<video>", ""),
        (" <video>\n", ""),
    ],
)
@pytest.mark.parametrize("kind", ["video", "image"])
def test_the_caption_is_the_instruction_and_nothing_else(engine, media, content, caption, kind):
    given = {"videos": [media["two"]]} if kind == "video" else {"images": [media["image"]]}
    item = prompt(engine, content.replace("video", kind), **given)
    found = captions(engine, item)
    assert {text.strip() for text in found} == {caption} and len(found) == len(queries_of(engine, item))


def test_the_caption_ends_before_the_answer(engine, media):
    """In training the answer follows in the same row."""
    item = prompt(engine, "<video>Where is it?", videos=[media["two"]])
    answer = engine.processor.tokenizer.encode("From 0.0 to 1.0 seconds.<|im_end|>\n")
    longer = copy.copy(item)
    object.__setattr__(longer, "token_ids", item.token_ids + answer)
    assert lines_of(engine, longer) == lines_of(engine, item)


@pytest.mark.parametrize("backbone", ["llava_onevision", "qwen3_vl", "qwen2_5_vl"])
def test_instruction_first_repeats_it_before_the_video(make_engine, media, backbone):
    engine = make_engine(backbone, instruction_first=True)
    item = prompt(engine, "<video>Where is the dog?", videos=[media["two"]])
    text, first = text_of(engine, item.token_ids), queries_of(engine, item)[0]
    assert text.count("Where is the dog?") == 2
    assert "Where is the dog?" in text_of(engine, item.token_ids[:first])
    assert set(captions(engine, item)) == {"Where is the dog?"}


def test_an_image_and_a_video_in_one_row(engine, media):
    item = prompt(engine, "<image>before <video>Which one?", [media["image"]], [media["two"]])
    lines = lines_of(engine, item)
    assert (lines[0].frame_index, lines[0].num_frames, lines[0].milliseconds) == (-1, 1, 0)
    assert [line.frame_index for line in lines[1:]] == ([0] if is_pairwise(engine) else [0, 1])
    assert set(captions(engine, item)) == {"Which one?"}


def test_text_and_media_rows_share_a_batch(engine, media):
    items = [
        prompt(engine, "How are you?"),
        prompt(engine, "<video>Where?", videos=[media["two"]]),
        prompt(engine, "<image>Where?", images=[media["image"]]),
    ]
    inputs = engine.prompter.model_inputs(
        [item.token_ids for item in items], [item.images for item in items], [item.videos for item in items]
    )
    assert inputs["staq_layout"][:, 0].tolist() == ([0, -1] if is_pairwise(engine) else [0, 1, -1])


# Grids.


def test_grids_follow_the_shape_of_the_picture(engine, media):
    item = prompt(engine, "<video>a <image>b?", [media["wide"]], [media["portrait"]])
    portrait, wide = (engine.prompter.grid(plan) for plan in (item.videos[0], item.images[0]))
    if engine.template.mm_plugin.backbone == "llava_onevision":  # squares, whatever the picture
        assert (portrait.rows, portrait.columns, portrait.stride) == (3, 3, 3)
        assert (wide.rows, wide.columns) == (6, 6)
    else:
        assert (portrait.rows, portrait.columns, portrait.stride) == (5, 3, 3)
        assert (wide.rows, wide.columns) == (3, 6)


@pytest.mark.parametrize("backbone", ["qwen3_vl", "qwen2_5_vl"])
def test_pixel_limits_of_videos_and_images_are_their_own(make_engine, media, backbone):
    engine = make_engine(backbone, video_max_pixels=16 * 16, image_max_pixels=32 * 32)
    item = prompt(engine, "<video>a <image>b?", [media["image"]], [media["two"]])
    sizes = [(line.grid_h, line.grid_w) for line in lines_of(engine, item)]
    assert sizes == [(1, 1)] * (len(sizes) - 1) + [(2, 2)]


def test_llava_video_frames_are_halved_downwards_with_a_newline_a_row(make_engine, media):
    engine = make_engine("llava_onevision", frame_tokens="llava_video")
    item = prompt(engine, "<video>Where?", videos=[media["two"]])
    line = lines_of(engine, item)[0]
    assert (line.grid_h, line.grid_w, line.stride) == (3, 3, 4)
    assert text_of(engine, item.token_ids).count("<video>") == 2 * 3 * 4

    prompter = copy.copy(engine.prompter)
    prompter.processor = copy.copy(engine.processor)
    prompter.processor.num_image_tokens = 27 * 27  # the real SigLIP
    grid = prompter.grid(item.videos[0])
    assert (grid.rows, grid.columns, grid.rows * grid.stride) == (13, 13, 182)
    prompter.grounding = GroundingOptions(frame_tokens="onevision")
    grid = prompter.grid(item.videos[0])
    assert (grid.rows, grid.columns, grid.stride) == (14, 14, 14)


@pytest.mark.parametrize(
    ("sampling", "maxlen", "fps", "frames"),
    [
        ("uniform", 4, 2.0, [0, 4, 7, 11]),
        ("uniform", 1, 2.0, [5]),
        ("fps", 128, 1.0, [0, 2, 4, 7, 9, 11]),
        ("fps", 3, 1.0, [0, 6, 11]),
    ],
)
def test_frame_sampling_covers_the_whole_video(make_engine, media, sampling, maxlen, fps, frames):
    engine = make_engine("llava_onevision", frame_sampling=sampling, video_maxlen=maxlen, video_fps=fps)
    assert prompt(engine, "<video>Where?", videos=[media["twelve"]]).videos[0].frames == frames


def test_a_clip_beyond_the_video_names_the_file(engine, media):
    with pytest.raises(MediaError, match=r"two\.mp4.*holds none of its 2 frames"):
        prompt(engine, "<video>Where?", videos=[VideoRef(media["two"], clip=(7, 9)).encode()])


def test_qwen3_pairs_frames_at_their_mean_time(make_engine, media):
    """The released checkpoints merge two frames, other than the tiny one."""
    engine = make_engine("qwen3_vl")
    processor = copy.deepcopy(engine.processor)
    processor.video_processor.temporal_patch_size = 2
    prompter = Qwen3VLPrompter(processor, engine.prompter.options, GroundingOptions())
    _, (plan,) = prompter.plan([], [media["five"]])
    content = prompter.expand_messages([user("<video>Where?")], [], [plan])[0]["content"]
    assert re.findall(r"<([\d.]+) seconds>", content) == ["0.1", "0.6", "1.0"]
    ids = processor.tokenizer.encode(content)
    inputs = prompter.model_inputs([ids], [[]], [[plan]])
    assert inputs["video_grid_thw"].tolist() == [[3, 6, 6]]
    assert inputs["staq_layout"][:, 7].tolist() == [125, 625, 1000]


# Targets.


def stvg_row(frames, boxes, span, videos=1, images=0, width=48, height=80):
    content = "<image>" * images + "<video>" * videos + "Where?"
    return AnnotationRow(
        id="a",
        task="stvg",
        messages=[Message(role="user", content=content), Message(role="assistant", content="From 0 to 1 seconds.")],
        videos=["v.mp4"] * videos,
        images=["i.png"] * images or None,
        media=Media(width=width, height=height, fps=4.0, num_frames=5),
        target=Target(span_frames=span, span_seconds=(span[0] / 4, span[1] / 4), frames=frames, boxes=boxes),
    )


def test_targets_are_interpolated_normalised_and_inside_the_span_only(engine, media):
    plan = prompt(engine, "<video>Where?", videos=[media["five"]]).videos[0]
    row = stvg_row([1, 3], [(0, 0, 24, 40), (24, 40, 48, 80)], span=(1, 4))
    _, (tube,) = query_targets(row, 0, [plan])
    by_frame = {1: [0.25, 0.25, 0.5, 0.5], 2: [0.5, 0.5, 0.5, 0.5], 3: [0.75, 0.75, 0.5, 0.5]}
    assert len(tube) == len(plan.frames)
    for frame, box in zip(plan.frames, tube):
        assert box == by_frame[frame] if frame in by_frame else all(math.isnan(value) for value in box)


def test_only_the_first_video_has_targets_and_they_come_in_order_of_appearance(engine, media):
    from spacevllm_plugin.integration.dataset import GroundingEncoding

    content = "<image>here, <video>there and <video>Where?"
    item = prompt(engine, content, [media["image"]], [media["five"], media["two"]])
    row = stvg_row([0], [(0, 0, 24, 40)], span=(0, 5), videos=2, images=1)
    images, tubes = query_targets(row, 1, item.videos)
    example = {"_prompt": [user(content)], "_response": [{"role": "assistant", "content": "x"}]}
    flat = torch.tensor(GroundingEncoding._in_order(example, images, tubes)).view(-1, 4)
    first = len(item.videos[0].frames)
    assert len(flat) == len(queries_of(engine, item))
    assert flat.isfinite().all(-1).tolist() == [False] + [True] * first + [False] * len(item.videos[1].frames)
    assert torch.equal(flat[1 : 1 + first], torch.tensor([[0.25, 0.25, 0.5, 0.5]] * first))


def test_a_pairs_target_is_the_box_between_its_two_frames(make_engine, tmp_path):
    """Frames 0 and 4 of a longer video are one patch at frame 2: its target is the box there."""
    engine = make_engine("qwen2_5_vl", video_maxlen=2)
    video = write_video(tmp_path / "v.mp4", 5)
    plan = prompt(engine, "<video>Where?", videos=[video]).videos[0]
    _, (tube,) = query_targets(stvg_row([0, 4], [(0, 0, 24, 40), (24, 40, 48, 80)], span=(0, 5)), 0, [plan])
    assert (plan.groups, plan.frames, plan.seconds) == ([[0, 4]], [2], [0.5])
    assert tube == [[0.5, 0.5, 0.5, 0.5]]


def test_rec_targets_belong_to_the_image_and_qa_has_none(synthetic_set):
    row = synthetic_set.of("rec")
    (box,), _ = query_targets(row, 1, [])
    assert pixel_box(box, 48, 48) == pytest.approx(row.target.boxes[0])
    for other in (synthetic_set.of("qa"), synthetic_set.of("vtg"), None):
        assert all(math.isnan(value) for value in query_targets(other, 1, [])[0][0])


def test_boxes_are_cut_to_the_frame():
    assert normalise_box([-0.4, 20, 48.4, 40], 48, 40) == [0.5, 0.75, 1.0, 0.5]
    assert pixel_box([0.9, 0.5, 0.4, 1.0], 100, 50) == pytest.approx([70, 0, 100, 50])
