"""What both retrievers' processors share: which texts they take, and what is cut."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.models.processing_retriever import kept_of_title


BOTH = pytest.mark.parametrize("processor_class", [ColBERTXLMRProcessor, BiEncoderProcessor])
NILE = "The Nile flows north, to the sea."


class TestCutting:
    @given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 40))
    def test_the_rule(self, title, text, room):
        kept = kept_of_title(title, text, room)
        text_kept = min(text, room - kept)
        assert 0 <= kept <= title
        if title + text <= room:
            assert (kept, text_kept) == (title, text)
        else:  # no room is wasted, and neither gets less than half of it unless it is shorter
            assert kept + text_kept == room
            assert text_kept == text or text_kept >= room // 2
            assert kept == title or kept >= room // 2
            assert text_kept >= 1

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.integers(1, 12), st.integers(1, 12), st.integers(6, 20))
    def test_the_dual_encoder_s_pairs_are_those_of_longest_first(self, tiny_tokenizer, title, text, length):
        """Which the tokenizer implements on its own."""
        title, text = "Nile " * title, "Seoul " * text
        found = BiEncoderProcessor(tiny_tokenizer, document_length=length).process_documents([text], titles=[title])
        expected = tiny_tokenizer(title, text, truncation="longest_first", max_length=length)["input_ids"]
        if length % 2 == 0 or len(title) < len(text):  # an odd place is the text's here, the longer one's there
            assert found["input_ids"].tolist() == [expected]
        assert found["input_ids"].shape[1] == len(expected)

    def test_a_long_title_does_not_swallow_a_document(self, tiny_tokenizer, caplog):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, document_length=13)  # 10 places
        nile, seoul, korea = (tiny_tokenizer.convert_tokens_to_ids(piece) for piece in ("▁Nile", "▁Seoul", "▁Korea"))
        frame = [0, processor.document_marker_id]
        texts = ["Seoul " * 9, "Seoul Korea", "Seoul " * 9, "Seoul " * 9, "Seoul " * 2]
        titles = ["Nile " * 40, "Nile " * 40, "Nile " * 3, None, "Nile " * 8]
        with caplog.at_level(logging.INFO, logger="hf_xlir"):
            inputs = processor.process_documents(texts, titles=titles)
        assert inputs["input_ids"].tolist() == [
            [*frame, *[nile] * 5, *[seoul] * 5, 2],  # half and half
            [*frame, *[nile] * 8, seoul, korea, 2],  # a short text stays whole
            [*frame, *[nile] * 3, *[seoul] * 7, 2],  # a short title stays whole
            [*frame, *[seoul] * 9, 2, 1],
            [*frame, *[nile] * 8, *[seoul] * 2, 2],  # both fit
        ]
        assert "3 of 5 texts were truncated to `document_length`=13" in caplog.text

    def test_the_same_of_the_dual_encoder(self, tiny_tokenizer):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=14)  # 10 places
        nile, seoul, korea = (tiny_tokenizer.convert_tokens_to_ids(piece) for piece in ("▁Nile", "▁Seoul", "▁Korea"))
        inputs = processor.process_documents(["Seoul " * 9, "Seoul Korea"], titles=["Nile " * 40] * 2)
        assert inputs["input_ids"].tolist() == [
            [0, *[nile] * 5, 2, 2, *[seoul] * 5, 2],
            [0, *[nile] * 8, 2, 2, seoul, korea, 2],
        ]

    def test_no_room_for_a_title(self, tiny_tokenizer):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=5)
        pieces = tiny_tokenizer("Nile Seoul", add_special_tokens=False)["input_ids"]
        assert processor.process_documents(["Seoul"], titles=["Nile"])["input_ids"].tolist() == [
            [0, 2, 2, pieces[1], 2]
        ]
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=4)
        assert processor.process_documents(["Nile Seoul"])["input_ids"].tolist() == [[0, *pieces, 2]]
        with pytest.raises(ValueError, match="`document_length`=4 has no room"):
            processor.process_documents(["Seoul"], titles=["Nile"])

    @BOTH
    def test_the_start_is_kept_whatever_the_tokenizer_is_set_to(self, tiny_tokenizer, processor_class):
        left = copy.deepcopy(tiny_tokenizer)
        left.truncation_side = left.padding_side = "left"
        left.model_max_length = 20
        expected, found = (
            processor_class(tokenizer, query_length=8, document_length=12) for tokenizer in (tiny_tokenizer, left)
        )
        for each in (
            lambda processor: processor.process_queries([NILE, "Who?"]),
            lambda processor: processor.process_documents([NILE * 3, NILE, "a"], titles=["Nile " * 9, None, "Nile"]),
        ):
            for name, value in each(expected).items():
                assert torch.equal(each(found)[name], value) if name != "text_type" else each(found)[name] == value


class TestTexts:
    @BOTH
    @pytest.mark.parametrize(
        "text, message",
        [
            ("\u200b", "1 is empty: leave it out"),
            ("\ufeff \x00", "1 is empty"),
            ("a\ud800b", "1 is not valid Unicode: character 1"),
        ],
    )
    def test_in_disguise(self, tiny_tokenizer, processor_class, text, message):
        processor = processor_class(tiny_tokenizer)
        with pytest.raises(ValueError, match=f"document {message}"):
            processor.process_documents([NILE, text], titles=["Nile", "Nile"])
        with pytest.raises(ValueError, match=f"query {message}"):
            processor.process_queries([NILE, text])

    @BOTH
    def test_texts_that_the_tokenizer_drops(self, tiny_tokenizer, processor_class):
        """A visible character may be dropped by a tokenizer, too: no vector would stand for the text."""
        tokenizer = copy.deepcopy(tiny_tokenizer)
        processor = processor_class(tokenizer)
        original = tokenizer._encode_plus

        def without_question_marks(text, *args, **kwargs):
            texts = [each.replace("?", "") for each in text] if isinstance(text, list) else text
            return original(texts, *args, **kwargs)

        tokenizer._encode_plus = without_question_marks
        with pytest.raises(ValueError, match="no pieces of document 1, '\\?\\?'"):
            processor.process_documents([NILE, "??"])
        with pytest.raises(ValueError, match="no pieces of query 0, '\\?'"):
            processor.process_queries(["?"])

    @BOTH
    @pytest.mark.parametrize("texts", [None, 3, {"Nile": 1}, b"Nile"])
    def test_no_lists(self, tiny_tokenizer, processor_class, texts):
        processor, name = processor_class(tiny_tokenizer), type(texts).__name__
        with pytest.raises(TypeError, match=f"Expected a list of queries, got {name}"):
            processor.process_queries(texts)
        with pytest.raises(TypeError, match=f"Expected a list of documents, got {name}"):
            processor.process_documents(texts)
        if texts is not None:
            with pytest.raises(TypeError, match=f"Expected a list of titles, got {name}"):
                processor.process_documents([NILE], titles=texts)

    @BOTH
    def test_what_is_like_a_list(self, tiny_tokenizer, processor_class):
        processor = processor_class(tiny_tokenizer)
        expected = processor.process_documents([NILE, "Nile"], titles=["a", None])["input_ids"]
        found = processor.process_documents(iter((NILE, "Nile")), titles=("a", None))["input_ids"]
        assert torch.equal(found, expected)

    @BOTH
    def test_titles(self, tiny_tokenizer, processor_class):
        processor = processor_class(tiny_tokenizer)
        expected = processor.process_documents([NILE])["input_ids"]
        assert torch.equal(processor.process_documents([NILE], titles=["\u200b "])["input_ids"], expected)
        with pytest.raises(ValueError, match="title 1 is not valid Unicode: character 2"):
            processor.process_documents([NILE] * 2, titles=["a", "ab\udc00"])


class TestSettings:
    @BOTH
    @pytest.mark.parametrize("name", ["query_length", "document_length"])
    @pytest.mark.parametrize("value", [32.5, "32", None, True])
    def test_lengths_are_integers(self, tiny_tokenizer, processor_class, name, value):
        with pytest.raises(TypeError, match=f"`{name}` must be an integer, got {value!r}"):
            processor_class(tiny_tokenizer, **{name: value})

    @pytest.mark.parametrize(
        "name, value, message",
        [
            ("skip_punctuation", "no", "must be `True` or `False`, got 'no'"),
            ("attend_to_expansion", 1, "must be `True` or `False`, got 1"),
            ("mask_id_zero", None, "must be `True` or `False`, got None"),
            ("query_marker_id", 5.0, "must be an integer or `None`, got 5.0"),
            ("document_marker_id", "5", "must be an integer or `None`, got '5'"),
            ("use_markers", 0, "must be `True` or `False`, got 0"),
            ("skip_ids", (3,), r"must be a list of token ids, got \(3,\)"),
            ("query_skip_ids", ["3"], r"must be a list of token ids, got \['3'\]"),
            ("query_prompt", None, "must be a string, got None"),
            ("document_prompt", 5, "must be a string, got 5"),
        ],
    )
    def test_types(self, tiny_tokenizer, name, value, message):
        with pytest.raises(TypeError, match=f"`{name}` {message}"):
            ColBERTXLMRProcessor(tiny_tokenizer, **{name: value})


def test_scores_of_half_precision_are_not_tied(tiny_tokenizer):
    """Inner products of about 60, as DPR has, have steps of 0.25 in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 64, generator=generator).add(1).bfloat16() for n in (1, 40))
    expected = queries.double() @ documents.double().T
    scores = BiEncoderProcessor(tiny_tokenizer).score(
        SimpleNamespace(embeddings=queries), SimpleNamespace(embeddings=documents)
    )
    assert scores.dtype == torch.float32 and (scores - expected).abs().max() < 1e-4
