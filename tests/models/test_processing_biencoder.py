"""Inputs of the dual encoder: pairs of title and text, offsets, lengths."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from hf_xlir import BiEncoderConfig, BiEncoderProcessor
from hf_xlir.models.modeling_retriever import RetrieverOutput


NILE = "The Nile flows north, to the sea."
SEOUL = "Seoul, of Korea!"


@pytest.fixture
def tiny(tiny_tokenizer):
    return BiEncoderProcessor(tiny_tokenizer)


def pieces_of(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def rows_of(inputs):
    return [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


class TestQueries:
    def test_ids(self, tiny):
        inputs = tiny.process_queries(["Who?", NILE])
        assert rows_of(inputs) == [[0, *pieces_of(tiny, "Who?"), 2], [0, *pieces_of(tiny, NILE), 2]]
        assert inputs["input_ids"].shape == (2, len(pieces_of(tiny, NILE)) + 2)
        assert (inputs["input_ids"][inputs["attention_mask"] == 0] == 1).all()
        assert list(inputs) == ["input_ids", "attention_mask", "text_type"]
        assert inputs["text_type"] == "query"

    def test_ids_of_xlmr(self, xlmr_tokenizer):
        inputs = BiEncoderProcessor(xlmr_tokenizer).process_queries(["Who maintained the throne in China?"])
        assert inputs["input_ids"].tolist() == [[0, 40469, 76104, 297, 70, 6, 42294, 86, 23, 9098, 32, 2]]

    def test_an_endless_question(self, tiny, caplog):
        endless = "Nile " * 10_000
        with caplog.at_level(logging.WARNING):
            inputs = tiny.process_queries(["Who?", endless])
        expected = [0, *pieces_of(tiny, "Nile " * 100)[:62], 2]
        assert rows_of(inputs)[1] == expected and len(expected) == 64
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "1 of 2 texts were truncated to `query_length`=64 token ids, first query 1" in caplog.text

    def test_a_question_that_just_fits(self, tiny_tokenizer, caplog):
        pieces = len(tiny_tokenizer(NILE, add_special_tokens=False)["input_ids"])
        with caplog.at_level(logging.WARNING):
            BiEncoderProcessor(tiny_tokenizer, query_length=pieces + 2).process_queries([NILE])
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            BiEncoderProcessor(tiny_tokenizer, query_length=pieces + 1).process_queries([NILE])
        assert len(caplog.records) == 1


class TestDocuments:
    def test_title_and_text_are_a_pair(self, tiny):
        inputs = tiny.process_documents([NILE, SEOUL], titles=["Nile", "Seoul"])
        assert rows_of(inputs) == [
            [0, *pieces_of(tiny, "Nile"), 2, 2, *pieces_of(tiny, NILE), 2],
            [0, *pieces_of(tiny, "Seoul"), 2, 2, *pieces_of(tiny, SEOUL), 2],
        ]
        assert inputs["text_type"] == "document"

    def test_empty_titles_leave_the_text_alone(self, tiny):
        inputs = tiny.process_documents([NILE] * 5, titles=["", "Nile", None, " ", "Nile"])
        alone = [0, *pieces_of(tiny, NILE), 2]
        pair = [0, *pieces_of(tiny, "Nile"), 2, 2, *pieces_of(tiny, NILE), 2]
        assert rows_of(inputs) == [alone, pair, alone, alone, pair]
        assert rows_of(tiny.process_documents([NILE])) == [alone]
        assert rows_of(tiny.process_documents([NILE], titles=[""])) == [alone]

    def test_segment_ids(self, tiny_bert_tokenizer):
        processor = BiEncoderProcessor(tiny_bert_tokenizer)
        inputs = processor.process_documents([SEOUL, NILE], titles=["Seoul", None])
        title, text, alone = (len(pieces_of(processor, each)) for each in ("Seoul", SEOUL, NILE))
        longest = max(title + text + 3, alone + 2)
        first = [0] * (title + 2) + [1] * (text + 1)
        assert inputs["token_type_ids"].tolist() == [first + [0] * (longest - len(first)), [0] * longest]
        assert processor.model_input_names == ["input_ids", "token_type_ids", "attention_mask", "text_type"]

    @pytest.mark.parametrize("length", [8, 12, 20])
    def test_overlong_texts_lose_their_end_and_titles_stay(self, tiny_tokenizer, caplog, length):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=length)
        with caplog.at_level(logging.WARNING):
            inputs = processor.process_documents([NILE * 5, NILE * 5], titles=["Nile", None])
        title, text = pieces_of(processor, "Nile"), pieces_of(processor, NILE * 5)
        assert len(title) < length - 4 - len(title)
        assert rows_of(inputs) == [
            [0, *title, 2, 2, *text[: length - 4 - len(title)], 2],
            [0, *text[: length - 2], 2],
        ]
        assert not caplog.records  # routine for passages

    def test_cut_texts_are_counted_once_and_named_by_their_place(self, tiny_tokenizer, caplog):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=12)
        with caplog.at_level(logging.INFO, logger="hf_xlir"):
            processor.process_documents(["Nile", "Nile", NILE * 5, NILE * 5], titles=["Nile", None, "Nile", None])
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "2 of 4 texts were truncated to `document_length`=12 token ids, first document 2" in caplog.text

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(st.text("ab ナ", max_size=9), st.text("cd,. Ä", min_size=1).filter(str.strip)),
            min_size=1,
            max_size=5,
        ),
        st.integers(5, 25),
    )
    def test_any_batch_equals_its_texts_one_by_one(self, tiny_tokenizer, pairs, length):
        processor = BiEncoderProcessor(tiny_tokenizer, document_length=length)
        titles, texts = map(list, zip(*pairs, strict=True))
        inputs = processor.process_documents(texts, titles=titles, return_offsets_mapping=True)
        for position, (title, text) in enumerate(pairs):
            alone = processor.process_documents([text], titles=[title], return_offsets_mapping=True)
            kept = alone["input_ids"].shape[1]
            for name in ("input_ids", "attention_mask", "offset_mapping"):
                assert torch.equal(inputs[name][position, :kept], alone[name][0]), name
            assert not inputs["attention_mask"][position, kept:].any()
            assert not inputs["offset_mapping"][position, kept:].any()


class TestOffsets:
    def test_of_queries(self, tiny):
        inputs = tiny.process_queries(["Who?", NILE], return_offsets_mapping=True)
        assert inputs["offset_mapping"].shape == (*inputs["input_ids"].shape, 2)
        for text, ids, offsets in zip(["Who?", NILE], inputs["input_ids"], inputs["offset_mapping"], strict=True):
            for piece, (start, end) in zip(tiny.tokenizer.convert_ids_to_tokens(ids), offsets.tolist(), strict=True):
                special = piece in tiny.tokenizer.all_special_tokens
                assert (start == end) is special, piece
                if not special:
                    assert text[start:end] == piece.lstrip("▁")

    def test_of_documents_are_those_in_the_text_and_none_in_the_title(self, tiny):
        inputs = tiny.process_documents([NILE, NILE], titles=["Nile", None], return_offsets_mapping=True)
        title, text = len(pieces_of(tiny, "Nile")), len(pieces_of(tiny, NILE))
        in_text = tiny.process_documents([NILE], return_offsets_mapping=True)["offset_mapping"][0].tolist()
        assert inputs["offset_mapping"][0].tolist() == [[0, 0]] * (title + 3) + in_text[1:]
        assert inputs["offset_mapping"][1, : text + 2].tolist() == in_text
        assert in_text[1][0] == 0 and in_text[-2][1] == len(NILE)

    def test_of_xlmr(self, xlmr_tokenizer):
        inputs = BiEncoderProcessor(xlmr_tokenizer).process_documents(
            ["Seoul is big"], titles=["Seoul"], return_offsets_mapping=True
        )
        assert xlmr_tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]) == [
            *("<s>", "▁Seoul", "</s>", "</s>"),
            *("▁Seoul", "▁is", "▁big", "</s>"),
        ]
        assert inputs["offset_mapping"].tolist() == [[[0, 0]] * 4 + [[0, 5], [6, 8], [9, 12], [0, 0]]]


class TestPrompts:
    def test_stand_in_front(self, tiny_tokenizer):
        processor = BiEncoderProcessor(tiny_tokenizer, query_prompt="Who: ", document_prompt="The ")
        plain = BiEncoderProcessor(tiny_tokenizer)
        titles = ["Nile", None]
        found = processor.process_documents([NILE, NILE], titles=titles)
        expected = plain.process_documents([NILE, "The " + NILE], titles=["The Nile", None])
        assert found["input_ids"].tolist() == expected["input_ids"].tolist()
        found = processor.process_queries(["invented"])["input_ids"]
        assert found.tolist() == plain.process_queries(["Who: invented"])["input_ids"].tolist()

    def test_offsets_are_those_of_the_text(self, tiny_tokenizer):
        processor, plain = (
            BiEncoderProcessor(tiny_tokenizer, document_prompt="Who: "),
            BiEncoderProcessor(tiny_tokenizer),
        )
        offsets = processor.process_documents([NILE, NILE], titles=[None, "Nile"], return_offsets_mapping=True)
        expected = plain.process_documents([NILE], return_offsets_mapping=True)["offset_mapping"][0].tolist()
        prompt = len(tiny_tokenizer("Who: ", add_special_tokens=False)["input_ids"])
        found = offsets["offset_mapping"][0].tolist()
        assert found[: prompt + 1] == [[0, 0]] * (prompt + 1)  # <s> and the prompt
        assert found[prompt + 1 : prompt + len(expected)] == expected[1:]
        titled = plain.process_documents([NILE], titles=["Who: Nile"], return_offsets_mapping=True)["offset_mapping"]
        assert offsets["offset_mapping"][1].tolist()[: titled.shape[1]] == titled[0].tolist()


class TestScore:
    def test_inner_products(self, tiny):
        queries = RetrieverOutput(embeddings=torch.tensor([[1.0, 2.0], [0.5, -1.0]]))
        documents = RetrieverOutput(embeddings=torch.tensor([[3.0, 4.0], [-2.0, 0.0], [1.0, 1.0]]))
        assert tiny.score(queries, documents).tolist() == [[11.0, -2.0, 3.0], [-2.5, -1.0, -0.5]]

    def test_other_sizes(self, tiny):
        with pytest.raises(ValueError, match="Query embeddings have 2 dimensions, document embeddings 3"):
            tiny.score(RetrieverOutput(embeddings=torch.ones(1, 2)), RetrieverOutput(embeddings=torch.ones(1, 3)))


class TestSettings:
    def test_round_trip(self, tiny_tokenizer, tmp_path):
        processor = BiEncoderProcessor(tiny_tokenizer, query_length=9, document_length=21)
        expected = processor.process_documents([NILE * 3], titles=["Nile"])["input_ids"]
        processor.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is BiEncoderProcessor
        assert (loaded.query_length, loaded.document_length) == (9, 21)
        assert torch.equal(loaded.process_documents([NILE * 3], titles=["Nile"])["input_ids"], expected)

    def test_defaults_and_a_folder_of_a_bare_tokenizer(self, tiny_tokenizer, tmp_path):
        tiny_tokenizer.save_pretrained(tmp_path)
        loaded = BiEncoderProcessor.from_pretrained(tmp_path)
        assert (loaded.query_length, loaded.document_length) == (64, 256)
        assert loaded.model_input_names == ["input_ids", "attention_mask", "text_type"]

    def test_configuration(self, tiny_tokenizer):
        config = BiEncoderConfig(query_length=9, document_length=21)
        processor = BiEncoderProcessor.from_config(tiny_tokenizer, config)
        assert (processor.query_length, processor.document_length) == (9, 21)
        processor.check_config(config)
        with pytest.raises(ValueError, match="processor has query_length=9.*configuration query_length=10"):
            processor.check_config(BiEncoderConfig(query_length=10, document_length=21))

    @pytest.mark.parametrize("name, value", [("query_length", 3), ("document_length", 513), ("query_length", 0)])
    def test_lengths(self, tiny_tokenizer, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be from 4 to the tokenizer's 512 token ids, got {value}"):
            BiEncoderProcessor(tiny_tokenizer, **{name: value})

    @pytest.mark.parametrize(
        "texts, titles, error, message",
        [
            ([], None, ValueError, "Got an empty list of documents"),
            ([NILE, " "], ["a", "b"], ValueError, "document 1 is empty"),
            (NILE, None, TypeError, "Expected a list of documents, got one string"),
            ([NILE, 3], None, TypeError, "document 1 must be a string, got int"),
            ([NILE], ["a", "b"], ValueError, "one entry per document: got 2 for 1"),
            ([NILE], "a", TypeError, "Expected a list of titles, got one string"),
            ([NILE], [b"a"], TypeError, "title 0 must be a string or `None`, got bytes"),
        ],
    )
    def test_bad_texts(self, tiny, texts, titles, error, message):
        with pytest.raises(error, match=message):
            tiny.process_documents(texts, titles=titles)
        if titles is None:
            with pytest.raises(error, match=message.replace("documents", "queries").replace("document", "query")):
                tiny.process_queries(texts)

    def test_there_is_no_call_for_just_any_text(self, tiny):
        with pytest.raises(TypeError, match="use `process_queries` or `process_documents`"):
            tiny([NILE])
