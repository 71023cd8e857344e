"""DPR's token match and SQuAD's normalisation, on literal cases and against the definitions spelled out."""

import collections
import string
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.evaluation import answer_recall_at_k, exact_match, f1_score, has_answer


def plain_tokens(text):
    """Letters, digits and marks run together; other visible characters stand alone; the rest separates."""
    tokens, run = [], ""
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM":
            run += character
            continue
        if run:
            tokens.append(run.lower())
        run = ""
        if kind not in "ZC":
            tokens.append(character.lower())
    return [*tokens, run.lower()] if run else tokens


def plain_has_answer(text, answers):
    words = plain_tokens(text)
    for answer in map(plain_tokens, answers):
        for start in range(len(words) - len(answer) + 1):
            if answer and words[start : start + len(answer)] == answer:
                return True
    return False


class TestHasAnswer:
    @pytest.mark.parametrize(
        ("text", "answers", "expected"),
        [
            ("The tower is in Paris.", ["Paris"], True),
            ("The tower is in Paris.", ["paris"], True),
            ("The tower is in Paris.", ["Lyon", "PARIS"], True),
            ("A Parisian tower", ["Paris"], False),
            ("It is 1,000 m high", ["1,000 m"], True),
            ("It is 1,000 m high", ["1000 m"], False),
            ("It is 1 , 000 m high", ["1,000"], True),
            ("John F. Kennedy spoke", ["John F Kennedy"], False),
            ("John F. Kennedy spoke", ["John F. Kennedy"], True),
            ("caf\u00e9 noir", ["cafe\u0301"], True),
            ("cafe noir", ["caf\u00e9"], False),
            ("서울은 대한민국의 수도이다", ["서울"], False),
            ("서울 은 수도", ["서울"], True),
            ("東京タワー", ["東京"], False),
            ("new\tyork\ncity", ["New York City"], True),
            ("new york", ["york new"], False),
            ("anything", [" "], False),
            ("anything", [""], False),
            ("", ["a"], False),
            ("a \u200b b", ["a b"], True),
            ("$5 and 5$", ["$5"], True),
        ],
    )
    def test_literal(self, text, answers, expected):
        assert has_answer(text, answers) is expected

    @settings(max_examples=300, deadline=None)
    @given(
        st.text(alphabet="aAbé\u0301 .,-ÉßİのД \n\t\u200b1$", max_size=12),
        st.lists(st.text(alphabet="aAbé\u0301 .,-ÉßİのД\n1$", max_size=4), min_size=1, max_size=3),
    )
    def test_equals_definition(self, text, answers):
        assert has_answer(text, answers) == plain_has_answer(text, answers)

    def test_bad_input(self):
        for answers in ("Paris", []):
            with pytest.raises(ValueError, match="list of at least one answer"):
                has_answer("Paris", answers)


class TestAnswerRecall:
    TEXTS = [["no", "Paris here", "Paris"], ["Rome", "no", "no"], [], ["x", "y", "Oslo"]]
    ANSWERS = [["Paris"], ["Rome"], ["Bern"], ["Bergen", "oslo"]]

    def test_literal(self):
        assert answer_recall_at_k(self.TEXTS, self.ANSWERS, k=1) == 0.25
        assert answer_recall_at_k(self.TEXTS, self.ANSWERS, k=2) == 0.5
        assert answer_recall_at_k(self.TEXTS, self.ANSWERS, k=3) == 0.75
        assert answer_recall_at_k(self.TEXTS, self.ANSWERS, k=[3, 1, 50]) == {3: 0.75, 1: 0.25, 50: 0.75}

    def test_default_is_20(self):
        texts = [["no"] * 19 + ["yes"], ["no"] * 20 + ["yes"]]
        assert answer_recall_at_k(texts, [["yes"], ["yes"]]) == 0.5

    def test_bad_input(self):
        with pytest.raises(ValueError, match="got 1 and 2"):
            answer_recall_at_k([["a"]], [["a"], ["b"]])
        with pytest.raises(ValueError, match="at least one"):
            answer_recall_at_k([], [])
        for texts, answers in (([["a"]], [[None]]), ([[None]], [["a"]]), ([[5]], [["a"]])):
            with pytest.raises(ValueError, match="Answers and texts must be strings, got (None|5)"):
                answer_recall_at_k(texts, answers)
        with pytest.raises(ValueError, match="got a string"):
            answer_recall_at_k(["a"], [["a"]])
        for k in (0, [], [5, 0], True, 1.5, [2.0], np.int64(3)):
            with pytest.raises(ValueError, match="`k` must be"):
                answer_recall_at_k([["a"]], [["a"]], k=k)


class TestExactMatchAndF1:
    @pytest.mark.parametrize(
        ("prediction", "answers", "match", "f1"),
        [
            ("Paris", ["Paris"], True, 1.0),
            ("the Paris!", ["paris"], True, 1.0),
            ("  An   apple ", ["apple"], True, 1.0),
            ("theory", ["ory"], False, 0.0),
            ("Paris, France", ["Paris"], False, 2 / 3),
            ("Paris", ["Lyon", "Paris France"], False, 2 / 3),
            ("to be or not to be", ["to be"], False, 0.5),
            ("U.S.", ["us"], True, 1.0),
            ("rock-n-roll", ["rock n roll"], False, 0.0),
            ("東京、", ["東京"], False, 0.0),
            ("a", ["the"], True, 1.0),
            ("", ["Paris"], False, 0.0),
            ("Paris", ["", "x"], False, 0.0),
        ],
    )
    def test_literal(self, prediction, answers, match, f1):
        assert exact_match(prediction, answers) is match
        assert f1_score(prediction, answers) == pytest.approx(f1, abs=1e-12)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.sampled_from(["the", "A", "cat", "cat.", "Dog", "an-t", " "]), max_size=6).map(" ".join),
        st.lists(
            st.lists(st.sampled_from(["the", "cat", "dog!", "ant"]), max_size=5).map(" ".join), min_size=1, max_size=3
        ),
    )
    def test_equals_definition(self, prediction, answers):
        def words(text):
            kept = "".join(character for character in text.lower() if character not in string.punctuation)
            return [word for word in kept.split() if word not in ("a", "an", "the")]

        def f1(first, second):
            if not first or not second:
                return float(first == second)
            counts = collections.Counter(first), collections.Counter(second)
            shared = sum(min(counts[0][word], counts[1][word]) for word in counts[0])
            if shared == 0:
                return 0.0
            precision, recall = shared / len(first), shared / len(second)
            return 2 * precision * recall / (precision + recall)

        predicted = words(prediction)
        assert exact_match(prediction, answers) == any(words(answer) == predicted for answer in answers)
        assert f1_score(prediction, answers) == pytest.approx(max(f1(predicted, words(a)) for a in answers), abs=1e-12)

    def test_bad_input(self):
        for function in (exact_match, f1_score):
            for answers in ("Paris", []):
                with pytest.raises(ValueError, match="list of at least one answer"):
                    function("Paris", answers)
