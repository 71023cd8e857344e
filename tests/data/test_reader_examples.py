"""A reader's examples, read and written."""

import gzip
import json
import math

import pytest
from datasets import Dataset

from hf_xlir.data import load_reader_examples, write_ranked_examples
from hf_xlir.data.reader_examples import read_reader_rows
from hf_xlir.data.reading import RowErrors


ROWS = [
    {
        "id": 7,
        "question": "q",
        "target": "NA",
        "answers": ["NA", "null"],
        "lang": " fi",
        "ctxs": [
            {"id": "wiki:1", "title": "T", "text": "a\tb\n", "score": "79.5", "has_answer": True},
            {"title": None, "text": "c"},
        ],
    },
    {"question": "r", "ctxs": [], "question_en": "?", "language": "ko"},
]

RECORDS = [
    {
        "id": "7",
        "question": "q",
        "target": "NA",
        "answers": ["NA", "null"],
        "lang": "fi",
        "ctxs": [
            {"id": "wiki:1", "title": "T", "text": "a\tb\n", "score": 79.5},
            {"id": "", "title": "", "text": "c", "score": None},
        ],
    },
    {"id": "1", "question": "r", "target": None, "answers": [], "lang": "ko", "ctxs": []},
]


class TestLoading:
    @pytest.mark.parametrize("layout", ["json", "json.gz", "jsonl"])
    def test_json_and_json_lines(self, write, layout):
        content = "\n".join(map(json.dumps, ROWS)) if layout == "jsonl" else json.dumps(ROWS)
        path = write(f"examples.{layout}", gzip.compress(content.encode()) if layout.endswith("gz") else content)
        assert load_reader_examples(path).to_list() == RECORDS
        assert list(load_reader_examples(path, streaming=True)) == RECORDS

    def test_many_examples_keep_their_order(self, write):
        path = write("examples.json", json.dumps([{"question": str(index), "ctxs": []} for index in range(250)]))
        assert load_reader_examples(path)["question"][:] == [str(index) for index in range(250)]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"question": ""}, "it has no question"),
            ({"question": "\ufeff "}, "it has no question"),
            ({"question": "q", "lang": 3}, "`lang` is not text: 3"),
            ({"question": "q", "id": [1]}, r"`id` is neither text nor an integer: \[1\]"),
            ({"question": "q", "id": True}, "`id` is neither text nor an integer: True"),
            ({"question": "q", "id": 1.0}, "`id` is neither text nor an integer: 1.0"),
            ({"question": "q", "target": 3}, "`target` is not text: 3"),
            ({"question": "q", "answers": "a"}, "`answers` is not a list of texts: 'a'"),
            ({"question": "q", "answers": [3]}, r"`answers` is not a list of texts: \[3\]"),
            ({"question": "q", "ctxs": {}}, "`ctxs` is not a list of passages: {}"),
            (
                {"question": "q", "ctxs": [{"title": "T"}]},
                "entry 1 of `ctxs` is not an object with a `text`: {'title",
            ),
            ({"question": "q", "ctxs": [{"text": "a"}, "b"]}, "entry 2 of `ctxs` is not an object with a `text`: 'b'"),
            ({"question": "q", "ctxs": [None]}, "entry 1 of `ctxs` is not an object with a `text`: None"),
            ({"question": "q", "ctxs": [{"text": "a"}, {"text": " \u200b"}]}, "entry 2 of `ctxs` has an empty `text`"),
            (
                {"question": "q", "ctxs": [{"text": "a", "score": "high"}]},
                "entry 1 of `ctxs` has the score 'high', not a float32 number",
            ),
            ({"question": "q", "ctxs": [{"text": "a", "score": True}]}, "entry 1 of `ctxs` has the score True"),
            ({"question": "q", "ctxs": [{"text": "a", "score": [1]}]}, r"entry 1 of `ctxs` has the score \[1\]"),
            ({"question": "q", "ctxs": [{"text": "a", "score": math.nan}]}, "entry 1 of `ctxs` has the score nan"),
            ({"question": "q", "ctxs": [{"text": "a", "score": math.inf}]}, "entry 1 of `ctxs` has the score inf"),
            (
                {"question": "q", "ctxs": [{"text": "a", "score": -1e39}]},
                r"entry 1 of `ctxs` has the score -1e\+39",
            ),
        ],
    )
    def test_bad_rows(self, write, row, reason):
        path = write("examples.jsonl", "\n".join(map(json.dumps, [ROWS[0], row])))
        with pytest.raises(ValueError, match=f"examples.jsonl`, line 2: {reason}"):
            load_reader_examples(path)
        assert load_reader_examples(path, on_error="skip").to_list() == RECORDS[:1]

    def test_required_answers(self, write):
        rows = [ROWS[0], ROWS[1], {"question": "s", "target": "", "ctxs": []}, {"question": "t", "answers": ["u"]}]
        path = write("examples.jsonl", "\n".join(map(json.dumps, rows)))
        assert len(load_reader_examples(path)) == 4
        with pytest.raises(ValueError, match="examples.jsonl`, line 2: it has neither `target` nor `answers`"):
            load_reader_examples(path, require_answers=True)
        kept = load_reader_examples(path, require_answers=True, on_error="skip")
        assert kept["question"][:] == ["q", "s", "t"] and kept["target"][:] == ["NA", "", None]

    def test_missing_values(self, write):
        """`null` counts as a missing key; a byte order mark and line ends of Windows are not text."""
        nothing = {name: None for name in ("id", "target", "answers", "lang", "ctxs")}
        rows = [
            {"question": "q"},
            {"question": "q", **nothing},
            {"question": "q", "answers": [], "lang": "", "ctxs": []},
        ]
        rows.append(
            {"question": "q", "ctxs": [{"text": "a", "title": None, "id": None, "score": None}, {"text": "b"}]}
        )
        path = write("examples.jsonl", ("\ufeff" + "\r\n".join(map(json.dumps, rows)) + "\r\n\r\n").encode())
        *without, last = load_reader_examples(path).to_list()
        expected = {"question": "q", "target": None, "answers": [], "lang": "", "ctxs": []}
        assert without == [{"id": str(place), **expected} for place in range(3)]
        passages = [{"id": "", "title": "", "text": text, "score": None} for text in "ab"]
        assert last == {"id": "3", **expected, "ctxs": passages}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('{"question": "q"}\n\n{"question": "r"}', "line 2: the line is blank"),
            ('{"question": "q"}\n[1]', r"line 2: expected a JSON object, got \[1\]"),
            ('{"question": "q"}\nnull', "line 2: expected a JSON object, got null"),
            ('{"question": "q"}\n{"question": "r"', "line 2: not JSON"),
            ('{"question": "q"},\n{"question": "r"}', "line 1: not JSON"),
            ('[{"question": "q"},\n3]', "line 2: expected a JSON object, got 3"),
            ('[{"question": "q"},\n{"question"', "line 2: not JSON .* turn it into JSON lines"),
            ('{"question": "q", "id": 1}\n{"question": "r", "id": "1"}', "line 2: the id `1` has occurred before"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["json", "jsonl"])
    def test_files_with_bad_rows(self, write, content, said, suffix):
        """The format is recognised by content, not by suffix."""
        with pytest.raises(ValueError, match=f"examples.{suffix}`, {said}"):
            load_reader_examples(write(f"examples.{suffix}", content))

    def test_rows_with_all_fields(self, write):
        path = write("examples.json", json.dumps(ROWS))
        assert list(read_reader_rows(path, path, RowErrors())) == list(zip(ROWS, RECORDS, strict=True))
        twice = write("twice.jsonl", "\n".join([json.dumps(ROWS[0])] * 2))
        with pytest.raises(ValueError, match="twice.jsonl`, line 2: the id `7` has occurred before"):
            list(read_reader_rows(twice, twice, RowErrors()))

    def test_a_missing_file(self):
        with pytest.raises(FileNotFoundError, match="no file `absent.json`"):
            load_reader_examples("absent.json")


PASSAGES = Dataset.from_dict({"id": ["a", "b", "c"], "title": ["A", None, "C"], "text": ["one", "two", "three"]})

QUESTIONS = [
    {"id": "1", "question": "Who?", "answers": ["Bell"], "lang": "en", "passage_ids": ["b"], "other": 3},
    {"id": "2", "question": "Où ?", "answers": [], "lang": ""},
]


class TestWriting:
    def test_the_first_passages_of_each_question(self, tmp_path):
        path, rankings = tmp_path / "x.jsonl", {"1": ["c", "b", "a"], "2": ["a"], "3": ["b"]}
        write_ranked_examples(path, QUESTIONS, PASSAGES, rankings, 2, {"1": [3.0, 2.5, 1.0], "2": [0.5]})
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
            {
                **{"id": "1", "question": "Who?", "answers": ["Bell"], "lang": "en", "passage_ids": ["b"]},
                "ctxs": [
                    {"id": "c", "title": "C", "text": "three", "retriever_score": 3.0},
                    {"id": "b", "title": "", "text": "two", "retriever_score": 2.5},
                ],
            },
            {
                **{"id": "2", "question": "Où ?"},
                "ctxs": [{"id": "a", "title": "A", "text": "one", "retriever_score": 0.5}],
            },
        ]
        loaded = load_reader_examples(path, cache_dir=str(tmp_path))
        assert [context["id"] for context in loaded[0]["ctxs"]] == ["c", "b"] and loaded[0]["ctxs"][0]["score"] is None

    def test_errors_leave_the_file_unchanged(self, tmp_path):
        path = tmp_path / "x.jsonl"
        path.write_text("before")
        with pytest.raises(ValueError, match=r"1 questions have no ranking, such as \['2'\]"):
            write_ranked_examples(path, QUESTIONS, PASSAGES, {"1": ["a"]})
        with pytest.raises(ValueError, match=r"of question `2` names unknown passages: \['x'\]"):
            write_ranked_examples(path, QUESTIONS, PASSAGES, {"1": ["a"], "2": ["x"]})
        assert path.read_text() == "before"

    def test_empty_rankings_and_missing_titles(self, tmp_path):
        path = tmp_path / "x.jsonl"
        write_ranked_examples(path, QUESTIONS, PASSAGES.remove_columns("title"), {"1": [], "2": ["b"]})
        first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        assert first["ctxs"] == [] and second["ctxs"] == [{"id": "b", "title": "", "text": "two"}]
