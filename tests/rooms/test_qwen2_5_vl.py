"""Qwen2.5-VL's positions, by hand."""

import random

import pytest
import torch
from conftest import collate, prompt, write_video
from prompting import stvg_row

from spacevllm_plugin.data.targets import query_targets


def qwen(make_engine, backbone):
    return make_engine(backbone).model


def qwen25_prompt(model, text):
    """Token ids from letters: V video, I image, Q query, anything else text."""
    ids = {"V": model.config.video_token_id, "I": model.config.image_token_id, "Q": model.config.staq_token_id}
    ids["."] = 567  # padding
    return [ids.get(char, 10) for char in text]


def positions_of(model, rows, lines, mask=None):
    input_ids = torch.tensor([qwen25_prompt(model, row) for row in rows])
    mask = None if mask is None else torch.tensor(mask)
    positions, deltas = model.get_rope_index(input_ids, attention_mask=mask, staq_layout=torch.tensor(lines))
    return positions.permute(1, 2, 0), deltas


def frame(index, count, milliseconds, rows=1, columns=2):
    return (index, count, rows, columns, columns, 1, 0, milliseconds)


def test_qwen2_5_positions_by_hand(make_engine):
    """Two tokens a second: frames at 0 and 1.5 s are three steps apart; text goes on behind the largest position."""
    model = qwen(make_engine, "qwen2_5_vl")
    (positions,), deltas = positions_of(model, ["ttVVQVVQtt"], [frame(0, 2, 0), frame(1, 2, 1500)])
    assert positions.tolist() == [
        *([0, 0, 0], [1, 1, 1]),
        *([2, 2, 2], [2, 2, 3], [2, 4, 4]),
        *([5, 2, 2], [5, 2, 3], [5, 4, 4]),
        *([6, 6, 6], [7, 7, 7]),
    ]
    assert deltas.tolist() == [[8 - 10]]


def test_qwen2_5_text_goes_on_behind_a_grid_that_is_wider_than_the_video_is_long(make_engine):
    (positions,), _ = positions_of(
        qwen(make_engine, "qwen2_5_vl"), ["VVVVQVVVVQt"], [frame(0, 2, 0, 1, 4), frame(1, 2, 500, 1, 4)]
    )
    assert positions[9].tolist() == [1, 4, 4] and positions[10].tolist() == [5, 5, 5]


def test_qwen2_5_image_block_ends_as_text_and_its_query_follows(make_engine):
    """`<vision_start>II II<vision_end>Q`: no token may fall back to position 0."""
    (positions,), _ = positions_of(qwen(make_engine, "qwen2_5_vl"), ["ttsIIIIeQt"], [(-1, 1, 2, 2, 2, 1, 0, 0)])
    assert positions[3:].tolist() == [[3, 3, 3], [3, 3, 4], [3, 4, 3], [3, 4, 4], [5, 5, 5], [3, 6, 6], [7, 7, 7]]


def test_qwen2_5_frames_closer_than_a_step_still_get_steps_of_their_own(make_engine):
    """Ten frames a second, then a jump: times never collapse, and real seconds win where they are further apart."""
    times = [0, 100, 200, 300, 4000, 4100]
    lines = [frame(i, 6, time) for i, time in enumerate(times)]
    (positions,), _ = positions_of(qwen(make_engine, "qwen2_5_vl"), ["t" + "VVQ" * 6], lines)
    assert (positions[1::3, 0] - 1).tolist() == [0, 1, 2, 3, 8, 9]


def test_qwen2_5_time_of_a_clip_starts_at_its_first_frame(make_engine):
    lines = [frame(0, 2, 60_000), frame(1, 2, 61_000)]
    (positions,), _ = positions_of(qwen(make_engine, "qwen2_5_vl"), ["tVVQVVQ"], lines)
    assert positions[1::3, 0].tolist() == [1, 3]


def test_qwen2_5_two_videos_each_start_where_the_text_has_come_to(make_engine):
    lines = [frame(0, 2, 0), frame(1, 2, 500), frame(0, 1, 700)]
    (positions,), _ = positions_of(qwen(make_engine, "qwen2_5_vl"), ["VVQVVQttVVQt"], lines)
    assert positions[[0, 3, 6, 7, 8, 10, 11]].tolist() == [
        [0, 0, 0], [1, 0, 0], [3, 3, 3], [4, 4, 4], [5, 5, 5], [5, 7, 7], [8, 8, 8]
    ]  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_qwen2_5_positions_ignore_padding(make_engine, side):
    model = qwen(make_engine, "qwen2_5_vl")
    lines = [frame(0, 2, 0), frame(1, 2, 1500)]
    (alone,), delta = positions_of(model, ["ttVVQVVQtt"], lines)
    padded, mask = ("...", [0] * 3), [1] * 10
    row, mask = (
        ("..." + "ttVVQVVQtt", [0] * 3 + mask) if side == "left" else ("ttVVQVVQtt" + padded[0], mask + padded[1])
    )
    positions, deltas = positions_of(model, [row, "tttVVQtttVVQt"], lines * 2, [mask, [1] * 13])
    assert torch.equal(positions[0][torch.tensor(mask).bool()], alone)
    assert torch.equal(deltas[:1], delta)


@pytest.mark.parametrize("side", ["left", "right"])
def test_qwen2_5_stand_in_image_of_a_batch_without_media_is_ignored(make_engine, side):
    model = qwen(make_engine, "qwen2_5_vl")
    text, stand_in = "tttt", "sIIIIeQ"
    row, mask = (text + stand_in, [1] * 4 + [0] * 7) if side == "right" else (stand_in + text, [0] * 7 + [1] * 4)
    (positions,), deltas = positions_of(model, [row], [(-1, 1, 2, 2, 2, 1, 0, 0)], [mask])
    assert positions[torch.tensor(mask).bool()].tolist() == [[i, i, i] for i in range(4)]
    assert deltas.tolist() == [[0]]


def one_after_the_other(model, text, lines):
    """The same by walking along one prompt without padding."""
    rate = model.config.vision_config.tokens_per_second / 1000
    positions, following, place = [], 0, 0
    origin = offset = first_time = 0
    for index, _, h, w, _, _, _, milliseconds in lines:
        while text[place] not in "VI":
            positions.append([following] * 3)
            following, place = following + 1, place + 1

        if index <= 0:
            origin, offset, first_time = following, 0, milliseconds
        else:
            offset = max(offset + 1, round((milliseconds - first_time) * rate))

        positions += [[origin + offset, origin + y, origin + x] for y in range(h) for x in range(w)]
        place, beyond = place + h * w, origin + max(h, w)
        while text[place] != "Q":
            positions.append([beyond] * 3)
            beyond, place = beyond + 1, place + 1

        positions.append([origin + offset, beyond, beyond])
        following, place = max(following, origin + offset + 1, beyond + 1), place + 1

    rest = range(following, following + len(text) - place)
    return [*positions, *([i] * 3 for i in rest)], following + len(rest) - len(text)


@pytest.mark.parametrize("seed", range(20))
def test_qwen2_5_positions_of_random_prompts_are_those_of_a_walk(make_engine, seed):
    """Batches of rows with videos and images of any size, texts before, between and behind, padded on either side."""
    model, draw = qwen(make_engine, "qwen2_5_vl"), random.Random(seed)
    rows, lines = [], []
    for _ in range(draw.randint(1, 4)):
        text, own = "t" * draw.randint(0, 3), []
        for _ in range(draw.randint(0, 3)):
            h, w = draw.randint(1, 5), draw.randint(1, 5)
            if draw.random() < 0.5:
                text += "I" * (h * w) + "e" * draw.randint(0, 2) + "Q"
                own.append((-1, 1, h, w, w, 1, 0, 0))
            else:
                count, time = draw.randint(1, 6), draw.randint(0, 10_000)
                for i in range(count):
                    text += "t" * draw.choice([0, 0, 0, 2, 9]) + "V" * (h * w) + "Q"
                    own.append((i, count, h, w, w, 1, 0, time))
                    time += draw.choice([40, 250, 500, 1733, 6000])

            text += "t" * draw.randint(0, 8)

        if own:
            rows.append((text, own))
            lines += own

    if not rows:
        pytest.skip("no medium was drawn")

    longest, padded, masks = max(len(text) for text, _ in rows), [], []
    for text, _ in rows:
        missing = longest - len(text)
        before = draw.choice([0, missing])
        padded.append("." * before + text + "." * (missing - before))
        masks.append([0] * before + [1] * len(text) + [0] * (missing - before))

    positions, deltas = positions_of(model, padded, lines, masks)
    for (text, own), mask, found, delta in zip(rows, masks, positions, deltas.tolist()):
        expected, expected_delta = one_after_the_other(model, text, own)
        assert found[torch.tensor(mask).bool()].tolist() == expected
        assert delta == [expected_delta]


def test_qwen2_5_positions_of_real_prompts_never_fall_back(make_engine, prompts):
    """Along a prompt, the positions reached by text only grow, and no two tokens share all three numbers."""
    engine = make_engine("qwen2_5_vl")
    for name in ("video", "image", "mixed", "turns"):
        inputs = collate(engine, [prompts(engine)[name]])
        positions, _ = engine.model.get_rope_index(inputs["input_ids"], staq_layout=inputs["staq_layout"])
        rows = [tuple(row) for row in positions[:, 0].T.tolist()]
        assert len(set(rows)) == len(rows)
        text = [row[0] for row in rows if len(set(row)) == 1]
        assert text == sorted(text)


def test_a_pairs_target_is_the_box_between_its_two_frames(make_engine, tmp_path):
    """Frames 0 and 4 of a longer video are one patch at frame 2: its target is the box there."""
    engine = make_engine("qwen2_5_vl", video_maxlen=2)
    video = write_video(tmp_path / "v.mp4", 5)
    plan = prompt(engine, "<video>Where?", videos=[video]).videos[0]
    _, (tube,) = query_targets(stvg_row([0, 4], [(0, 0, 24, 40), (24, 40, 48, 80)], span=(0, 5)), 0, [plan])
    assert (plan.groups, plan.frames, plan.seconds) == ([[0, 4]], [2], [0.5])
    assert tube == [[0.5, 0.5, 0.5, 0.5]]
