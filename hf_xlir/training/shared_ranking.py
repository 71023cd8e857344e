"""Rankings that all processes of a training compute together."""

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ..evaluation.runner import QUESTIONS_PER_BLOCK, RankedPassages, check_questions, rank_passages, search_exactly
from ..index import LateInteractionIndex, QueryEmbeddings, TokenEmbeddings, embed_passages, embed_queries
from ..index.checks import check_k
from ..index.passages import check_passages
from ..index.scoring import TopK


def rank_passages_together(model, processor, questions, passages, k=100, *, share=True, batch_size=64, progress=True):
    r"""
    [`rank_passages`], shared among processes: each one encodes its part of the questions and of the passages, and
    searches its own passages for all questions; what leaves a process are vectors of questions and its best passages.

    Every process must call it with the same arguments, and each one receives the whole result: up to rounding that of
    one process, and the same on all of them. Without `torch.distributed` this is [`rank_passages`].

    Args:
        model (`RetrieverPreTrainedModel`):
            Encodes where it is; not wrapped for distributed training.
        processor (`RetrieverProcessor`):
            The model's processor.
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.
        k (`int`, *optional*, defaults to 100):
            Number of passages a question; all of them, ranked, if there are fewer.
        share (`bool`, *optional*, defaults to `True`):
            Whether to share the work. Without, every process does all of it: a model whose weights are spread over
            processes (FSDP) needs all of them for each batch.
        batch_size (`int`, *optional*, defaults to 64):
            How many texts to encode at once.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless the bars of Transformers are switched off.

    Returns:
        [`RankedPassages`]: Of equal scores the passage that comes first in `passages` is first.

    Raises:
        ValueError: As [`rank_passages`] raises.

    Example:
    ```python
    >>> from hf_xlir.training.shared_ranking import rank_passages_together

    >>> rankings, scores = rank_passages_together(model, processor, questions, passages, k=20)  # doctest: +SKIP

    ```
    """
    num_processes = dist.get_world_size() if share and dist.is_available() and dist.is_initialized() else 1
    if num_processes == 1:
        return rank_passages(model, processor, questions, passages, k, batch_size=batch_size, progress=progress)
    k = check_k(k)
    ids, texts = check_questions(questions)
    passage_ids = check_passages(passages)

    rank = dist.get_rank()
    start, stop = _part(len(passage_ids), rank, num_processes)
    own = None
    if start < stop:
        own = passages.select(range(start, stop)) if isinstance(passages, Dataset) else passages[start:stop]
        own = embed_passages(model, processor, own, batch_size=batch_size, progress=progress)
        own = LateInteractionIndex.build(own, nbits=None) if isinstance(own, TokenEmbeddings) else own

    result = RankedPassages({}, {})
    show = progress and logging.is_progress_bar_enabled()
    with tqdm(total=len(ids), desc="Ranking", unit="question", disable=not show) as bar:
        for first in range(0, len(ids), QUESTIONS_PER_BLOCK):
            block = slice(first, first + QUESTIONS_PER_BLOCK)
            asked = texts[block][slice(*_part(len(texts[block]), rank, num_processes))]
            queries = embed_queries(model, processor, asked, batch_size=batch_size) if asked else None
            queries = _joined([part for part in _gather(queries) if part is not None])
            found = TopK.empty(len(queries.embeddings)) if own is None else search_exactly(own, queries, k)
            scores, rows = (np.asarray(part) for part in found)
            scores, rows = _best(_gather((scores, rows + start)), k)
            for id, best, values in zip(ids[block], rows.tolist(), scores.tolist(), strict=True):
                result.rankings[id] = [passage_ids[row] for row in best]
                result.scores[id] = values
            bar.update(len(rows))
    return result


def _part(number, rank, num_processes):
    """Where a process's part starts and ends: parts follow each other, and their sizes differ by one at most."""
    return rank * number // num_processes, (rank + 1) * number // num_processes


def _gather(value):
    """What all processes have, in their order."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _joined(parts):
    """The [`QueryEmbeddings`] of all processes, one after another; token vectors padded to the longest."""
    if parts[0].mask is None:
        return QueryEmbeddings(torch.cat([part.embeddings for part in parts]), None)
    longest = max(part.mask.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return QueryEmbeddings(
        torch.cat([pad(part.embeddings, (0, 0, 0, longest - part.mask.shape[1])) for part in parts]),
        torch.cat([pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]),
    )


def _best(parts, k):
    """The best `k` of what each process found, as [`TopK`]: rows rise from one process to the next."""
    scores, rows = (torch.from_numpy(np.concatenate(each, axis=1)) for each in zip(*parts, strict=True))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return TopK(scores[:, :k], rows.gather(1, order[:, :k]))


__all__ = ["rank_passages_together"]
