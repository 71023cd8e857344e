"""Reranking: scores of the passages that were found, from a model that reads their texts."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ..index import TokenEmbeddings, embed_queries
from ..index.encoders import TOKENS_PER_BATCH, TOKENS_PER_BATCH_ON_CPU, embed_blocks, encoding
from ..models.late_interaction import maxsim_scores
from ..models.modeling_retriever import num_positions
from .model_part import ModelPart, role_of


PAIRS_PER_BATCH = 32
MOST_TOKENS = 512  # per question and passage


class Reranker:
    """
    Scores passages for a question. A ColBERT (with its processor) compares the texts by MaxSim. A sequence classifier
    (with its tokenizer) reads question and passage together as a cross-encoder: the score is the logit of its one
    output, or the log-odds of the second of two labels. It reads at most 512 token ids per pair, fewer if the model
    has fewer positions or the tokenizer a lower `model_max_length`; the longer of the two texts is cut.
    """

    def __init__(self, model, processor=None):
        self.model = model if isinstance(model, ModelPart) else ModelPart.of(model, processor, "reranker_processor")
        config = self.model.config
        self.is_colbert = self.model.vectors == "token_vectors"
        if not self.is_colbert and (role_of(config) is not None or config.num_labels not in (1, 2)):
            raise ValueError(
                "A reranker is a late-interaction model or a sequence classifier with one or two labels, got a model "
                f"of type {config.model_type!r} with {config.num_labels} labels."
            )

    def score(self, texts, passages, device=None):
        """The scores of each question's passages as lists, higher is better."""
        model, processor = self.model.get(device)
        if self.is_colbert:
            return self._by_maxsim(model, processor, texts, passages)
        return self._by_reading(model, processor, texts, passages)

    @staticmethod
    def _by_maxsim(model, processor, texts, passages):
        distinct = {passage["id"]: passage for of_one in passages for passage in of_one}
        if not distinct:
            return [[] for _ in texts]
        queries = embed_queries(model, processor, texts)
        with encoding(model, None, "float32") as encode:
            most = TOKENS_PER_BATCH_ON_CPU if model.device.type == "cpu" else TOKENS_PER_BATCH
            limits = len(distinct), PAIRS_PER_BATCH, most, np.dtype("float32"), tqdm(disable=True)
            [(values, lengths)] = embed_blocks(encode, processor, list(distinct.values()), [0], *limits)
        embeddings = TokenEmbeddings(values, lengths, list(distinct))
        places = {id: place for place, id in enumerate(distinct)}
        scores = []
        for query, mask, of_one in zip(queries.embeddings, queries.mask, passages, strict=True):
            if not of_one:
                scores.append([])
                continue
            found = [torch.from_numpy(embeddings[places[passage["id"]]]) for passage in of_one]
            lengths = torch.tensor([len(vectors) for vectors in found])
            documents = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
            real = torch.arange(documents.shape[1]) < lengths[:, None]
            scores.append(maxsim_scores(query[None], documents, mask[None], real)[0].tolist())
        return scores

    @staticmethod
    def _by_reading(model, tokenizer, texts, passages):
        pairs = [
            (text, f"{passage.get('title') or ''} {passage['text']}".strip())
            for text, of_one in zip(texts, passages, strict=True)
            for passage in of_one
        ]
        longest_first = sorted(range(len(pairs)), key=lambda place: -len("".join(pairs[place])))
        # The tokenizer's limit may be missing (a huge number) or above what the model can read
        most = min(tokenizer.model_max_length, num_positions(model) or MOST_TOKENS, MOST_TOKENS)
        scores = [0.0] * len(pairs)
        for start in range(0, len(pairs), PAIRS_PER_BATCH):
            batch = longest_first[start : start + PAIRS_PER_BATCH]
            inputs = tokenizer(
                [pairs[place][0] for place in batch],
                [pairs[place][1] for place in batch],
                truncation=True,
                max_length=most,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = model(**inputs.to(model.device)).logits.float()
            values = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
            for place, value in zip(batch, values.tolist(), strict=True):
                scores[place] = value
        values = iter(scores)
        return [[next(values) for _ in of_one] for of_one in passages]


__all__ = ["Reranker"]
