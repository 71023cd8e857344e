import collections

import pytest
from datasets import Dataset

from hf_xlir.data import READER_EXAMPLE_FEATURES, load_mini_world
from hf_xlir.training import answer_rows
from support.answer_substitution import AnswerSubstitution, split_sentences, substitute_answers


PASSAGES = Dataset.from_list(
    [
        {"id": "fr", "title": "France", "text": "France is in Europe. Its capital is Paris. People say it is pretty."},
        {"id": "fi", "title": "Finland", "text": "Finland is in Europe. Its capital is Helsinki. It has many lakes."},
        {"id": "jj", "title": "J. J. Thomson", "text": "J. J. Thomson found the electron. He was born in 1856."},
    ]
)
QUESTIONS = Dataset.from_list(
    [
        {"question": "Capital of France?", "answers": ["Paris"], "lang": "en", "passage_ids": ["fr"]},
        {"question": "프랑스의 수도는?", "answers": ["Paris"], "lang": "ko", "passage_ids": ["fr"]},
        {"question": "Unanswerable?", "answers": ["Tokyo"], "lang": "en", "passage_ids": ["fi"]},
        {"question": "No passage?", "answers": ["Paris"], "lang": "en", "passage_ids": []},
    ]
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two!  Three? four", ["One.", "Two!", "Three?", "four"]),
        ("J. J. Thomson found it. In 1897.", ["J. J. Thomson found it.", "In 1897."]),
        ("It costs 3.50 in all.", ["It costs 3.50 in all."]),
        ("", [""]),
    ],
)
def test_split_sentences(text, sentences):
    found = split_sentences({"title": "T", "text": text})
    assert found == [{"title": "T", "text": sentence} for sentence in sentences]


def test_nothing_is_exchanged_without_share():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, share=0.0, num_distractors=0)
    assert {example["question"] for example in examples} == {"Capital of France?", "프랑스의 수도는?"}
    for example in examples:
        assert example["target"] == "Paris"
        assert {ctx["text"] for ctx in example["ctxs"]} == {
            "France is in Europe.",
            "Its capital is Paris.",
            "People say it is pretty.",
        }


def test_the_answer_is_exchanged_in_the_passage_and_the_target():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, share=1.0, num_distractors=0)
    assert len({example["target"] for example in examples}) > 3
    for example in examples:
        assert f"Its capital is {example['target']}." in [ctx["text"] for ctx in example["ctxs"]]


def test_share_of_exchanged_answers():
    examples = substitute_answers(QUESTIONS, PASSAGES, 400, share=0.25, num_distractors=0)
    assert 60 <= sum(example["target"] != "Paris" for example in examples) <= 140


@pytest.mark.parametrize(("max_sentences", "count"), [(0, 1), (1, 2), (5, 3)])
def test_max_sentences_keeps_the_one_with_the_answer_and_repeats_none(max_sentences, count):
    for example in substitute_answers(QUESTIONS, PASSAGES, 50, num_distractors=0, max_sentences=max_sentences):
        texts = [ctx["text"] for ctx in example["ctxs"]]
        assert len(set(texts)) == len(texts) == count
        assert any(example["target"] in text for text in texts)


def test_distractors_are_other_passages():
    titles = collections.Counter()
    for example in substitute_answers(QUESTIONS, PASSAGES, 60, share=0.0, num_distractors=1):
        of_example = {ctx["title"] for ctx in example["ctxs"]}
        assert "France" in of_example
        titles.update(of_example)
    assert titles["France"] == 60
    assert titles["Finland"] > 5
    assert titles["J. J. Thomson"] > 5


def test_share_of_english_questions():
    examples = substitute_answers(QUESTIONS, PASSAGES, 50, num_distractors=0, english=1.0)
    assert {example["question"] for example in examples} == {"Capital of France?"}


def test_draws_repeat_with_the_seed():
    first, again, other = (substitute_answers(QUESTIONS, PASSAGES, 20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_errors():
    with pytest.raises(ValueError, match="nothing to read"):
        substitute_answers(QUESTIONS.select([2, 3]), PASSAGES, 1)
    with pytest.raises(ValueError, match="needs English questions"):
        substitute_answers(QUESTIONS.select([1]), PASSAGES, 1, english=0.5)


def test_every_mini_world_question_can_be_read():
    world = load_mini_world(["en"])
    examples = substitute_answers(world.questions["train"], world.passages, 300, num_distractors=0)
    assert all(any(example["target"] in ctx["text"] for ctx in example["ctxs"]) for example in examples)


class TestAnswerSubstitution:
    @staticmethod
    def rows(*rows, share=1.0, seed=0):
        records = Dataset.from_list(list(rows), features=READER_EXAMPLE_FEATURES)
        made = answer_rows(records, seed, AnswerSubstitution(records, share))
        made.epoch = 0
        return made

    @staticmethod
    def row(place, answers, *texts, target=None, title="T"):
        ctxs = [{"id": str(number), "title": title, "text": text, "score": None} for number, text in enumerate(texts)]
        named = {"id": str(place), "question": f"q{place}", "target": target, "answers": list(answers), "lang": ""}
        return {**named, "ctxs": ctxs}

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
        with pytest.raises(ValueError, match=f"`share`.*got {share}"):
            self.rows(self.row(0, [], "t", target="t"), share=share)
