"""Runs of retrieval: from questions and passages to rankings, for the metrics and for hard-negative mining."""

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..index import DenseEmbeddings, LateInteractionIndex, TokenEmbeddings, embed_passages, embed_queries
from ..index.checks import check_dim, check_k
from ..index.scoring import TopK
from .rankings import RankedPassages


QUESTIONS_PER_BLOCK = 1024  # embedded and searched at once: all passages are read once a block
PASSAGES_PER_BLOCK = 4096


def rank_passages(model, processor, questions, passages, k=100, *, batch_size=64, device=None, progress=True):
    r"""
    The best passages for each question, by exact search: MaxSim for a model with one vector a token, the inner product
    for one with one vector a text.

    Args:
        model (`RetrieverPreTrainedModel`):
            Encodes the questions and, unless they are embedded, the passages.
        processor (`RetrieverProcessor`):
            The model's processor.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset`, `list[dict]`, [`TokenEmbeddings`], [`DenseEmbeddings`] or \
[`LateInteractionIndex`]):
            Rows with `id`, `text` and optionally `title`; or passages that are embedded already, by this model or by
            the teacher whose index it learnt to search. Of a compressed index every passage is scored, from its codes.
        k (`int`, *optional*, defaults to 100):
            Number of passages a question; all of them, ranked, if there are fewer.
        batch_size (`int`, *optional*, defaults to 64):
            How many texts to encode at once.
        device (`str` or `torch.device`, *optional*):
            Where to encode. The model is moved there and stays. By default, where the model is.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless the bars of Transformers are switched off.

    Returns:
        [`RankedPassages`]: Of equal scores the passage that comes first in `passages` is first.

    Raises:
        ValueError: If there are no questions, one has no id or no text, two have the same id, `k` is below 1, the
            embeddings are of another kind or size than the model's, or as [`embed_passages`] raises.

    Example:
    ```python
    >>> from hf_xlir.evaluation import rank_passages, recall_at_k

    >>> rankings, scores = rank_passages(model, processor, questions, passages)  # doctest: +SKIP
    >>> recall_at_k(rankings, dict(zip(questions["id"], questions["passage_ids"])), k=5)  # doctest: +SKIP

    ```
    """
    k = check_k(k)
    ids, texts = check_questions(questions)
    if not isinstance(passages, TokenEmbeddings | DenseEmbeddings | LateInteractionIndex):
        passages = embed_passages(model, processor, passages, batch_size=batch_size, device=device, progress=progress)
    if not len(passages):
        raise ValueError("`passages` is empty: give at least one.")
    if isinstance(passages, TokenEmbeddings):
        passages = LateInteractionIndex.build(passages, nbits=None)

    result = RankedPassages({}, {})
    show = progress and logging.is_progress_bar_enabled()
    with tqdm(total=len(ids), desc="Ranking", unit="question", disable=not show) as bar:
        for start in range(0, len(ids), QUESTIONS_PER_BLOCK):
            block = slice(start, start + QUESTIONS_PER_BLOCK)
            queries = embed_queries(model, processor, texts[block], batch_size=batch_size, device=device)
            scores, rows = search_exactly(passages, queries, k)
            for id, best, values in zip(ids[block], rows.tolist(), scores.tolist(), strict=True):
                result.rankings[id] = [passages.ids[row] for row in best]
                result.scores[id] = values
            bar.update(len(rows))
    return result


def check_questions(questions):
    """The ids and texts of questions, or a `ValueError` that says what is wrong with them."""
    for name in ("id", "question"):
        if len(questions) and name not in questions[0]:
            raise ValueError(f"Questions have the columns `id` and `question`, got {list(questions[0])}.")
    ids, texts = [row["id"] for row in questions], [row["question"] for row in questions]
    if not ids:
        raise ValueError("`questions` is empty: give at least one.")
    seen = set()
    for position, (id, text) in enumerate(zip(ids, texts, strict=True)):
        if not isinstance(id, str) or not id:
            raise ValueError(f"The question in row {position} has the id {id!r}: ids are strings, not empty.")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"The question `{id}` in row {position} has no text: leave it out.")
        if id in seen:
            raise ValueError(f"Two questions have the id `{id}`: ids must be unique.")
        seen.add(id)
    return ids, texts


def search_exactly(passages, queries, k):
    """Scores and rows of the best passages in [`DenseEmbeddings`] or an index, each of shape `(num_queries, k)`."""
    if isinstance(passages, DenseEmbeddings) != (queries.mask is None):
        kinds = ("one vector a token", "one vector a text")
        raise ValueError(
            f"The model has {kinds[queries.mask is None]}, but `passages` holds `{type(passages).__name__}`, which "
            f"have {kinds[isinstance(passages, DenseEmbeddings)]}: encode both with models of one kind."
        )
    if not isinstance(passages, DenseEmbeddings):
        return passages.search_batch(queries.embeddings, k, queries.mask, preset="exact", progress=False)
    check_dim(queries.embeddings, passages.embedding_dim)
    best = TopK.empty(len(queries.embeddings))
    for start in range(0, len(passages), PASSAGES_PER_BLOCK):
        block = torch.from_numpy(passages.values[start : start + PASSAGES_PER_BLOCK]).float()
        best = best.merge(queries.embeddings @ block.T, torch.arange(start, start + len(block)), k)
    return best


__all__ = ["rank_passages"]
