"""BM25 against the formula in a plain loop."""

import math

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.evaluation import rank_by_bm25
from hf_xlir.index.bm25 import words


TEXT = st.lists(st.sampled_from("north south river hill Nile 1876".split()), min_size=1, max_size=6).map(" ".join)


def rank(questions, texts, titles=None, **kwargs):
    passages = {"id": [f"p{i}" for i in range(len(texts))], "text": texts}
    passages |= {"title": titles} if titles else {}
    questions = [{"id": f"q{i}", "question": question} for i, question in enumerate(questions)]
    return rank_by_bm25(questions, Dataset.from_dict(passages), progress=False, **kwargs)


def bm25_by_hand(question, texts, k1, b):
    documents = [text.lower().split() for text in texts]
    mean_length = sum(map(len, documents)) / len(documents)
    scores = {}
    for place, document in enumerate(documents):
        score = 0.0
        for word in question.lower().split():
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            frequency = document.count(word)
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / mean_length))
        if score > 0:
            scores[f"p{place}"] = score
    return scores


@settings(max_examples=50, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=8), st.sampled_from([0.9, 1.5]), st.sampled_from([0.0, 0.4, 1.0]))
def test_scores_by_hand(question, texts, k1, b):
    ranking = rank([question], texts, k1=k1, b=b)
    expected = bm25_by_hand(question, texts, k1, b)
    found = dict(zip(ranking.rankings["q0"], ranking.scores["q0"], strict=True))
    assert found == pytest.approx(expected, rel=1e-5)
    assert ranking.scores["q0"] == sorted(ranking.scores["q0"], reverse=True)


@given(st.integers(1, 7))
def test_of_equal_scores_the_first_passages_are_kept(k):
    texts = ["river hill", "nile", "hill river", "nile river", "river hill", "hill river", "north"]
    ranking = rank(["nile river"], texts, k=k)
    assert ranking.rankings["q0"] == ["p3", "p1", "p0", "p2", "p4", "p5"][:k]


def test_title_counts_and_words_that_nobody_has_do_not():
    ranking = rank(["Who crossed the Nile?", "Xyz?", "!"], ["It flows.", "A river."], titles=["Nile", None])
    assert ranking.rankings == {"q0": ["p0"], "q1": [], "q2": []}
    assert ranking.scores["q1"] == []


def test_words_of_any_script():
    assert words("Mikä on (1876) PÄÄKAUPUNKI?") == ["mikä", "on", "1876", "pääkaupunki"]
    assert words("భారతదేశం রাজধানী") == ["భారతదేశం", "রাজধানী"]  # vowel signs are marks
    assert rank(["東京"], ["東京都", "京都"], tokenize=list).rankings == {"q0": ["p0", "p1"]}


def test_errors():
    for arguments, message in (
        ({"k": 0}, "`k`"),
        ({"k1": -1.0}, "`k1` must be a number from 0"),
        ({"b": 1.5}, "`b` one from 0 to 1, got 0.9 and 1.5"),
        ({"tokenize": lambda text: []}, "No passage has a word"),
    ):
        with pytest.raises(ValueError, match=message):
            rank(["river"], ["river"], **arguments)
    with pytest.raises(ValueError, match="`passages` is empty"):
        rank(["river"], [])
    with pytest.raises(ValueError, match="question `q0` in row 0 has no text"):
        rank([" "], ["river"])
