"""
A small built-in world for tests, examples and quick tuning runs: short English encyclopedia passages about real
countries, cities, elements, people and so on, questions about them in eight languages with short English answers, and
aligned sentence pairs. Nothing is downloaded; all of it is composed, always in the same way, from the tables and
sentence templates in `mini_world_data/`.
"""

import json
from importlib import resources
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Value

from .features import JUDGED_QUESTION_FEATURES, PARALLEL_FEATURES, PASSAGE_FEATURES
from .mini_world_facts import compose_facts, related_names
from .mini_world_sentences import MINI_WORLD_LANGUAGES, compose_parallel, compose_questions


NAME_TABLES = ("names_places.json", "names_people.json", "names_things.json")

MINI_WORLD_QUESTION_FEATURES = Features({**JUDGED_QUESTION_FEATURES, "fact_id": Value("string")})
MINI_WORLD_PARALLEL_FEATURES = Features({**PARALLEL_FEATURES, "lang": Value("string")})


class MiniWorld(NamedTuple):
    """
    What [`load_mini_world`] returns.

    Attributes:
        passages (`datasets.Dataset`):
            English passages of 40 to 100 words: `id`, `title`, `text`.
        questions (`datasets.DatasetDict`):
            Splits `train`, `validation`, `test`: `id`, `question`, `answers` (short English strings, each of them in
            the text of every gold passage), `lang`, `passage_ids` (the gold passages), `fact_id` (shared by all
            languages and wordings of one fact, which all lie in one split).
        parallel (`datasets.Dataset`):
            Translation pairs: `source` (not English), `target` (English), `lang` (of the source). They hold no
            validation or test question, but every name that such questions use.
    """

    passages: Dataset
    questions: DatasetDict
    parallel: Dataset


def load_mini_world(languages=None):
    r"""
    Composes the built-in corpus of real facts: countries, cities, rivers, chemical elements, people and more.

    The facts are split by a stable hash, about 80 / 8 / 12 percent for train / validation / test. A fact and its
    inverse (the capital of Kenya; the country whose capital is Nairobi) share a split, and so do all languages and
    wordings.

    Args:
        languages (`list[str]`, *optional*):
            Keep the questions in these languages and the translation pairs from them; all of `en`, `ar`, `bn`, `fi`,
            `ja`, `ko`, `ru`, `te` by default. The passages are always English.

    Returns:
        [`MiniWorld`]: The named tuple `(passages, questions, parallel)`. Two calls return equal content.

    Raises:
        ValueError: If `languages` is empty or names a language that the corpus does not have.

    Example:
    ```python
    >>> from hf_xlir.data.mini_world import load_mini_world

    >>> world = load_mini_world(languages=["en", "ko"])
    >>> sorted(world.questions)
    ['test', 'train', 'validation']
    >>> sorted(set(world.parallel["lang"]))
    ['ko']

    ```
    """
    languages = _check_languages(languages)
    templates, tables = _read("templates.json"), _read("facts.json")
    names = _read_names()
    passages, facts, splits = compose_facts(tables, templates)
    questions = compose_questions(facts, splits, templates, names, languages)
    parallel = compose_parallel(
        facts, splits, templates, _read("statements.json"), names, related_names(tables), languages
    )
    return MiniWorld(
        _dataset(passages, PASSAGE_FEATURES),
        DatasetDict({split: _dataset(rows, MINI_WORLD_QUESTION_FEATURES) for split, rows in questions.items()}),
        _dataset(parallel, MINI_WORLD_PARALLEL_FEATURES),
    )


def _check_languages(languages):
    if languages is None:
        return list(MINI_WORLD_LANGUAGES)
    languages = [languages] if isinstance(languages, str) else list(dict.fromkeys(languages))
    unknown = [language for language in languages if language not in MINI_WORLD_LANGUAGES]
    if unknown or not languages:
        raise ValueError(
            f"`languages` must be a non-empty subset of {list(MINI_WORLD_LANGUAGES)}, got {languages}"
            + (f", of which {unknown} are not available." if unknown else ".")
        )
    return languages


def _read(file_name):
    file = resources.files("hf_xlir.data") / "mini_world_data" / file_name
    return json.loads(file.read_text(encoding="utf-8"))


def _read_names():
    """`{English name: {language: name}}`, English included."""
    names = {}
    for file_name in NAME_TABLES:
        table = _read(file_name)
        for english, translations in table["names"].items():
            names[english] = {"en": english, **dict(zip(table["languages"], translations, strict=True))}
    return names


def _dataset(rows, features):
    """Straight from arrow: `Dataset.from_dict` would encode every cell in Python, which took most of the load time."""
    columns = {column: [row[column] for row in rows] for column in features}
    return Dataset(pa.Table.from_pydict(columns, schema=features.arrow_schema))


__all__ = ["MINI_WORLD_LANGUAGES", "MiniWorld", "load_mini_world"]
