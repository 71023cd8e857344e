"""Hard negatives from rankings that are written by hand."""

import logging
import math

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.data import RetrieverCollator
from hf_xlir.evaluation import RankedPassages
from hf_xlir.training import hard_negatives
from hf_xlir.training.hard_negatives import _Choice, _choose_negatives, mine_hard_negatives


TEXTS = {
    "seine": "Paris lies on the Seine.",
    "copy": "Paris lies on the Seine.",
    "flow": "The Seine flows north.",
    "rhone": "Lyon lies on the Rhône.",
    "tiber": "Rome lies on the Tiber.",
    "spree": "Berlin lies on the Spree.",
}
PASSAGES = Dataset.from_dict({"id": list(TEXTS), "title": ["River"] * len(TEXTS), "text": list(TEXTS.values())})
QUESTIONS = Dataset.from_list(
    [
        {"id": "q1", "question": "Joki?", "answers": ["seine"], "lang": "fi", "passage_ids": ["seine"], "fact": 1},
        {"id": "q2", "question": "Fluss?", "answers": ["Spree"], "lang": "de", "passage_ids": ["spree"], "fact": 2},
    ]
)
RANKINGS = {
    "q1": ["flow", "seine", "copy", "tiber", "rhone"],  # an answer, the gold, its copy, then two that are wrong
    "q2": ["rhone", "spree", "flow", "tiber"],
}


def texts(passages):
    return [passage["text"] for passage in passages]


def expected(*ids):
    return [TEXTS[id] for id in ids]


def mine(questions=QUESTIONS, rankings=RANKINGS, passages=PASSAGES, **kwargs):
    return mine_hard_negatives(questions, passages, rankings, progress=False, **kwargs)


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(hard_negatives, "logger", logging.Logger("test"))
    monkeypatch.setattr(hard_negatives.logger, "warning", lines.append)
    return lines


def test_best_ranked_wrong_passages_in_order(log):
    mined = mine(num_negatives=2)
    assert mined.column_names == ["id", "lang", "query", "positive", "negatives"]
    assert mined["query"][:] == ["Joki?", "Fluss?"]
    assert mined["lang"][:] == ["fi", "de"]
    assert mined[0]["positive"] == {"title": "River", "text": TEXTS["seine"]}
    assert texts(mined[0]["negatives"]) == expected("tiber", "rhone")
    assert texts(mined[1]["negatives"]) == expected("rhone", "flow")
    assert log == []


def test_passages_with_an_answer_may_stay():
    mined = mine(exclude_answers=False)
    assert texts(mined[0]["negatives"]) == expected("flow")  # neither the gold nor its copy
    assert mine(QUESTIONS.remove_columns("answers"), exclude_answers=False)[:] == mined[:]


def test_every_gold_passage_is_left_out_and_the_first_is_the_positive():
    questions = QUESTIONS.map(lambda row: {"passage_ids": ["spree", "rhone"]})
    mined = mine(questions)
    assert mined[0]["positive"]["text"] == TEXTS["spree"]
    assert texts(mined[1]["negatives"]) == expected("flow")


def test_depth():
    assert texts(mine(depth=(4, 5))[0]["negatives"]) == expected("rhone")
    assert texts(mine(depth=(1, 3))[1]["negatives"]) == expected("flow")


def test_random_passages_fill_up(log):
    mined = mine(depth=(0, 4), num_negatives=2)
    first, second = texts(mined[0]["negatives"])
    assert first == TEXTS["tiber"]
    assert second in expected("rhone", "spree")  # not the gold, its copy, the answer, or the one that it has
    assert len(log) == 1 and log[0].startswith("1 of 4 negatives")
    assert texts(mined[1]["negatives"]) == expected("rhone", "flow")


def test_random_passages_are_not_above_the_depth():
    for seed in range(10):  # only "spree" is wrong and ranks below "tiber" and "rhone", or not at all
        assert texts(mine(depth=(5, 6), seed=seed)[0]["negatives"]) == expected("spree")


def test_random_passages_repeat_and_depend_on_nothing_but_seed_and_question():
    rankings = {"q1": [], "q2": []}
    rows = [mine(rankings=rankings, seed=seed)[:]["negatives"] for seed in range(8)]
    assert rows == [mine(rankings=rankings, seed=seed)[:]["negatives"] for seed in range(8)]
    assert len({str(row) for row in rows}) > 1
    alone = mine(QUESTIONS.select([1]), rankings, seed=3)
    assert alone[0]["negatives"] == rows[3][1]


SCORES = {"q1": {"flow": 9.0, "seine": 8.0, "copy": 8.0, "tiber": 7.0, "rhone": 4.0}}
SCORES["q2"] = {"tiber": -4.5, "rhone": -1.0, "spree": -4.0, "flow": -4.0}  # not in order


def ranked_passages():
    scores = {id: dict(sorted(of_id.items(), key=lambda pair: -pair[1])) for id, of_id in SCORES.items()}
    return RankedPassages(
        {id: list(of_id) for id, of_id in scores.items()}, {id: list(of_id.values()) for id, of_id in scores.items()}
    )


@pytest.mark.parametrize("rankings", [SCORES, ranked_passages()])
def test_scores_rank_too(rankings):
    mined = mine(rankings=rankings, num_negatives=2)
    assert texts(mined[0]["negatives"]) == expected("tiber", "rhone")
    assert texts(mined[1]["negatives"]) == expected("rhone", "flow")


@pytest.mark.parametrize("rankings", [SCORES, ranked_passages()])
@pytest.mark.parametrize(
    ("margins", "first", "second"),
    [
        ({"absolute_margin": 0.0}, "tiber", "flow"),  # flow and spree, the gold, have one score
        ({"absolute_margin": 0.5}, "tiber", "tiber"),
        ({"absolute_margin": 1.5}, "rhone", None),
        ({"relative_margin": 0.125}, "tiber", "tiber"),  # 8 - 1 and -4 - 0.5
        ({"relative_margin": 0.2}, "rhone", None),
        ({"relative_margin": 0.125, "absolute_margin": 1.5}, "rhone", None),
        ({"relative_margin": 0.2, "absolute_margin": 0.5}, "rhone", None),
    ],
)
def test_margins_to_the_positives_score(log, rankings, margins, first, second):
    mined = mine(rankings=rankings, **margins)
    assert texts(mined[0]["negatives"]) == expected(first)
    # where no ranked passage is far enough, a random one that is not ranked: for q2 "seine" or its copy
    assert texts(mined[1]["negatives"]) == expected(second or "seine")
    assert len(log) == (second is None)


def test_no_ranked_passage_is_below_a_positive_that_is_not_ranked():
    rankings = {**SCORES, "q1": {"tiber": 7.0, "rhone": 4.0}}
    assert texts(mine(rankings=rankings)[0]["negatives"]) == expected("tiber")
    for seed in range(5):  # what is left is wrong and not ranked
        mined = mine(rankings=rankings, absolute_margin=0.0, seed=seed, depth=(0, 1))
        assert texts(mined[0]["negatives"]) == expected("spree")


def test_random_negatives_within_the_depth():
    questions = QUESTIONS.map(lambda row: {"passage_ids": ["copy"], "answers": ["Oslo"]})
    rankings = dict.fromkeys(["q1", "q2"], ["copy", "flow", "seine", "tiber", "rhone", "spree"])
    sampled = [mine(questions, rankings, sampling="random", depth=(0, 5), seed=seed) for seed in range(20)]
    for question in (0, 1):
        drawn = [texts(mined[question]["negatives"])[0] for mined in sampled]
        assert set(drawn) == set(expected("flow", "tiber", "rhone"))  # "seine" is a copy of the gold
    assert any(mined[0]["negatives"] != mined[1]["negatives"] for mined in sampled)
    again = mine(questions, rankings, sampling="random", depth=(0, 5), seed=7)
    assert again[:] == sampled[7][:]


IDS = [f"p{i}" for i in range(12)]
# four texts are copies of four others, and every third has the answer
COPIED = [f"{'Oslo ' * (i % 3 == 0)}text {i if i < 8 else i - 8}" for i in range(12)]


@given(
    st.lists(st.sampled_from(IDS), unique=True),
    st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=3),
    st.integers(0, 6),
    st.integers(1, 8),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, 0.0, 1.5]),
)
def test_negatives_are_what_a_plain_loop_finds(ranking, gold, start, length, number, exclude, margin):
    scores = {id: float(len(ranking) - place) for place, id in enumerate(ranking)}
    questions = Dataset.from_list([{"id": "q", "question": "?", "answers": ["oslo"], "passage_ids": gold}])
    passages = Dataset.from_dict({"id": IDS, "text": COPIED})
    text_of_id = dict(zip(IDS, COPIED, strict=True))

    def is_wrong(id):
        is_copy = text_of_id[id] in [text_of_id[other] for other in gold]
        return not is_copy and not (exclude and "Oslo" in text_of_id[id])

    def is_far(id):
        return margin is None or scores[id] <= scores.get(gold[0], -math.inf) - margin

    wanted = [id for id in ranking[start : start + length] if is_wrong(id) and is_far(id)][:number]
    low = [id for id in IDS if id not in ranking[: start + length] and is_wrong(id)]
    low = [id for id in low if id not in scores or is_far(id)]
    choice = _Choice(number, (start, start + length), absolute_margin=margin, exclude_answers=exclude)
    if len(wanted) + len(low) < number:
        with pytest.raises(ValueError, match=f"has {len(wanted) + len(low)} wrong passages"):
            _choose_negatives(questions, passages, {"q": scores}, choice, progress=False)
        return
    (found,) = _choose_negatives(questions, passages, {"q": scores}, choice, progress=False)
    assert found[: len(wanted)] == wanted and len(found) == number == len(set(found))
    assert set(found[len(wanted) :]) <= set(low)


def test_rows_fit_the_collator():
    class Processor:
        def process_queries(self, texts, warn):
            return {"texts": texts}

        def process_documents(self, texts, titles):
            return {"texts": [f"{title}: {text}" for title, text in zip(titles, texts, strict=True)]}

    batch = RetrieverCollator(Processor())(list(mine()))
    assert batch["queries"]["texts"] == ["Joki?", "Fluss?"]
    assert batch["documents"]["texts"] == [f"River: {text}" for text in expected("seine", "tiber", "spree", "rhone")]


def test_titles_are_optional_and_teacher_queries_are_kept():
    questions = QUESTIONS.add_column("teacher_query", ["River of Paris?", "River of Berlin?"])
    mined = mine(questions, passages=PASSAGES.remove_columns("title"))
    assert mined["teacher_query"][:] == ["River of Paris?", "River of Berlin?"]
    assert mined[0]["positive"] == {"title": "", "text": TEXTS["seine"]}


def test_reordered_datasets():
    mined = mine(QUESTIONS.select([1, 0]), passages=PASSAGES.select(range(5, -1, -1)), num_negatives=2)
    assert mined["id"][:] == ["q2", "q1"]
    assert texts(mined[1]["negatives"]) == expected("tiber", "rhone")


def change(**values):
    return QUESTIONS.map(lambda row: values if row["id"] == "q2" else {}, features=QUESTIONS.features)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"questions": change(passage_ids=[])}, "`q2` has no gold passage"),
        ({"questions": change(answers=[])}, "`q2` has no answers.*exclude_answers=False"),
        ({"questions": change(passage_ids=["moon"])}, r"1 ids .* not in `passages`, such as \['moon'\]"),
        ({"questions": QUESTIONS.select([])}, "`questions` is empty"),
        ({"questions": QUESTIONS.remove_columns("answers")}, r"`questions` lacks the columns \['answers'\]"),
        ({"questions": list(QUESTIONS)}, "`questions` must be a `datasets.Dataset`, got list"),
        ({"passages": PASSAGES.select([])}, "`passages` is empty"),
        ({"passages": PASSAGES.select([0, 1, 0])}, "Two records have the id `seine`"),
        ({"rankings": {"q1": ["seine"]}}, "`q2` has no ranking"),
        ({"rankings": {**RANKINGS, "q2": ["mars"]}}, r"such as \['mars'\]"),
        ({"rankings": {**RANKINGS, "q2": "rhone"}}, "`q2`.*got str"),
        ({"rankings": {**RANKINGS, "q2": {"rhone": float("nan")}}}, "`q2` has a score that is NaN"),
        ({"rankings": {**RANKINGS, "q2": ["flow", "tiber", "flow"]}}, "`q2` names the passage `flow` twice"),
        ({"absolute_margin": 0.1}, "`q1` has no scores, which a margin needs"),
        ({"rankings": RankedPassages(RANKINGS, {}), "relative_margin": 0.1}, "`q1` has no scores"),
        ({"absolute_margin": -1.0}, "`absolute_margin`.*got -1.0"),
        ({"relative_margin": float("nan")}, "`relative_margin`.*got nan"),
        ({"sampling": "first"}, "`sampling`.*got 'first'"),
        ({"num_negatives": 0}, "`num_negatives`.*got 0"),
        ({"num_negatives": 4}, "`q1` has 3 wrong passages.*num_negatives=4"),
        ({"depth": (5, 5)}, "`depth` must be"),
        ({"depth": (-1, 5)}, "`depth` must be"),
    ],
)
def test_errors(changed, message):
    with pytest.raises(ValueError, match=message):
        mine(**changed)
