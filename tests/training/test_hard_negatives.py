"""Hard negatives from rankings that are written by hand."""

import logging

import pytest
from datasets import Dataset

from hf_xlir.data.collators import RetrieverCollator
from hf_xlir.training import hard_negatives
from hf_xlir.training.hard_negatives import mine_hard_negatives


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
    return mine_hard_negatives(questions, passages, rankings, **kwargs)


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
    assert texts(mined[0]["negatives"]) == expected("flow")  # neither the gold nor its copy, whatever their rank
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
    assert len(log) == 1 and log[0].startswith("1 of 4 negatives are random passages, since ranks 0 to 4 held")
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
        ({"passages": PASSAGES.select([0, 1, 0])}, "Two passages have the id `seine`"),
        ({"rankings": {"q1": ["seine"]}}, "`q2` has no ranking"),
        ({"rankings": {**RANKINGS, "q2": ["mars"]}}, r"such as \['mars'\]"),
        ({"rankings": {**RANKINGS, "q2": {"rhone": 1.0}}}, "`q2` must be a list of ids, got dict"),
        ({"num_negatives": 0}, "`num_negatives` must be at least 1, got 0"),
        ({"num_negatives": 4}, "`q1` has 3 wrong passages from rank 0 on, but `num_negatives` is 4"),
        ({"depth": (5, 5)}, "`depth` must be"),
        ({"depth": (-1, 5)}, "`depth` must be"),
    ],
)
def test_errors(changed, message):
    with pytest.raises(ValueError, match=message):
        mine(**changed)
