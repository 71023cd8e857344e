import gzip

import pytest

from hf_xlir.data import load_triples


def test_quotes_are_text_unless_asked_otherwise(write):
    path = write("triples.tsv.gz", gzip.compress('q\t"p ""x"""\t"n\r\nNA\tnull\tn\u2028n'.encode()))
    raw = [
        {"query": "q", "positive": '"p ""x"""', "negative": '"n'},
        {"query": "NA", "positive": "null", "negative": "n\u2028n"},
    ]
    assert load_triples(path).to_list() == raw
    assert list(load_triples(path, streaming=True)) == raw
    assert load_triples(path, quoting="csv").to_list() == [{**raw[0], "positive": 'p "x"'}, raw[1]]
    with pytest.raises(ValueError, match="`quoting` is 'auto'"):
        load_triples(path, quoting="auto")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"q\tp", "expected 3 columns as in the first line, got 2"),
        (b"q\tp\tn\tn", "expected 3 columns as in the first line, got 4"),
        (b"q\t \tn", "it has no positive"),
        (b"", "the line is blank"),
        (b"q\tp\t\xc3", "byte 5 of the line .* is not UTF-8"),
    ],
)
def test_bad_rows(write, row, reason):
    path = write("triples.tsv", b"q\tp\tn\n" + row + b"\nq2\tp2\tn2\n")
    with pytest.raises(ValueError, match=f"triples.tsv`, line 2: {reason}"):
        load_triples(path)
    assert load_triples(path, on_error="skip")["query"][:] == ["q", "q2"]


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match="no file `absent.tsv`"):
        load_triples("absent.tsv")


def test_the_published_samples(shared_data):
    folder = shared_data / "primeqa_samples"
    triples = load_triples(folder / "ColBERT.C3_3_20_biased200_triples_text_head_100.tsv", quoting="csv")
    assert len(triples) == 100
    assert triples[0]["query"] == "where is gifford pinchot state park in pennsylvania"
    assert triples[0]["positive"].startswith('"Conewago Mountains" | "Conewago Mountains The Conewago Mountains or')
    korean = load_triples(folder / "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct.tsv")
    english = load_triples(folder / "xorqa.train_ir_negs_5_poss_1_001pct_at_0pct_en.tsv")
    assert len(korean) == len(english) == 5
    assert english[0]["query"] == "Who maintained the throne for the longest time in China?"
    assert korean["positive"][:] == english["positive"][:]
