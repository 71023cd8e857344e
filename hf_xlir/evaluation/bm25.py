"""BM25: what shares rare words with a question. A baseline, and where DPR's hard negatives come from."""

import unicodedata

import numpy as np
import regex
from tqdm.auto import tqdm
from transformers.utils import logging

from ..index.checks import check_k
from ..index.passages import check_passages, read_rows
from .runner import RankedPassages, check_questions


WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
ROWS_PER_READ = 10_000


def rank_by_bm25(questions, passages, k=100, *, k1=0.9, b=0.4, tokenize=None, progress=True):
    r"""
    The best passages for each question by BM25 over title and text, computed by `bm25s`
    (https://huggingface.co/papers/2407.03618) with Lucene's formula.

    It finds words, not meanings: a question in another language than the passages matches in names and numbers only.

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
        tokenize (`Callable[[str], list[str]]`, *optional*):
            Splits a text into words. Defaults to runs of letters, digits and marks, in lower case; give one for
            languages without spaces, or one that stems.
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
    import bm25s

    k = check_k(k)
    if not k1 >= 0 or not 0 <= b <= 1:
        raise ValueError(f"`k1` must be a number from 0, and `b` one from 0 to 1, got {k1} and {b}.")
    ids, texts = check_questions(questions)
    passage_ids = check_passages(passages)
    tokenize = tokenize or words
    disable = not (progress and logging.is_progress_bar_enabled())

    vocabulary, tokens = {}, []
    with tqdm(total=len(passages), desc="Words", unit="passage", disable=disable) as bar:
        for start in range(0, len(passages), ROWS_PER_READ):
            rows = read_rows(passages, start, start + ROWS_PER_READ)
            for title, text in zip(rows["title"] or [""] * len(rows["text"]), rows["text"], strict=True):
                # numbers, which all passages share, take less memory than words
                tokens.append([vocabulary.setdefault(word, len(vocabulary)) for word in tokenize(f"{title} {text}")])
            bar.update(len(rows["text"]))
    if not vocabulary:
        raise ValueError("No passage has a word: give a `tokenize` that finds some.")
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index((tokens, vocabulary), show_progress=not disable)

    result = RankedPassages({}, {})
    for id, text in tqdm(list(zip(ids, texts, strict=True)), desc="BM25", unit="question", disable=disable):
        known = [vocabulary[word] for word in tokenize(text) if word in vocabulary]
        scores = index.get_scores_from_ids(known) if known else np.zeros(len(passage_ids), np.float32)
        best = _best(scores, k)
        result.rankings[id] = [passage_ids[row] for row in best]
        result.scores[id] = scores[best].tolist()
    return result


def words(text):
    """Runs of letters, digits and marks, in lower case."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _best(scores, k):
    """Rows of the `k` highest scores above 0, falling; of equal scores the lowest row first."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


__all__ = ["rank_by_bm25"]
