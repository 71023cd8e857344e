"""The BM25 index: restricted, attached, saved. That its scores are BM25's is tested with `rank_by_bm25`."""

import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.index import BM25Index, DenseEmbeddings
from hf_xlir.index.bm25 import _splitter, bigrams, bm25_tokenizer_for, words
from hf_xlir.utils.storage import MANIFEST


TEXTS = ["river hill", "nile", "hill river", "nile river", "river hill", "hill river", "north"]
PASSAGES = Dataset.from_dict({"id": [f"p{i}" for i in range(len(TEXTS))], "text": TEXTS})


@pytest.fixture
def index():
    return BM25Index.build(PASSAGES, progress=False)


def test_rows_and_what_is_not_found(index):
    scores, rows = index.search_batch(["nile river", "North!", "Xyz"], k=4)
    assert rows.tolist() == [[3, 1, 0, 2], [6, -1, -1, -1], [-1] * 4]
    assert scores.shape == (3, 4) and scores.dtype == np.float32 and rows.dtype == np.int64
    assert (scores[0, :-1] >= scores[0, 1:]).all() and scores[0, 3] > 0
    assert scores[1, 1:].tolist() == [0, 0, 0] and scores[2].tolist() == [0] * 4
    assert index.search_batch(["nile"], k=100).total_indices.shape == (1, 7)
    one = index.search("nile river", k=100)
    assert one.indices.tolist() == [3, 1, 0, 2, 4, 5] and len(one.scores) == 6
    assert len(index) == 7


def test_allowed_passages_keep_their_scores(index):
    scores, rows = index.search_batch(["nile river"], k=7)
    fewer, allowed = index.search_batch(["nile river", "north"], k=3, allowed_ids=["p5", "p0", "p1", "p6", "p0"])
    assert allowed.tolist() == [[1, 0, 5], [6, -1, -1]]
    assert fewer[0].tolist() == [scores[0, rows[0].tolist().index(row)] for row in (1, 0, 5)]
    assert index.search_batch(["nile"], k=3, allowed_ids=["p6"]).total_indices.tolist() == [[-1]]
    assert index.search_batch(["nile"], k=3, allowed_ids=[]).total_indices.shape == (1, 0)


def test_attached_to_a_dataset(index):
    passages = PASSAGES.select(range(7))
    assert index.attach(passages) is index
    scores, found = passages.get_nearest_examples("bm25", "Nile, river", k=2)
    assert found["id"] == ["p3", "p1"] and len(scores) == 2
    scores, found = passages.get_nearest_examples_batch("bm25", ["north", "hill"], k=2)
    assert [each["id"] for each in found] == [["p6"], ["p0", "p2"]]
    assert passages.with_format("numpy").get_index("bm25") is index
    with pytest.raises(ValueError, match="has 6 rows, but 7 passages"):
        index.attach(PASSAGES.select(range(6)))


def test_saved_and_loaded(index, tmp_path):
    index.save(tmp_path / "index")
    loaded = BM25Index.load(tmp_path / "index")
    queries = ["nile river", "north", "xyz", "hill"]
    for one, other in zip(index.search_batch(queries, 5), loaded.search_batch(queries, 5), strict=True):
        assert np.array_equal(one, other)
    assert loaded.ids == index.ids
    assert isinstance(loaded._scorer.scores["data"], np.memmap)
    BM25Index.build([{"id": "a", "text": "new"}], progress=False).save(tmp_path / "index")
    assert loaded.search("north").indices.tolist() == [6]  # what was mapped before stays
    assert BM25Index.load(tmp_path / "index").ids == ["a"]
    assert len(list((tmp_path / "index").iterdir())) == 7  # five files, ids and the manifest: the old are gone
    with pytest.raises(ValueError, match="expected `hf_xlir.dense_embeddings`"):
        DenseEmbeddings.load(tmp_path / "index")


def test_a_splitter_of_ones_own_is_given_again(tmp_path):
    passages = [{"id": "a", "text": "東京都"}, {"id": "b", "text": "京都"}]
    index = BM25Index.build(passages, tokenize=list, progress=False)
    assert index.search("東").indices.tolist() == [0]
    index.save(tmp_path)
    with pytest.raises(ValueError, match="give it"):
        BM25Index.load(tmp_path)
    assert BM25Index.load(tmp_path, tokenize=list).search("京都").indices.tolist() == [1, 0]
    BM25Index.build(passages, progress=False).save(tmp_path)
    with pytest.raises(ValueError, match="leave it out"):
        BM25Index.load(tmp_path, tokenize=list)
    assert BM25Index.load(tmp_path).tokenize is words


def test_a_splitter_that_has_a_name_is_saved(tmp_path):
    passages = [{"id": "a", "text": "尼罗河向北流"}, {"id": "b", "text": "伏尔加河向南流"}]
    index = BM25Index.build(passages, tokenize="bigrams", progress=False)
    index.save(tmp_path)
    loaded = BM25Index.load(tmp_path)
    assert loaded.tokenize is bigrams and loaded.tokenizer_name == "bigrams"
    assert loaded.search("伏尔加河在哪里").indices.tolist() == [1]
    assert BM25Index.build(passages, progress=False).search("伏尔加河在哪里").indices.tolist() == []
    with pytest.raises(ValueError, match="leave it out"):
        BM25Index.load(tmp_path, tokenize=bigrams)
    with pytest.raises(ValueError, match="`tokenize` must be one of 'words', 'bigrams', got 'pieces'"):
        BM25Index.build(passages, tokenize="pieces")
    # One that was saved before splitters had names counts words
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({k: v for k, v in manifest.items() if k != "tokenize"}))
    assert BM25Index.load(tmp_path).tokenize is words


def test_an_empty_word_is_one_like_others():
    """As a _splitter at single spaces gives: `bm25s` would put a word without scores there."""
    index = BM25Index.build([{"id": "a", "text": "x"}], tokenize=lambda text: text.strip().split(" "), progress=False)
    assert index.search_batch(["y  z", ""], k=1).total_indices.tolist() == [[-1], [-1]]


def test_damage_is_noticed(index, tmp_path):
    index.save(tmp_path)
    [ids] = tmp_path.glob("ids-*.json")
    ids.write_text('["a"]')
    with pytest.raises(ValueError, match="is damaged"):
        BM25Index.load(tmp_path)


@pytest.mark.parametrize(
    "queries, arguments, message",
    [
        ("nile", {}, "list of strings"),
        ([3], {}, "list of strings"),
        (["nile"], {"k": 0}, "`k`"),
        (["nile"], {"allowed_ids": ["p1", "p9"]}, "1 ids are not in this index, such as \\['p9'\\]"),
        (["nile"], {"allowed_ids": "p1"}, "list of ids"),
    ],
)
def test_errors(index, queries, arguments, message):
    with pytest.raises(ValueError, match=message):
        index.search_batch(queries, **arguments)
    with pytest.raises(ValueError, match="got list"):
        index.search(["nile"])


def test_texts_with_ids():
    texts, ids = ["Paris lies on the Seine.", "Rome lies on the Tiber."], ["a", "b"]
    index = BM25Index.build(texts, ids=ids, progress=False)
    passages = [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]
    expected = BM25Index.build(passages, progress=False).search_batch(["Tiber"], 2)
    assert index.ids == ids and np.array_equal(index.search_batch(["Tiber"], 2)[0], expected[0])
    for bad, bad_ids in ((texts, ["a"]), (passages, ids)):
        with pytest.raises(ValueError, match="`ids`"):
            BM25Index.build(bad, ids=bad_ids, progress=False)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Mikä on (1876) PÄÄKAUPUNKI?", ["mikä", "on", "1876", "pääkaupunki"]),
        ("서울은 수도이다.", ["서울은", "수도이다"]),  # Korean has spaces
        ("東京都", ["東京", "京都"]),
        ("都", ["都"]),
        ("コーヒーとお茶", ["コー", "ーヒ", "ヒー", "ーと", "とお", "お茶"]),
        ("ｺｰﾋｰ", ["コー", "ーヒ", "ヒー"]),  # half the width, the same letters
        ("2024年5月 NHKは", ["2024", "年", "5", "月", "nhk", "は"]),
        ("ที่นี่", ["ที่นี่"]),  # two letters with two marks each: one pair
        ("น้ำใส", ["น้ํา", "าใ", "ใส"]),
        ("東京。大阪", ["東京", "大阪"]),
        (" ?!", []),
    ],
)
def test_bigrams(text, expected):
    assert bigrams(text) == expected


@given(st.text(alphabet="abcdefé1 2.,-äöü"))
def test_bigrams_are_words_where_there_are_spaces(text):
    assert bigrams(text) == words(text)


@given(st.text(alphabet="東京都ひらカタ", min_size=2))
def test_bigrams_hold_every_pair(text):
    assert bigrams(text) == [text[i : i + 2] for i in range(len(text) - 1)]


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["The Nile flows north."], "words"),
        (["ナイル川は北へ流れる。"], "bigrams"),
        (["แม่น้ำไนล์ไหลไปทางเหนือ"], "bigrams"),
        (["나일강은 북쪽으로 흐른다."], "words"),
        (["النيل يجري شمالا"], "words"),
        (["The Japanese name of the capital of the country is 東京."], "words"),
        (["TCP/IP (Transmission Control Protocol) 是一种网络协议,用于互联网上的数据传输。"], "bigrams"),
        (["1876 -- ?!"], "words"),
        (["?"] * 1000 + ["東京"], "words"),  # what is not looked at
        (["?"] * 999 + ["東京"], "bigrams"),
    ],
)
def test_what_suits_passages(texts, expected):
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    assert bm25_tokenizer_for(rows) == bm25_tokenizer_for(Dataset.from_list(rows)) == expected
    rows = [{"id": row["id"], "title": row["text"], "text": "."} for row in rows]
    assert bm25_tokenizer_for(rows) == expected


def test_a_fifth_is_enough():
    for letters, expected in (("abcd東", "bigrams"), ("abcde東", "words")):
        assert bm25_tokenizer_for([{"id": "a", "text": letters}]) == expected


def test_names_and_functions():
    assert _splitter(None) is words and _splitter("bigrams") is bigrams and _splitter(str.split) == str.split
    with pytest.raises(ValueError, match="must be one of 'words', 'bigrams'"):
        _splitter("trigrams")
