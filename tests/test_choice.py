"""Multiple choice: reading the option, counting what could not be read, breaking scores down."""

import pytest

from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow, RowError
from spacevllm_plugin.evaluation import evaluate
from spacevllm_plugin.evaluation.choice import Question, read_choice


ASKED = "<video>What does the man open?\nA. The door.\nB. A red box.\nC. A box.\nD. Nothing.\nAnswer with the letter."


def qa(id="q", truth="B", asked=ASKED, group=None, **tags):
    return AnnotationRow(
        id=id,
        task="qa",
        group=group,
        messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": truth}],
        videos=["v.mp4"],
        tags=tags or None,
    )


def said(text, id="q", **fields):
    return PredictionRow(id=id, text=text, **fields)


def test_options_and_truth():
    expected = {"A": "The door.", "B": "A red box.", "C": "A box."}
    for asked in (
        ASKED,
        "<video>What?\n(A) The door.\n(B) A red box.\n(C) A box.\n(D) Nothing.\nAnswer with the letter.",
    ):
        question = Question.of(qa(asked=asked))
        assert question.truth == "B" and set(question.options) == set("ABCD")
        assert {letter: question.options[letter] for letter in "ABC"} == expected

    assert Question.of(qa(asked="<video>What? A. Door B. Box")).options == {"A": "Door", "B": "Box"}
    assert Question.of(qa(truth="(C) A box.")).truth == "C"
    assert Question.of(qa(asked="<video>Is it red?", truth="Yes")).truth == "yes"


@pytest.mark.parametrize("truth", ["", "F", "the red one", "12.5"])
def test_a_truth_without_a_letter_is_refused(truth):
    with pytest.raises(RowError, match="annotation q: .*letter"):
        Question.of(qa(truth=truth))


@pytest.mark.parametrize(
    "text, letter",
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) A red box", "B"),
        ("**B**", "B"),
        ("B: A red box.", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B) A red box.", "B"),
        ("Answer: B", "B"),
        ("Best option: (C)", "C"),
        ("答案是B。", "B"),
        ("选B", "B"),
        ("He opens the door.", "A"),
        ("a red box", "B"),  # holds option C's text as well, which is a part of it
        ("A box", "C"),  # the article is no letter
        ("I would say D", "D"),
        ("The answer is a red box.", "B"),  # an article, not option A
        ("Answer: A red box.", "B"),
        ("B, because both A and C are wrong", "B"),
        ("The answer is B because A and C are wrong.", "B"),
        ("<think>A? No.</think>The answer is C", "C"),
        ("<answer>D</answer>", "D"),
        # not to be read
        ("", None),
        ("I cannot tell.", None),
        ("E", None),
        ("Either B or C.", None),
        ("A or B", None),
        ("Both A and B", None),
        ("A, B", None),
        ("(A) or (B)", None),
        ("The answer is A or B.", None),
        ("The answer is a dog.", None),
        ("The answer is B. No, the answer is C.", None),
        ("<think>It must be B", None),
        ("A man walks by.", None),
    ],
)
def test_read_choice(text, letter):
    assert read_choice(text, Question.of(qa())) == letter


@pytest.mark.parametrize(
    "text, word",
    [("Yes, it is.", "yes"), ("no", "no"), ("It is: no", "no"), ("Maybe", None), ("yes and no, no", "yes")],
)
def test_read_yes_or_no(text, word):
    assert read_choice(text, Question.of(qa(asked="<video>Is it red?", truth="yes"))) == word


def test_what_cannot_be_read_is_wrong_and_counted():
    rows = [qa(id) for id in "abcde"]
    answers = [said("B", "a"), said("C", "b"), said("hm", "c"), said("", "d", status="failed", error="v.mp4: broken")]
    result = evaluate("qa", rows, answers)
    assert result.counts == {"scored": 2, "missing": 1, "unreadable": 1, "failed": 1}
    assert result.report()["groups"] == {"all": {"n": 5, "accuracy": 0.2}}
    assert result.items[2] == {"id": "c", "group": None, "correct": 0.0, "error": "unreadable"}


def test_breakdown_by_tags():
    rows = [
        qa("a", duration="short", domain="Sports"),
        qa("b", duration="short", domain="News"),
        qa("c", duration="long", domain="News"),
        qa("d"),
    ]
    report = evaluate("qa", rows, [said("B", "a"), said("C", "b"), said("B", "c")]).report()
    assert report["groups"]["all"] == {"n": 4, "accuracy": 0.5}
    assert report["breakdown"] == {
        "duration": {"short": {"n": 2, "accuracy": 0.5}, "long": {"n": 1, "accuracy": 1.0}},
        "domain": {"Sports": {"n": 1, "accuracy": 1.0}, "News": {"n": 2, "accuracy": 0.5}},
    }
