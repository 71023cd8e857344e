"""Answers of a reader, and its scores of what it read."""

from types import SimpleNamespace

import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer

from hf_xlir import FiDT5Processor
from hf_xlir.models.fid_answers import ANSWER_LENGTH, answer_limit, generate_answers


PASSAGES = [
    [{"title": "red", "text": "green blue"}, {"title": "", "text": "rain"}, {"title": "sea", "text": "blue"}],
    [{"title": "sea", "text": "red"}],
    [],
]
QUESTIONS = ["blue sea", "rain", "red"]


def test_answers_and_scores_without_padding():
    tokenizer = make_tokenizer()
    reader = make_reader(make_backbone(seed=2, vocab_size=len(tokenizer)))
    for n_context, numbers in ((None, [3, 1, 0]), (2, [2, 1, 0])):
        processor = FiDT5Processor(tokenizer, answer_maxlength=8, n_context=n_context)
        given = (reader, processor, QUESTIONS, PASSAGES)
        output, texts, scores = generate_answers(*given, max_new_tokens=4, output_reader_scores=True)
        assert [len(of_one) for of_one in scores] == numbers
        for row, of_one in zip(output.reader_scores, scores, strict=True):
            assert row[: len(of_one)].tolist() == of_one
        assert texts == [text.strip() for text in tokenizer.batch_decode(output.sequences, skip_special_tokens=True)]
        _, again, scores = generate_answers(*given, max_new_tokens=4, return_dict_in_generate=False)
        assert again == texts and scores is None


def test_white_space_is_not_part_of_an_answer():
    class Inputs(dict):
        def to(self, device):
            return self

    class Processor:
        n_context = None

        def __call__(self, questions, passages):
            return Inputs()

        def batch_decode(self, sequences, skip_special_tokens):
            assert skip_special_tokens
            return [" a b\n", ""]

    output = SimpleNamespace(sequences=torch.zeros(2, 1))
    model = SimpleNamespace(device="cpu", generate=lambda **arguments: output)
    assert generate_answers(model, Processor(), ["?", "?"], [[], []]) == (output, ["a b", ""], None)


def test_the_most_that_is_written():
    assert (
        [answer_limit(SimpleNamespace(answer_maxlength=most)) for most in (None, 7)] == [ANSWER_LENGTH, 7] == [50, 7]
    )
