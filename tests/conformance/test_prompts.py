"""What a prompt says and shows: frames, times, captions, queries, targets and tensors of every kind of medium."""

import copy
import gc
import math

import numpy as np
import pytest
import torch
from conftest import BACKBONES, picture, prompt, text_of, user, write_video
from PIL import Image
from prompting import captions, is_pairwise, lines_of, queries_of, stvg_row, times_in

from spacevllm_plugin.data.targets import normalise_box, pixel_box, query_targets
from spacevllm_plugin.data.video import MediaError, VideoRef, read


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
def test_frames_and_times_of_a_video(engine, files, name):
    item = prompt(engine, "<video>Where is it?", videos=[files[name]])
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
    pattern = "{:.2f}s" if engine.prompter.video_suffix(plan) else "{:.1f}"
    assert times_in(engine, item) == [[pattern.format(moment) for moment in plan.seconds]]


def test_the_sentence_of_times_counts_what_is_seen_and_tells_how_long_the_clip_is(engine, files):
    item = prompt(engine, "<video>Where is it?", videos=[files["clip"]])
    if not engine.prompter.video_suffix(item.videos[0]):
        pytest.skip("states times before each frame instead")

    count = 2 if is_pairwise(engine) else 3
    assert f"lasts for 0.75 seconds, and {count} frames" in text_of(engine, item.token_ids)


def test_the_right_pictures_reach_the_model(engine, files):
    """Decoded frames are the ones the plan names: every picture of these files differs from every other."""
    for name, number in {"five": 0, "clip": 0, "vfr": 60, "two": 20, "frames": 70}.items():
        plan = prompt(engine, "<video>Where is it?", videos=[files[name]]).videos[0]
        frames = [frame for group in plan.groups for frame in group]
        for frame, image in zip(frames, read(plan.ref, frames), strict=True):
            error = [np.abs(np.asarray(image).astype(int) - picture(number + frame + off)).mean() for off in (0, 1)]
            assert error[0] < 12 and error[1] > 40


@pytest.mark.parametrize("name", ["twelve", "frames"])
def test_full_size_frames_are_let_go_one_by_one(make_engine, files, monkeypatch, name):
    """128 of them at 1080p would be a gigabyte; no more than one for each decoding thread may be there at once."""
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "2")
    prompter = make_engine("qwen3_vl", video_max_pixels=32 * 32).prompter
    _, (plan,) = prompter.plan([], [files[name]])
    alive, resize = [], type(prompter).resize

    def counted(*args):
        things = gc.get_objects()
        alive.append(sum(type(thing) is Image.Image and thing.size == (48, 48) for thing in things))
        return resize(*args)

    monkeypatch.setattr(type(prompter), "resize", counted)
    assert prompter.pictures(plan).shape == (len(plan.frames), 3, 32, 32)
    assert len(alive) == len(plan.frames) and max(alive) <= 2


def test_long_videos_are_processed_in_pieces_to_the_same_tensors(engine, tmp_path):
    """The processors' intermediate results of all frames at once are many times as large as the frames."""
    videos = [write_video(tmp_path / f"{count}.mp4", count, first=count) for count in (40, 17)]
    _, plans = engine.prompter.plan([], videos)
    frames = [engine.prompter.pictures(plan) for plan in plans]
    ours = engine.prompter.tensors(plans, frames, [engine.prompter.grid(plan) for plan in plans])
    options = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
    whole = [engine.processor.video_processor(videos=[one], **options) for one in frames]
    if "pixel_values" in ours:
        assert torch.equal(ours["pixel_values"], torch.cat([one["pixel_values_videos"][0] for one in whole]))
    else:
        for name in ("pixel_values_videos", "video_grid_thw"):
            assert torch.equal(ours[name], torch.cat([one[name] for one in whole]))


def test_tensors_of_a_row_are_those_of_its_media_in_turn(engine, files):
    item = prompt(engine, "<video>a <image>b <video>c?", [files["image"]], [files["five"], files["two"]])
    whole = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
    parts = []
    for content, images, videos in (
        ("<video>c?", [], [files["five"]]),
        ("<image>c?", [files["image"]], []),
        ("<video>c?", [], [files["two"]]),
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


def test_two_videos_of_different_lengths_in_one_turn(engine, files):
    item = prompt(engine, "<video>and <video>Which has a dog?", videos=[files["five"], files["two"]])
    counts = [3, 1] if is_pairwise(engine) else [5, 2]
    lines = lines_of(engine, item)
    assert [(line.frame_index, line.num_frames) for line in lines] == [(i, n) for n in counts for i in range(n)]
    assert captions(engine, item) == ["Which has a dog?"] * sum(counts)
    times = times_in(engine, item)
    seconds = [plan.seconds for plan in item.videos]
    assert len(sum(times, [])) == sum(counts)
    assert [float(time.rstrip("s")) for time in sum(times, [])] == pytest.approx(sum(seconds, []), abs=0.051)


def test_two_videos_in_two_turns_each_with_its_own_caption(engine, files):
    messages = [
        user("<video>Where is the dog?"),
        {"role": "assistant", "content": "From 0.0 to 1.0 seconds."},
        user("<video>And where is the cat?"),
    ]
    item = prompt(engine, messages, videos=[files["two"], files["five"]])
    counts = [1, 3] if is_pairwise(engine) else [2, 5]
    first, second = ["Where is the dog?"] * counts[0], ["And where is the cat?"] * counts[1]
    assert captions(engine, item) == first + second


def test_a_later_turn_without_media_leaves_the_caption_alone(engine, files):
    messages = [user("<video>Where is the dog?"), {"role": "assistant", "content": "Here."}, user("Is it brown?")]
    item = prompt(engine, messages, videos=[files["two"]])
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
def test_the_caption_is_the_instruction_and_nothing_else(engine, files, content, caption, kind):
    given = {"videos": [files["two"]]} if kind == "video" else {"images": [files["image"]]}
    item = prompt(engine, content.replace("video", kind), **given)
    found = captions(engine, item)
    assert {text.strip() for text in found} == {caption} and len(found) == len(queries_of(engine, item))


def test_the_caption_ends_before_the_answer(engine, files):
    """In training the answer follows in the same row."""
    item = prompt(engine, "<video>Where is it?", videos=[files["two"]])
    answer = engine.processor.tokenizer.encode("From 0.0 to 1.0 seconds.<|im_end|>\n")
    longer = copy.copy(item)
    object.__setattr__(longer, "token_ids", item.token_ids + answer)
    assert lines_of(engine, longer) == lines_of(engine, item)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_instruction_first_repeats_it_before_the_video(make_engine, files, backbone):
    engine = make_engine(backbone, instruction_first=True)
    item = prompt(engine, "<video>Where is the dog?", videos=[files["two"]])
    text, first = text_of(engine, item.token_ids), queries_of(engine, item)[0]
    assert text.count("Where is the dog?") == 2
    assert "Where is the dog?" in text_of(engine, item.token_ids[:first])
    assert set(captions(engine, item)) == {"Where is the dog?"}


def test_an_image_and_a_video_in_one_row(engine, files):
    item = prompt(engine, "<image>before <video>Which one?", [files["image"]], [files["two"]])
    lines = lines_of(engine, item)
    assert (lines[0].frame_index, lines[0].num_frames, lines[0].milliseconds) == (-1, 1, 0)
    assert [line.frame_index for line in lines[1:]] == ([0] if is_pairwise(engine) else [0, 1])
    assert set(captions(engine, item)) == {"Which one?"}


def test_text_and_media_rows_share_a_batch(engine, files):
    items = [
        prompt(engine, "How are you?"),
        prompt(engine, "<video>Where?", videos=[files["two"]]),
        prompt(engine, "<image>Where?", images=[files["image"]]),
    ]
    inputs = engine.prompter.model_inputs(
        [item.token_ids for item in items], [item.images for item in items], [item.videos for item in items]
    )
    assert inputs["staq_layout"][:, 0].tolist() == ([0, -1] if is_pairwise(engine) else [0, 1, -1])


@pytest.mark.parametrize(
    ("sampling", "maxlen", "fps", "frames"),
    [
        ("uniform", 4, 2.0, [0, 4, 7, 11]),
        ("uniform", 1, 2.0, [5]),
        ("fps", 128, 1.0, [0, 2, 4, 7, 9, 11]),
        ("fps", 3, 1.0, [0, 6, 11]),
    ],
)
def test_frame_sampling_covers_the_whole_video(make_engine, files, sampling, maxlen, fps, frames):
    engine = make_engine("llava_onevision", frame_sampling=sampling, video_maxlen=maxlen, video_fps=fps)
    assert prompt(engine, "<video>Where?", videos=[files["twelve"]]).videos[0].frames == frames


def test_a_clip_beyond_the_video_names_the_file(engine, files):
    with pytest.raises(MediaError, match=r"two\.mp4.*holds none of its 2 frames"):
        prompt(engine, "<video>Where?", videos=[VideoRef(files["two"], clip=(7, 9)).encode()])


# Targets.


def test_targets_are_interpolated_normalised_and_inside_the_span_only(engine, files):
    plan = prompt(engine, "<video>Where?", videos=[files["five"]]).videos[0]
    row = stvg_row([1, 3], [(0, 0, 24, 40), (24, 40, 48, 80)], span=(1, 4))
    _, (tube,) = query_targets(row, 0, [plan])
    by_frame = {1: [0.25, 0.25, 0.5, 0.5], 2: [0.5, 0.5, 0.5, 0.5], 3: [0.75, 0.75, 0.5, 0.5]}
    assert len(tube) == len(plan.frames)
    for frame, box in zip(plan.frames, tube):
        assert box == by_frame[frame] if frame in by_frame else all(math.isnan(value) for value in box)


def test_only_the_first_video_has_targets_and_they_come_in_order_of_appearance(engine, files):
    from spacevllm_plugin.integration.dataset import GroundingEncoding

    content = "<image>here, <video>there and <video>Where?"
    item = prompt(engine, content, [files["image"]], [files["five"], files["two"]])
    row = stvg_row([0], [(0, 0, 24, 40)], span=(0, 5), videos=2, images=1)
    images, tubes = query_targets(row, 1, item.videos)
    example = {"_prompt": [user(content)], "_response": [{"role": "assistant", "content": "x"}]}
    flat = torch.tensor(GroundingEncoding._in_order(example, images, tubes)).view(-1, 4)
    first = len(item.videos[0].frames)
    assert len(flat) == len(queries_of(engine, item))
    assert flat.isfinite().all(-1).tolist() == [False] + [True] * first + [False] * len(item.videos[1].frames)
    assert torch.equal(flat[1 : 1 + first], torch.tensor([[0.25, 0.25, 0.5, 0.5]] * first))


def test_rec_targets_belong_to_the_image_and_qa_has_none(synthetic_set):
    row = synthetic_set.of("rec")
    (box,), _ = query_targets(row, 1, [])
    assert pixel_box(box, 48, 48) == pytest.approx(row.target.boxes[0])
    for other in (synthetic_set.of("qa"), synthetic_set.of("vtg"), None):
        assert all(math.isnan(value) for value in query_targets(other, 1, [])[0][0])


def test_boxes_are_cut_to_the_frame():
    assert normalise_box([-0.4, 20, 48.4, 40], 48, 40) == [0.5, 0.75, 1.0, 0.5]
    assert pixel_box([0.9, 0.5, 0.4, 1.0], 100, 50) == pytest.approx([70, 0, 100, 50])
