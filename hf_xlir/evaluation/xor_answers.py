"""The metrics of XOR-EnglishSpan and XOR-Full by their definitions (https://huggingface.co/papers/2010.11856)."""

import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping

from transformers.utils import logging

from ..data.xor_tydi import XOR_TYDI_LANGUAGES
from .xor_rows import check_references
from .xor_tokenizers import japanese_segmenter


logger = logging.get_logger(__name__)

# Sums of floats depend on the order, and here follow the official scripts'
ENGLISH_SPAN_ORDER = XOR_TYDI_LANGUAGES
FULL_ORDER = ("te", "fi", "ja", "ru", "ar", "bn", "ko")

ARTICLE = re.compile(r"\b(a|an|the)\b")  # `regex` has another idea of what a word is, where accents stand alone
COUNTER = re.compile("[年歳人년]")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def xor_english_span_metrics(predictions, references):
    r"""
    F1 and exact match of English answers, in percent, of each language and as the mean over languages
    (XOR-EnglishSpan's official definition, https://huggingface.co/papers/2010.11856 and
    https://github.com/AkariAsai/XORQA).

    Texts are normalised as SQuAD does it: lower case, without ASCII punctuation and the articles `a`, `an` and `the`.
    The best answer counts, and a question without a prediction has 0 in both. Unlike in XOR-Retrieve, `yes` and `no`
    are answers. Unlike [`f1_score`], two texts of which normalisation leaves nothing have F1 0, though they match.

    Args:
        predictions (`dict[str, str]` or `list[dict]`):
            For each question's id the answer, as the official file has it, see [`load_xor_answers`]; or rows with `id`
            and `answer`. Those of other questions than `references` has are left aside.
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id`, `lang` and `answers`, such as `load_xor_tydi("retrieve", "validation")`.

    Returns:
        `dict[str, dict[str, float]]`: Under `f1` and `exact_match` the percentage of each language that has a
        question, and their mean under `macro`.

    Raises:
        ValueError: If a question lacks something or occurs twice, an answer is no text, or no prediction is of a
            question in `references`.

    Example:
    ```python
    >>> from hf_xlir.evaluation import xor_english_span_metrics

    >>> questions = [
    ...     {"id": "1", "lang": "ja", "answers": ["the Edo period"]},
    ...     {"id": "2", "lang": "ko", "answers": ["Seoul", "Hanyang"]},
    ... ]
    >>> result = xor_english_span_metrics({"1": "the edo", "2": "seoul."}, questions)
    >>> result["exact_match"], round(result["f1"]["ja"], 2)
    ({'ja': 0.0, 'ko': 100.0, 'macro': 50.0}, 66.67)

    ```
    """
    questions = check_references(references, needs_language=True)

    answered = _by_question(predictions, questions)

    def judge(prediction, answers, language):
        return _best(prediction, answers, _normalise_english)

    result = {"f1": {}, "exact_match": {}}
    for language, count, sums in _sums(questions, answered, judge, ENGLISH_SPAN_ORDER, len(result)):
        for values, total in zip(result.values(), sums, strict=True):
            values[language] = 100.0 * total / count
    for values in result.values():
        values["macro"] = _sum(values.values()) / len(values)
    return result


def xor_full_metrics(predictions, references, segment_japanese=None):
    r"""
    F1, exact match and BLEU of answers in the questions' languages, in percent, of each language and as the mean over
    languages (XOR-Full's official definition, https://huggingface.co/papers/2010.11856 and
    https://github.com/AkariAsai/XORQA).

    Texts are normalised to lower case, without ASCII punctuation and the counters 年, 歳, 人 and 년. Japanese is split
    into words first, by MeCab with `unidic-lite`, and of the prediction `・` becomes a space and `、` a comma. The
    best answer counts, and a question without a prediction has 0 throughout. Some of the official definition may
    surprise, and holds here too:

    - BLEU is NLTK's, of each answer alone and not smoothed, and its tokens are single characters: one of less than
      four has next to none, even if it is right;
    - BLEU compares a Japanese prediction, which it leaves as it is, with answers that are split into words;
    - two texts of which normalisation leaves nothing match, but have F1 0;
    - a prediction's id may stand after another text and `_`, as in `ja_12345`.

    The official mean divides by seven. That is `macro`, which is there only where all seven languages have a question:
    of fewer the official script would count the absent ones as 0. The mean over those that there are then has another
    name, such as `macro over 2 of 7`.

    Args:
        predictions (`dict[str, str]` or `list[dict]`):
            For each question's id the answer, as the official file has it, see [`load_xor_answers`]; or rows with `id`
            and `answer`. Those of other questions than `references` has are left aside.
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id`, `lang` and `answers`, such as `load_xor_tydi("full", "validation")`.
        segment_japanese (`Callable[[str], str]`, *optional*):
            Puts white space between the words of a Japanese text. By default MeCab, which is not needed where no
            question is Japanese: `pip install hf_xlir[japanese]`.

    Returns:
        `dict[str, dict[str, float]]`: Under `f1`, `exact_match` and `bleu` the percentage of each language that has a
        question, and their mean under `macro`, or under a name that says of how many it is.

    Raises:
        ImportError: If a question is Japanese and MeCab is not installed.
        ValueError: If a question lacks something or occurs twice, an answer is no text or given twice, or no
            prediction is of a question in `references`.

    Example:
    ```python
    >>> from hf_xlir.evaluation import xor_full_metrics

    >>> questions = [
    ...     {"id": "1", "lang": "ru", "answers": ["Москва"]},
    ...     {"id": "2", "lang": "ko", "answers": ["1998년"]},
    ... ]
    >>> result = xor_full_metrics({"1": "москва", "ko_2": "1998년"}, questions)
    >>> result["exact_match"], round(result["bleu"]["ru"], 2)
    ({'ru': 100.0, 'ko': 100.0, 'macro over 2 of 7': 100.0}, 75.98)

    ```
    """
    from nltk.translate.bleu_score import sentence_bleu

    questions = check_references(references, needs_language=True)
    answered = _by_question(predictions, questions, in_full=True)
    if segment_japanese is None and any(language == "ja" for language, _ in questions.values()):
        segment_japanese = japanese_segmenter()

    def judge(prediction, answers, language):
        words = prediction
        if language == "ja":
            words = segment_japanese(prediction.replace("・", " ").replace("、", ","))
            answers = [segment_japanese(answer) for answer in answers]
        return (*_best(words, answers, _normalise_any), sentence_bleu(answers, prediction))

    result = {"f1": {}, "exact_match": {}, "bleu": {}}
    shares = {name: [] for name in result}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NLTK's, for every answer without four characters in common
        for language, count, sums in _sums(questions, answered, judge, FULL_ORDER, len(result)):
            for name, total in zip(result, sums, strict=True):
                shares[name].append(total / count)
                result[name][language] = total / count * 100
    for name, values in shares.items():
        mean = "macro" if len(values) == len(FULL_ORDER) else f"macro over {len(values)} of {len(FULL_ORDER)}"
        result[name][mean] = _sum(values) / len(values) * 100
    return result


def _by_question(predictions, questions, in_full=False):
    """The answers to `questions` by id, and a warning of how many there are not."""
    if isinstance(predictions, Mapping):
        pairs = [(id, row["answer"] if _is_row(row) else row) for id, row in predictions.items()]
    elif isinstance(predictions, list | tuple) and all(map(_is_row, predictions)):
        pairs = [(row.get("id"), row["answer"]) for row in predictions]
    else:
        raise ValueError(
            "`predictions` must be a dictionary from questions' ids to answers, or a list of dictionaries of `id` and "
            f"`answer`, got {str(predictions)[:60]!r}."
        )
    answered = {}
    for id, answer in pairs:
        if not isinstance(id, str) or not isinstance(answer, str):
            raise ValueError(f"Predictions are texts by questions' ids, got {answer!r} for the question {id!r}.")
        if in_full and id not in questions:
            id = id.rpartition("_")[2]
        if id not in questions:
            continue
        if id in answered:
            raise ValueError(f"Two predictions are of the question `{id}`: ids must be unique.")
        answered[id] = answer
    if not answered:
        raise ValueError(
            f"No prediction is of a question in `references`: predictions are of {[id for id, _ in pairs[:3]]}, "
            f"references of {list(questions)[:3]}. Use the same ids in both."
        )
    if missing := len(questions) - len(answered):
        logger.warning(f"{missing} of {len(questions)} questions have no prediction, and count as wrong.")
    return answered


def _is_row(value):
    return isinstance(value, Mapping) and "answer" in value


def _sums(questions, answered, judge, order, num_values):
    """`(language, number of questions, sums of what judge returns)`, of the languages that have a question."""
    for wanted in order:
        asked = [(id, answers) for id, (language, answers) in questions.items() if language == wanted]
        judged = [judge(answered[id], answers, wanted) for id, answers in asked if id in answered]
        if asked:
            yield wanted, len(asked), [_sum(values[i] for values in judged) for i in range(num_values)]


def _sum(values):
    """From left to right and rounded each time, as the official scripts add: later Pythons' `sum` is more exact."""
    total = 0.0
    for value in values:
        total += value
    return total


def _best(prediction, answers, normalise):
    """F1 and exact match with the answer that is best for each."""
    prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    return max(_f1(prediction.split(), answer.split()) for answer in answers), prediction in answers


def _f1(prediction, answer):
    shared = sum((Counter(prediction) & Counter(answer)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(answer)
    return 2 * precision * recall / (precision + recall)  # `2 * shared / (...)` would be rounded otherwise


def _normalise_english(text):
    return " ".join(ARTICLE.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def _normalise_any(text):
    return " ".join(COUNTER.sub("", text.lower().translate(WITHOUT_PUNCTUATION)).split())


__all__ = ["xor_english_span_metrics", "xor_full_metrics"]
