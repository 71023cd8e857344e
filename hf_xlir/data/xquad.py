"""XQuAD: the same Wikipedia paragraphs and questions, professionally translated."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from ..utils.checks import check_choice
from .building import download, official_file
from .features import JUDGED_QUESTION_FEATURES, PASSAGE_FEATURES


XQUAD_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
XQUAD_URL = "https://github.com/google-deepmind/xquad/raw/master"


class XQuAD(NamedTuple):
    """
    The passages and questions of [`load_xquad`].

    Attributes:
        passages (`datasets.Dataset`):
            The paragraphs in the language: `id`, `title` (in English for all languages), `text`.
        questions (`datasets.Dataset`):
            `id`, `question`, `answers` (in the language), `lang`, `passage_ids` (the paragraph that answers it).
    """

    passages: Dataset
    questions: Dataset


def load_xquad(language: str, data_dir: str | os.PathLike | None = None, cache_dir: str | None = None) -> XQuAD:
    r"""
    Load XQuAD (https://huggingface.co/papers/1910.11856) as a retrieval task: find the paragraph that answers a
    question. Ids are the same in all languages, so that questions in one language can search paragraphs in another.

    Args:
        language (`str`):
            One of `ar`, `de`, `el`, `en`, `es`, `hi`, `ro`, `ru`, `th`, `tr`, `vi`, `zh`.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder with `xquad.<language>.json`. By default the file is downloaded from
            https://github.com/google-deepmind/xquad.
        cache_dir (`str`, *optional*):
            Folder for a download; by default the cache of `datasets`.

    Returns:
        [`XQuAD`]: 240 passages and 1,190 questions.

    Raises:
        FileNotFoundError: If the folder does not have the language's file.
        ConnectionError: If it cannot be downloaded.
        ValueError: If XQuAD does not have the language, or the file is not in SQuAD's format.

    Example:
    ```python
    >>> from hf_xlir.data import load_xquad

    >>> passages, questions = load_xquad("en").passages, load_xquad("ar").questions  # doctest: +SKIP
    >>> passages.num_rows, questions.num_rows  # doctest: +SKIP
    (240, 1190)

    ```
    """
    check_choice("language", language, XQUAD_LANGUAGES)
    name = f"xquad.{language}.json"
    source = official_file(data_dir, [name], f"{XQUAD_URL}/{name}")
    path = Path(download(source, cache_dir))
    passages, questions = [], []
    try:
        for article_index, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
            for paragraph_index, paragraph in enumerate(article["paragraphs"]):
                passage_id = f"{article_index}-{paragraph_index}"
                title = article["title"].replace("_", " ")
                passages.append({"id": passage_id, "title": title, "text": paragraph["context"]})
                for row in paragraph["qas"]:
                    questions.append(
                        {
                            "id": row["id"],
                            "question": row["question"],
                            "answers": list(dict.fromkeys(answer["text"] for answer in row["answers"])),
                            "lang": language,
                            "passage_ids": [passage_id],
                        }
                    )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`{source}` is not SQuAD 1.1 JSON ({type(error).__name__}: {error}). Download {XQUAD_URL}/{name} again."
        ) from error
    return XQuAD(
        Dataset.from_list(passages, features=PASSAGE_FEATURES),
        Dataset.from_list(questions, features=JUDGED_QUESTION_FEATURES),
    )


__all__ = ["XQuAD", "load_xquad"]
