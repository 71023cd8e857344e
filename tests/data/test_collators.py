"""Batches of rows: with processors that pass texts through, and with a reader's processor."""

import pytest
import torch
from fid_tiny import make_tokenizer

from hf_xlir import FiDT5Processor
from hf_xlir.data import ReaderCollator, RetrieverCollator


INF = float("inf")


class Processor:
    """Keeps texts, and notes what it was asked for."""

    def __init__(self):
        self.calls = []

    def process_queries(self, texts, warn=True):
        assert not warn  # thousands of batches would repeat themselves
        self.calls.append("queries")
        return {"texts": list(texts)}

    def process_documents(self, texts, titles):
        self.calls.append("documents")
        return {"texts": list(zip(titles, texts, strict=True))}


ROWS = [
    {"query": "Kuka?", "positive": "She did.", "negatives": [{"title": "Rain", "text": "It rained."}, "Nobody."]},
    {"query": "Missä?", "positive": {"title": "Rain", "text": "It rained."}, "negatives": ["She did.", "Here."]},
]

TEACHER_ROWS = [dict(ROWS[0], teacher_query="Who?"), ROWS[1]]

READER_ROWS = [
    {"query": "Who?", "documents": ["She did.", {"title": "Rain", "text": "It rained."}], "reader_scores": [0.5, -1]},
    {"query": "Where?", "positive": "Here.", "negatives": ["There.", "Nowhere."], "reader_scores": [-INF, 2, None]},
]


class TestRetrieverCollator:
    def test_documents_of_a_row_stand_together_positive_first(self):
        batch = RetrieverCollator(Processor())(ROWS)
        assert list(batch) == ["queries", "document_keys", "documents"]
        assert batch["queries"] == {"texts": ["Kuka?", "Missä?"]}
        assert batch["documents"]["texts"] == [
            ("", "She did."),
            ("Rain", "It rained."),
            ("", "Nobody."),
            ("Rain", "It rained."),
            ("", "She did."),
            ("", "Here."),
        ]

    def test_keys_are_equal_for_equal_texts_in_every_process(self):
        keys = RetrieverCollator(Processor())(ROWS)["document_keys"]
        assert keys.dtype == torch.long
        assert keys[0] == keys[4] and keys[1] == keys[3] and len(set(keys.tolist())) == 4
        assert keys[0] == 4619243072635139124  # not Python's hash, which differs from process to process
        other = [
            {"query": "?", "positive": {"title": "", "text": "She did."}},
            {"query": "?", "positive": "It rained."},
        ]
        others = RetrieverCollator(Processor())(other)["document_keys"]
        assert others[0] == keys[0]
        assert others[1] != keys[1]  # another title

    def test_negatives_and_titles_are_optional(self):
        for negatives in ({}, {"negatives": None}, {"negatives": []}):
            rows = [{"query": "?", "positive": {"title": None, "text": "Yes."}, **negatives}]
            assert RetrieverCollator(Processor())(rows)["documents"]["texts"] == [("", "Yes.")]

    def test_teacher(self):
        batch = RetrieverCollator(Processor(), Processor())(TEACHER_ROWS)
        assert batch["queries"]["texts"] == ["Kuka?", "Missä?"]
        assert batch["teacher_queries"]["texts"] == ["Who?", "Missä?"]
        assert batch["teacher_documents"] == batch["documents"]
        assert list(batch)[0] == "queries"  # where the Trainer looks for the batch size
        rows = [{"query": query, "teacher_query": "Who?", "positive": "She."} for query in ("Kuka?", "Kto?")]
        keys = RetrieverCollator(Processor(), Processor())(rows)["teacher_query_keys"]
        assert keys.shape == (2,) and keys[0] == keys[1]

    @pytest.mark.parametrize("student", [True, False])
    @pytest.mark.parametrize("teacher", [True, False])
    def test_documents_are_encoded_by_whom_they_are_for(self, student, teacher):
        processors = Processor(), Processor()
        rows = TEACHER_ROWS if student or teacher else [{"query": "Kuka?"}]
        batch = RetrieverCollator(*processors, with_documents=student, with_teacher_documents=teacher)(rows)
        for processor, name, wanted in zip(
            processors, ("documents", "teacher_documents"), (student, teacher), strict=True
        ):
            assert (name in batch) == wanted
            assert processor.calls == ["queries", "documents"][: 1 + wanted]
        assert ("document_keys" in batch) == (student or teacher)

    def test_stored_scores(self):
        rows = [dict(row, teacher_scores=[3, 2.5, i]) for i, row in enumerate(ROWS)]
        batch = RetrieverCollator(Processor())(rows)
        assert batch["teacher_scores"].dtype == torch.float32
        assert batch["teacher_scores"].tolist() == [[3.0, 2.5, 0.0], [3.0, 2.5, 1.0]]
        assert "teacher_queries" not in batch
        batch = RetrieverCollator(Processor(), Processor(), with_documents=False)(rows)
        assert {"teacher_scores", "teacher_documents"} < set(batch) and "documents" not in batch

    def test_stored_sentence_vectors_need_no_teacher(self):
        rows = [{"query": "Kuka?", "teacher_query": "Who?", "teacher_embedding": [0.5, 1.0]}] * 2
        batch = RetrieverCollator(Processor(), with_documents=False)(rows)
        assert batch["teacher_embeddings"].dtype == torch.float32
        assert batch["teacher_embeddings"].tolist() == [[0.5, 1.0]] * 2
        assert batch["teacher_query_keys"][0] == batch["teacher_query_keys"][1]
        assert "teacher_queries" not in batch

    def test_documents_that_a_reader_had(self):
        batch = RetrieverCollator(Processor(), with_reader_scores=True)(READER_ROWS)
        assert batch["documents"]["texts"] == [("", "She did."), ("Rain", "It rained."), ("", "There.")]
        assert batch["reader_scores"].dtype == torch.float32
        assert batch["reader_scores"].tolist() == [[0.5, -1.0], [2.0, -INF]]
        assert len(batch["document_keys"]) == 3

    def test_a_list_of_documents_is_like_positive_and_negatives(self):
        rows = [{"query": row["query"], "documents": [row["positive"], *row["negatives"]]} for row in ROWS]
        batch, expected = RetrieverCollator(Processor())(rows), RetrieverCollator(Processor())(ROWS)
        assert batch["documents"] == expected["documents"]
        assert torch.equal(batch["document_keys"], expected["document_keys"])

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            (None, "one number for each of 2 documents, got none"),
            ([1.0], "one number for each of 2 documents, got 1"),
            ([-INF, None], r"no document \(all -inf\) for 'Who\?'"),
            ([1.0, float("nan")], "must be finite in float32, or -inf or `None` for an absent document, got nan"),
            ([1.0, -1e39], "must be finite in float32, or -inf or `None` for an absent document, got -1e"),
            ([1.0, INF], "got inf"),
        ],
    )
    def test_errors_about_reader_scores(self, scores, message):
        processor = Processor()
        with pytest.raises(ValueError, match=message):
            RetrieverCollator(processor, with_reader_scores=True)([{**READER_ROWS[0], "reader_scores": scores}])
        assert processor.calls == []

    def test_error_about_no_documents(self):
        with pytest.raises(ValueError, match=r"`documents` is empty for 'Who\?'"):
            RetrieverCollator(Processor())([{"query": "Who?", "documents": []}])

    def test_different_numbers_of_documents_are_for_reader_scores_alone(self):
        rows = [READER_ROWS[0], {**READER_ROWS[1], "negatives": ["A.", "B."], "reader_scores": [1.0, 2.0, 3.0]}]
        with pytest.raises(ValueError, match="the same number of negatives"):
            RetrieverCollator(Processor())(rows)

    @pytest.mark.parametrize(
        ("second_row", "message"),
        [
            ({"negatives": ["Here."]}, r"the same number of negatives, got \[1, 2\]"),
            ({"negatives": None}, r"the same number of negatives, got \[0, 2\]"),
            ({"teacher_scores": [1.0, 2.0]}, "one number for each of the 3 documents"),
            ({"teacher_scores": None}, "one number for each of the 3 documents"),
        ],
    )
    def test_errors_come_before_tokenization(self, second_row, message):
        processor = Processor()
        rows = [dict(ROWS[0]), {**ROWS[1], **second_row}]
        if "teacher_scores" in second_row:
            rows[0]["teacher_scores"] = [1.0, 2.0, 3.0]
        with pytest.raises(ValueError, match=message):
            RetrieverCollator(processor)(rows)
        assert processor.calls == []


PROCESSOR = FiDT5Processor(make_tokenizer(), n_context=2)

EXAMPLES = [
    {"question": "Who?", "ctxs": [{"title": "T", "text": "a"}] * 3, "target": "the", "answers": ["rain"]},
    {"question": "Where?", "ctxs": [], "target": None, "answers": ["rain", "Seoul"]},
]


def assert_equal(batch, expected):
    assert set(batch) == set(expected) and type(batch) is dict
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


class TestReaderCollator:
    def test_a_batch(self):
        batch = ReaderCollator(PROCESSOR)(EXAMPLES)
        ctxs = [row["ctxs"] for row in EXAMPLES]
        assert_equal(batch, PROCESSOR(["Who?", "Where?"], ctxs, ["the", "rain"]))
        assert batch["input_ids"].shape[:2] == (2, 2)
        assert_equal(ReaderCollator(PROCESSOR)([{**EXAMPLES[0], "target": ""}]), PROCESSOR(["Who?"], ctxs[:1], [""]))

    def test_no_labels_where_a_row_has_nothing_to_write(self):
        without = {"question": "Where?", "ctxs": []}
        for row in (without, {**without, "answers": [], "target": None}):
            assert_equal(
                ReaderCollator(PROCESSOR)([EXAMPLES[0], row]), PROCESSOR(["Who?", "Where?"], [EXAMPLES[0]["ctxs"], []])
            )
