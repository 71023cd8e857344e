"""Runs of retrieval with tiny models, against every score computed one by one in float64."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers.utils import logging

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    evaluation,
)
from hf_xlir.evaluation import rank_passages, recall_at_k, retrieval_runs
from hf_xlir.index import (
    DenseEmbeddings,
    LateInteractionIndex,
    TokenEmbeddings,
    embed_passages,
    embed_queries,
)
from hf_xlir.index.late_interaction import search_limits
from hf_xlir.models.late_interaction import maxsim_scores
from support.vocabulary import train_tokenizer


TEXTS = ["The Nile flows north.", "Paris lies on the Seine, in the north.", "Rome, a city!", "Oslo is cold and dark."]
PASSAGES = Dataset.from_dict({"id": list("abcd"), "title": ["Nile", "", "Rome", "Oslo"], "text": TEXTS})
QUESTIONS = Dataset.from_dict({"id": ["1", "2", "3"], "question": ["Where is Rome?", "Who?", "Is the Nile dark?"]})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3 + QUESTIONS["question"][:], vocab_size=90)


@pytest.fixture(scope="module", params=["colbert", "biencoder"])
def retriever(request, tokenizer):
    return make(request.param, tokenizer)


def make(family, tokenizer, seed=0, **settings):
    torch.manual_seed(seed)
    encoder = {
        "model_type": "xlm-roberta",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    }
    if family == "colbert":
        config = ColBERTXLMRConfig(encoder_config=encoder, embedding_dim=8, document_length=40, **settings)
        return ColBERTXLMRModel(config).eval(), ColBERTXLMRProcessor.from_config(tokenizer, config)
    config = BiEncoderConfig(encoder_config=encoder, query_length=16, document_length=40, **settings)
    return BiEncoderModel(config).eval(), BiEncoderProcessor.from_config(tokenizer, config)


@torch.no_grad()
def score(model, processor, question, passage):
    """One question with one passage, each encoded alone."""
    query = model(**processor.process_queries([question["question"]]))
    document = model(**processor.process_documents([passage["text"]], titles=[passage["title"]]))
    if query.embedding_mask is None:
        return float((query.embeddings.double() @ document.embeddings.double().T).item())
    vectors = query.embeddings.double(), document.embeddings.double()
    return maxsim_scores(*vectors, query.embedding_mask, document.embedding_mask).item()


def expected(retriever):
    scores = [{passage["id"]: score(*retriever, question, passage) for passage in PASSAGES} for question in QUESTIONS]
    return dict(zip(QUESTIONS["id"], scores, strict=True))


def test_rankings_and_scores(retriever):
    rankings, scores = rank_passages(*retriever, QUESTIONS, PASSAGES)
    assert list(rankings) == list(scores) == ["1", "2", "3"]
    for id, wanted in expected(retriever).items():
        assert rankings[id] == sorted(wanted, key=lambda passage: -wanted[passage])
        assert scores[id] == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-4)


def test_blocks_batches_and_embedded_passages_change_nothing(retriever, monkeypatch, tmp_path):
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


def test_rankings_fit_the_metrics(retriever):
    rankings, _ = rank_passages(*retriever, QUESTIONS, PASSAGES, k=2)
    best = {id: ranking[:1] for id, ranking in rankings.items()}
    assert recall_at_k(rankings, best, k=1) == 1.0


def test_equal_scores_are_in_the_passages_order(retriever):
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


def test_progress_bar_is_shown_unless_switched_off(retriever, capsys):
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


def test_other_errors(tokenizer):
    colbert, biencoder = make("colbert", tokenizer), make("biencoder", tokenizer)
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
            other = make(family, tokenizer, **({} if family == "colbert" else {"embedding_dim": 4}))
            if family == "colbert":
                other[0].linear = torch.nn.Linear(16, 4, bias=False)
            rank_passages(*other, QUESTIONS, embeddings)


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
