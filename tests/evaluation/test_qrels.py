"""Relevance judgements from files, tidy and untidy."""

import gzip

import pytest

from hf_xlir.evaluation import load_qrels, ndcg_at_k, ranking_files


TREC = "q1 0 a 0\nq1\t0\tb\t2\nq2 0 a 1\n"
BEIR = "query-id\tcorpus-id\tscore\nq1\ta b\t0\nq1\tb\t2\nq2\ta b\t1\n"


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "qrels.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "qrels.tsv"

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_trec(write, pack):
    judged = load_qrels(write(pack(TREC.encode())))
    assert judged == {"q1": {"a": 0, "b": 2}, "q2": {"a": 1}}
    assert ndcg_at_k({"q1": ["b"], "q2": []}, judged, 10) == 0.5


@pytest.mark.parametrize("content", [BEIR, BEIR.partition("\n")[2], BEIR.replace("query-id", "Query-ID")])
def test_beir_with_and_without_header(write, content):
    assert load_qrels(write(content)) == {"q1": {"a b": 0, "b": 2}, "q2": {"a b": 1}}


def test_tabs_part_ids_with_spaces(write):
    assert load_qrels(write("q 1\t0\ta b\t1\nq 1\tQ0\tc\t-2\n")) == {"q 1": {"a b": 1, "c": -2}}


def test_queries_without_relevant_passages_are_left_out(write, monkeypatch):
    logged = []
    monkeypatch.setattr(ranking_files.logger, "warning", logged.append)
    path = write(TREC + "q3 0 a 0\nq4 0 b -1\n")
    assert list(load_qrels(path)) == ["q1", "q2"]
    assert logged == [f"`{path}`: left out 2 queries without a relevant passage, such as ['q3', 'q4']."]
    with pytest.raises(ValueError, match="has no relevant passage"):
        load_qrels(write("q3 0 a 0\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1 0 b\n", "its columns differ from the first line's: 'q1 0 b'"),
        ("q1 0 b 1.5\n", "the grade '1.5' is not a whole number"),
        ("q1 0 b --1\n", "the grade '--1' is not a whole number"),
        ("q1\t0\t\t1\n", "it has no query, or no passage"),
        ("q1 0 a 1\n", "the passage `a` was judged before for the query `q1`"),
        ("\n", "the line is blank"),
        (b"q1 0 \xff 1\n", "is not UTF-8"),
    ],
)
def test_bad_rows(write, monkeypatch, row, message):
    logged = []
    monkeypatch.setattr(ranking_files.logger, "warning", logged.append)
    row = row if isinstance(row, bytes) else row.encode()
    path = write(b"q1 0 a 1\n" + row + b"q2 0 a 1\n")
    with pytest.raises(ValueError, match=f"qrels.tsv`, line 2: .*{message}"):
        load_qrels(path)
    assert load_qrels(path, on_error="skip") == {"q1": {"a": 1}, "q2": {"a": 1}}
    assert len(logged) == 1 and logged[0].startswith(f"Skipped 1 row(s) that cannot be read: `{path}`, line 2: ")


def test_errors(write, tmp_path):
    for content in ("q1 a\n", "query-id\tscore\n", "a\tb\tc\td\te\n"):
        with pytest.raises(ValueError, match="line 1: expected TREC's query, iteration, passage and grade, or BEIR's"):
            load_qrels(write(content))
    with pytest.raises(ValueError, match="line 1: the grade 'score' is not a whole number"):
        load_qrels(write("query-id\tdoc\tscore\nq\ta\t1\n"))  # a header of other names is none
    with pytest.raises(ValueError, match="has no relevant passage"):
        load_qrels(write(""))
    with pytest.raises(FileNotFoundError):
        load_qrels(tmp_path / "absent.tsv")
