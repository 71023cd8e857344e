import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xlir.data import QUERY_FEATURES, load_queries


EXPECTED = [{"id": "-7", "question": '"Who" did?'}, {"id": "NA", "question": "null"}]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        '-7\t"Who" did?\nNA\tnull\n',
        'qid\tquery\r\n-7\t"Who" did?\r\nNA\tnull',
        'lang\tText\tquery_id\nko\t"Who" did?\t-7\nko\tnull\tNA\n',
        json.dumps({"_id": -7, "text": '"Who" did?', "metadata": {}}) + '\n{"_id": "NA", "text": "null"}',
        '[{"id": -7, "question": "\\"Who\\" did?"}, {"id": "NA", "query": "null"}]',
        'qid\tquery\tquestion\tid\nx\tx\t"Who" did?\t-7\ny\ty\tnull\tNA\n',
        gzip.compress(b'-7\t"Who" did?\nNA\tnull\n', mtime=0),
    ],
)
def test_formats(write, content, streaming):
    queries = load_queries(write("queries.tsv", content), streaming=streaming)
    assert list(queries) == EXPECTED
    assert queries.features == QUERY_FEATURES


def test_parquet(tmp_path):
    pq.write_table(pa.table({"text": ['"Who" did?', "null"], "qid": ["-7", "NA"]}), tmp_path / "queries")
    assert load_queries(tmp_path / "queries").to_list() == EXPECTED


def test_quoted_queries(write):
    path = write("queries.tsv", '1\t"say ""x"""\n2\t"y\n')
    assert load_queries(path)["question"][:] == ['"say ""x"""', '"y']
    assert load_queries(path, quoting="csv")["question"][:] == ['say "x"', '"y']
    with pytest.raises(ValueError, match="`quoting` must be one of .csv., .raw., got .auto."):
        load_queries(path, quoting="auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "just a text\n",
            r"line 1: expected `id` \(or _id, qid, query_id\), `question` \(or query, text\), sep.*got 1 col",
        ),
        ("\n1\ta\tb\n", "line 1: the line is blank"),
        ("1\ta\tb\n", "line 1: expected .* got 3 column"),
        ("qid\tanswer\n", "line 1: the header qid, answer names no question. Expected `id`"),
        ("1\ta\n \tb\n", "line 2: it has no id"),
        ("1\ta\n2\t\n", "line 2: it has no question"),
        ('{"id": "1"}', "line 1: it has no question"),
        ('{"id": 1.5, "text": "a"}', "line 1: the id is a float, not text"),
        ('{"id": true, "text": "a"}', "line 1: the id is a bool, not text"),
    ],
)
def test_what_is_no_file_of_queries_is_named(write, content, message):
    with pytest.raises(ValueError, match=f"queries.tsv`, {message}"):
        load_queries(write("queries.tsv", content))


def test_the_published_samples(shared_data):
    folder = shared_data / "primeqa_samples"
    english = load_queries(folder / "xorqa.train_ir_001pct_at_0_pct_queries_fornum_en.tsv")
    assert english.to_list() == [
        {"id": "-7239279093922981232", "question": "Who maintained the throne for the longest time in China?"}
    ]
    korean = load_queries(folder / "xorqa.train_ir_001pct_at_0_pct_queries_fornum.tsv")
    assert korean["id"][:] == english["id"][:]
