"""What a reader learns to write: the target, or another of the answers each epoch."""

import pytest
from datasets import Dataset

from hf_xlir.data import READER_EXAMPLE_FEATURES
from hf_xlir.training.rows import answer_rows


CTXS = [{"id": "1", "title": "T", "text": "a", "score": 1.0}]


def example(place, target=None, answers=()):
    named = {"id": str(place), "question": f"q{place}", "target": target, "answers": list(answers), "lang": ""}
    return {**named, "ctxs": CTXS}


def records(*rows):
    return Dataset.from_list(list(rows), features=READER_EXAMPLE_FEATURES)


def targets(rows, epoch):
    rows.epoch = epoch
    return [row["target"] for row in rows.__getitems__(range(len(rows)))]


def test_a_row():
    rows = answer_rows(records(example(0, "t", ["a", "b"]), example(1, "", ["a"]), example(2, None, ["c"])))
    rows.epoch = 0
    assert rows[0] == {"question": "q0", "ctxs": CTXS, "target": "t"}
    assert targets(rows, 3) == ["t", "", "c"]


def test_answers_are_drawn_anew_each_epoch_and_again_with_a_seed():
    examples = records(*(example(place, None, "abcd") for place in range(200)))
    rows = answer_rows(examples, seed=1)
    drawn = [targets(rows, epoch) for epoch in range(3)]
    assert targets(rows, 0) == drawn[0] == targets(answer_rows(examples, seed=1), 0)
    assert targets(answer_rows(examples, seed=2), 0) != drawn[0]
    for of_epoch in drawn:
        assert all(30 <= of_epoch.count(answer) <= 75 for answer in "abcd")
    same = sum(one == other for one, other in zip(drawn[0], drawn[1], strict=True))
    assert 25 <= same <= 80  # of 200 with four answers each, 50 by chance


def test_nothing_to_learn():
    rows = records(example(0, "t"), example(1), example(2))
    with pytest.raises(
        ValueError, match="2 of 3 questions have neither `target` nor `answers`, the first of them `1`"
    ):
        answer_rows(rows)


class TestSubstitution:
    @staticmethod
    def rows(*rows, share=1.0, seed=0):
        made = answer_rows(records(*rows), seed, substituted=share)
        made.epoch = 0
        return made

    @staticmethod
    def row(place, answers, *texts, target=None, title="T"):
        ctxs = [{"id": str(number), "title": title, "text": text, "score": None} for number, text in enumerate(texts)]
        return {**example(place, target, answers), "ctxs": ctxs}

    def test_in_passages_and_target(self):
        paris = self.row(0, ["Paris"], "Paris is old. Paris, too.", "No Parisian.", title="Paris")
        rome = self.row(1, ["Rome"], "In ROME.")
        seen = set()
        for seed in range(10):
            row = self.rows(paris, rome, seed=seed)[0]
            seen.add(row["target"])
            texts = [(ctx["title"], ctx["text"]) for ctx in row["ctxs"]]
            new = row["target"]
            assert texts == [(new, f"{new} is old. {new}, too."), (new, "No Parisian.")]
            assert [ctx["id"] for ctx in row["ctxs"]] == ["0", "1"] and row["question"] == "q0"
        assert seen == {"Paris", "Rome"}
        assert self.rows(paris, rome)[1] == {"question": "q1", "ctxs": rome["ctxs"], "target": "Rome"}  # not found
        assert paris["ctxs"][0]["text"] == "Paris is old. Paris, too."

    def test_all_names_of_an_answer(self):
        first = self.row(0, ["U.S.", "U.S. of America"], "The U.S. of America (U.S.)")
        row = self.rows(first, self.row(1, ["X"], "."), seed=3)[0]
        assert [ctx["text"] for ctx in row["ctxs"]] == [f"The {row['target']} ({row['target']})"]

    def test_like_for_like(self):
        kinds = [["1914", "7"], ["Rome", "Oslo"], ["gold", "salt"], ["New York", "Old York"], ["東京", "大阪"]]
        made = [self.row(place, [answer], f"It is {answer}.") for place, answer in enumerate(sum(kinds, []))]
        for seed in range(10):
            for place, row in enumerate(self.rows(*made, seed=seed).__getitems__(range(10))):
                found = next(kind for kind in kinds if row["target"] in kind)
                assert found == kinds[place // 2] or {place // 2, kinds.index(found)} == {2, 4}  # words without cases
                assert row["ctxs"][0]["text"] == f"It is {row['target']}."

    def test_letters_without_cases_stick_together(self):
        row = self.rows(self.row(0, ["東京"], "首都は東京です。"), self.row(1, ["大阪"], "."), seed=1)[0]
        assert row["ctxs"][0]["text"] == f"首都は{row['target']}です。"

    def test_a_target_is_what_is_exchanged(self):
        other = self.row(1, ["unused"], ".", target="Rome")
        targets = {
            self.rows(self.row(0, [], "Oslo.", target="Oslo"), other, seed=seed)[0]["target"] for seed in range(9)
        }
        assert targets == {"Oslo", "Rome"}

    @pytest.mark.parametrize("blank", ["", "  ", "\u200b"])
    def test_blank_answers_take_no_part(self, blank):
        """Neither in the place of an answer, where a passage could be left without text, nor as what is replaced."""
        gold, both = self.row(0, ["gold"], "gold"), self.row(1, [blank, "salt"], "It  is salt.")
        nothing = self.row(2, [], "It is gold.", target=blank)
        drawn = [self.rows(gold, both, nothing, seed=seed).__getitems__(range(3)) for seed in range(30)]
        assert {row["target"] for row, _, _ in drawn} == {"gold", "salt"}
        assert all(row["ctxs"][0]["text"] == row["target"] for row, _, _ in drawn)
        assert {row["target"] for _, row, _ in drawn} == {blank, "gold", "salt"}
        assert {row["ctxs"][0]["text"] for _, row, _ in drawn} == {"It  is salt.", "It  is gold."}
        assert all(row["target"] == blank and row["ctxs"] == nothing["ctxs"] for _, _, row in drawn)

    def test_share(self):
        made = [self.row(place, [f"Name{place}"], f"Name{place}") for place in range(400)]
        for share, low, high in ((0.0, 0, 0), (0.25, 70, 130), (1.0, 396, 400)):
            rows = self.rows(*made, share=share).__getitems__(range(400))
            changed = sum(row["target"] != f"Name{place}" for place, row in enumerate(rows))
            assert low <= changed <= high
            assert all(row["ctxs"][0]["text"] == row["target"] for row in rows)

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_no_share(self, share):
        with pytest.raises(ValueError, match=f"`substituted` is a share from 0 to 1, got {share}"):
            self.rows(example(0, "t"), share=share)
