"""BM25: what shares rare words with a question. A baseline, and where DPR's hard negatives come from."""

from tqdm.auto import tqdm
from transformers.utils import logging

from ..index.bm25 import BM25Index
from ..index.checks import check_k
from .rankings import RankedPassages
from .runner import check_questions


QUESTIONS_PER_BLOCK = 64  # between steps of the progress bar


def rank_by_bm25(questions, passages, k=100, *, k1=0.9, b=0.4, tokenize=None, progress=True):
    r"""
    The best passages for each question by BM25 over title and text: see [`BM25Index`], which also saves, filters, and
    answers a `datasets.Dataset`.

    Args:
        questions (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `question`.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`. Their words are held in memory, eight bytes each.
        k (`int`, *optional*, defaults to 100):
            Most passages a question.
        k1 (`float`, *optional*, defaults to 0.9):
            How much repeated words count; DPR's value.
        b (`float`, *optional*, defaults to 0.4):
            How much long passages are discounted, from 0 to 1; DPR's value.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*, defaults to `"words"`):
            Splits a text into words: `"words"`, `"bigrams"` for languages without spaces, or a function; see
            [`BM25Index.build`].
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars, unless the bars of Transformers are switched off.

    Returns:
        [`RankedPassages`]: Of equal scores the passage that comes first in `passages` is first. A passage that shares
        no word with the question is not ranked, so that there may be fewer than `k`, or none.

    Raises:
        ValueError: If there are no questions or passages, one has no id or no text, two have the same id, no passage
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
    show = progress and logging.is_progress_bar_enabled()
    result = RankedPassages({}, {})
    with tqdm(total=len(ids), desc="BM25", unit="question", disable=not show) as bar:
        for start in range(0, len(ids), QUESTIONS_PER_BLOCK):
            block = slice(start, start + QUESTIONS_PER_BLOCK)
            scores, rows = index.search_batch(texts[block], k)
            for id, best, values in zip(ids[block], rows, scores, strict=True):
                result.rankings[id] = [index.ids[row] for row in best[best >= 0]]
                result.scores[id] = values[best >= 0].tolist()
            bar.update(len(rows))
    return result


__all__ = ["rank_by_bm25"]
