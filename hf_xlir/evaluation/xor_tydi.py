"""XOR-Retrieve's metrics by their official definition (https://huggingface.co/papers/2010.11856)."""

import statistics

from tqdm.auto import tqdm
from transformers.utils import logging

from .xor_rows import check_references, fault_of_retrieved
from .xor_tokenizers import passage_tokenizer


logger = logging.get_logger(__name__)

TOKEN_LIMITS = {"recall@2kt": 2000, "recall@5kt": 5000}
NO_SPANS = ("yes", "no")


def xor_retrieve_metrics(predictions, references, tokenize=None):
    r"""
    R@2kt and R@5kt: the share of questions for which the first 2,000 or 5,000 tokens of what was retrieved hold an
    answer, in percent, of each language and as the mean over languages (XOR-Retrieve's official definition,
    https://huggingface.co/papers/2010.11856 and https://github.com/AkariAsai/XORQA).

    The tokens of a question's texts, in order, are cut at the limit and joined by single spaces; an answer must occur
    in that, as a substring and in the same case. Some of the official definition may surprise, and holds here too:

    - answers `yes` and `no` are dropped, in lower case only, and a question without any other does not count;
    - answers are not tokenized: `$5` never occurs in `$ 5`, and neither does a quoted one, since NLTK rewrites quotes;
    - an answer may begin and end within a word: `Par` is in `Paris`;
    - a question without a prediction does not count, which flatters; a warning says how many there are. A prediction
      without any texts is a failure;
    - a question's language is its prediction's `lang`.

    Args:
        predictions (`list[dict]`):
            For each question its `id`, `lang` and `ctxs`: the retrieved texts (`list[str]`), best first, of 5,000
            tokens together where possible. Those of other questions than `references` has are left aside. See
            [`xor_retrieve_predictions`] and [`load_xor_retrieve_predictions`].
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id` and `answers`, such as `load_xor_tydi("retrieve", "validation")`.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            By default NLTK's `word_tokenize`, as the task defines it, which needs the download
            `nltk.download("punkt_tab")`. `"treebank"` needs none, but does not split sentences, so that a full stop
            within a text remains a part of its word: an approximation, which the result names. Or any function from a
            text to its tokens.

    Returns:
        `dict[str, dict[str, float]]`: Under `recall@2kt` and `recall@5kt` the percentage of each language, and their
        mean under `macro`. With `tokenize="treebank"` also `tokenizer`, a `str` that says so.

    Raises:
        LookupError: If Punkt's data is needed and absent.
        ValueError: If a row lacks something, an id occurs twice, `tokenize` is unknown or returns a string, or no
            question is left to be scored.

    Example:
    ```python
    >>> from hf_xlir.evaluation import xor_retrieve_metrics

    >>> questions = [{"id": "1", "answers": ["Tokyo"]}, {"id": "2", "answers": ["Seoul", "yes"]}]
    >>> found = [
    ...     {"id": "1", "lang": "ja", "ctxs": ["Kyoto was the capital.", "Tokyo is."]},
    ...     {"id": "2", "lang": "ko", "ctxs": ["Busan"]},
    ... ]
    >>> xor_retrieve_metrics(found, questions, tokenize=str.split)["recall@2kt"]
    {'ja': 100.0, 'ko': 0.0, 'macro': 50.0}

    ```
    """
    spans = {
        id: [answer for answer in answers if answer not in NO_SPANS]
        for id, answers in check_references(references, needs_language=False).items()
    }
    counted = _counted(list(predictions), spans)
    tokenize, approximation = passage_tokenizer(tokenize)
    if missing := sum(map(bool, spans.values())) - len(counted):
        logger.warning(
            f"{missing} question(s) with an answer have no prediction, and do not count, as in the official script. "
            "Give them one with empty `ctxs` if they were asked."
        )

    starts = _TextStarts(tokenize)
    hits = {name: {} for name in TOKEN_LIMITS}
    for row in tqdm(counted, desc="Scoring", unit="question", delay=5, disable=not logging.is_progress_bar_enabled()):
        language = row["lang"].strip()
        for name, limit in TOKEN_LIMITS.items():
            start = starts.of(row["ctxs"], limit)
            hits[name].setdefault(language, []).append(any(span in start for span in spans[row["id"]]))
    result = {name: _percentages(of_language) for name, of_language in hits.items()}
    return result if approximation is None else {**result, "tokenizer": approximation}


def _counted(predictions, spans):
    """The predictions of questions that have an answer other than yes and no."""
    seen = set()
    for position, row in enumerate(predictions):
        if (fault := fault_of_retrieved(row)) is not None:
            raise ValueError(f"`predictions`, row {position}: {fault}.")
        if row["id"] in seen:
            raise ValueError(f"`predictions`, row {position}: the question `{row['id']}` has occurred before.")
        seen.add(row["id"])
    if not seen & set(spans):
        raise ValueError(
            f"No prediction is of a question in `references`: predictions are of {sorted(seen)[:3]}, references of "
            f"{list(spans)[:3]}. Use the same ids in both."
        )
    counted = [row for row in predictions if spans.get(row["id"])]
    if not counted:
        raise ValueError("No question with a prediction has an answer other than `yes` and `no`, as is scored here.")
    return counted


class _TextStarts:
    """The first tokens of several texts, joined by spaces; what many questions share is tokenized once."""

    def __init__(self, tokenize):
        self.tokenize = tokenize
        self.lines = {}  # of each text its tokens, joined, and their number: a tenth of the memory of a list

    def of(self, texts, limit):
        parts = []
        for text in texts:
            if limit <= 0:
                break
            if text not in self.lines:
                tokens = self.tokens(text)
                self.lines[text] = (" ".join(tokens), len(tokens))
            line, num_tokens = self.lines[text]
            # Tokens may hold spaces, so that a line cannot be split into them again
            part = line if num_tokens <= limit else " ".join(self.tokens(text)[:limit])
            if num_tokens:
                parts.append(part)
            limit -= num_tokens
        return " ".join(parts)

    def tokens(self, text):
        tokens = self.tokenize(text)
        if isinstance(tokens, str):
            raise ValueError(f"`tokenize` must return a list of tokens, got the string {tokens[:60]!r}.")
        return list(tokens)


def _percentages(hits):
    percentages = {language: sum(hits[language]) / len(hits[language]) * 100 for language in sorted(hits)}
    # Exact until it is rounded, as in the official script: `fmean` and a sum of floats differ in the last digit
    return {**percentages, "macro": statistics.mean(percentages.values())}


__all__ = ["xor_retrieve_metrics"]
