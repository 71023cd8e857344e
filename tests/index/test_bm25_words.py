"""What BM25 takes for words."""

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.index.bm25 import _splitter, bigrams, bm25_tokenizer_for, words


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
