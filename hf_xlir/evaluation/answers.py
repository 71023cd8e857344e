"""Does a text hold the answer, and is an answer right? The definitions of DPR and of SQuAD."""

import math
import string
import unicodedata
from collections import Counter

import regex


# DPR's SimpleTokenizer: runs of letters, digits and marks; any other visible character is a token of its own.
TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
ARTICLE = regex.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def has_answer(text, answers):
    r"""
    Whether a text contains one of the answers, token for token (DPR, https://huggingface.co/papers/2004.04906).

    Text and answers are brought to Unicode's NFD form, split into runs of letters, digits and marks and single other
    characters, and lower-cased; an answer must then occur as neighbouring tokens. `Paris` is in `Paris, Texas`, but
    not in `Parisian`.

    Args:
        text (`str`):
            A retrieved passage.
        answers (`list[str]`):
            Short answers, any of which will do. One without any token, such as `" "`, is in no text.

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
    The share of questions for which one of the first `k` texts contains an answer: DPR's top-k accuracy.

    Args:
        texts (`list[list[str]]`):
            The retrieved texts of each question, best first. A question without any counts as a failure.
        answers (`list[list[str]]`):
            The answers of each question, see [`has_answer`].
        k (`int` or `list[int]`, *optional*, defaults to 20):
            How many texts to look at. Several values cost no more than the largest.

    Returns:
        `float`, or `dict[int, float]` if `k` is a list: Between 0 and 1.

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
    r"""
    The rank of each question's first text that contains an answer.

    Args:
        texts (`list[list[str]]`):
            The retrieved texts of each question, best first.
        answers (`list[list[str]]`):
            The answers of each question, see [`has_answer`].
        depth (`int`):
            How many texts to look at.

    Returns:
        `list[float]`: From 1; infinite where none of the first `depth` texts does.

    Raises:
        ValueError: If there are no questions, or the lists differ in length.

    Example:
    ```python
    >>> from hf_xlir.evaluation.answers import first_answer_ranks

    >>> first_answer_ranks([["Rome", "On the Seine."], ["Oslo"]], [["Seine"], ["Bergen"]], depth=10)
    [2, inf]

    ```
    """
    if not texts or len(texts) != len(answers):
        raise ValueError(
            f"`texts` and `answers` need one entry a question, at least one, got {len(texts)} and {len(answers)}."
        )
    lines = {}  # questions share passages, and tokenizing them is most of the work
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
    (https://huggingface.co/papers/1606.05250): lower case, without ASCII punctuation, without the articles `a`, `an`
    and `the`, white space as single spaces.

    Args:
        prediction (`str`):
            A predicted answer.
        answers (`list[str]`):
            Right answers, any of which will do.

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
    F1 of the words that a predicted answer shares with an answer, both normalised as for [`exact_match`]; the best
    over the answers (SQuAD, https://huggingface.co/papers/1606.05250). Two texts that normalise to nothing are equal,
    and have F1 1.

    Args:
        prediction (`str`):
            A predicted answer.
        answers (`list[str]`):
            Right answers, any of which will do.

    Returns:
        `float`: Between 0 and 1.

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
        raise ValueError(f"Answers and texts are strings, got {text!r}.")


def _token_line(text):
    """Tokens with a space before and after each; no token has one inside, so that substrings are runs of tokens."""
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


__all__ = ["answer_recall_at_k", "exact_match", "f1_score", "first_answer_ranks", "has_answer"]
