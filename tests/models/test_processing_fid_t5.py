"""Inputs of the Fusion-in-Decoder reader against the text written out and tokenized one by one."""

import logging
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.models.processing_fid_t5 import ANSWER_LENGTH, FiDT5Processor, answer_limit, generate_answers


TOKENIZER = make_tokenizer()
PAD, EOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id
SEOUL = {"id": "7", "title": "Seoul", "text": "Seoul is the capital of South Korea.", "score": 3.5}
RAIN = {"text": "It rained."}
LONG = {"title": "Rain", "text": "rain and " * 200}


def ids_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def rows_of(inputs):
    """The unpadded token ids, by question and passage."""
    pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [[ids[mask.bool()].tolist() for ids, mask in zip(*pair, strict=True)] for pair in pairs]


class TestTexts:
    def test_every_form(self):
        processor = FiDT5Processor(TOKENIZER)
        empty_title = {"title": "", "text": "No title."}
        inputs = processor(
            ["Where is it?", "Who?", "Alone?"], passages=[[SEOUL, RAIN], [{"title": None, **RAIN}, empty_title], []]
        )
        assert rows_of(inputs) == [
            [
                ids_of("question: Where is it? title: Seoul context: Seoul is the capital of South Korea."),
                ids_of("question: Where is it? context: It rained."),
            ],
            [ids_of("question: Who? context: It rained."), ids_of("question: Who? context: No title.")],
            [ids_of("question: Alone?"), []],
        ]
        assert processor.decode(inputs["input_ids"][0, 1], skip_special_tokens=True) == (
            "question: Where is it? context: It rained."
        )
        assert processor.batch_decode(inputs["input_ids"][2], skip_special_tokens=True) == ["question: Alone?", ""]

    @pytest.mark.parametrize("title", [" \n", "\ufeff"])
    def test_a_blank_title_is_none(self, title):
        inputs = FiDT5Processor(TOKENIZER)(["Who?"], passages=[[{"title": title, **RAIN}]])
        assert rows_of(inputs) == [[ids_of("question: Who? context: It rained.")]]

    def test_without_passages(self):
        inputs = FiDT5Processor(TOKENIZER)(["Who?", "Where is it?"])
        assert inputs["input_ids"].shape[:2] == (2, 1)
        assert rows_of(inputs) == [[ids_of("question: Who?")], [ids_of("question: Where is it?")]]

    def test_padding_is_as_long_as_the_longest(self):
        inputs = FiDT5Processor(TOKENIZER)(["Who?", "Why?"], passages=[[RAIN, SEOUL], [RAIN]])
        longest = len(ids_of("question: Who? title: Seoul context: Seoul is the capital of South Korea."))
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 2, longest)
        assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == torch.int64
        assert inputs["input_ids"][inputs["attention_mask"] == 0].eq(PAD).all()
        assert not inputs["attention_mask"][1, 1].any()  # absent
        assert list(inputs) == ["input_ids", "attention_mask"]

    def test_number_of_passages(self):
        processor, passages = FiDT5Processor(TOKENIZER, n_context=2), [[SEOUL, RAIN, LONG]]
        assert rows_of(processor(["Who?"], passages=passages))[0][1] == ids_of("question: Who? context: It rained.")
        assert processor(["Who?"], passages=passages)["input_ids"].shape[1] == 2
        processor.n_context = None
        assert processor(["Who?"], passages=passages)["input_ids"].shape[1] == 3

    def test_numpy(self):
        inputs = FiDT5Processor(TOKENIZER)(["Who?"], answers=["me"], return_tensors="np")
        assert all(isinstance(value, np.ndarray) for value in inputs.values())

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.text("ab ?", min_size=1).filter(str.strip),
                st.lists(st.tuples(st.text("cd "), st.text("ef .", min_size=1).filter(str.strip)), max_size=4),
            ),
            min_size=1,
            max_size=3,
        ),
        st.integers(3, 60),
        st.booleans(),
    )
    def test_any_batch_equals_its_texts_one_by_one(self, questions, length, eos):
        processor = FiDT5Processor(TOKENIZER, text_maxlength=length, n_context=3, passage_eos=eos)
        passages = [[{"title": title, "text": text} for title, text in of_question] for _, of_question in questions]
        rows = rows_of(processor([question for question, _ in questions], passages=passages))
        for (question, of_question), found in zip(questions, rows, strict=True):
            texts = [
                f"question: {question}" + (f" title: {title}" if title.strip() else "") + f" context: {text}"
                for title, text in of_question[:3]
            ] or [f"question: {question}"]
            for text, row in zip(texts, found, strict=False):
                assert row == (ids_of(text)[: length - 1] + [EOS] if eos else ids_of(text)[:length])
            assert not any(found[len(texts) :])


class TestLengths:
    @pytest.mark.parametrize("eos", [False, True])
    def test_overlong_passages_lose_their_end(self, eos):
        processor = FiDT5Processor(TOKENIZER, text_maxlength=30, passage_eos=eos)
        long, short = rows_of(processor(["Who?"], passages=[[LONG, RAIN]]))[0]
        whole = ids_of("question: Who? title: Rain context: " + LONG["text"])
        assert long == (whole[:29] + [EOS] if eos else whole[:30])
        assert short == ids_of("question: Who? context: It rained.")[:29] + [EOS] * eos
        processor.text_maxlength = None
        assert rows_of(processor(["Who?"], passages=[[LONG]]))[0][0] == whole + [EOS] * eos

    def test_the_tokenizer_cannot_cut_the_question(self):
        tokenizer = make_tokenizer()
        tokenizer.truncation_side = tokenizer.padding_side = "left"
        tokenizer.model_max_length = 10
        inputs = FiDT5Processor(tokenizer, text_maxlength=20)(["Who was it?", "Who?"], passages=[[LONG], [RAIN]])
        assert rows_of(inputs)[0][0][: len(ids_of("question: Who was it?"))] == ids_of("question: Who was it?")
        assert inputs["attention_mask"][1, 0].tolist() == sorted(inputs["attention_mask"][1, 0].tolist(), reverse=True)

    def test_an_endless_question_is_cut_with_a_warning(self, caplog):
        processor = FiDT5Processor(TOKENIZER)
        endless = "word " * 10_000
        with caplog.at_level(logging.WARNING):
            inputs = processor(["Who?", endless], passages=[[RAIN], [RAIN, SEOUL]])
        assert rows_of(inputs)[1] == [ids_of("question: " + endless)[:250]] * 2
        assert len(caplog.records) == 1
        for part in ("1 of 2 questions were truncated to `text_maxlength`=250", "question 1 with", "raise `text_max"):
            assert part in caplog.text

    def test_no_warning_for_a_cut_passage(self, caplog):
        processor = FiDT5Processor(TOKENIZER, text_maxlength=len(ids_of("question: Who? title: Rain context: r")))
        with caplog.at_level(logging.WARNING):
            inputs = processor(["Who?"], passages=[[LONG]])
        assert (
            rows_of(inputs)[0][0]
            == ids_of("question: Who? title: Rain context: " + LONG["text"])[: inputs["input_ids"].shape[-1]]
        )
        assert not caplog.records

    def test_no_warning_for_a_question_that_just_fits(self, caplog):
        processor = FiDT5Processor(TOKENIZER, text_maxlength=len(ids_of("question: Who?")))
        with caplog.at_level(logging.WARNING):
            processor(["Who?"])
        assert not caplog.records
        processor.passage_eos = True
        with caplog.at_level(logging.WARNING):
            processor(["Who?"], passages=[[LONG]])
        assert len(caplog.records) == 1 and "1 of 1 questions were truncated" in caplog.text

    @pytest.mark.parametrize("eos", [False, True])
    def test_a_passage_whose_text_is_not_reached_is_named(self, caplog, eos):
        swallowing = {"title": "er " * 100, "text": "It rained."}
        whole, front = (ids_of(f"question: Who? title: {swallowing['title']} context:{rest}") for rest in (" It", ""))
        assert len(front) < len(whole)
        processor = FiDT5Processor(TOKENIZER, text_maxlength=len(front) + eos, passage_eos=eos)
        with caplog.at_level(logging.WARNING):
            inputs = processor(["Who?", "Who?"], passages=[[SEOUL, RAIN], [RAIN, swallowing, LONG]])
        assert rows_of(inputs)[1][1] == front + [EOS] * eos  # as ever: the front is read
        assert len(caplog.records) == 1
        assert "1 passages were truncated to `text_maxlength`=" in caplog.text and "`passages[1][1]`" in caplog.text
        caplog.clear()
        processor.text_maxlength += 1  # the first piece of the text fits
        with caplog.at_level(logging.WARNING):
            processor(["Who?"], passages=[[swallowing]])
        assert not caplog.records


class TestAnswers:
    def test_labels(self):
        inputs = FiDT5Processor(TOKENIZER, answer_maxlength=6)(["a", "b", "c"], answers=["it", "", "Seoul " * 9])
        it = ids_of("it")
        assert inputs["labels"].tolist() == [
            it + [EOS] + [-100] * (5 - len(it)),
            [EOS] + [-100] * 5,
            ids_of("Seoul " * 9)[:5] + [EOS],
        ]

    def test_uncut(self):
        inputs = FiDT5Processor(TOKENIZER, answer_maxlength=None)(["a"], answers=["Seoul " * 90])
        assert inputs["labels"].tolist() == [ids_of("Seoul " * 90) + [EOS]]

    def test_the_reader_takes_the_inputs(self):
        reader = make_reader(make_backbone(vocab_size=len(TOKENIZER)))
        processor = FiDT5Processor(TOKENIZER)
        inputs = processor(["Who?", "Why?"], passages=[[SEOUL, RAIN], []], answers=["me", "you two"])
        out = reader(**inputs, output_reader_scores=True)
        assert out.loss.isfinite()
        assert out.reader_scores.isinf().tolist() == [[False, False], [False, True]]
        inputs.pop("labels")
        assert len(processor.batch_decode(reader.generate(**inputs, max_new_tokens=3))) == 2


class TestLanguages:
    def test_questions_and_answers_in_any_language(self, tiny_tokenizer):
        """A vocabulary of many languages, as mT5 and umT5 have, whose ids of padding and `</s>` are not T5's."""
        assert (tiny_tokenizer.pad_token_id, tiny_tokenizer.eos_token_id) == (1, 2)
        processor = FiDT5Processor(tiny_tokenizer)
        answers = ["핀란드의 수도는", "フィンランド", "столица Финляндии", "Mikä on Suomen pääkaupunki?"]
        passages = [[{"title": "Seoul", "text": "The capital of Korea!"}, RAIN]] + [[RAIN]] * 3
        inputs = processor([f"{answer}?" for answer in answers], passages=passages, answers=answers)
        assert inputs["input_ids"][inputs["attention_mask"] == 0].eq(1).all()
        for row, text in zip(inputs["input_ids"][:, 0], answers, strict=True):
            assert processor.decode(row, skip_special_tokens=True).split(" ", 1)[1].startswith(f"{text}? ")
        labels = inputs["labels"].masked_fill(inputs["labels"] == -100, 1)
        assert processor.batch_decode(labels, skip_special_tokens=True) == answers
        assert all(row[row != 1][-1] == 2 for row in labels)

    @pytest.mark.parametrize("name", ["mt5", "umt5"])
    def test_its_readers_take_the_inputs(self, name, tiny_tokenizer):
        special = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        reader = make_reader(make_backbone(name, vocab_size=len(tiny_tokenizer), **special))
        inputs = FiDT5Processor(tiny_tokenizer)(
            ["핀란드의 수도는?", "どこ"], passages=[[SEOUL, RAIN], []], answers=["서울", "首都"]
        )
        assert reader(**inputs).loss.isfinite()
        ids_alone = reader(input_ids=inputs["input_ids"], labels=inputs["labels"]).logits  # padding is id 1 here
        assert torch.allclose(ids_alone, reader(**inputs).logits)


class TestProcessor:
    def test_one_tokenizer_call_for_all_passages(self):
        with patch.object(type(TOKENIZER), "__call__", autospec=True, side_effect=type(TOKENIZER).__call__) as call:
            FiDT5Processor(TOKENIZER)(["Who?"] * 5, passages=[[SEOUL, RAIN, LONG]] * 5)
        assert call.call_count == 1

    def test_settings_are_saved(self, tmp_path):
        chosen = {"text_maxlength": 40, "answer_maxlength": None, "n_context": 7, "passage_eos": True}
        FiDT5Processor(TOKENIZER, **chosen).save_pretrained(tmp_path)
        loaded = FiDT5Processor.from_pretrained(tmp_path)
        assert {name: getattr(loaded, name) for name in chosen} == chosen
        assert rows_of(loaded(["Who?"], passages=[[RAIN]])) == [[ids_of("question: Who? context: It rained.") + [EOS]]]
        assert FiDT5Processor.from_pretrained(tmp_path, n_context=3).n_context == 3

    def test_defaults_and_a_bare_tokenizer_folder(self, tmp_path):
        TOKENIZER.save_pretrained(tmp_path)
        loaded = FiDT5Processor.from_pretrained(tmp_path)
        values = (loaded.text_maxlength, loaded.answer_maxlength, loaded.n_context, loaded.passage_eos)
        assert values == (250, 50, 100, False)

    @pytest.mark.parametrize(
        "questions, arguments, error, message",
        [
            ([], {}, ValueError, "`questions` is empty"),
            ("Who?", {}, TypeError, "`questions` must be a list of strings, got str"),
            (["Who?", 3], {}, TypeError, "got a list of int, str"),
            ([" "], {}, ValueError, r"`questions\[0\]` is empty"),
            (["Who?"], {"passages": [RAIN]}, TypeError, "one list of passages per question, got a list of dict"),
            (["Who?"], {"passages": "text"}, TypeError, "one list of passages per question, got str"),
            (["Who?"], {"passages": [[], []]}, ValueError, "2 lists.*: 1"),
            (["Who?"], {"passages": [["text"]]}, TypeError, r"`passages\[0\]\[0\]` must be a dict .*got str"),
            (["Who?"], {"passages": [[RAIN, {"title": "a"}]]}, ValueError, r"\[0\]\[1\]` needs a `text`.*\['title'\]"),
            (["Who?"], {"passages": [[{"text": 3}]]}, TypeError, "must be strings, got NoneType and int"),
            (["Who?"], {"passages": [[{"text": "\n"}]]}, ValueError, r"The `text` of `passages\[0\]\[0\]` is empty"),
            (["\u200b\ufeff"], {}, ValueError, r"`questions\[0\]` is empty"),
            (
                ["Who?"],
                {"passages": [[{"text": "\u200b "}]]},
                ValueError,
                r"The `text` of `passages\[0\]\[0\]` is empty",
            ),
            (["Who?", "\ud800"], {}, ValueError, r"`questions\[1\]` is not valid Unicode: character 0 is half"),
            (
                ["Who?"],
                {"passages": [[{"text": "ab\udc00"}]]},
                ValueError,
                r"`text` of `passages\[0\]\[0\]` .*character 2",
            ),
            (
                ["Who?"],
                {"passages": [[{**RAIN, "title": "\ud800"}]]},
                ValueError,
                r"The `title` of `passages\[0\]\[0\]`",
            ),
            (["Who?"], {"answers": ["a \ud800"]}, ValueError, r"`answers\[0\]` is not valid Unicode"),
            (["Who?"], {"answers": []}, ValueError, "`answers` must have one entry per question: got 0 for 1"),
            (["Who?"], {"answers": [None]}, TypeError, "`answers` must be a list of strings, got a list of NoneType"),
        ],
    )
    def test_bad_texts_are_named(self, questions, arguments, error, message):
        with pytest.raises(error, match=message):
            FiDT5Processor(TOKENIZER)(questions, **arguments)

    @pytest.mark.parametrize(
        "chosen, error, message",
        [
            ({"n_context": 0}, ValueError, "`n_context` must be at least 1 or `None`"),
            ({"text_maxlength": 1, "passage_eos": True}, ValueError, "`text_maxlength` must be at least 2"),
            ({"answer_maxlength": 1}, ValueError, "`answer_maxlength` must be at least 2"),
            ({"text_maxlength": 2.5}, TypeError, "`text_maxlength` must be an integer"),
            ({"n_context": True}, TypeError, "`n_context` must be an integer"),
            ({"passage_eos": "no"}, TypeError, "`passage_eos` must be `True` or `False`"),
        ],
    )
    def test_bad_settings_are_named(self, chosen, error, message):
        with pytest.raises(error, match=message):
            FiDT5Processor(TOKENIZER, **chosen)
        processor = FiDT5Processor(TOKENIZER)
        for name, value in chosen.items():
            setattr(processor, name, value)
        with pytest.raises(error, match=message):
            processor(["Who?"])

    def test_a_tokenizer_without_padding_is_refused(self):
        tokenizer = make_tokenizer()
        tokenizer.pad_token = None
        with pytest.raises(ValueError, match="no `pad_token`"):
            FiDT5Processor(tokenizer)


PASSAGES = [
    [{"title": "red", "text": "green blue"}, {"title": "", "text": "rain"}, {"title": "sea", "text": "blue"}],
    [{"title": "sea", "text": "red"}],
    [],
]
QUESTIONS = ["blue sea", "rain", "red"]


class TestGeneratedAnswers:
    def test_scores_without_padding(self):
        tokenizer = make_tokenizer()
        reader = make_reader(make_backbone(seed=2, vocab_size=len(tokenizer)))
        for n_context, numbers in ((None, [3, 1, 0]), (2, [2, 1, 0])):
            processor = FiDT5Processor(tokenizer, answer_maxlength=8, n_context=n_context)
            given = (reader, processor, QUESTIONS, PASSAGES)
            output, texts, scores = generate_answers(*given, max_new_tokens=4, output_reader_scores=True)
            assert [len(of_one) for of_one in scores] == numbers
            for row, of_one in zip(output.reader_scores, scores, strict=True):
                assert row[: len(of_one)].tolist() == of_one
            decoded = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
            assert texts == [text.strip() for text in decoded]
            _, again, scores = generate_answers(*given, max_new_tokens=4, return_dict_in_generate=False)
            assert again == texts and scores is None

    def test_white_space_is_removed(self):
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

    def test_length_limit(self):
        assert answer_limit(SimpleNamespace(answer_maxlength=7)) == 7
        assert answer_limit(SimpleNamespace(answer_maxlength=None)) == ANSWER_LENGTH == 50
