"""Retrieval runs: from questions and passages to rankings, for metrics and for mining hard negatives."""

import numpy as np
import torch

from ..index import (
    DenseEmbeddings,
    LateInteractionIndex,
    SearchIndex,
    TokenEmbeddings,
    embed_passages,
    embed_queries,
)
from ..index.base import index_attribute
from ..index.bm25 import BM25Index
from ..index.checks import check_dim, check_k
from ..index.embed import both_forms
from ..index.fusion import RANK_CONSTANT, check_fusion, fuse
from ..index.scoring import TopK
from ..utils.checks import check_integer
from ..utils.progress import progress_bar
from .rankings import RankedPassages, in_order


QUESTIONS_PER_BLOCK = 1024  # embedded and searched at once: each block reads all passages
BM25_QUESTIONS_PER_BLOCK = 64  # between two steps of the progress bar
PASSAGES_PER_BLOCK = 4096


def rank_passages(
    encoder,
    *inputs,
    processor=None,
    questions=None,
    passages=None,
    k=None,
    batch_size=64,
    device=None,
    progress=True,
    **search_options,
):
    r"""
    Rank passages for each question: by exact search (MaxSim for an encoder with one vector per token, inner product
    for one vector per text), or by the search of an index.

    Two forms: `rank_passages(encoder, questions, passages, k)` and `rank_passages(model, processor, questions,
    passages, k)`.

    Args:
        encoder ([`Encoder`], `str`, `os.PathLike`, `tuple` or an object with `encode_query` and `encode_document`):
            Encodes the questions, and the passages if they are rows: an encoder, a path or Hub id, `(model,
            processor)`, or a model with its processor as the next argument. `None` for an index that is searched with
            texts.
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset`, `list[dict]`, [`TokenEmbeddings`], [`DenseEmbeddings`] or [`SearchIndex`]):
            Rows with `id`, `text` and optionally `title`. Or passages that were embedded before, by this encoder or by
            the teacher whose index it learnt to search. Or any index over them.
        k (`int`, *optional*, defaults to 100):
            Number of passages per question. If there are fewer passages, all are ranked.
        batch_size (`int`, *optional*, defaults to 64):
            Number of texts to encode at once.
        device (`str` or `torch.device`, *optional*):
            Device to encode on. The encoder is moved there and stays there. Defaults to the encoder's device.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless those of transformers are disabled.
        search_options:
            Further arguments of the index's `search_batch`. Defaults to `preset="exact"` for a
            [`LateInteractionIndex`]: every passage is scored, in a compressed index from its codes.

    Returns:
        [`RankedPassages`]: Passages with equal scores are in the order of `passages`.

    Raises:
        ValueError: If there are no questions, a question lacks an id or a text, two questions have the same id, `k` is
            below 1, the embeddings differ in kind or size from the encoder's, or `encoder` is `None` for an index that
            needs vectors; and as [`embed_passages`] raises.

    Example:
    ```python
    >>> from hf_xlir.evaluation import rank_passages
    >>> from hf_xlir.index import BM25Index

    >>> passages = [{"id": "a", "text": "Paris lies on the Seine."}, {"id": "b", "text": "Rome lies on the Tiber."}]
    >>> index = BM25Index.build(passages, progress=False)
    >>> rank_passages(None, [{"id": "q", "question": "The Seine?"}], index, k=1, progress=False).rankings
    {'q': ['a']}
    >>> rank_passages(encoder, questions, passages, k=5)  # doctest: +SKIP

    ```
    """
    given = {"processor": processor, "questions": questions, "passages": passages, "k": k}
    encoder, questions, passages, k = both_forms(encoder, inputs, given, optional=True)
    k = check_k(100 if k is None else k)
    ids, texts = check_questions(questions)
    if isinstance(passages, TokenEmbeddings):
        passages = LateInteractionIndex.build(passages, nbits=None)
    elif not isinstance(passages, DenseEmbeddings | SearchIndex):
        passages = embed_passages(encoder, passages, batch_size=batch_size, device=device, progress=progress)
        if isinstance(passages, TokenEmbeddings):
            passages = LateInteractionIndex.build(passages, nbits=None)
    if passages.ids is None:
        raise ValueError("`passages` is an index without ids, which rankings need: build it with ids.")
    if not len(passages.ids):
        raise ValueError("`passages` is empty: give at least one passage.")
    by_text = isinstance(passages, SearchIndex) and passages.queries == "text"
    if encoder is None and not by_text:
        raise ValueError("`encoder` is `None`, but `passages` is searched with vectors: give the encoder.")

    def search(texts):
        if by_text:
            return passages.search_batch(texts, k, **_quiet(passages, search_options))
        queries = embed_queries(encoder, texts, batch_size=batch_size, device=device)
        return search_exactly(passages, queries, k, **search_options)

    return _rank(ids, texts, passages.ids, search, QUESTIONS_PER_BLOCK, "Ranking", progress)


def rank_by_bm25(questions, passages, k=100, *, k1=0.9, b=0.4, tokenize=None, progress=True):
    r"""
    Rank passages for each question by BM25 over title and text. [`BM25Index`] does the same for repeated searches: it
    also saves, filters, and attaches to a `datasets.Dataset`.

    Args:
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`. Their words stay in memory, eight bytes each.
        k (`int`, *optional*, defaults to 100):
            Maximum number of passages per question.
        k1 (`float`, *optional*, defaults to 0.9):
            How much repeated words count; DPR's value.
        b (`float`, *optional*, defaults to 0.4):
            How much the length of a passage is discounted, from 0 to 1; DPR's value.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*, defaults to `"words"`):
            Splits a text into words: `"words"`, `"bigrams"` for languages without spaces, or a function. See
            [`BM25Index.build`].
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless those of transformers are disabled.

    Returns:
        [`RankedPassages`]: Passages with equal scores are in the order of `passages`. A passage that shares no word
        with the question is not ranked, so that a ranking may have fewer than `k` passages, or none.

    Raises:
        ValueError: If there are no questions or passages, one lacks an id or a text, two have the same id, no passage
            has a word, or an argument is out of range.

    Example:
    ```python
    >>> from hf_xlir.evaluation import rank_by_bm25

    >>> texts = {"a": "Paris lies on the Seine.", "b": "Rome lies on the Tiber.", "c": "The Seine flows north."}
    >>> passages = [{"id": id, "text": text} for id, text in texts.items()]
    >>> rank_by_bm25([{"id": "q", "question": "Where is the Seine?"}], passages, k=2, progress=False).rankings
    {'q': ['c', 'a']}

    ```
    """
    k = check_k(k)
    ids, texts = check_questions(questions)
    index = BM25Index.build(passages, k1, b, tokenize, progress)
    return _rank(
        ids, texts, index.ids, lambda texts: index.search_batch(texts, k), BM25_QUESTIONS_PER_BLOCK, "BM25", progress
    )


def fuse_rankings(rankings, method="reciprocal_rank", weights=None, k=None, *, rank_constant=RANK_CONSTANT):
    r"""
    Fuse the rankings of several systems, query by query: by reciprocal rank (Cormack, Clarke, Büttcher 2009), or as a
    weighted sum of scores that are scaled to 0 to 1 for each query.

    Args:
        rankings (`list` of [`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            At least one. Equal scores are ordered by id. A query that some rankings lack is fused from the others.
        method (`str`, *optional*, defaults to `"reciprocal_rank"`):
            `"reciprocal_rank"`, or `"weighted_sum"`, which needs scores.
        weights (`list[float]`, *optional*):
            The weight of each ranking, at least 0. All weights are 1 by default.
        k (`int`, *optional*):
            Maximum number of passages per query. By default all passages of any ranking.
        rank_constant (`float`, *optional*, defaults to 60):
            For `"reciprocal_rank"`: a larger value makes the first ranks stand out less.

    Returns:
        [`RankedPassages`]: All queries of all rankings. Equal scores are ordered by id.

    Raises:
        ValueError: If there are no rankings or no query is in all of them; if the number of `weights` differs or all
            are 0; if an argument is unknown or out of range; or if `"weighted_sum"` meets a ranking without scores or
            with an infinite score.

    Example:
    ```python
    >>> from hf_xlir.evaluation import fuse_rankings

    >>> dense, bm25 = {"q": ["a", "b", "c"]}, {"q": ["c", "a"]}
    >>> fuse_rankings([dense, bm25], k=2).rankings
    {'q': ['a', 'c']}

    ```
    """
    if isinstance(rankings, dict | RankedPassages):
        raise ValueError(f"`rankings` must be a list of rankings, got one `{type(rankings).__name__}`.")
    check_fusion(len(rankings), method, weights, rank_constant)
    k = None if k is None else check_integer("k", k)
    rankings = [in_order(each) for each in rankings]
    if len(rankings) > 1 and not set.intersection(*(set(each.rankings) for each in rankings)):
        raise ValueError(
            f"The rankings have no query in common, but {[list(each.rankings)[:3] for each in rankings]}. Use the "
            "same ids in all."
        )
    for position, each in enumerate(rankings):
        if method == "weighted_sum" and not each.scores and any(each.rankings.values()):
            raise ValueError(
                f"Ranking {position} has no scores, which `weighted_sum` needs: fuse by `reciprocal_rank`."
            )

    result = RankedPassages({}, {})
    for query in dict.fromkeys(query for each in rankings for query in each.rankings):
        ids = [each.rankings.get(query, []) for each in rankings]
        scores = [each.scores.get(query, []) for each in rankings] if method == "weighted_sum" else None
        try:
            ids, scores = fuse(ids, scores, method, weights, rank_constant)
        except ValueError as error:
            raise ValueError(f"Query `{query}`: {error}") from error
        result.rankings[query], result.scores[query] = ids[:k], scores[:k]
    return result


def check_questions(questions):
    """The ids and texts of questions, checked."""
    for name in ("id", "question"):
        if len(questions) and name not in questions[0]:
            raise ValueError(f"Questions need the columns `id` and `question`, got {list(questions[0])}.")
    ids, texts = [row["id"] for row in questions], [row["question"] for row in questions]
    if not ids:
        raise ValueError("`questions` is empty: give at least one question.")
    seen = set()
    for position, (id, text) in enumerate(zip(ids, texts, strict=True)):
        if not isinstance(id, str) or not id:
            raise ValueError(f"The question in row {position} has the id {id!r}: ids are non-empty strings.")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"The question `{id}` in row {position} has no text: leave it out.")
        if id in seen:
            raise ValueError(f"Two questions have the id `{id}`: ids must be unique.")
        seen.add(id)
    return ids, texts


def search_exactly(passages, queries, k, **options):
    """
    Scores and rows of the best passages in [`DenseEmbeddings`] or an index, each of shape `(num_queries, k)`; the
    search of a [`LateInteractionIndex`] is exact unless `options` say otherwise.
    """
    held = "vectors" if isinstance(passages, DenseEmbeddings) else passages.queries
    asked = "vectors" if queries.mask is None else "token_vectors"
    if held != asked:
        kinds = {"vectors": "one vector per text", "token_vectors": "one vector per token", "text": "texts"}
        raise ValueError(
            f"The encoder gives {kinds[asked]}, but `passages`, of type `{type(passages).__name__}`, is searched with "
            f"{kinds[held]}: encode both with the same kind of encoder."
        )
    if not isinstance(passages, DenseEmbeddings):
        if "preset" in index_attribute(passages, "search_options"):
            options = {"preset": "exact", **options}
        if queries.mask is not None:
            options["query_mask"] = queries.mask
        return passages.search_batch(queries.embeddings, k, **_quiet(passages, options))
    check_dim(queries.embeddings, passages.embedding_dim)
    best = TopK.empty(len(queries.embeddings))
    for start in range(0, len(passages), PASSAGES_PER_BLOCK):
        block = torch.from_numpy(passages.values[start : start + PASSAGES_PER_BLOCK]).float()
        best = best.merge(queries.embeddings @ block.T, torch.arange(start, start + len(block)), k)
    return best


def _quiet(index, options):
    """Search options with the index's own progress bar off."""
    return {**options, "progress": False} if "progress" in index_attribute(index, "search_options") else options


def _rank(ids, texts, passage_ids, search, block_size, description, progress):
    """Search the questions in blocks; `search(texts)` gives scores and rows, with row -1 where nothing was found."""
    result, passage_ids = RankedPassages({}, {}), list(passage_ids)
    with progress_bar(total=len(ids), show=progress, desc=description, unit="question") as bar:
        for start in range(0, len(ids), block_size):
            block = slice(start, start + block_size)
            scores, rows = search(texts[block])
            rows, scores = np.asarray(rows), np.asarray(scores)
            for id, best, values in zip(ids[block], rows.tolist(), scores.tolist(), strict=True):
                found = [place for place, row in enumerate(best) if row >= 0]
                result.rankings[id] = [passage_ids[best[place]] for place in found]
                result.scores[id] = [values[place] for place in found]
            bar.update(len(rows))
    return result


__all__ = ["fuse_rankings", "rank_by_bm25", "rank_passages"]
