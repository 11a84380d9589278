"""Where queries, their visual tokens and their captions are found, and which embedding a query gets."""

import pytest
import torch

from spacevllm_plugin.modeling.layout import Layout, index_queries
from spacevllm_plugin.modeling.queries import STAQEmbedding


def layout(*lines):
    """Lines of (frame, frames, rows, columns, stride, caption offset, caption length, milliseconds)."""
    return Layout.unpack(torch.tensor(lines))


def find(rows, lines, box_targets=None):
    """Index prompts written as strings: V a visual token, Q a query, anything else text."""
    is_query, is_visual = (torch.tensor([[char == kind for char in row] for row in rows]) for kind in "QV")
    return index_queries(is_query, is_visual, layout(*lines), box_targets)


def visual_of(index, query):
    return index.visual[query][index.visual_mask[query]].tolist()


def caption_of(index, query):
    captions = [(row, tokens[mask]) for row, tokens, mask in zip(*index[-4:-1])]
    row, tokens = [one for one, count in zip(captions, index.queries_per_caption) for _ in range(count)][query]
    assert row == index.row[query]
    return tokens.tolist()


def test_one_frame_by_hand():
    index = find(["ttVVVVVVQccct"], [(0, 1, 2, 3, 3, 1, 3, 0)])
    assert (index.row.tolist(), index.position.tolist()) == ([0], [8])
    assert visual_of(index, 0) == [2, 3, 4, 5, 6, 7]
    assert caption_of(index, 0) == [9, 10, 11]
    expected = [(1 / 6, 1 / 4), (3 / 6, 1 / 4), (5 / 6, 1 / 4), (1 / 6, 3 / 4), (3 / 6, 3 / 4), (5 / 6, 3 / 4)]
    assert torch.allclose(index.centers[0], torch.tensor(expected))


def test_a_query_owns_the_frame_before_it_and_all_share_the_caption():
    index = find(["VVVVQ<s>VVVVQtcc"], [(0, 2, 2, 2, 2, 10, 2, 0), (1, 2, 2, 2, 2, 2, 2, 500)])
    assert [visual_of(index, query) for query in (0, 1)] == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert [caption_of(index, query) for query in (0, 1)] == [[14, 15], [14, 15]]


def test_newline_tokens_are_not_part_of_the_grid():
    """A newline a row (stride beyond the columns), then one newline behind the whole grid."""
    index = find(["tVVVVVVQcc"], [(0, 1, 2, 2, 3, 1, 2, 0)])
    assert visual_of(index, 0) == [1, 2, 4, 5]
    assert index.centers[0].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert visual_of(find(["tVVVVVQcc"], [(0, 1, 2, 2, 2, 1, 2, 0)]), 0) == [1, 2, 3, 4]


def test_ragged_grids_of_an_image_and_two_videos_in_one_row():
    row = "tVVVVVVQtVVQVVQttVVVQcccc"  # a 2 x 3 image, two frames of 1 x 2, one frame of 3 x 1
    lines = [(-1, 1, 2, 3, 3, 14, 4, 0), (0, 2, 1, 2, 2, 10, 4, 0), (1, 2, 1, 2, 2, 7, 4, 9), (0, 1, 3, 1, 1, 1, 4, 0)]
    index = find([row], lines)
    assert index.position.tolist() == [7, 11, 14, 20]
    assert [visual_of(index, query) for query in range(4)] == [[1, 2, 3, 4, 5, 6], [9, 10], [12, 13], [17, 18, 19]]
    assert all(caption_of(index, query) == [21, 22, 23, 24] for query in range(4))
    assert torch.allclose(index.centers[3, :3], torch.tensor([[0.5, 1 / 6], [0.5, 3 / 6], [0.5, 5 / 6]]))
    assert index.visual_mask.sum(-1).tolist() == [6, 2, 2, 3]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_only_moves_the_positions(side):
    """Lines of `staq_layout` do not know of padding, so the same ones serve both sides; the second row needs none."""
    short, long = "VVQVVQcc", "tttVVVVQtttccc"
    fill = "." * (len(long) - len(short))
    padded = fill + short if side == "left" else short + fill
    lines = [(0, 2, 1, 2, 2, 4, 2, 0), (1, 2, 1, 2, 2, 1, 2, 500), (-1, 1, 2, 2, 2, 4, 3, 0)]
    index, move = find([padded, long], lines), len(fill) if side == "left" else 0
    assert index.row.tolist() == [0, 0, 1] and index.position.tolist() == [2 + move, 5 + move, 7]
    assert [visual_of(index, query) for query in (0, 1)] == [[move, 1 + move], [3 + move, 4 + move]]
    assert caption_of(index, 0) == caption_of(index, 1) == [6 + move, 7 + move]
    assert visual_of(index, 2) == [3, 4, 5, 6] and caption_of(index, 2) == [11, 12, 13]


def test_a_query_without_caption_has_none():
    index = find(["VVQ"], [(0, 1, 1, 2, 2, 1, 0, 0)])
    assert not index.caption_mask.any() and index.caption.shape == (1, 1)


def test_each_caption_is_listed_once_whatever_the_number_of_its_queries():
    """Two turns of two frames each, and a second row."""
    rows = ["VQVQcctVQVQttccc", ".VQccVQccc......"]
    lines = [
        (i % 2, 2, 1, 1, 1, start, length, 0) for i, (start, length) in enumerate([(3, 2), (1, 2), (5, 3), (3, 3)])
    ]
    lines += [(0, 1, 1, 1, 1, 1, 2, 0), (0, 1, 1, 1, 1, 1, 3, 0)]
    index = find(rows, lines)
    assert index.caption_row.tolist() == [0, 0, 1, 1] and index.queries_per_caption == [2, 2, 1, 1]
    assert index.caption[index.caption_mask].tolist() == [4, 5, 13, 14, 15, 3, 4, 7, 8, 9]
    assert [caption_of(index, query) for query in (1, 2, 4)] == [[4, 5], [13, 14, 15], [3, 4]]


@pytest.mark.parametrize(
    ("with_target", "wanted"), [([3], [2, 3, 4]), ([0, 4], [0, 1, 2, 3, 4]), ([1], [0, 1]), ([], [0])]
)
def test_only_rows_with_a_target_are_looked_at_where_targets_are_given(with_target, wanted):
    """Whole rows, as the presence loss needs the frames without a box; one query where there is nothing at all."""
    rows = ["tVQVVQcc.", "VQVQVQccc"]
    lines = [(0, 2, 1, 1, 1, 4, 2, 0), (1, 2, 1, 2, 2, 1, 2, 0)]
    lines += [(0, 3, 1, 1, 1, 5, 3, 0), (1, 3, 1, 1, 1, 3, 3, 0), (2, 3, 1, 1, 1, 1, 3, 0)]
    targets = torch.full((5, 4), torch.nan)
    targets[with_target] = 0.5
    every, index = find(rows, lines), find(rows, lines, targets)
    assert index.line.tolist() == wanted and every.line.tolist() == [0, 1, 2, 3, 4]
    assert index.row.tolist() == every.row[wanted].tolist()
    assert index.position.tolist() == every.position[wanted].tolist()
    for query, same in enumerate(wanted):
        assert visual_of(index, query) == visual_of(every, same)
        assert caption_of(index, query) == caption_of(every, same)
        assert torch.equal(
            index.centers[query][index.visual_mask[query]], every.centers[same][every.visual_mask[same]]
        )


def test_a_caption_may_stand_before_the_query():
    assert caption_of(find(["ccctVVQ"], [(0, 1, 1, 2, 2, -6, 3, 0)]), 0) == [0, 1, 2]


def test_layout_and_prompt_must_agree():
    with pytest.raises(ValueError, match="2 query tokens in the batch but 1 lines in staq_layout"):
        find(["VQVQ"], [(0, 1, 1, 1, 1, 1, 0, 0)])


def numbered_embedding(rows):
    """Row i holds (i, -i), and the image row (1000, -1000): what comes out tells where it came from."""
    embedding = STAQEmbedding(rows, 2)
    values = torch.tensor([*range(rows), 1000], dtype=torch.float32)
    embedding.weight.data = torch.stack([values, -values], dim=-1)
    return embedding


def rows_of(embedding, frames, count):
    embedded = embedding(layout(*[(frame, count, 1, 1, 1, 1, 0, 0) for frame in frames]))
    assert torch.equal(embedded[:, 0], -embedded[:, 1])
    return embedded[:, 0].tolist()


@pytest.mark.parametrize("count", [1, 5, 8])
def test_frame_i_gets_row_i_however_many_frames_there_are(count):
    assert rows_of(numbered_embedding(8), range(count), count) == list(range(count))


def test_an_image_gets_the_last_row():
    assert rows_of(numbered_embedding(8), [-1], 1) == [1000]
    assert rows_of(numbered_embedding(1), [-1, 0], 1) == [1000, 0]


def test_more_frames_than_rows_resample_linearly_from_the_first_row_to_the_last():
    embedding = numbered_embedding(4)
    assert rows_of(embedding, range(7), 7) == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    for count in (5, 6, 10, 97, 128, 1000):
        rows = rows_of(embedding, range(count), count)
        assert rows[0] == 0 and rows[-1] == 3  # exactly: never a part of the image's row
        assert rows == pytest.approx([3 * frame / (count - 1) for frame in range(count)], abs=1e-4)


def test_a_crowded_video_leaves_its_neighbours_in_the_batch_alone():
    lines = [(0, 2), (1, 2), (4, 9), (8, 9), (-1, 1)]
    embedded = numbered_embedding(3)(layout(*[(frame, count, 1, 1, 1, 1, 0, 0) for frame, count in lines]))
    assert embedded[:, 0].tolist() == [0, 1, 1, 2, 1000]


def test_resampling_trains_both_neighbours():
    embedding = numbered_embedding(3)
    embedding(layout((1, 5, 1, 1, 1, 1, 0, 0))).sum().backward()
    assert embedding.weight.grad[:, 0].tolist() == [0.5, 0.5, 0, 0]
