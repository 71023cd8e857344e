"""XOR-TyDi QA v1.1 (https://huggingface.co/papers/2010.11856): questions in seven languages on Wikipedia."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from ..utils.checks import check_choice
from .building import SPLITS, build_dataset, download, official_file
from .features import QUESTION_FEATURES
from .ids import unique
from .parallel import load_parallel
from .reading import RowErrors, converted, is_list_of_texts, question_of, read_json_objects


XOR_TYDI_LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
XOR_TYDI_URL = "https://nlp.cs.washington.edu/xorqa/XORQA_site/data"
# The test files hold questions without answers.
FILES = {
    "retrieve": {
        "train": "xor_train_retrieve_eng_span.jsonl",
        "validation": "xor_dev_retrieve_eng_span_v1_1.jsonl",
        "test": "xor_test_retrieve_eng_span_q_only_v1_1.jsonl",
    },
    "full": {
        "train": "xor_train_full.jsonl",
        "validation": "xor_dev_full_v1_1.jsonl",
        "test": "xor_test_full_q_only_v1_1.jsonl",
    },
}
TRANSLATIONS = "trans_data_all_langs.zip"


def load_xor_tydi(
    task: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    languages: Sequence[str] | None = None,
    on_error: str = "raise",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    r"""
    Load the questions of XOR-TyDi QA v1.1.

    Args:
        task (`str`):
            `"retrieve"`: answers are English spans (the tasks XOR-Retrieve and XOR-EnglishSpan). `"full"`: answers are
            in the question's language.
        split (`str`):
            `"train"`, `"validation"` or `"test"`; published test questions have no answers.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder with the official file. By default it is downloaded from
            https://nlp.cs.washington.edu/xorqa.
        languages (`Sequence[str]`, *optional*):
            Languages to keep, from `ar`, `bn`, `fi`, `ja`, `ko`, `ru`, `te`; all by default.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` skips bad rows and logs their number and the first of them.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file and the download; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `id`, `question`, `answers` (`list[str]`; may be `["yes"]`, `["no"]` or, in the training
        file, `["unknown"]`) and `lang`, without the spaces that the training file has in language codes (`" ar"`).

    Raises:
        FileNotFoundError: If `data_dir` does not have the file.
        ConnectionError: If it cannot be downloaded.
        ValueError: If task, split or a language is unknown, or a row cannot be read.

    Example:
    ```python
    >>> from hf_xlir.data import load_xor_tydi

    >>> questions = load_xor_tydi("retrieve", "validation", languages=["ja", "ko"])  # doctest: +SKIP
    >>> sorted(questions[0])  # doctest: +SKIP
    ['answers', 'id', 'lang', 'question']

    ```
    """
    check_choice("task", task, tuple(FILES))
    check_choice("split", split, SPLITS)
    if isinstance(languages, str):
        raise ValueError(f"`languages` is the string {languages!r}. Pass a list, such as {[languages]!r}.")
    languages = XOR_TYDI_LANGUAGES if languages is None else tuple(languages)
    if not languages:
        raise ValueError(f"`languages` is empty. Choose among {', '.join(XOR_TYDI_LANGUAGES)}.")
    for language in languages:
        check_choice("languages", language, XOR_TYDI_LANGUAGES)
    name = FILES[task][split]
    return build_dataset(
        "xor_tydi",
        [official_file(data_dir, [name], f"{XOR_TYDI_URL}/{name}")],
        QUESTION_FEATURES,
        _read_questions,
        options={"languages": sorted(set(languages))},
        split=split,
        on_error=on_error,
        cache_dir=cache_dir,
    )


def _read_questions(files, names, errors: RowErrors, languages: list[str]) -> Iterator[dict]:
    (path,), (name,) = files, names
    questions = converted(read_json_objects(path, name, errors), _question, name, errors)
    return (question for question in unique(questions, name, errors) if question["lang"] in languages)


def _question(row: dict, position: int) -> dict:
    answers, language = row.get("answers") or [], str(row.get("lang", "")).strip()
    if row.get("id") in (None, ""):
        raise ValueError("it has no id")
    question = question_of(row)
    if not is_list_of_texts(answers):
        raise ValueError("`answers` is not a list of texts")
    if language not in XOR_TYDI_LANGUAGES:
        raise ValueError(f"`lang` is {language!r}, not one of {', '.join(XOR_TYDI_LANGUAGES)}")
    return {"id": str(row["id"]), "question": question, "answers": answers, "lang": language}


def load_xor_translations(
    language: str,
    data_dir: str | os.PathLike | None = None,
    on_error: str = "skip",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    r"""
    Load XOR-TyDi's human translations of training questions into English: parallel text from the task's own domain.

    Args:
        language (`str`):
            One of `ar`, `bn`, `fi`, `ja`, `ko`, `ru`, `te`.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder with `<language>-en.<language>` and `<language>-en.en`, directly or in a folder `translations`.
            By default the official archive is downloaded.
        on_error (`str`, *optional*, defaults to `"skip"`):
            `"skip"` skips pairs with a blank line, such as line 428 of the published Arabic file, which has no
            translation. `"raise"` makes such a line an error.
        cache_dir (`str`, *optional*):
            Folder for the Arrow file and the download; by default the cache of `datasets`.

    Returns:
        `datasets.Dataset` of `source` (the question in `language`) and `target` (in English).

    Raises:
        FileNotFoundError: If `data_dir` does not have the files.
        ConnectionError: If they cannot be downloaded.
        ValueError: If the language is unknown, or the files have different numbers of lines.

    Example:
    ```python
    >>> from hf_xlir.data import load_xor_translations

    >>> load_xor_translations("ko").num_rows  # doctest: +SKIP
    4697

    ```
    """
    check_choice("language", language, XOR_TYDI_LANGUAGES)
    source, target = f"{language}-en.{language}", f"{language}-en.en"
    url = f"{XOR_TYDI_URL}/{TRANSLATIONS}"
    if data_dir is None:
        folder = Path(download(url, cache_dir, extract=True))
        found = sorted(path.parent for path in folder.rglob(source))
        folder = found[0] if found else folder
    else:
        folder = Path(data_dir).expanduser()
        folder = folder / "translations" if (folder / "translations").is_dir() else folder
    paths = [official_file(folder, [name], f"and unpack {url}") for name in (source, target)]
    return load_parallel(*paths, on_error=on_error, cache_dir=cache_dir)


__all__ = ["load_xor_translations", "load_xor_tydi"]
