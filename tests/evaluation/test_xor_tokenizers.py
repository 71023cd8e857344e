"""The tokenizers of XOR-TyDi's metrics, and what stands in for them."""

import sys

import nltk.tokenize
import pytest
from nltk.tokenize import word_tokenize

from hf_xlir.evaluation import passage_tokenizer, xor_retrieve_metrics
from hf_xlir.evaluation.xor_metrics import _japanese_segmenter


TEXT = 'He paid $5. In the U.S. "don\'t" (a) 1,000.'
PREDICTIONS = [{"id": "1", "lang": "ja", "ctxs": [TEXT]}]


def references(answer):
    return [{"id": "1", "answers": [answer]}]


class TestOfPassages:
    def test_treebank_leaves_full_stops_within_a_text(self):
        tokenize, name = passage_tokenizer("treebank")
        assert " ".join(tokenize(TEXT)) == "He paid $ 5. In the U.S. `` do n't '' ( a ) 1,000 ."
        assert name.startswith("treebank (an approximation")

    def test_the_default_is_the_official_one_where_its_data_is(self, monkeypatch):
        # Punkt's place, whether or not it is there
        monkeypatch.setattr("nltk.tokenize.sent_tokenize", lambda text, *_: text.replace(". ", ".\n").split("\n"))
        assert passage_tokenizer() == (word_tokenize, None)
        result = xor_retrieve_metrics(PREDICTIONS, references("$ 5 . In"))
        assert result == {name: {"ja": 100.0, "macro": 100.0} for name in ("recall@2kt", "recall@5kt")}
        assert xor_retrieve_metrics(PREDICTIONS, references("5."))["recall@5kt"]["macro"] == 0

    def test_without_the_data_the_error_names_both_ways_out(self, monkeypatch):
        def absent(*_):
            raise LookupError("Resource punkt_tab not found.")

        monkeypatch.setattr("nltk.tokenize.sent_tokenize", absent)
        with pytest.raises(LookupError, match=r'nltk.download\("punkt_tab"\).*`tokenize="treebank"`'):
            xor_retrieve_metrics(PREDICTIONS, references("He"))

    def test_the_data_is_looked_for_by_nltk(self, monkeypatch, tmp_path):
        monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
        nltk.tokenize._get_punkt_tokenizer.cache_clear()
        with pytest.raises(LookupError, match="punkt_tab"):
            passage_tokenizer()

    def test_a_function_is_used_as_it_is(self):
        assert passage_tokenizer(str.split) == (str.split, None)


class TestOfJapanese:
    def test_words(self):
        pytest.importorskip("MeCab", reason="needs the extra `japanese`")
        pytest.importorskip("unidic_lite", reason="needs the extra `japanese`")
        assert _japanese_segmenter()("東京は日本の首都です。1990年") == "東京 は 日本 の 首都 です 。 1990 年 \n"

    @pytest.mark.parametrize("module", ["MeCab", "unidic_lite"])
    def test_the_error_names_the_extra(self, monkeypatch, module):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install hf_xlir\[japanese\].*`segment_japanese`"):
            _japanese_segmenter()
