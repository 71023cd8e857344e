"""Untidy files in every loader: names that look like missing values, stray characters, broken rows."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
from transformers.utils import logging

from hf_xlir.data import (
    building,
    load_natural_questions,
    load_parallel,
    load_passages,
    load_queries,
    load_reader_examples,
    load_triples,
    load_xor_translations,
    load_xor_tydi,
)


TEXTS = [
    "NA",
    "null",
    "nan",
    "None",
    "0012",
    "true",
    "#N/A",
    'a "quoted" word',
    '"quoted as a whole"',
    '"a stray quote',
    'the end of a quote"',
    "a\rb",
    "a\u2028b\x85c\x0bd",
    "comma, semicolon; \\backslash\\n",
    "\ufeffnot at the start of a file",
    "中国 🙂",
]
ID_COLLISION = "the id `0` has occurred before"
NOT_UTF8 = r"byte .*0xff.* is not UTF-8"


@dataclass
class Case:
    """
    A loader and a format.

    Attributes:
        load: Loads a path.
        row: The bytes of row `i` with a given text; the id, if the format has one, is `i`.
        text: Finds the text in a record.
        bad: For each kind of bad row, the row and the reason in the error.
        tabs: Whether a text may contain tabs.
        streams: Whether the loader has `streaming`.
    """

    load: Callable
    row: Callable[[int, str], bytes]
    text: Callable[[dict], str]
    bad: dict[str, tuple[bytes, str]]
    file: str = "rows.txt"
    header: bytes = b""
    is_array: bool = False
    tabs: bool = False
    streams: bool = True

    def content(self, rows: list[bytes]) -> bytes:
        if self.is_array:
            return b"[" + b",\n".join(rows) + b"]"
        return self.header + b"\n".join(rows) + b"\n"

    def line(self, row: int) -> int:
        return row + 1 + self.header.count(b"\n")


def tsv(*fields: str) -> bytes:
    return "\t".join(fields).encode()


def csv(*fields: str) -> bytes:
    return "\t".join('"' + each.replace('"', '""') + '"' for each in fields).encode()


def as_json(row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def bad_lines(good: bytes, ragged: bytes | None = None, width: int = 0, got: int = 0, again: bytes | None = None):
    bad = {"blank": (b"", "the line is blank"), "spaces": (b"  ", "the line is blank"), "utf8": (good, NOT_UTF8)}
    if ragged is not None:
        bad["ragged"] = (ragged, f"expected {width} columns as in the first line, got {got}")
    if again is not None:
        bad["duplicate"] = (again, ID_COLLISION)
    return bad


def bad_json(good: bytes, again: bytes | None = None, is_array: bool = False):
    bad = {"utf8": (good, NOT_UTF8), "kind": (b"7", "expected a JSON object, got 7")}
    if not is_array:
        bad |= {
            "blank": (b"", "the line is blank"),
            "cut": (good[:-1], "not JSON"),
            "list": (b"[" + good + b"]", "expected a JSON object"),
        }
    if again is not None:
        bad["duplicate"] = (again, ID_COLLISION)
    return bad


def load_aligned(path, **options):
    """Load a file of sources with a second file of as many translations."""
    lines = Path(path).read_bytes().count(b"\n")
    target = Path(path).with_suffix(".en")
    target.write_text("".join(f"t{line}\n" for line in range(lines)))
    return load_parallel(path, target, **options)


def load_translations(path, **options):
    load_aligned(path, streaming=True)
    Path(path).with_suffix(".en").rename(Path(path).with_name("ko-en.en"))
    return load_xor_translations("ko", Path(path).parent, **options)


QUERIES = datasets.Dataset.from_dict(
    {"id": [str(i) for i in range(9)], "question": [f"question {i}" for i in range(9)]}
)
PASSAGES = datasets.Dataset.from_dict({"id": ["gold", *TEXTS], "text": ["It is.", *TEXTS]})


def load_ids(path, **options):
    return load_triples(path, QUERIES, PASSAGES, **options)


def passage_row(i, text):
    return {"id": str(i), "title": text, "text": text}


def dpr_row(i, text):
    return {"question": text, "answers": [text], "positive_ctxs": [{"title": text, "text": text}]}


def course_row(i, text):
    return {"question": text, "answers": [text], "gold_context": text}


def reader_row(i, text):
    return {"id": i, "question": text, "answers": [text], "ctxs": [{"title": text, "text": text}]}


def xor_row(i, text):
    return {"id": i, "question": text, "answers": [text], "lang": " ar"}


def same(*texts):
    assert len(set(texts)) == 1
    return texts[0]


CASES = {
    "passages, quoted with header": Case(
        load_passages,
        row=lambda i, text: csv(str(i), text, text),
        text=lambda record: same(record["text"], record["title"]),
        header=b"id\ttext\ttitle\n",
        tabs=True,
        bad=bad_lines(csv("9", "x"), b"9\tx", 3, 2, csv("0", "x", "x"))
        | {"more": (b"9\tx\tx\tx", "expected 3 columns as in the first line, got 4")},
    ),
    "passages, raw without header": Case(
        load_passages,
        row=lambda i, text: tsv(str(i), text, text),
        text=lambda record: same(record["text"], record["title"]),
        bad=bad_lines(tsv("9", "x", "x"), b"9\tx", 3, 2, tsv("0", "x", "x")),
    ),
    "passages, JSON lines": Case(
        load_passages,
        row=lambda i, text: as_json(passage_row(i, text)),
        text=lambda record: same(record["text"], record["title"]),
        tabs=True,
        bad=bad_json(as_json(passage_row(9, "x")), as_json(passage_row(0, "x"))),
    ),
    "passages, JSON array": Case(
        load_passages,
        row=lambda i, text: as_json(passage_row(i, text)),
        text=lambda record: same(record["text"], record["title"]),
        is_array=True,
        tabs=True,
        bad=bad_json(as_json(passage_row(9, "x")), as_json(passage_row(0, "x")), is_array=True),
    ),
    "queries": Case(
        load_queries,
        row=lambda i, text: tsv(str(i), text),
        text=lambda record: record["question"],
        bad=bad_lines(tsv("9", "x"), b"9\tx\tx", 2, 3, tsv("0", "x")),
    ),
    "queries, with header": Case(
        load_queries,
        row=lambda i, text: tsv(str(i), "ko", text),
        text=lambda record: record["question"],
        header=b"qid\tlang\tquery\n",
        bad=bad_lines(tsv("9", "ko", "x"), b"9\tx", 3, 2, tsv("0", "ko", "x")),
    ),
    "triples": Case(
        load_triples,
        row=lambda i, text: tsv(text, text, text),
        text=lambda record: same(record["query"], record["positive"], record["negative"]),
        bad=bad_lines(tsv("x", "x", "x"), b"x\tx", 3, 2),
    ),
    "triples of ids": Case(
        load_ids,
        row=lambda i, text: tsv(str(i % 9), "gold", text),
        text=lambda record: same(record["negatives"][0]["text"], record["negatives"][0]["id"]),
        bad=bad_lines(tsv("0", "gold", "NA"))
        | {
            "ragged": (b"0\tgold\tNA\tnull", r"expected 1 negative\(s\), got 2"),
            "short": (b"0\tgold", "it has no negative"),
            "unknown": (b"0\tgold\t77", "no passage has the id `77`"),
            "duplicate": (b"0\tgold\tgold", "it has a passage twice"),
        },
    ),
    "n-way examples": Case(
        load_ids,
        row=lambda i, text: as_json([i % 9, ["gold", 1.5], [text, -2]]),
        text=lambda record: same(record["negatives"][0]["text"], record["negatives"][0]["id"]),
        bad={
            "blank": (b"", "the line is blank"),
            "utf8": (as_json([0, ["gold", 1.5], ["NA", -2]]), NOT_UTF8),
            "kind": (b'{"a": 1}', "expected a JSON array"),
            "cut": (b"[0, [", "not JSON"),
            "ragged": (as_json([0, ["gold", 1], ["NA", 1], ["null", 1]]), r"expected 1 negative\(s\), got 2"),
            "duplicate": (as_json([0, ["gold", 1], ["gold", 1]]), "it has a passage twice"),
        },
    ),
    "parallel text, two files": Case(
        load_aligned,
        row=lambda i, text: text.encode(),
        text=lambda record: record["source"],
        tabs=True,
        bad={"blank": (b"", "the line is blank, while its translation is not"), "utf8": (b"x", NOT_UTF8)},
    ),
    "parallel text, three columns": Case(
        load_parallel,
        file="clean.h5",
        row=lambda i, text: tsv(text, text, text),
        text=lambda record: same(record["source"], record["target"]),
        bad=bad_lines(tsv("x", "x", "x"), b"x\tx", 3, 2),
    ),
    "reader examples, JSON lines": Case(
        load_reader_examples,
        row=lambda i, text: as_json(reader_row(i, text)),
        text=lambda record: same(record["question"], *record["answers"], *[ctx["text"] for ctx in record["ctxs"]]),
        tabs=True,
        bad=bad_json(as_json(reader_row(9, "x")), as_json(reader_row(0, "x"))),
    ),
    "reader examples, JSON array": Case(
        load_reader_examples,
        row=lambda i, text: as_json(reader_row(i, text)),
        text=lambda record: same(record["question"], *record["answers"], *[ctx["title"] for ctx in record["ctxs"]]),
        is_array=True,
        tabs=True,
        bad=bad_json(as_json(reader_row(9, "x")), as_json(reader_row(0, "x")), is_array=True),
    ),
    "NQ-open": Case(
        lambda path, **options: load_natural_questions("open", "train", path, **options),
        row=lambda i, text: as_json({"question": text, "answer": [text]}),
        text=lambda record: same(record["question"], *record["answers"]),
        tabs=True,
        bad=bad_json(as_json({"question": "x", "answer": ["x"]})),
    ),
    "DPR's examples": Case(
        lambda path, **options: load_natural_questions("dpr", "train", path, **options),
        row=lambda i, text: as_json(dpr_row(i, text)),
        text=lambda record: same(record["question"], *[ctx["title"] for ctx in record["positive_ctxs"]]),
        is_array=True,
        tabs=True,
        bad=bad_json(as_json(dpr_row(9, "x")), is_array=True),
    ),
    "DPR's test questions": Case(
        lambda path, **options: load_natural_questions("dpr", "test", path, **options),
        file="nq-test.qa.csv",
        row=lambda i, text: csv(text, repr([text])),
        text=lambda record: same(record["question"], *record["answers"]),
        tabs=True,
        bad=bad_lines(tsv("x", "['x']")) | {"ragged": (b"x\tx\t['x']", "expected a question, a tab and a list")},
    ),
    "the course's questions": Case(
        lambda path, **options: load_natural_questions("dpr", "train", path, **options),
        row=lambda i, text: as_json(course_row(i, text)),
        text=lambda record: same(record["question"], *[ctx["text"] for ctx in record["positive_ctxs"]]),
        tabs=True,
        bad=bad_json(as_json(course_row(9, "x"))),
    ),
    "XOR-TyDi": Case(
        lambda path, **options: load_xor_tydi("full", "train", Path(path).parent, **options),
        file="xor_train_full.jsonl",
        row=lambda i, text: as_json(xor_row(i, text)),
        text=lambda record: same(record["question"], *record["answers"]),
        tabs=True,
        streams=False,
        bad=bad_json(as_json(xor_row(9, "x")), as_json(xor_row(0, "x"))),
    ),
    "XOR-TyDi's translations": Case(
        load_translations,
        file="ko-en.ko",
        row=lambda i, text: text.encode(),
        text=lambda record: record["source"],
        tabs=True,
        streams=False,
        bad={"blank": (b"", "the line is blank, while its translation is not"), "utf8": (b"x", NOT_UTF8)},
    ),
}
STREAMS = [(name, streaming) for name, case in CASES.items() for streaming in [False, True][: 1 + case.streams]]
BAD = [(name, kind) for name, case in CASES.items() for kind in case.bad]


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr(building.logger, "warning", messages.append)
    return messages


def untidy(case: Case, kind: str) -> tuple[list[bytes], str]:
    """Two good rows with a bad one between, and the reason in the error."""
    row, reason = case.bad[kind]
    if kind == "utf8":
        row = row.replace(b"x", b"x\xff").replace(b"NA", b"N\xff")
    return [case.row(0, "NA"), row, case.row(1, "null")], reason


@pytest.mark.parametrize(("name", "streaming"), STREAMS)
def test_texts_are_unchanged(write, name, streaming):
    case = CASES[name]
    texts = TEXTS + ["a\ttab", "\ttabs\t"] * case.tabs
    path = write(case.file, case.content([case.row(index, text) for index, text in enumerate(texts)]))
    records = list(case.load(path, **({"streaming": True} if streaming else {})))
    assert [case.text(record) for record in records] == texts


@pytest.mark.parametrize(("name", "kind"), BAD)
def test_a_bad_row_is_an_error_with_file_line_and_reason(write, name, kind):
    case = CASES[name]
    rows, reason = untidy(case, kind)
    path = write(case.file, case.content(rows))
    with pytest.raises(ValueError, match=f"`.*{case.file}`, line {case.line(1)}: {reason}"):
        case.load(path, on_error="raise")


@pytest.mark.parametrize(("name", "kind"), BAD)
def test_a_bad_row_can_be_skipped_and_counted(write, logged, name, kind):
    case = CASES[name]
    rows, _ = untidy(case, kind)
    path = write(case.file, case.content(rows))
    dataset = case.load(path, on_error="skip")
    assert [case.text(record) for record in dataset] == ["NA", "null"]
    assert len(logged) == 1
    assert logged[0].startswith("Skipped 1 row(s) that cannot be read: `")
    assert f"{case.file}`, line {case.line(1)}: " in logged[0]
    assert dataset.info.description == logged[0]


def test_skipped_rows_are_logged_once_per_process_and_kept_in_the_cache(write, logged):
    path = write("rows.tsv", b"1\ta\n\n\xff\n2\tb\n")
    first = load_passages(path, on_error="skip")
    assert load_passages(path, on_error="skip").cache_files == first.cache_files
    stream = load_passages(path, on_error="skip", streaming=True)
    for _ in range(2):
        assert len(list(stream)) == 2
    assert len(logged) == 1
    assert logged[0].startswith("Skipped 2 row(s)")
    logging.warning_once.cache_clear()  # as in another process
    assert load_passages(path, on_error="skip").info.description == logged[0]
    assert logged == [logged[0]] * 2


@pytest.mark.parametrize(("name", "streaming"), STREAMS)
def test_truncated_downloads(write, name, streaming):
    case = CASES[name]
    path = write(case.file, gzip.compress(case.content([case.row(0, "NA")]))[:-9])
    with pytest.raises(ValueError, match=f"{case.file}` is not a complete gzip file"):
        list(case.load(path, **({"streaming": True} if streaming else {})))


def test_a_file_of_only_bad_rows(write):
    with pytest.raises(ValueError, match="has no rows to load: it is empty, or every row was skipped"):
        load_queries(write("rows.tsv", b"1\t\xff\n"), on_error="skip")
