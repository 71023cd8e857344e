"""Whether a text contains an answer (DPR's token match), and whether an answer is right (SQuAD's exact match, F1)."""

import math
import string
import unicodedata
from collections import Counter

import regex


# DPR's SimpleTokenizer: runs of letters, digits and marks; any other visible character is its own token
TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
ARTICLE = regex.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def has_answer(text, answers):
    r"""
    Whether a text contains one of the answers, token for token (DPR, https://huggingface.co/papers/2004.04906).

    Text and answers are converted to Unicode's NFD form, split into tokens (runs of letters, digits and marks, and
    single other characters) and lower-cased. The tokens of an answer must then occur in a row. `Paris` is in `Paris,
    Texas`, but not in `Parisian`.

    Args:
        text (`str`):
            A retrieved passage.
        answers (`list[str]`):
            Short answers; one of them is enough. An answer without tokens, such as `" "`, is not in any text.

    Returns:
        `bool`

    Raises:
        ValueError: If `answers` is empty or a single string.

    Example:
    ```python
    >>> from hf_xlir.evaluation import has_answer

    >>> has_answer("The tower stands in Paris, the capital.", ["Lyon", "paris"])
    True
    >>> has_answer("A Parisian tower.", ["Paris"])
    False

    ```
    """
    return _contains(_token_line(text), [_token_line(answer) for answer in _checked(answers)])


def answer_recall_at_k(texts, answers, k=20):
    r"""
    The share of questions for which one of the first `k` texts contains an answer: DPR's top-k accuracy
    (https://huggingface.co/papers/2004.04906).

    Args:
        texts (`list[list[str]]`):
            The retrieved texts of each question, best first. A question without texts counts as a failure.
        answers (`list[list[str]]`):
            The answers of each question, see [`has_answer`].
        k (`int` or `list[int]`, *optional*, defaults to 20):
            Number of texts to look at. Several values cost no more than the largest one.

    Returns:
        `float` between 0 and 1, or `dict[int, float]` if `k` is a list.

    Raises:
        ValueError: If there are no questions, the lists differ in length, or a `k` is below 1.

    Example:
    ```python
    >>> from hf_xlir.evaluation import answer_recall_at_k

    >>> texts = [["Rome lies on the Tiber.", "Paris lies on the Seine."], ["Oslo"]]
    >>> answer_recall_at_k(texts, [["Seine"], ["Bergen"]], k=[1, 2])
    {1: 0.0, 2: 0.5}

    ```
    """
    cutoffs = list(k) if isinstance(k, list | tuple) else [k]
    if not cutoffs or not all(type(each) is int and each >= 1 for each in cutoffs):
        raise ValueError(f"`k` must be a positive integer or a list of several, got {k!r}.")
    ranks = first_answer_ranks(texts, answers, max(cutoffs))
    recall = {cutoff: sum(rank <= cutoff for rank in ranks) / len(ranks) for cutoff in cutoffs}
    return recall if isinstance(k, list | tuple) else recall[k]


def first_answer_ranks(texts, answers, depth):
    """The rank of each question's first text with an answer, from 1; infinite if it is not among the first `depth`."""
    if not texts or len(texts) != len(answers):
        raise ValueError(
            f"`texts` and `answers` need one entry per question, at least one, got {len(texts)} and {len(answers)}."
        )
    lines = {}  # questions share passages, and tokenizing is most of the work
    ranks = []
    for retrieved, accepted in zip(texts, answers, strict=True):
        if isinstance(retrieved, str):
            raise ValueError("`texts` must have a list of texts for each question, got a string: put it in a list.")
        accepted = [_token_line(answer) for answer in _checked(accepted)]
        ranks.append(math.inf)
        for rank, text in enumerate(retrieved[:depth], start=1):
            if text not in lines:
                lines[text] = _token_line(text)
            if _contains(lines[text], accepted):
                ranks[-1] = rank
                break
    return ranks


def exact_match(prediction, answers):
    r"""
    Whether a predicted answer equals one of the answers after SQuAD's normalisation
    (https://huggingface.co/papers/1606.05250): lower case, no ASCII punctuation, no articles `a`, `an` and `the`, and
    single spaces as white space.

    Args:
        prediction (`str`):
            The predicted answer.
        answers (`list[str]`):
            Right answers; one of them is enough.

    Returns:
        `bool`

    Raises:
        ValueError: If `answers` is empty or a single string.

    Example:
    ```python
    >>> from hf_xlir.evaluation import exact_match

    >>> exact_match("the  Seine.", ["Seine"])
    True

    ```
    """
    return _normalise(prediction) in {_normalise(answer) for answer in _checked(answers)}


def f1_score(prediction, answers):
    r"""
    F1 over the words of a predicted answer and of a right answer, both normalised as for [`exact_match`]; the best
    over the answers (SQuAD, https://huggingface.co/papers/1606.05250). Two texts that are empty after normalisation
    are equal, with an F1 of 1.

    Args:
        prediction (`str`):
            The predicted answer.
        answers (`list[str]`):
            Right answers; one of them is enough.

    Returns:
        `float` between 0 and 1.

    Raises:
        ValueError: If `answers` is empty or a single string.

    Example:
    ```python
    >>> from hf_xlir.evaluation import f1_score

    >>> f1_score("on the river Seine", ["the Seine", "the river Seine"])
    0.8

    ```
    """
    words = _normalise(prediction).split()
    return max(_word_f1(words, _normalise(answer).split()) for answer in _checked(answers))


def _checked(answers):
    if isinstance(answers, str) or not len(answers):
        raise ValueError(f"`answers` must be a list of at least one answer, got {answers!r}.")
    return answers


def _check_text(text):
    if not isinstance(text, str):
        raise ValueError(f"Answers and texts must be strings, got {text!r}.")


def _token_line(text):
    """The tokens with spaces around each. Tokens have no space inside, so substrings are runs of tokens."""
    _check_text(text)
    tokens = TOKEN.findall(unicodedata.normalize("NFD", text))
    return f" {' '.join(token.lower() for token in tokens)} " if tokens else ""


def _contains(line, answers):
    return any(answer and answer in line for answer in answers)


def _normalise(text):
    _check_text(text)
    text = ARTICLE.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION))
    return " ".join(text.split())


def _word_f1(prediction, answer):
    if not prediction or not answer:
        return float(prediction == answer)
    shared = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * shared / (len(prediction) + len(answer))


__all__ = ["answer_recall_at_k", "exact_match", "f1_score", "has_answer"]
