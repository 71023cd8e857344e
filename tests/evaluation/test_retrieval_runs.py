"""Retrieval runs with tiny models and by BM25 against scores computed one by one; the fusion of rankings."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import logging

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, evaluation
from hf_xlir.evaluation import (
    RankedPassages,
    fuse_rankings,
    rank_by_bm25,
    rank_passages,
    recall_at_k,
    retrieval_runs,
)
from hf_xlir.index import (
    BM25Index,
    DenseEmbeddings,
    DenseIndex,
    LateInteractionIndex,
    TokenEmbeddings,
    embed_passages,
    embed_queries,
)
from hf_xlir.index.bm25 import words
from hf_xlir.index.encoders import as_encoder
from hf_xlir.index.late_interaction import search as search_limits
from hf_xlir.models.late_interaction import maxsim_scores


TEXTS = ["The Nile flows north.", "Paris lies on the Seine, in the north.", "Rome, a city!", "Oslo is cold and dark."]
PASSAGES = Dataset.from_dict({"id": list("abcd"), "title": ["Nile", "", "Rome", "Oslo"], "text": TEXTS})
QUESTIONS = Dataset.from_dict({"id": ["1", "2", "3"], "question": ["Where is Rome?", "Who?", "Is the Nile dark?"]})


@pytest.fixture(scope="module")
def make(make_colbert, make_biencoder, tiny_tokenizer):
    """Makes a tiny model and its processor."""

    def make(family, **settings):
        model = {"colbert": make_colbert, "biencoder": make_biencoder}[family](**settings)
        processor_class = {"colbert": ColBERTXLMRProcessor, "biencoder": BiEncoderProcessor}[family]
        return model, processor_class.from_config(tiny_tokenizer, model.config)

    return make


@pytest.fixture(scope="module", params=["colbert", "biencoder"])
def retriever(request, make):
    return make(request.param)


@torch.no_grad()
def score(model, processor, question, passage):
    """The score of one question and one passage, each encoded alone."""
    query = model(**processor.process_queries([question["question"]]))
    document = model(**processor.process_documents([passage["text"]], titles=[passage["title"]]))
    if query.embedding_mask is None:
        return float((query.embeddings.double() @ document.embeddings.double().T).item())
    vectors = query.embeddings.double(), document.embeddings.double()
    return maxsim_scores(*vectors, query.embedding_mask, document.embedding_mask).item()


def expected(retriever):
    scores = [{passage["id"]: score(*retriever, question, passage) for passage in PASSAGES} for question in QUESTIONS]
    return dict(zip(QUESTIONS["id"], scores, strict=True))


class Foreign:
    """An encoder of another library: two methods, and no model of this package."""

    def __init__(self, encoder):
        self.encode_query, self.encode_document = encoder.encode_query, encoder.encode_document


def test_rankings_and_scores(retriever):
    rankings, scores = rank_passages(*retriever, QUESTIONS, PASSAGES)
    assert list(rankings) == list(scores) == ["1", "2", "3"]
    for id, wanted in expected(retriever).items():
        assert rankings[id] == sorted(wanted, key=lambda passage: -wanted[passage])
        assert scores[id] == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-4)
    best = {id: ranking[:1] for id, ranking in rankings.items()}
    assert recall_at_k(rankings, best, k=1) == 1.0


def test_forms_of_an_encoder(retriever):
    encoder = as_encoder(*retriever)
    expected = rank_passages(*retriever, QUESTIONS, PASSAGES, 2)
    assert rank_passages(encoder, QUESTIONS, PASSAGES, 2) == expected
    assert rank_passages(retriever, QUESTIONS, PASSAGES, k=2) == expected
    assert rank_passages(retriever[0], processor=retriever[1], questions=QUESTIONS, passages=PASSAGES, k=2) == expected
    untitled = PASSAGES.remove_columns("title")
    foreign = rank_passages(Foreign(encoder), QUESTIONS, untitled, k=2)
    expected = rank_passages(encoder, QUESTIONS, untitled, k=2)
    assert foreign.rankings == expected.rankings
    for id, values in expected.scores.items():
        assert foreign.scores[id] == pytest.approx(values, abs=1e-5)


class Longest:
    """An index without a base class, which finds only the longest text, for any question."""

    kind, queries, search_options = "longest", "text", ("reverse",)

    def __init__(self, passages):
        self.ids = [passage["id"] for passage in passages]
        self.order = sorted(range(len(passages)), key=lambda row: -len(passages[row]["text"]))

    def search_batch(self, queries, k, allowed_ids=None, reverse=False):
        best = self.order[-1] if reverse else self.order[0]
        return np.array([[1.0, 0.0]] * len(queries)), np.array([[best, -1]] * len(queries))


def test_any_index_is_searched(retriever):
    embeddings = embed_passages(*retriever, PASSAGES, progress=False)
    build = DenseIndex.build if isinstance(embeddings, DenseEmbeddings) else LateInteractionIndex.build
    expected = rank_passages(*retriever, QUESTIONS, embeddings, k=3)
    found = rank_passages(retriever, QUESTIONS, build(embeddings), k=3)
    assert found.rankings == expected.rankings
    bm25 = BM25Index.build(PASSAGES, progress=False)
    by_text = rank_passages(None, QUESTIONS, bm25, k=3, progress=False)
    assert by_text == rank_by_bm25(QUESTIONS, PASSAGES, k=3, progress=False)
    assert rank_passages(None, QUESTIONS, Longest(PASSAGES)) == (
        {id: ["b"] for id in "123"},
        {id: [1.0] for id in "123"},
    )
    assert rank_passages(None, QUESTIONS, Longest(PASSAGES), reverse=True).rankings["1"] == ["c"]
    with pytest.raises(ValueError, match="`encoder` is `None`"):
        rank_passages(None, QUESTIONS, embeddings)


def test_blocks_batches_and_embeddings_give_the_same_rankings(retriever, monkeypatch, tmp_path):
    rankings, scores = rank_passages(*retriever, QUESTIONS, PASSAGES, k=3)
    assert all(len(ranking) == 3 for ranking in rankings.values())
    monkeypatch.setattr(retrieval_runs, "QUESTIONS_PER_BLOCK", 2)
    monkeypatch.setattr(retrieval_runs, "PASSAGES_PER_BLOCK", 3)
    embeddings = embed_passages(*retriever, PASSAGES, tmp_path / "embeddings", batch_size=1, progress=False)
    runs = [list(PASSAGES), embeddings]
    if not isinstance(embeddings, DenseEmbeddings):
        runs.append(LateInteractionIndex.build(embeddings))
    for passages in runs:
        other = rank_passages(*retriever, list(QUESTIONS), passages, k=3, batch_size=1, progress=False)
        assert other.rankings == rankings
        for id in scores:
            assert other.scores[id] == pytest.approx(scores[id], abs=1e-5)


def test_equal_scores_keep_the_order_of_passages(retriever):
    passages = Dataset.from_dict({"id": list("zyx"), "text": ["Oslo is cold."] * 3})
    rankings, _ = rank_passages(*retriever, QUESTIONS, passages)
    assert all(ranking == ["z", "y", "x"] for ranking in rankings.values())


def test_half_precision_embeddings(retriever):
    embeddings = embed_passages(*retriever, PASSAGES, dtype="float16", progress=False)
    rankings, scores = rank_passages(*retriever, QUESTIONS, embeddings)
    for id, wanted in expected(retriever).items():
        assert scores[id] == pytest.approx([wanted[passage] for passage in rankings[id]], rel=2e-2, abs=2e-2)


def test_model_keeps_its_mode(retriever):
    model, processor = retriever
    model.train()
    rank_passages(model, processor, QUESTIONS, PASSAGES)
    assert model.training and model.encoder.training
    model.eval()


def test_progress_bar(retriever, capsys):
    for progress, enabled in [(True, True), (False, True), (True, False)]:
        (logging.enable_progress_bar if enabled else logging.disable_progress_bar)()
        rank_passages(*retriever, QUESTIONS, PASSAGES, progress=progress)
        assert ("Ranking: 100%" in capsys.readouterr().err) == (progress and enabled)
    logging.enable_progress_bar()


def rows(*questions):
    return [{"id": id, "question": question} for id, question in questions]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "`questions` is empty"),
        (Dataset.from_dict({"id": [], "question": []}), "`questions` is empty"),
        ([{"id": "1", "text": "Who?"}], r"`id` and `question`, got \['id', 'text'\]"),
        (rows(("1", "Who?"), ("1", "What?")), "Two questions have the id `1`"),
        (rows(("1", "Who?"), ("2", "  ")), "question `2` in row 1 has no text"),
        (rows((7, "Who?")), "row 0 has the id 7"),
    ],
)
def test_errors_about_questions_come_before_passages_are_embedded(retriever, questions, message):
    with pytest.raises(ValueError, match=message):
        rank_passages(*retriever, questions, passages=None)


def test_other_errors(make):
    colbert, biencoder = make("colbert"), make("biencoder")
    with pytest.raises(ValueError, match="`k`.*got 0"):
        rank_passages(*colbert, QUESTIONS, PASSAGES, k=0)
    with pytest.raises(ValueError, match="`passages` is empty"):
        rank_passages(*colbert, QUESTIONS, PASSAGES.select([]))
    tokens, vectors = (embed_passages(*retriever, PASSAGES, progress=False) for retriever in (colbert, biencoder))
    with pytest.raises(ValueError, match="one vector per token, but `passages`, of type `DenseEmbeddings`"):
        rank_passages(*colbert, QUESTIONS, vectors)
    with pytest.raises(ValueError, match="one vector per text, but `passages`, of type `LateInteractionIndex`"):
        rank_passages(*biencoder, QUESTIONS, tokens)
    for embeddings, family in ((tokens, "colbert"), (vectors, "biencoder")):
        with pytest.raises(ValueError, match="have 4 dimensions, the index has"):
            rank_passages(*make(family, embedding_dim=4), QUESTIONS, embeddings)


def test_metrics_do_not_wait_for_the_index(monkeypatch):
    spec = importlib.util.spec_from_file_location("hf_xlir.once_more", evaluation.__file__)
    spec.submodule_search_locations = evaluation.__path__
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, again)
    spec.loader.exec_module(again)
    assert again.recall_at_k.__module__ == "hf_xlir.once_more.measures"
    assert "hf_xlir.once_more.retrieval_runs" not in sys.modules and "rank_passages" in dir(again)
    assert again.rank_passages.__module__ == "hf_xlir.once_more.retrieval_runs"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        again.nothing  # noqa: B018


def test_every_passage_of_a_compressed_index_is_scored(tiny_colbert, tiny_tokenizer, monkeypatch):
    model, processor = tiny_colbert, ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, model.config.embedding_dim)).astype(np.float32)
    embeddings = TokenEmbeddings(values, np.full(200, 2), [f"p{row}" for row in range(200)])
    index = LateInteractionIndex.build(embeddings, nbits=8)
    questions = [{"id": "q", "question": "Where does the Nile flow?"}]
    queries = embed_queries(model, processor, [questions[0]["question"]])
    expected = index.search_batch(queries.embeddings, 200, queries.mask, preset="exact")
    # A search that looks at next to nothing, if that were what is asked for
    monkeypatch.setitem(search_limits.PRESETS, "balanced", search_limits.SearchLimits(1, 1, 1))
    rankings, scores = rank_passages(model, processor, questions, index, k=5, progress=False)
    assert rankings["q"] == [f"p{row}" for row in expected.total_indices[0][:5]]
    np.testing.assert_allclose(scores["q"], expected.total_scores[0][:5], rtol=1e-5)


# BM25


TEXT = st.lists(st.sampled_from("north south river hill Nile 1876".split()), min_size=1, max_size=6).map(" ".join)


def rank(questions, texts, titles=None, **kwargs):
    passages = {"id": [f"p{i}" for i in range(len(texts))], "text": texts}
    passages |= {"title": titles} if titles else {}
    questions = [{"id": f"q{i}", "question": question} for i, question in enumerate(questions)]
    return rank_by_bm25(questions, Dataset.from_dict(passages), progress=False, **kwargs)


def bm25_by_hand(question, texts, k1, b):
    documents = [text.lower().split() for text in texts]
    mean_length = sum(map(len, documents)) / len(documents)
    scores = {}
    for place, document in enumerate(documents):
        score = 0.0
        for word in question.lower().split():
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            frequency = document.count(word)
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / mean_length))
        if score > 0:
            scores[f"p{place}"] = score
    return scores


@settings(max_examples=50, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=8), st.sampled_from([0.9, 1.5]), st.sampled_from([0.0, 0.4, 1.0]))
def test_bm25_by_hand(question, texts, k1, b):
    ranking = rank([question], texts, k1=k1, b=b)
    expected = bm25_by_hand(question, texts, k1, b)
    found = dict(zip(ranking.rankings["q0"], ranking.scores["q0"], strict=True))
    assert found == pytest.approx(expected, rel=1e-5)
    assert ranking.scores["q0"] == sorted(ranking.scores["q0"], reverse=True)


@given(st.integers(1, 7))
def test_bm25_keeps_the_first_passages_of_equal_score(k):
    texts = ["river hill", "nile", "hill river", "nile river", "river hill", "hill river", "north"]
    ranking = rank(["nile river"], texts, k=k)
    assert ranking.rankings["q0"] == ["p3", "p1", "p0", "p2", "p4", "p5"][:k]


def test_titles_count_and_unknown_words_do_not():
    ranking = rank(["Who crossed the Nile?", "Xyz?", "!"], ["It flows.", "A river."], titles=["Nile", None])
    assert ranking.rankings == {"q0": ["p0"], "q1": [], "q2": []}
    assert ranking.scores["q1"] == []


def test_words_of_any_script():
    assert words("Mikä on (1876) PÄÄKAUPUNKI?") == ["mikä", "on", "1876", "pääkaupunki"]
    assert words("భారతదేశం রাজধানী") == ["భారతదేశం", "রাজধানী"]  # vowel signs are marks
    assert rank(["東京"], ["東京都", "京都"], tokenize=list).rankings == {"q0": ["p0", "p1"]}


def test_errors_of_bm25():
    for arguments, message in (
        ({"k": 0}, "`k`"),
        ({"k1": -1.0}, "`k1` must be"),
        ({"b": 1.5}, "`b` .*got 0.9 and 1.5"),
        ({"tokenize": lambda text: []}, "No passage has a word"),
    ):
        with pytest.raises(ValueError, match=message):
            rank(["river"], ["river"], **arguments)
    with pytest.raises(ValueError, match="`passages` is empty"):
        rank(["river"], [])
    with pytest.raises(ValueError, match="question `q0` in row 0 has no text"):
        rank([" "], ["river"])


# Fusion


DENSE = {"q1": {"a": 0.9, "b": 0.5, "c": 0.1}, "q2": {"x": 1.0}}
SPARSE = RankedPassages({"q1": ["c", "a"], "q3": ["y"]}, {"q1": [8.0, 4.0], "q3": [2.0]})


def test_reciprocal_rank_by_hand():
    fused = fuse_rankings([DENSE, SPARSE])
    assert fused.rankings == {"q1": ["a", "c", "b"], "q2": ["x"], "q3": ["y"]}
    assert fused.scores["q1"] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])
    assert fused.scores["q2"] == fused.scores["q3"] == [1 / 61]
    fused = fuse_rankings([DENSE, SPARSE], weights=[1, 3], rank_constant=1, k=2)
    assert fused.rankings["q1"] == ["c", "a"]
    assert fused.scores["q1"] == pytest.approx([1 / 4 + 3 / 2, 1 / 2 + 3 / 3])


def test_weighted_sum_by_hand():
    fused = fuse_rankings([DENSE, SPARSE], "weighted_sum", weights=[1.0, 0.25])
    assert fused.rankings["q1"] == ["a", "b", "c"]  # 1 + 0, 0.5, 0 + 0.25
    assert fused.scores["q1"] == pytest.approx([1.0, 0.5, 0.25])
    assert fused.scores["q2"] == [1.0] and fused.scores["q3"] == [0.25]  # one passage is the first


def test_equal_scores_are_fused_by_id():
    tied = RankedPassages({"q": ["b", "a"]}, {"q": [1.0, 1.0]})  # `a` comes first, since scores are equal
    assert fuse_rankings([tied]).rankings == {"q": ["a", "b"]}
    assert fuse_rankings([tied, {"q": ["b", "a"]}]).rankings == {"q": ["a", "b"]}
    assert fuse_rankings([{"q": ["b", "a"]}]).rankings == {"q": ["b", "a"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "no ranking to fuse"),
        ((DENSE,), "`rankings` must be a list of rankings, got one `dict`"),
        ((SPARSE,), "got one `RankedPassages`"),
        (([DENSE, {"other": ["a"]}],), "no query in common"),
        (([DENSE, {"q1": ["a"]}], "weighted_sum"), "Ranking 1 has no scores"),
        (
            ([DENSE, {"q1": {"a": float("inf")}}], "weighted_sum"),
            "Query `q1`: Ranking 1 has a score that is NaN or inf",
        ),
        (([DENSE, SPARSE], "borda"), "`method` must be one of"),
        (([DENSE, SPARSE], "reciprocal_rank", [1]), "weight"),
        (([DENSE, SPARSE], "reciprocal_rank", None, 0), "`k` must be a positive integer, got 0"),
        (([DENSE, SPARSE], "reciprocal_rank", None, 2.0), "`k` must be a positive integer, got 2.0"),
    ],
)
def test_errors_of_fusion(arguments, message):
    with pytest.raises(ValueError, match=message):
        fuse_rankings(*arguments)
