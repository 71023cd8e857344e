"""Tiny systems of every kind over some passages of the built-in world."""

from types import SimpleNamespace

import pytest
import torch
from hub_fixtures import hub, server  # noqa: F401
from transformers import XLMRobertaForSequenceClassification

from hf_xlir import (
    BiEncoderProcessor,
    ColBERTXLMRProcessor,
    FiDT5Config,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
    QuestionAnsweringPipeline,
    RetrievalPipeline,
)
from hf_xlir.data import load_mini_world
from hf_xlir.index import BM25Index, LateInteractionIndex, add_dense_index, embed_passages
from hf_xlir.pipeline import Retriever
from support.vocabulary import train_tokenizer


@pytest.fixture(scope="session")
def world():
    """Twenty-four passages with a column more than they need, and questions in two languages."""
    world = load_mini_world(["en", "ko"])
    passages = world.passages.select(range(24))
    passages = passages.add_column("lang", ["en", "simple"] * 12)
    questions = [row["question"] for row in world.questions["train"] if row["passage_ids"][0] in passages["id"]]
    return SimpleNamespace(passages=passages, questions=questions[:3] + questions[-3:])


@pytest.fixture(scope="session")
def tokenizer(world):
    return train_tokenizer([*world.passages["text"], *world.questions] * 2, 700)


@pytest.fixture(scope="session")
def encoder_config(tokenizer, make_encoder_config):
    return lambda **fields: make_encoder_config(vocab_size=len(tokenizer), max_position_embeddings=130, **fields)


@pytest.fixture(scope="session")
def parts(world, tokenizer, encoder_config, make_colbert, make_biencoder):
    """Models, processors and indexes. Not to be changed by tests."""
    colbert = make_colbert(encoder_config=encoder_config(), query_expansion="none", query_length=40)
    colbert_processor = ColBERTXLMRProcessor.from_config(tokenizer, colbert.config)
    biencoder = make_biencoder(encoder_config=encoder_config(), embedding_dim=8)
    biencoder_processor = BiEncoderProcessor.from_config(tokenizer, biencoder.config)
    tokens = embed_passages(colbert, colbert_processor, world.passages, progress=False)
    vectors = embed_passages(biencoder, biencoder_processor, world.passages, progress=False)
    return SimpleNamespace(
        colbert=(colbert, colbert_processor),
        biencoder=(biencoder, biencoder_processor),
        late=LateInteractionIndex.build(tokens),
        dense=add_dense_index(world.passages.select(range(24)), vectors, "dense").get_index("dense"),
        bm25=BM25Index.build(world.passages, progress=False),
    )


@pytest.fixture(scope="session")
def cross_encoder(encoder_config):
    """Makes a tiny cross-encoder."""

    def make(num_labels=1):
        torch.manual_seed(3)
        return XLMRobertaForSequenceClassification(encoder_config(num_labels=num_labels)).eval()

    return make


@pytest.fixture(scope="session")
def reader(tokenizer):
    """A reader that writes varied answers, and its processor. Not to be changed by tests."""
    torch.manual_seed(5)
    config = FiDT5Config(
        vocab_size=len(tokenizer),
        d_model=24,
        d_kv=6,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = FiDT5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
            if "decoder.final_layer_norm" in name:
                parameter.normal_()
    return model.eval(), FiDT5Processor(tokenizer, text_maxlength=60, answer_maxlength=6, n_context=4)


@pytest.fixture(scope="session")
def retrievers(parts):
    """Makes the retrievers of a hybrid anew."""

    def make(*names):
        made = {
            "colbert": lambda: Retriever(parts.late, *parts.colbert),
            "dense": lambda: Retriever(parts.dense, *parts.biencoder),
            "bm25": lambda: Retriever(parts.bm25),
        }
        return {name: made[name]() for name in names}

    return make


@pytest.fixture
def search(world, retrievers):
    """Makes a pipeline of some retrievers."""

    def make(*names, **arguments):
        return RetrievalPipeline(
            retrievers=retrievers(*names), passages=world.passages, **{"device": "cpu", **arguments}
        )

    return make


@pytest.fixture
def ask(world, retrievers, reader):
    """Makes a pipeline with a reader."""

    def make(*names, **arguments):
        model, processor = reader
        return QuestionAnsweringPipeline(
            retrievers=retrievers(*names),
            passages=world.passages,
            reader=model,
            reader_processor=processor,
            **{"device": "cpu", **arguments},
        )

    return make
