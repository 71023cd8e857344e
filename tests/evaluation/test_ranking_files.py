"""Rankings from files, tidy and untidy."""

import gzip

import pytest

from hf_xlir.evaluation import load_ranking, ranking_files


TREC = "q1 Q0 a 1 9.5 run\nq2\tQ0\tb\t1\t0.5\trun\nq1 Q0 c 3 9.5 run\nq1 q0 b 2 10 run\n"


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
    assert ranking.rankings == {"q1": ["b", "a", "c"], "q2": ["b"]}  # by score, then by rank
    assert ranking.scores == {"q1": [10.0, 9.5, 9.5], "q2": [0.5]}


def test_colberts_file(write):
    ranking = load_ranking(write("7\t12\t2\t-1.5\r\n7\t11\t1\t2e1\r\n8\t11\t1\t3\r\n\r\n"))
    assert ranking.rankings == {"7": ["11", "12"], "8": ["11"]}
    assert ranking.scores == {"7": [20.0, -1.5], "8": [3.0]}


def test_without_scores_by_rank(write):
    ranking = load_ranking(write("7\tb c\t10\n7\ta\t9\nNA\tnull\t1\n"))
    assert ranking == ({"7": ["a", "b c"], "NA": ["null"]}, {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7\t12\t3\n", "it has not the columns of the first line: '7"),
        ("7\t12\t1.5\t2\n", "the rank '1.5' is no whole number"),
        ("7\t12\t1\tx\n", "the score 'x' is no number"),
        ("7\t12\t1\tnan\n", "the score is NaN"),
        ("7\t11\t2\t1\n", "the passage `11` has occurred before for the query `7`"),
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
    with pytest.raises(ValueError, match="line 5: it has not the columns"):
        load_ranking(write(TREC + "q1 Q0 d 1 9.5\n"))
    assert load_ranking(write("q1 Q0 a 1 2 run\nq1 Q0 b 2\n"), on_error="skip").scores == {"q1": [2.0]}


def test_errors(write, tmp_path):
    for content in ("q1 a 1\n", "a\tb\n", "a\tb\tc\td\te\n"):
        with pytest.raises(ValueError, match="line 1: expected query, passage, rank and perhaps score"):
            load_ranking(write(content))
    with pytest.raises(ValueError, match="has no ranking"):
        load_ranking(write(""))
    with pytest.raises(FileNotFoundError):
        load_ranking(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match="`on_error` is 'ignore'"):
        load_ranking(write(TREC), on_error="ignore")
