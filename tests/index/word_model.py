"""A tiny model whose vectors are known in advance, and texts for it."""

import json
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from transformers import BatchFeature

from hf_xlir.models import FAMILIES
from hf_xlir.models.processing_retriever import RetrieverProcessor


DIM, VOCABULARY = 6, 50
FAMILY_VECTORS = {"words": "token_vectors", "dense_words": "vectors"}
WORDS = [f"w{i}" for i in range(40)]


def word_id(word):
    return 2 + int(word[1:])


class WordTokenizer:
    """What the fingerprint of unfinished work asks a tokenizer for."""

    def __init__(self):
        self.backend_tokenizer = SimpleNamespace(
            to_str=lambda: json.dumps({"truncation": None, "padding": None, "model": "words"})
        )

    def __len__(self):
        return VOCABULARY


class WordProcessor(RetrieverProcessor):
    """Ids of words; commas are read but do not count."""

    config_class = SimpleNamespace(model_type="words")

    def __init__(self, dense=False):
        self.tokenizer = WordTokenizer()
        self.dense = dense
        self.calls = []

    def process_documents(self, texts, titles=None):
        self.calls.append((list(texts), titles))
        if titles is not None:
            texts = [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]
        return self._encode(texts, "document")

    def process_queries(self, texts):
        return self._encode(texts, "query")

    def _encode(self, texts, text_type):
        rows = [[1 if word == "," else word_id(word) for word in re.findall(r"\w+|,", text)] for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        features = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        extra = {} if self.dense else {"embedding_mask": ids > 1}
        return BatchFeature({**features, **extra, "text_type": text_type})


class WordModel(torch.nn.Module):
    """
    A vector for each word id, plus a share of the text's mean, so that a token outside the text would show. `shapes`
    are those of its documents' batches.
    """

    def __init__(self, dense=False):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(VOCABULARY, DIM)
        self.dropout = torch.nn.Dropout(0.5)
        self.dense = dense
        self.shapes = []
        self.config = SimpleNamespace(
            model_type="dense_words" if dense else "words",
            encoder_config=SimpleNamespace(vocab_size=VOCABULARY),
            get_text_config=lambda: SimpleNamespace(vocab_size=VOCABULARY, hidden_size=DIM),
            query_length=VOCABULARY,
            document_length=VOCABULARY,
            to_dict=lambda: {"dense": dense},
        )

    def forward(self, input_ids, attention_mask, embedding_mask=None, text_type=None):
        assert not self.training and not self.dropout.training
        assert text_type in ("document", "query")
        if text_type == "document":
            self.shapes.append(tuple(input_ids.shape))
        vectors = self.dropout(self.table(input_ids))
        weights = attention_mask[:, :, None].to(vectors.dtype)
        mean = (vectors * weights).sum(dim=1) / weights.sum(dim=1)
        if self.dense:
            return SimpleNamespace(embeddings=mean, embedding_mask=None)
        return SimpleNamespace(embeddings=vectors + 0.5 * mean[:, None], embedding_mask=embedding_mask)


@contextmanager
def word_families():
    """The two kinds of [`WordModel`] among the families of the package."""
    for name, vectors in FAMILY_VECTORS.items():
        FAMILIES[name] = SimpleNamespace(processor=WordProcessor, role="retriever", vectors=vectors)
    yield
    for name in FAMILY_VECTORS:
        del FAMILIES[name]


def random_passages(n, seed=0, titles=True):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice([*WORDS, ","], size=rng.integers(1, 30))) + " w7" for _ in range(n)]
    columns = {"id": [f"p{i}" for i in range(n)], "text": texts}
    if titles:
        columns["title"] = [str(rng.choice(["", "w1 w2", "w3"])) for _ in range(n)]
    return Dataset.from_dict(columns)
