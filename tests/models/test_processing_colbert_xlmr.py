"""Token ids and masks of ColBERT-XLMR, with XLM-R's own tokenizer where ids are published."""

import copy
import json
import logging
import pickle
import re
import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from hf_xlir import ColBERTXLMRConfig, ColBERTXLMRProcessor
from hf_xlir.models.modeling_retriever import RetrieverOutput


THRONE = "Who maintained the throne for the longest time in China?"
THRONE_IDS = [0, 9748, 40469, 76104, 297, 70, 6, 42294, 86, 100, 70, 4989, 525, 1733, 23, 9098, 32, 2]
NILE = "The Nile flows north, to the sea."
CHANGED = {
    "query_marker_id": 5,
    "document_marker_id": 6,
    "query_length": 12,
    "document_length": 40,
    "query_expansion": "mask",
    "attend_to_expansion": True,
    "skip_punctuation": False,
    "mask_id_zero": True,
    "use_markers": False,
    "skip_ids": [7, 8],
    "query_skip_ids": [0],
    "query_prompt": "Who ",
    "document_prompt": "The ",
}


@pytest.fixture
def published(xlmr_tokenizer):
    return ColBERTXLMRProcessor(xlmr_tokenizer)


@pytest.fixture
def tiny(tiny_tokenizer):
    return ColBERTXLMRProcessor(tiny_tokenizer)


def pieces_of(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def rows_of(inputs):
    """For each text its real ids, and whether each counts."""
    return [
        list(zip(ids[mask.bool()].tolist(), counts[mask.bool()].tolist(), strict=True))
        for ids, mask, counts in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["embedding_mask"], strict=True
        )
    ]


class TestQueries:
    def test_the_published_ids(self, published):
        inputs = published.process_queries([THRONE])
        assert inputs["input_ids"].tolist() == [THRONE_IDS + [1] * 14]
        assert inputs["attention_mask"].tolist() == [[1] * 18 + [0] * 14]
        assert inputs["embedding_mask"].tolist() == [[True] * 32]
        assert list(inputs) == ["input_ids", "attention_mask", "embedding_mask"]
        assert [inputs[name].dtype for name in inputs] == [torch.int64, torch.int64, torch.bool]

    @pytest.mark.parametrize(
        "fields, filling, attended, counted",
        [
            ({"query_expansion": "pad"}, [1] * 14, [0] * 14, [True] * 14),
            ({"query_expansion": "pad", "attend_to_expansion": True}, [1] * 14, [1] * 14, [True] * 14),
            ({"query_expansion": "mask"}, [250001] * 14, [0] * 14, [True] * 14),
            ({"query_expansion": "mask", "attend_to_expansion": True}, [250001] * 14, [1] * 14, [True] * 14),
            ({"query_expansion": "none"}, [], [], []),
            ({"query_expansion": "none", "attend_to_expansion": True}, [], [], []),
        ],
    )
    def test_expansions(self, xlmr_tokenizer, fields, filling, attended, counted):
        inputs = ColBERTXLMRProcessor(xlmr_tokenizer, **fields).process_queries([THRONE])
        assert inputs["input_ids"].tolist() == [THRONE_IDS + filling]
        assert inputs["attention_mask"].tolist() == [[1] * 18 + attended]
        assert inputs["embedding_mask"].tolist() == [[True] * 18 + counted]

    def test_without_expansion_a_batch_is_padded_and_padding_does_not_count(self, tiny_tokenizer):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_expansion="none", attend_to_expansion=True)
        inputs = processor.process_queries(["Who?", NILE])
        longest, short = len(pieces_of(processor, NILE)) + 3, len(pieces_of(processor, "Who?")) + 3
        assert inputs["input_ids"].shape == (2, longest) and short < longest
        assert inputs["input_ids"][0, short:].tolist() == [1] * (longest - short)
        for mask in ("attention_mask", "embedding_mask"):
            assert inputs[mask].long().tolist() == [[1] * short + [0] * (longest - short), [1] * longest]

    def test_punctuation_counts(self, tiny):
        inputs = tiny.process_queries(["Who, (where)?!"])
        assert inputs["embedding_mask"].all()

    def test_chosen_markers(self, xlmr_tokenizer):
        processor = ColBERTXLMRProcessor(xlmr_tokenizer, query_marker_id=77, document_marker_id=250001)
        assert processor.process_queries([THRONE])["input_ids"][0, :3].tolist() == [0, 77, 40469]
        assert processor.process_documents([THRONE])["input_ids"][0, :3].tolist() == [0, 250001, 40469]

    def test_the_quirk_of_the_published_code(self, xlmr_tokenizer):
        """Its mask tests for id 0, which is `<s>`."""
        inputs = ColBERTXLMRProcessor(xlmr_tokenizer, mask_id_zero=True).process_queries([THRONE])
        assert inputs["input_ids"].tolist() == [THRONE_IDS + [1] * 14]
        assert inputs["attention_mask"].tolist() == [[1] * 18 + [0] * 14]
        assert inputs["embedding_mask"].tolist() == [[False] + [True] * 31]


class TestDocuments:
    def test_ids(self, published):
        inputs = published.process_documents([THRONE, "China"])
        assert inputs["input_ids"].tolist() == [[0, 9749, *THRONE_IDS[2:]], [0, 9749, 9098, 2] + [1] * 14]
        assert inputs["attention_mask"].tolist() == [[1] * 18, [1] * 4 + [0] * 14]
        # the question mark, id 32, is skipped; so is padding
        assert inputs["embedding_mask"].tolist() == [[True] * 16 + [False, True], [True] * 4 + [False] * 14]

    def test_punctuation(self, published):
        inputs = published.process_documents(["Hello, world! ( It's 3.5% (really). A_b ~ ... -"])
        pieces = published.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        kept = list(zip(pieces, inputs["embedding_mask"][0].tolist(), strict=True))
        assert kept[3:6] == [(",", False), ("▁world", True), ("!", False)]
        # Exactly the pieces that are one mark, with or without a word boundary in front
        single = {mark for each in string.punctuation for mark in (each, "▁" + each)}
        assert [piece for piece, counts in kept if not counts] == [piece for piece in pieces if piece in single]
        assert {",", "!", "▁(", "'", "_", "▁~", "▁-"} < set(pieces)
        assert {").", "▁..."} < {piece for piece, counts in kept if counts}
        assert inputs["attention_mask"].all()

    def test_punctuation_may_count(self, xlmr_tokenizer):
        inputs = ColBERTXLMRProcessor(xlmr_tokenizer, skip_punctuation=False).process_documents(["Hi, you!"])
        assert inputs["embedding_mask"].all()

    def test_a_document_of_punctuation_keeps_its_frame(self, published):
        inputs = published.process_documents(["? !"])
        assert inputs["input_ids"].tolist() == [[0, 9749, 705, 711, 2]]
        assert inputs["embedding_mask"].tolist() == [[True, True, False, False, True]]

    def test_unknown_pieces_count(self, tiny):
        """Punctuation that a vocabulary lacks must not put `<unk>` on the skip list."""
        assert tiny.tokenizer.convert_tokens_to_ids("@") == tiny.tokenizer.unk_token_id
        inputs = tiny.process_documents(["쥐"])
        assert tiny.tokenizer.unk_token_id in inputs["input_ids"]
        assert inputs["embedding_mask"].all()

    def test_titles(self, tiny):
        inputs = tiny.process_documents([NILE] * 4, titles=["Who?", "", None, "  "])
        frame = [tiny.document_marker_id, tiny.tokenizer.sep_token_id]
        expected = [[0, frame[0], *pieces_of(tiny, text), frame[1]] for text in (f"Who? {NILE}", NILE, NILE, NILE)]
        assert [[token for token, _ in row] for row in rows_of(inputs)] == expected

    @pytest.mark.parametrize("length", [4, 5, 10])
    def test_overlong_documents_lose_their_end(self, tiny_tokenizer, caplog, length):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, document_length=length)
        with caplog.at_level(logging.WARNING):
            inputs = processor.process_documents([NILE * 5, "a"])
        expected = [0, processor.document_marker_id, *pieces_of(processor, NILE * 5)[: length - 3], 2]
        assert inputs["input_ids"][0].tolist() == expected and len(expected) == length
        assert not caplog.records  # routine for passages

    def test_the_quirk_of_the_published_code(self, xlmr_tokenizer):
        """Its mask tests for id 0: `<s>` never counts, padding (id 1) does, punctuation still does not."""
        inputs = ColBERTXLMRProcessor(xlmr_tokenizer, mask_id_zero=True).process_documents([THRONE, "China"])
        assert inputs["attention_mask"].tolist() == [[1] * 18, [1] * 4 + [0] * 14]
        assert inputs["embedding_mask"].tolist() == [[False] + [True] * 15 + [False, True], [False] + [True] * 17]

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        st.lists(st.text("abc,. ナイルÄ", min_size=1).filter(str.strip), min_size=1, max_size=5), st.integers(4, 20)
    )
    def test_any_batch_equals_its_texts_one_by_one(self, tiny_tokenizer, texts, length):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_length=length, document_length=length)
        together = rows_of(processor.process_documents(texts))
        assert together == [rows_of(processor.process_documents([text]))[0] for text in texts]
        queries = processor.process_queries(texts)
        for name, value in queries.items():
            assert torch.equal(value, torch.cat([processor.process_queries([text])[name] for text in texts])), name


class TestSettingsOfOtherLibraries:
    def test_without_markers(self, tiny_tokenizer):
        processor = ColBERTXLMRProcessor(
            tiny_tokenizer, use_markers=False, query_expansion="none", query_length=6, document_length=6
        )
        pieces = tiny_tokenizer(NILE, add_special_tokens=False)["input_ids"]
        for inputs in (processor.process_queries([NILE]), processor.process_documents([NILE])):
            assert inputs["input_ids"].tolist() == [[0, *pieces[:4], 2]]

    def test_skipped_ids(self, tiny_tokenizer):
        nile = tiny_tokenizer.convert_tokens_to_ids("▁Nile")
        processor = ColBERTXLMRProcessor(tiny_tokenizer, skip_ids=[nile, 0], query_skip_ids=[nile], query_length=20)
        ordinary = ColBERTXLMRProcessor(tiny_tokenizer, query_length=20)
        for name, skipped in (("process_documents", (nile, 0)), ("process_queries", (nile,))):
            ids, mask = (getattr(processor, name)([NILE, "Who"])[key] for key in ("input_ids", "embedding_mask"))
            before = getattr(ordinary, name)([NILE, "Who"])["embedding_mask"]
            expected = [[old and each not in skipped for each, old in zip(*row, strict=True)]
                        for row in zip(ids.tolist(), before.tolist(), strict=True)]  # fmt: skip
            assert mask.tolist() == expected and nile in ids

    def test_prompts(self, tiny_tokenizer):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_prompt="Who: ", document_prompt="The ")
        ordinary = ColBERTXLMRProcessor(tiny_tokenizer)
        for found, expected in (
            (processor.process_queries(["invented"]), ordinary.process_queries(["Who: invented"])),
            (processor.process_documents([NILE]), ordinary.process_documents(["The " + NILE])),
            (processor.process_documents([NILE], ["Nile"]), ordinary.process_documents(["The Nile " + NILE])),
        ):
            assert found["input_ids"].tolist() == expected["input_ids"].tolist()
        # A title that is cut keeps the prompt in front of it
        processor, ordinary = (
            ColBERTXLMRProcessor(tiny_tokenizer, document_length=13, document_prompt=prompt) for prompt in ("The ", "")
        )
        found = processor.process_documents(["Seoul " * 9], ["Nile " * 40])["input_ids"]
        assert (
            found.tolist() == ordinary.process_documents(["Seoul " * 9], ["The " + "Nile " * 40])["input_ids"].tolist()
        )

    def test_room_is_left_for_what_is_there(self, tiny_tokenizer, caplog):
        text = "Nile " * 5
        with caplog.at_level(logging.WARNING, logger="hf_xlir"):
            ColBERTXLMRProcessor(tiny_tokenizer, use_markers=False, query_length=7).process_queries([text])
            assert not caplog.text
            ColBERTXLMRProcessor(tiny_tokenizer, query_length=7).process_queries([text])
            assert "1 of 1 texts were truncated" in caplog.text


class TestTruncationWarnings:
    def test_an_endless_question(self, published, caplog):
        endless = "word " * 10_000
        with caplog.at_level(logging.WARNING):
            inputs = published.process_queries(["China", endless, endless])
        assert inputs["input_ids"].shape == (3, 32)
        word = pieces_of(published, "word")
        assert inputs["input_ids"][1].tolist() == [0, 9748, *(word * 29)[:29], 2]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "2 of 3 texts were truncated to `query_length`=32 token ids, first query 1" in caplog.text

    def test_a_question_that_just_fits(self, tiny_tokenizer, caplog):
        pieces = len(tiny_tokenizer(NILE, add_special_tokens=False)["input_ids"])
        with caplog.at_level(logging.WARNING):
            ColBERTXLMRProcessor(tiny_tokenizer, query_length=pieces + 3).process_queries([NILE])
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            ColBERTXLMRProcessor(tiny_tokenizer, query_length=pieces + 2).process_queries([NILE])
        assert len(caplog.records) == 1


class TestScore:
    def test_only_what_counts_is_scored(self, tiny):
        queries = RetrieverOutput(
            embeddings=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), embedding_mask=torch.tensor([[True, False]])
        )
        documents = RetrieverOutput(
            embeddings=torch.tensor([[[-0.6, 0.8], [1.0, 0.0]], [[0.6, 0.8], [0.8, 0.6]]]),
            embedding_mask=torch.tensor([[True, False], [True, True]]),
        )
        assert tiny.score(queries, documents).tolist() == [[pytest.approx(-0.6), pytest.approx(0.8)]]


class TestMistakes:
    @pytest.mark.parametrize("what, plural", [("query", "queries"), ("document", "documents")])
    def test_texts(self, tiny, what, plural):
        process = getattr(tiny, f"process_{plural}")
        for texts, error, message in (
            ([], ValueError, f"Got an empty list of {plural}"),
            (iter([]), ValueError, f"Got an empty list of {plural}"),
            ([NILE, ""], ValueError, f"{what} 1 is empty"),
            ([NILE, NILE, " \n"], ValueError, f"{what} 2 is empty"),
            (NILE, TypeError, f"Expected a list of {plural}, got one string"),
            ([NILE, None], TypeError, f"{what} 1 must be a string, got NoneType"),
            ([3], TypeError, f"{what} 0 must be a string, got int"),
        ):
            with pytest.raises(error, match=message):
                process(texts)

    @pytest.mark.parametrize(
        "titles, error, message",
        [
            ([], ValueError, "one entry per document: got 0 for 2"),
            (["a"], ValueError, "one entry per document: got 1 for 2"),
            ("ab", TypeError, "Expected a list of titles, got one string"),
            (["a", 3], TypeError, "title 1 must be a string or `None`, got int"),
        ],
    )
    def test_titles(self, tiny, titles, error, message):
        with pytest.raises(error, match=message):
            tiny.process_documents([NILE, NILE], titles=titles)

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"query_length": 3}, "`query_length` must be from 4 to the tokenizer's 512 token ids, got 3"),
            ({"document_length": 513}, "`document_length` must be from 4 to the tokenizer's 512 token ids, got 513"),
            ({"query_expansion": "x"}, '`query_expansion` must be "pad", "mask" or "none", got \'x\''),
            ({"query_marker_id": -1}, "`query_marker_id`.* got -1"),
            ({"document_marker_id": 9749}, "`document_marker_id`.* got 9749"),
        ],
    )
    def test_settings(self, tiny_tokenizer, fields, message):
        with pytest.raises(ValueError, match=message):
            ColBERTXLMRProcessor(tiny_tokenizer, **fields)

    @pytest.mark.parametrize("token", ["cls_token", "sep_token", "pad_token"])
    def test_a_tokenizer_without_a_special_token(self, tiny_tokenizer, token):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        setattr(tokenizer, token, None)
        with pytest.raises(ValueError, match=f"The tokenizer has no `{token}`"):
            ColBERTXLMRProcessor(tokenizer)

    def test_masks_need_a_mask_token(self, tiny_tokenizer):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.mask_token = None
        with pytest.raises(ValueError, match='`query_expansion="mask"` needs a tokenizer with a `mask_token`'):
            ColBERTXLMRProcessor(tokenizer, query_expansion="mask")

    def test_there_is_no_call_for_just_any_text(self, tiny):
        with pytest.raises(TypeError, match="use `process_queries` or `process_documents`"):
            tiny([NILE])

    def test_no_tokenizer(self):
        with pytest.raises(TypeError, match="tokenizer"):
            ColBERTXLMRProcessor()


class TestSettings:
    def test_markers(self, published, tiny):
        assert (published.query_marker_id, published.document_marker_id) == (9748, 9749)
        last = len(tiny.tokenizer) - 1
        assert tiny.tokenizer.convert_ids_to_tokens(last) == "<mask>"
        assert (tiny.query_marker_id, tiny.document_marker_id) == (last - 2, last - 1)

    def test_round_trip(self, tiny_tokenizer, tmp_path):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, **CHANGED)
        expected = processor.process_queries([NILE]), processor.process_documents([NILE, "a"])
        processor.save_pretrained(tmp_path)  # after use: what was derived is not saved
        written = json.loads((tmp_path / "processor_config.json").read_text())
        assert written == {**CHANGED, "processor_class": "ColBERTXLMRProcessor"}
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is ColBERTXLMRProcessor
        assert {name: getattr(loaded, name) for name in CHANGED} == CHANGED
        assert set(CHANGED) == set(ColBERTXLMRProcessor.settings)
        found = loaded.process_queries([NILE]), loaded.process_documents([NILE, "a"])
        for one, other in zip(expected, found, strict=True):
            assert {name: value.tolist() for name, value in one.items()} == {
                name: value.tolist() for name, value in other.items()
            }
        assert AutoProcessor.from_pretrained(tmp_path, query_length=20).query_length == 20
        with pytest.raises(ValueError, match="`query_length` must be from 4"):
            AutoProcessor.from_pretrained(tmp_path, query_length=2)

    @pytest.mark.slow
    def test_round_trip_with_the_tokenizer_of_xlmr(self, published, tmp_path):
        published.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert loaded.process_queries([THRONE])["input_ids"].tolist() == [THRONE_IDS + [1] * 14]

    def test_a_folder_of_a_bare_tokenizer(self, tiny_tokenizer, tmp_path):
        tiny_tokenizer.save_pretrained(tmp_path)
        loaded = ColBERTXLMRProcessor.from_pretrained(tmp_path, document_length=33)
        assert (loaded.query_length, loaded.document_length, loaded.query_expansion) == (32, 33, "pad")

    def test_copies_work_alike(self, tiny):
        expected = tiny.process_documents([NILE])["embedding_mask"]
        for other in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
            assert torch.equal(other.process_documents([NILE])["embedding_mask"], expected)

    def test_from_config(self, tiny_tokenizer):
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, ColBERTXLMRConfig(**CHANGED))
        assert {name: getattr(processor, name) for name in CHANGED} == CHANGED
        # `None` in a configuration leaves the markers to the tokenizer
        markers = ColBERTXLMRProcessor.from_config(tiny_tokenizer, ColBERTXLMRConfig())
        assert markers.query_marker_id == len(tiny_tokenizer) - 3

    def test_a_configuration_that_does_not_fit_is_named(self, tiny_tokenizer):
        processor = ColBERTXLMRProcessor(tiny_tokenizer, **CHANGED)
        processor.check_config(ColBERTXLMRConfig(**CHANGED))
        processor.check_config(ColBERTXLMRConfig(**{**CHANGED, "query_marker_id": None}))
        for name, value in ColBERTXLMRProcessor(tiny_tokenizer).to_dict().items():
            if name in CHANGED:
                message = f"processor has {name}={CHANGED[name]!r}, the model's configuration {name}={value!r}"
                with pytest.raises(ValueError, match=re.escape(message)):
                    processor.check_config(ColBERTXLMRConfig(**{**CHANGED, name: value}))

    def test_names(self, tiny):
        assert tiny.model_input_names == ["input_ids", "attention_mask", "embedding_mask"]
        decoded = tiny.batch_decode(tiny.process_documents([NILE])["input_ids"][:, 2:], skip_special_tokens=True)
        assert decoded == [NILE]
