"""Rankings and relevance judgements to and from files, good and bad."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.evaluation import (
    check_ranking_ids,
    load_qrels,
    load_ranking,
    ndcg_at_k,
    ranking_files,
    save_ranking,
)


TREC = "q1 Q0 c 1 9.5 run\nq2\tQ0\tb\t1\t0.5\trun\nq1 Q0 a 3 9.5 run\nq1 q0 b 2 10 run\n"


@pytest.fixture
def write(tmp_path):
    def write(content, name="ranking.tsv"):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_trec_run(write, pack):
    ranking = load_ranking(write(pack(TREC.encode())))
    assert ranking.rankings == {"q1": ["b", "a", "c"], "q2": ["b"]}  # by score, then by id; ranks are ignored
    assert ranking.scores == {"q1": [10.0, 9.5, 9.5], "q2": [0.5]}


def test_colbert_table(write):
    ranking = load_ranking(write("7\t12\t2\t-1.5\r\n7\t11\t1\t2e1\r\n8\t11\t1\t3\r\n\r\n"))
    assert ranking.rankings == {"7": ["11", "12"], "8": ["11"]}
    assert ranking.scores == {"7": [20.0, -1.5], "8": [3.0]}


def test_without_scores_by_rank(write):
    ranking = load_ranking(write("7\tb c\t10\n7\ta\t9\nNA\tnull\t1\n"))
    assert ranking == ({"7": ["a", "b c"], "NA": ["null"]}, {})


JSON_ROW = {"id": "q1", "question": "Who?", "ctxs": [{"id": 7, "score": 1}, {"id": "a", "score": "2.5", "text": "-"}]}
NOTHING = {"id": "q2", "ctxs": []}


@pytest.mark.parametrize("as_array", [False, True])
def test_json(write, as_array):
    lines = [json.dumps(JSON_ROW), json.dumps(NOTHING)]
    ranking = load_ranking(write(f"[{','.join(lines)}]" if as_array else "\n".join(lines)))
    assert ranking == ({"q1": ["a", "7"], "q2": []}, {"q1": [2.5, 1.0], "q2": []})


def test_json_without_scores(write):
    rows = [NOTHING, {"id": 5, "ctxs": [{"id": "b"}, {"id": "a", "score": None}]}]
    assert load_ranking(write("\n".join(map(json.dumps, rows)))) == ({"q2": [], "5": ["b", "a"]}, {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "q", "ctxs": ["a"]}, "it has no `id`"),
        ({"id": " ", "ctxs": []}, "it has no `id`"),
        ({"id": "q", "ctxs": [{"score": 1}]}, "one of `ctxs` has no `id`"),
        ({"id": "q", "ctxs": [{"id": "a", "score": 2}, {"id": "a", "score": 1}]}, "the passage `a` occurs twice"),
        ({"id": "q1", "ctxs": []}, "the query `q1` occurred before"),
        ({"id": "q", "ctxs": [{"id": "a"}]}, "some passages in the file have a `score`, others"),
        ({"id": "q", "ctxs": [{"id": "a", "score": float("nan")}]}, "the score is NaN"),
        ({"id": "q", "ctxs": [{"id": "a", "score": [1]}]}, r"the score \[1\] is not a number"),
        ({"id": "q", "ctxs": [{"id": "a", "score": 10**400}]}, "is not a number"),
        ([], "expected a JSON object"),
    ],
)
def test_bad_rows_of_json(write, row, message):
    path = write("\n".join([json.dumps(JSON_ROW), json.dumps(row), json.dumps(NOTHING)]))
    with pytest.raises(ValueError, match=f"ranking.tsv`, line 2: .*{message}"):
        load_ranking(path)
    assert load_ranking(path, on_error="skip").rankings == {"q1": ["a", "7"], "q2": []}


def test_an_id_may_begin_with_a_bracket(write):
    assert load_ranking(write("[1]\ta\t1\n")).rankings == {"[1]": ["a"]}
    assert load_ranking(write("{1} Q0 [a] 1 2 run\n")).rankings == {"{1}": ["[a]"]}


RANKED = {"q1": {"b": 1.0, "a": 1.0, "c": -2.1}, "q 2": {"ä ö": 1e300}}
WRITTEN = {
    "trec": "q1 Q0 a 1 1.0 bm25\nq1 Q0 b 2 1.0 bm25\nq1 Q0 c 3 -2.1 bm25\n",
    "colbert": "q1\ta\t1\t1.0\nq1\tb\t2\t1.0\nq1\tc\t3\t-2.1\nq 2\tä ö\t1\t1e+300\n",
    "jsonl": '{"id": "q1", "ctxs": [{"id": "a", "score": 1.0}, {"id": "b", "score": 1.0}, {"id": "c", "score": -2.1}]}'
    '\n{"id": "q 2", "ctxs": [{"id": "ä ö", "score": 1e+300}]}\n',
}


@pytest.mark.parametrize("format", WRITTEN)
def test_formats_of_save_ranking(tmp_path, format):
    ranked = {query: RANKED[query] for query in RANKED if format != "trec" or query == "q1"}
    save_ranking(tmp_path / "new" / "file", ranked, format, run_name="bm25")
    assert (tmp_path / "new" / "file").read_text("utf-8") == WRITTEN[format]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file"]


def test_without_scores(tmp_path):
    ranked = {"q1": ["b", "a"], "q2": []}
    for format, expected in (
        ("trec", ({"q1": ["b", "a"]}, {"q1": [-1.0, -2.0]})),
        ("colbert", ({"q1": ["b", "a"]}, {})),
        ("jsonl", (ranked, {})),
    ):
        save_ranking(tmp_path / format, ranked, format)
        assert load_ranking(tmp_path / format) == expected
    save_ranking(tmp_path / "nothing", {"q": {}}, "jsonl")
    assert load_ranking(tmp_path / "nothing") == ({"q": []}, {})


IDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=5)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("format", ranking_files.RANKING_FORMATS)
@given(ranked=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=4), min_size=1, max_size=3))
def test_round_trip(tmp_path_factory, format, ranked):
    file = tmp_path_factory.mktemp("rankings") / "file"
    save_ranking(file, ranked, format)
    again = load_ranking(file)
    assert again.rankings == {
        query: sorted(scores, key=lambda id, scores=scores: (-scores[id], id)) for query, scores in ranked.items()
    }
    assert again.scores == {query: sorted(scores.values(), reverse=True) for query, scores in ranked.items()}
    first = file.read_bytes()
    save_ranking(file, again, format)
    assert file.read_bytes() == first


@pytest.mark.parametrize(
    ("ranked", "format", "message"),
    [
        ({"q": ["a"]}, "csv", "`format` must be one of 'trec', 'colbert', 'jsonl', got 'csv'"),
        ({}, "jsonl", "'jsonl' can hold"),
        ({"q": ["a b"]}, "trec", "query 'q' has the id 'a b', with white space"),
        ({"q 1": ["a"]}, "trec", "query 'q 1' has the id 'q 1', with white space"),
        ({"q": ["a\tb"]}, "colbert", "with a tab or a new line"),
        ({"\ufeffq": ["a"]}, "colbert", "a byte order mark"),
        ({"q": [7]}, "jsonl", "has the id 7: ids are strings"),
        ({"q": [" "]}, "colbert", "has the id ' '"),
        ({"q": {"a": float("inf")}}, "trec", "has an infinite score"),
        ({"q": {"a": float("nan")}}, "trec", "has a score that is NaN"),
    ],
)
def test_errors_of_save_ranking(tmp_path, ranked, format, message):
    with pytest.raises(ValueError, match=message):
        save_ranking(tmp_path / "file", ranked, format)
    assert not list(tmp_path.iterdir())


def test_a_run_name_is_one_word(tmp_path):
    with pytest.raises(ValueError, match="`run_name` is 'my run', with white space"):
        save_ranking(tmp_path / "file", {"q": ["a"]}, run_name="my run")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7\t12\t3\n", "its columns differ"),
        ("7\t12\t1.5\t2\n", "the rank '1.5' is not a whole number"),
        ("7\t12\t1\tx\n", "the score 'x' is not a number"),
        ("7\t12\t1\t2_5\n", "the score '2_5' is not a number"),
        ("7\t12\t1\tnan\n", "the score is NaN"),
        ("7\t11\t2\t1\n", "the passage `11` occurred before for the query `7`"),
        ("\t11\t2\t1\n", "it has no query, or no passage"),
        ("\n", "the line is blank"),
        (b"7\t\xff\t1\t1\n", "is not UTF-8"),
    ],
)
def test_bad_rows(write, monkeypatch, row, message):
    logged = []
    monkeypatch.setattr(ranking_files.logger, "warning", logged.append)
    row = row if isinstance(row, bytes) else row.encode()
    path = write(b"7\t11\t1\t3\n" + row + b"8\t11\t1\t3\n")
    with pytest.raises(ValueError, match=f"ranking.tsv`, line 2: .*{message}"):
        load_ranking(path)
    assert load_ranking(path, on_error="skip").rankings == {"7": ["11"], "8": ["11"]}
    assert len(logged) == 1 and logged[0].startswith(f"Skipped 1 row(s) that cannot be read: `{path}`, line 2: ")


def test_bad_rows_of_a_run(write):
    with pytest.raises(ValueError, match="line 5: its columns differ"):
        load_ranking(write(TREC + "q1 Q0 d 1 9.5\n"))
    assert load_ranking(write("q1 Q0 a 1 2 run\nq1 Q0 b 2\n"), on_error="skip").scores == {"q1": [2.0]}


def test_errors(write, tmp_path):
    for content in ("q1 a 1\n", "a\tb\n", "a\tb\tc\td\te\n"):
        with pytest.raises(ValueError, match="line 1: expected query, passage, rank and optionally score"):
            load_ranking(write(content))
    with pytest.raises(ValueError, match="has no ranking"):
        load_ranking(write(""))
    with pytest.raises(FileNotFoundError):
        load_ranking(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match="`on_error` must be one of .*got 'ignore'"):
        load_ranking(write(TREC), on_error="ignore")


def test_ids_are_checked_before_long_work():
    check_ranking_ids(["q1", "New York"], "colbert")
    with pytest.raises(ValueError, match="`passages` has the id 'New York', with white space"):
        check_ranking_ids(["q1", "New York"], "trec", "`passages` has the id")


# Relevance judgements


TREC_QRELS = "q1 0 a 0\nq1\t0\tb\t2\nq2 0 a 1\n"
BEIR_QRELS = "query-id\tcorpus-id\tscore\nq1\ta b\t0\nq1\tb\t2\nq2\ta b\t1\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_qrels_of_trec(write, pack):
    judged = load_qrels(write(pack(TREC_QRELS.encode())))
    assert judged == {"q1": {"a": 0, "b": 2}, "q2": {"a": 1}}
    assert ndcg_at_k({"q1": ["b"], "q2": []}, judged, 10) == 0.5


@pytest.mark.parametrize(
    "content", [BEIR_QRELS, BEIR_QRELS.partition("\n")[2], BEIR_QRELS.replace("query-id", "Query-ID")]
)
def test_qrels_of_beir_with_and_without_header(write, content):
    assert load_qrels(write(content)) == {"q1": {"a b": 0, "b": 2}, "q2": {"a b": 1}}


def test_ids_with_spaces_between_tabs(write):
    assert load_qrels(write("q 1\t0\ta b\t1\nq 1\tQ0\tc\t-2\n")) == {"q 1": {"a b": 1, "c": -2}}


def test_queries_without_relevant_passages_are_left_out(write, monkeypatch):
    logged = []
    monkeypatch.setattr(ranking_files.logger, "warning", logged.append)
    path = write(TREC_QRELS + "q3 0 a 0\nq4 0 b -1\n")
    assert list(load_qrels(path)) == ["q1", "q2"]
    assert logged == [f"`{path}`: left out 2 queries without a relevant passage, such as ['q3', 'q4']."]
    with pytest.raises(ValueError, match="has no relevant passage"):
        load_qrels(write("q3 0 a 0\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1 0 b\n", "its columns differ from the first line's: 'q1 0 b'"),
        ("q1 0 b 1.5\n", "the grade '1.5' is not a whole number"),
        ("q1\t0\t\t1\n", "it has no query, or no passage"),
        ("q1 0 a 1\n", "the passage `a` was judged before for the query `q1`"),
    ],
)
def test_bad_rows_of_qrels(write, monkeypatch, row, message):
    logged = []
    monkeypatch.setattr(ranking_files.logger, "warning", logged.append)
    row = row if isinstance(row, bytes) else row.encode()
    path = write(b"q1 0 a 1\n" + row + b"q2 0 a 1\n")
    with pytest.raises(ValueError, match=f"ranking.tsv`, line 2: .*{message}"):
        load_qrels(path)
    assert load_qrels(path, on_error="skip") == {"q1": {"a": 1}, "q2": {"a": 1}}
    assert len(logged) == 1 and logged[0].startswith(f"Skipped 1 row(s) that cannot be read: `{path}`, line 2: ")


def test_errors_of_qrels(write, tmp_path):
    for content in ("q1 a\n", "query-id\tscore\n", "a\tb\tc\td\te\n"):
        with pytest.raises(ValueError, match="line 1: expected TREC's query"):
            load_qrels(write(content))
    with pytest.raises(ValueError, match="line 1: the grade 'score' is not a whole number"):
        load_qrels(write("query-id\tdoc\tscore\nq\ta\t1\n"))  # a header of other names is none
    with pytest.raises(ValueError, match="has no relevant passage"):
        load_qrels(write(""))
    with pytest.raises(FileNotFoundError):
        load_qrels(tmp_path / "absent.tsv")
