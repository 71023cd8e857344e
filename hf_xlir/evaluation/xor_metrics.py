"""
The metrics of XOR-TyDi's three tasks, by their official definitions: XOR-Retrieve, XOR-EnglishSpan and XOR-Full
(https://huggingface.co/papers/2010.11856, https://github.com/AkariAsai/XORQA).
"""

import os
import re
import statistics
import string
import warnings
from collections import Counter
from collections.abc import Mapping

from transformers.utils import logging

from ..data.xor_tydi import XOR_TYDI_LANGUAGES
from ..utils.progress import progress_bar


logger = logging.get_logger(__name__)

TOKEN_LIMITS = {"recall@2kt": 2000, "recall@5kt": 5000}
NO_SPANS = ("yes", "no")
TREEBANK = "treebank"
APPROXIMATION = (
    "treebank (an approximation: the official tokenizer splits texts into sentences first, by NLTK's Punkt data)"
)

# Sums of floats depend on their order, which follows the official scripts
ENGLISH_SPAN_ORDER = XOR_TYDI_LANGUAGES
FULL_ORDER = ("te", "fi", "ja", "ru", "ar", "bn", "ko")

ARTICLE = re.compile(r"\b(a|an|the)\b")  # not `regex`, whose word boundaries differ at accents that stand alone
COUNTER = re.compile("[年歳人년]")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def xor_retrieve_metrics(predictions, references, tokenize=None):
    r"""
    R@2kt and R@5kt: the share of questions for which the first 2,000 or 5,000 tokens of the retrieved texts contain an
    answer, in percent, by language and as the mean over languages (the official definition of XOR-Retrieve,
    https://huggingface.co/papers/2010.11856 and https://github.com/AkariAsai/XORQA).

    The tokens of a question's texts, in order, are cut at the limit and joined by single spaces. An answer must occur
    in the result as a substring with the same case. Some details of the official definition may surprise:

    - the answers `yes` and `no`, in lower case, are dropped, and a question with no other answer does not count;
    - answers are not tokenized: `$5` never occurs in `$ 5`, and neither does a quoted answer, because NLTK rewrites
      quotes;
    - an answer may begin and end within a word: `Par` occurs in `Paris`;
    - a question without a prediction does not count, which flatters. A warning gives the number of such questions. A
      prediction without texts counts as a failure;
    - the language of a question is the `lang` of its prediction.

    Args:
        predictions (`list[dict]`):
            For each question its `id`, `lang` and `ctxs`: the retrieved texts (`list[str]`), best first, with 5,000
            tokens in total if possible. Predictions for questions outside `references` are ignored. See
            [`xor_retrieve_predictions`] and [`load_xor_retrieve_predictions`].
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id` and `answers`, such as `load_xor_tydi("retrieve", "validation")`.
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            See [`passage_tokenizer`]. Defaults to the official tokenizer, which needs the download
            `nltk.download("punkt_tab")`. `"treebank"` needs no download. It is an approximation, and the result says
            so.

    Returns:
        `dict[str, dict[str, float]]`: Under `recall@2kt` and `recall@5kt` the percentage of each language, and their
        mean under `macro`. With `tokenize="treebank"` also `tokenizer`, a `str` that names the approximation.

    Raises:
        LookupError: If Punkt's data is needed and missing.
        ValueError: If a row lacks a field, an id occurs twice, `tokenize` is unknown or returns a string, or no
            question is left to score.

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
        for id, answers in _check_references(references, needs_language=False).items()
    }
    counted = _counted(list(predictions), spans)
    tokenize, approximation = passage_tokenizer(tokenize)
    if missing := sum(map(bool, spans.values())) - len(counted):
        logger.warning(
            f"{missing} question(s) with an answer have no prediction and do not count, as in the official script. "
            "Give them a prediction with empty `ctxs` if they were asked."
        )

    prefixes = _TextPrefixes(tokenize)
    hits = {name: {} for name in TOKEN_LIMITS}
    for row in progress_bar(counted, desc="Scoring", unit="question", delay=5):
        language = row["lang"].strip()
        for name, limit in TOKEN_LIMITS.items():
            prefix = prefixes.of(row["ctxs"], limit)
            hits[name].setdefault(language, []).append(any(span in prefix for span in spans[row["id"]]))
    result = {name: _percentages(by_language) for name, by_language in hits.items()}
    return result if approximation is None else {**result, "tokenizer": approximation}


def xor_english_span_metrics(predictions, references):
    r"""
    F1 and exact match of English answers, in percent, by language and as the mean over languages (the official
    definition of XOR-EnglishSpan, https://huggingface.co/papers/2010.11856 and https://github.com/AkariAsai/XORQA).

    Texts are normalised as for SQuAD: lower case, without ASCII punctuation and the articles `a`, `an` and `the`. The
    best answer counts, and a question without a prediction has 0 in both. Unlike in XOR-Retrieve, `yes` and `no` are
    answers. Unlike for [`f1_score`], two texts that are empty after normalisation have F1 0, although they match.

    Args:
        predictions (`dict[str, str]` or `list[dict]`):
            The answer for each question id, as in the official file (see [`load_xor_answers`]), or rows with `id` and
            `answer`. Predictions for questions outside `references` are ignored.
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id`, `lang` and `answers`, such as `load_xor_tydi("retrieve", "validation")`.

    Returns:
        `dict[str, dict[str, float]]`: Under `f1` and `exact_match` the percentage of each language that has a
        question, and their mean under `macro`.

    Raises:
        ValueError: If a question lacks a field or occurs twice, an answer is not a string, or no prediction belongs to
            a question in `references`.

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
    questions = _check_references(references, needs_language=True)
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
    F1, exact match and BLEU of answers in the language of the question, in percent, by language and as the mean over
    languages (the official definition of XOR-Full, https://huggingface.co/papers/2010.11856 and
    https://github.com/AkariAsai/XORQA).

    Texts are normalised to lower case, without ASCII punctuation and the counters 年, 歳, 人 and 년. Before that,
    Japanese texts are split into words by MeCab with `unidic-lite`; `・` in a prediction becomes a space and `、` a
    comma. The best answer counts, and a question without a prediction has 0 throughout. Some details of the official
    definition may surprise:

    - BLEU is NLTK's, of each answer alone and without smoothing, and its tokens are single characters: an answer of
      fewer than four characters has a BLEU near 0, even if it is right;
    - BLEU compares a Japanese prediction that is not split with answers that are split into words;
    - two texts that are empty after normalisation match, but have F1 0;
    - a prediction's id may follow another text and `_`, as in `ja_12345`.

    The official mean divides by seven. The result has it as `macro` only if all seven languages have a question: the
    official script would count a missing language as 0. Otherwise the mean over the languages present has another
    name, such as `macro over 2 of 7`.

    Args:
        predictions (`dict[str, str]` or `list[dict]`):
            The answer for each question id, as in the official file (see [`load_xor_answers`]), or rows with `id` and
            `answer`. Predictions for questions outside `references` are ignored.
        references (`datasets.Dataset` or `list[dict]`):
            Questions with `id`, `lang` and `answers`, such as `load_xor_tydi("full", "validation")`.
        segment_japanese (`Callable[[str], str]`, *optional*):
            Puts white space between the words of a Japanese text. Defaults to MeCab (`pip install
            hf_xlir[japanese]`), which is needed only if a question is Japanese.

    Returns:
        `dict[str, dict[str, float]]`: Under `f1`, `exact_match` and `bleu` the percentage of each language that has a
        question, and their mean under `macro`, or under a name with the number of languages.

    Raises:
        ImportError: If a question is Japanese and MeCab is not installed.
        ValueError: If a question lacks a field or occurs twice, an answer is not a string or given twice, or no
            prediction belongs to a question in `references`.

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

    questions = _check_references(references, needs_language=True)
    answered = _by_question(predictions, questions, in_full=True)
    if segment_japanese is None and any(language == "ja" for language, _ in questions.values()):
        segment_japanese = _japanese_segmenter()

    def judge(prediction, answers, language):
        words = prediction
        if language == "ja":
            words = segment_japanese(prediction.replace("・", " ").replace("、", ","))
            answers = [segment_japanese(answer) for answer in answers]
        return (*_best(words, answers, _normalise_any), sentence_bleu(answers, prediction))

    result = {"f1": {}, "exact_match": {}, "bleu": {}}
    shares = {name: [] for name in result}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NLTK warns for every answer without four characters in common
        for language, count, sums in _sums(questions, answered, judge, FULL_ORDER, len(result)):
            for name, total in zip(result, sums, strict=True):
                shares[name].append(total / count)
                result[name][language] = total / count * 100
    for name, values in shares.items():
        mean = "macro" if len(values) == len(FULL_ORDER) else f"macro over {len(values)} of {len(FULL_ORDER)}"
        result[name][mean] = _sum(values) / len(values) * 100
    return result


def passage_tokenizer(tokenize=None):
    r"""
    The tokenizer of R@2kt and R@5kt.

    Args:
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            Defaults to the official tokenizer, NLTK's `word_tokenize`. `"treebank"` is the same without the split into
            sentences: it needs no download, and leaves a full stop within a text attached to its word. Or a function
            from a text to its tokens.

    Returns:
        `tuple[Callable[[str], list[str]], str | None]`: The function, and the name of the approximation for a result:
        `None` for the official tokenizer and for a function.

    Raises:
        LookupError: If `tokenize` is `None` and Punkt's data is missing.
        ValueError: If `tokenize` is unknown.

    Example:
    ```python
    >>> from hf_xlir.evaluation import passage_tokenizer

    >>> tokenize, name = passage_tokenizer("treebank")
    >>> tokenize("It isn't 5,000 (yet).")
    ['It', 'is', "n't", '5,000', '(', 'yet', ')', '.']
    >>> name.split()[:3]
    ['treebank', '(an', 'approximation:']

    ```
    """
    if callable(tokenize):
        return tokenize, None
    if tokenize == TREEBANK:
        from nltk.tokenize import NLTKWordTokenizer

        return NLTKWordTokenizer().tokenize, APPROXIMATION
    if tokenize is not None:
        raise ValueError(
            f"`tokenize` must be `None` for NLTK's `word_tokenize`, {TREEBANK!r}, or a function from a text to its "
            f"tokens, got {tokenize!r}."
        )
    from nltk.tokenize import word_tokenize

    try:
        word_tokenize("Is it there? It is.")
    except LookupError:
        raise LookupError(
            "NLTK's `word_tokenize`, the official tokenizer of XOR-Retrieve, needs Punkt's data, which is in none of "
            'NLTK\'s folders. Download it once with `import nltk; nltk.download("punkt_tab")`, or pass '
            f'`tokenize="{TREEBANK}"`: an approximation, which the result names.'
        ) from None
    return word_tokenize, None


def _check_references(references, needs_language):
    """`{id: answers}`, or `{id: (language, answers)}` with `needs_language`, of the questions; checked."""
    checked = {}
    for position, row in enumerate(references):
        where = f"`references`, row {position}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: it must be a dictionary with `id` and `answers`, got {str(row)[:60]!r}.")
        id, answers = row.get("id"), row.get("answers")
        if not isinstance(id, str) or not id:
            raise ValueError(f"{where}: its `id` is {id!r}. Ids are non-empty strings.")
        if not _is_list_of_texts(answers):
            raise ValueError(f"{where}: `answers` of the question `{id}` must be a list of strings, got {answers!r}.")
        if id in checked:
            raise ValueError(f"{where}: the question `{id}` occurred before. Ids must be unique.")
        checked[id] = answers
        if needs_language:
            language = str(row.get("lang", "")).strip()  # the published training file has `" ar"`
            if language not in XOR_TYDI_LANGUAGES:
                raise ValueError(
                    f"{where}: `lang` of the question `{id}` is {row.get('lang')!r}, not one of "
                    f"{', '.join(XOR_TYDI_LANGUAGES)}."
                )
            if not answers:
                raise ValueError(f"{where}: the question `{id}` has no answers: leave it out.")
            checked[id] = (language, answers)
    if not checked:
        raise ValueError("`references` is empty: give at least one question.")
    return checked


def fault_of_retrieved(row):
    """The fault of a row of predictions for XOR-Retrieve, or `None`."""
    if not isinstance(row, Mapping):
        return f"it must be a dictionary with `id`, `lang` and `ctxs`, got {str(row)[:60]!r}"
    if not isinstance(row.get("id"), str) or not row["id"]:
        return f"its `id` is {row.get('id')!r}; ids are non-empty strings"
    if not isinstance(row.get("lang"), str) or not row["lang"].strip():
        return f"`lang` of the question `{row['id']}` is {row.get('lang')!r}; it must be a language code, such as 'ja'"
    if not _is_list_of_texts(row.get("ctxs")):
        return (
            f"`ctxs` of the question `{row['id']}` must be a list of strings, the retrieved texts, got "
            f"{str(row.get('ctxs'))[:60]!r}"
        )
    return None


def _is_list_of_texts(value):
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _counted(predictions, spans):
    """The predictions for questions that have an answer other than yes and no."""
    seen = set()
    for position, row in enumerate(predictions):
        if (fault := fault_of_retrieved(row)) is not None:
            raise ValueError(f"`predictions`, row {position}: {fault}.")
        if row["id"] in seen:
            raise ValueError(f"`predictions`, row {position}: the question `{row['id']}` occurred before.")
        seen.add(row["id"])
    if not seen & set(spans):
        raise ValueError(
            f"No prediction belongs to a question in `references`: predictions have {sorted(seen)[:3]}, references "
            f"{list(spans)[:3]}. Use the same ids in both."
        )
    counted = [row for row in predictions if spans.get(row["id"])]
    if not counted:
        raise ValueError(
            "No question with a prediction has an answer other than `yes` and `no`: nothing can be scored."
        )
    return counted


class _TextPrefixes:
    """The first tokens of several texts, joined by spaces. A text that questions share is tokenized once."""

    def __init__(self, tokenize):
        self.tokenize = tokenize
        self.lines = {}  # per text its joined tokens and their number: a tenth of the memory of a list

    def of(self, texts, limit):
        parts = []
        for text in texts:
            if limit <= 0:
                break
            if text not in self.lines:
                tokens = self.tokens(text)
                self.lines[text] = (" ".join(tokens), len(tokens))
            line, num_tokens = self.lines[text]
            # Tokens may contain spaces, so a line cannot be split into tokens again
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
    # Exact until rounded once, as in the official script: `fmean` and a sum of floats differ in the last digit
    return {**percentages, "macro": statistics.mean(percentages.values())}


def _by_question(predictions, questions, in_full=False):
    """The predicted answer of each question, by id; a warning gives the number of missing ones."""
    if isinstance(predictions, Mapping):
        pairs = [(id, row["answer"] if _is_row(row) else row) for id, row in predictions.items()]
    elif isinstance(predictions, list | tuple) and all(map(_is_row, predictions)):
        pairs = [(row.get("id"), row["answer"]) for row in predictions]
    else:
        raise ValueError(
            "`predictions` must be a dictionary from question ids to answers, or a list of dictionaries with `id` and "
            f"`answer`, got {str(predictions)[:60]!r}."
        )
    answered = {}
    for id, answer in pairs:
        if not isinstance(id, str) or not isinstance(answer, str):
            raise ValueError(f"Ids and predicted answers must be strings, got {answer!r} for the question {id!r}.")
        if in_full and id not in questions:
            id = id.rpartition("_")[2]
        if id not in questions:
            continue
        if id in answered:
            raise ValueError(f"The question `{id}` has two predictions: ids must be unique.")
        answered[id] = answer
    if not answered:
        raise ValueError(
            f"No prediction belongs to a question in `references`: predictions have {[id for id, _ in pairs[:3]]}, "
            f"references {list(questions)[:3]}. Use the same ids in both."
        )
    if missing := len(questions) - len(answered):
        logger.warning(f"{missing} of {len(questions)} questions have no prediction and count as wrong.")
    return answered


def _is_row(value):
    return isinstance(value, Mapping) and "answer" in value


def _sums(questions, answered, judge, order, num_values):
    """`(language, number of questions, sums of the values of judge)` for each language that has a question."""
    for wanted in order:
        asked = [(id, answers) for id, (language, answers) in questions.items() if language == wanted]
        judged = [judge(answered[id], answers, wanted) for id, answers in asked if id in answered]
        if asked:
            yield wanted, len(asked), [_sum(values[i] for values in judged) for i in range(num_values)]


def _sum(values):
    """From left to right, rounding each time, as the official scripts add: `sum` of later Pythons is more exact."""
    total = 0.0
    for value in values:
        total += value
    return total


def _best(prediction, answers, normalise):
    """F1 and exact match, each with its best answer."""
    prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    return max(_f1(prediction.split(), answer.split()) for answer in answers), prediction in answers


def _f1(prediction, answer):
    shared = sum((Counter(prediction) & Counter(answer)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(answer)
    return 2 * precision * recall / (precision + recall)  # `2 * shared / (...)` would round differently


def _normalise_english(text):
    return " ".join(ARTICLE.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def _normalise_any(text):
    return " ".join(COUNTER.sub("", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def _japanese_segmenter():
    """A function that puts spaces between the words of a Japanese text, by MeCab with `unidic-lite`."""
    try:
        import MeCab
        import unidic_lite
    except ImportError as error:
        raise ImportError(
            "Japanese answers are split into words by MeCab with `unidic-lite`, which are not installed: "
            "`pip install hf_xlir[japanese]`, or pass your own function as `segment_japanese`."
        ) from error

    # Explicit: MeCab would prefer another installed dictionary, and split differently
    folder = unidic_lite.DICDIR
    return MeCab.Tagger(f'-Owakati -r "{os.path.join(folder, "mecabrc")}" -d "{folder}"').parse


__all__ = ["passage_tokenizer", "xor_english_span_metrics", "xor_full_metrics", "xor_retrieve_metrics"]
