"""
A small built-in world for tests, examples and quick tuning runs: short English encyclopedia passages about real
countries, cities, elements, people and so on, questions about them in eight languages with short English answers, and
aligned sentence pairs. Nothing is downloaded: everything is composed, always in the same way, from the tables and
sentence templates in `mini_world_data/`.
"""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from importlib import resources
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Value

from ..utils.checks import as_list
from .features import JUDGED_QUESTION_FEATURES, PARALLEL_FEATURES, PASSAGE_FEATURES


MINI_WORLD_LANGUAGES = ("en", "ar", "bn", "fi", "ja", "ko", "ru", "te")
NAME_TABLES = ("names_places.json", "names_people.json", "names_things.json")
VALIDATION_PERCENT = 8
TEST_PERCENT = 12
PARALLEL_QUESTION_PERCENT = 25  # train facts whose questions are also translation pairs

MINI_WORLD_QUESTION_FEATURES = Features({**JUDGED_QUESTION_FEATURES, "fact_id": Value("string")})
MINI_WORLD_PARALLEL_FEATURES = Features({**PARALLEL_FEATURES, "lang": Value("string")})


class MiniWorld(NamedTuple):
    """
    The passages, questions and parallel text of [`load_mini_world`].

    Attributes:
        passages (`datasets.Dataset`):
            English passages of 40 to 100 words: `id`, `title`, `text`.
        questions (`datasets.DatasetDict`):
            Splits `train`, `validation`, `test`: `id`, `question`, `answers` (short English strings, each contained in
            every gold passage), `lang`, `passage_ids` (the gold passages), `fact_id` (the same for all languages and
            wordings of a fact, which share a split).
        parallel (`datasets.Dataset`):
            Translation pairs: `source` (not English), `target` (English), `lang` (of the source). They contain every
            name of the validation and test questions, but none of these questions.
    """

    passages: Dataset
    questions: DatasetDict
    parallel: Dataset


def load_mini_world(languages=None):
    r"""
    Load the built-in corpus of real facts about countries, cities, rivers, chemical elements, people and more.

    A stable hash splits the facts into about 80 / 8 / 12 percent for train / validation / test. A fact and its inverse
    (the capital of Kenya; the country whose capital is Nairobi) share a split, and so do all languages and wordings.

    Args:
        languages (`list[str]`, *optional*):
            Languages of the questions and of the sources of translation pairs; by default all of `en`, `ar`, `bn`,
            `fi`, `ja`, `ko`, `ru`, `te`. The passages are always English.

    Returns:
        [`MiniWorld`]: The named tuple `(passages, questions, parallel)`, with the same content in each call.

    Raises:
        ValueError: If `languages` is empty or has an unknown language.

    Example:
    ```python
    >>> from hf_xlir.data import load_mini_world

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
    passages, facts, splits = _compose_facts(tables, templates)
    questions = _compose_questions(facts, splits, templates, names, languages)
    parallel = _compose_parallel(
        facts, splits, templates, _read("statements.json"), names, _related_names(tables), languages
    )
    return MiniWorld(
        _dataset(passages, PASSAGE_FEATURES),
        DatasetDict({split: _dataset(rows, MINI_WORLD_QUESTION_FEATURES) for split, rows in questions.items()}),
        _dataset(parallel, MINI_WORLD_PARALLEL_FEATURES),
    )


def _check_languages(languages):
    if languages is None:
        return list(MINI_WORLD_LANGUAGES)
    languages = list(dict.fromkeys(as_list(languages)))
    unknown = [language for language in languages if language not in MINI_WORLD_LANGUAGES]
    if unknown or not languages:
        raise ValueError(
            f"`languages` must be some of {list(MINI_WORLD_LANGUAGES)}, got {languages}"
            + (f"; {unknown} are not available." if unknown else ".")
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
    """From Arrow, since `Dataset.from_dict` would encode each cell in Python, which took most of the load time."""
    columns = {column: [row[column] for row in rows] for column in features}
    return Dataset(pa.Table.from_pydict(columns, schema=features.arrow_schema))


class _Fact(NamedTuple):
    """What a question asks, in any language, and which passages answer it."""

    id: str
    relation: str
    slot: str  # of the question template: "X" for the entity, "Y" for the value in an inverse fact
    name: str  # fills the slot: an English name, symbol, year or number
    answers: list
    passage_ids: list
    pairs: list  # unordered (entity, value) pairs that the fact links; its inverse has one of them
    values: list  # the answers with their articles, as in sentences


def _compose_facts(tables, templates):
    """Passages, facts with their inverses, and `{fact id: split}`, from `facts.json` and `templates.json`."""
    passages, facts = _compose_passages(tables, templates, _related_names(tables))
    facts = _add_implying_passages(facts, passages, templates)
    facts += _inverse_facts(facts, templates)
    return passages, facts, _split_facts(facts)


# Stable choices


def _stable_hash(*parts):
    """A number that depends only on the texts `parts`; Python's `hash` differs between processes."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big")


def _choose(options, *key):
    return options[_stable_hash(*key) % len(options)]


def _stable_shuffle(items, *key):
    """`items` in a mixed order that depends only on them and on the texts `key`."""
    return sorted(items, key=lambda item: _stable_hash(*key, item))


# English text


def _bare(name):
    """The name without its article: "the Nile" -> "Nile"."""
    return re.sub(r"^(the|a|an) ", "", name)


def _title(name):
    return _capitalize(_bare(name))


def _capitalize(text):
    """`text` with a capital first letter: "the UK" -> "The UK"."""
    return text[0].upper() + text[1:] if text[0].islower() else text


def _join(names):
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _slug(name):
    ascii_name = unicodedata.normalize("NFKD", name.replace("ø", "o").replace("ł", "l")).encode("ascii", "ignore")
    return re.sub(r"[^a-z0-9]+", "-", _bare(ascii_name.decode()).lower()).strip("-")


def _pair(entity, value):
    return tuple(sorted((_bare(entity), _bare(value))))


# Passages and facts


def _related_names(tables):
    """`{entity: [entities that a fact links it to, in either direction]}` for entities that have a passage."""
    entities = {entity for table in tables.values() for entity in table["rows"]}
    related = defaultdict(list)
    for table in tables.values():
        for entity, cells in table["rows"].items():
            for value in (value for values in cells for value in values or []):
                if value in entities and value != entity:
                    related[entity].append(value)
                    related[value].append(entity)
    return {entity: list(dict.fromkeys(others)) for entity, others in related.items()}


def _compose_passages(tables, templates, related):
    passages, facts = [], []
    for kind, table in tables.items():
        spec = templates["kinds"][kind]
        entities = list(table["rows"])
        for entity, cells in table["rows"].items():
            values = dict(zip(table["relations"], cells, strict=True))
            for side in spec["passages"]:
                known = {relation: values[relation] for relation in side["relations"] if values.get(relation)}
                suffix = side["side"]
                passage_id = "-".join(filter(None, (kind, _slug(entity), suffix)))
                title = _title(entity) + (f" ({suffix})" if suffix else "")
                stated = [entity, *(value for answers in known.values() for value in answers)]
                links = [other for other in related.get(entity, ()) if other not in stated]
                if len(links) < 2:
                    links += [
                        other for other in _stable_shuffle(entities, "peer", passage_id)[:4] if other not in stated
                    ]
                text = _passage_text(entity, known, links, spec, side, templates["relations"])
                passages.append({"id": passage_id, "title": title, "text": text})
                for relation, answers in known.items():
                    if templates["relations"][relation]["questions"]:
                        facts.append(_make_fact(relation, entity, answers, passage_id))
    return passages, facts


def _passage_text(entity, known, links, spec, side, relations):
    """Introduction first, then facts, links to other entities and fillers in a stable mixed order."""
    key = (entity, side["side"] or "")
    slots = {"X": entity, "L": _join(_stable_shuffle(links, "links", *key)[: 2 + _stable_hash("count", *key) % 2])}
    body = [
        _choose(relations[relation]["statements"], relation, *key).format(**slots, Y=_join(answers))
        for relation, answers in known.items()
    ]
    body.append(_choose(spec["links"], "link", *key).format(**slots))
    introduction = _choose(side["intros"], "intro", *key).format(**slots)
    fillers = _stable_shuffle(spec["fillers"], "filler", *key)
    wanted_words = 48 + _stable_hash("length", *key) % 20
    while len(" ".join([introduction, *body]).split()) < wanted_words:
        body.append(fillers.pop(0).format(**slots))
    return " ".join(_capitalize(sentence) for sentence in [introduction, *_stable_shuffle(body, "order", *key)])


def _make_fact(relation, entity, values, passage_id):
    return _Fact(
        id=f"{relation}:{_slug(entity)}",
        relation=relation,
        slot="X",
        name=entity,
        answers=[_bare(value) for value in values],
        passage_ids=[passage_id],
        pairs=[_pair(entity, value) for value in values],
        values=values,
    )


def _add_implying_passages(facts, passages, templates):
    """A passage that calls Mount Kenya the highest mountain of Kenya also answers in which country Mount Kenya is."""
    texts = {passage["id"]: passage["text"] for passage in passages}
    stating = defaultdict(list)  # (relation, pair) -> passages that state it
    for fact in facts:
        for pair in fact.pairs:
            stating[fact.relation, pair] += fact.passage_ids
    extended = []
    for fact in facts:
        implied_by = templates["relations"][fact.relation].get("implied_by")
        candidates = [passage_id for pair in fact.pairs for passage_id in stating[implied_by, pair]]
        extra = [candidate for candidate in candidates if all(answer in texts[candidate] for answer in fact.answers)]
        extended.append(fact._replace(passage_ids=fact.passage_ids + extra))
    return extended


def _inverse_facts(facts, templates):
    """Facts in the other direction: the question names the value, and the passage's title is the answer."""
    return [
        fact._replace(
            id=f"{relation}:{_slug(value)}",
            relation=relation,
            slot="Y",
            name=value,
            answers=[_title(fact.name)],
            pairs=[_pair(fact.name, value)],
            values=[fact.name],
        )
        for relation, spec in templates["inverses"].items()
        for fact in facts
        if fact.relation == spec["of"]
        for value in fact.values
    ]


def _split_facts(facts):
    """`{fact id: split}`; facts that are linked by shared (entity, value) pairs get the same split."""
    leader = {}

    def find(pair):
        while leader.setdefault(pair, pair) != pair:
            pair = leader[pair]
        return pair

    for fact in facts:
        roots = sorted(find(pair) for pair in fact.pairs)
        for root in roots[1:]:
            leader[root] = roots[0]
    splits = {}
    for fact in facts:
        percentile = _stable_hash("split", *find(fact.pairs[0])) % 100
        splits[fact.id] = (
            "test"
            if percentile < TEST_PERCENT
            else "validation"
            if percentile < TEST_PERCENT + VALIDATION_PERCENT
            else "train"
        )
    return splits


# Questions and aligned sentences


def _localize(template, **slots):
    return _capitalize(template.format(**slots))


def _local_name(name, language, names):
    """The name in a language; symbols, years and numbers are not in the tables and stay as they are."""
    return names[name][language] if name in names else name


def _compose_questions(facts, splits, templates, names, languages):
    """`{split: questions}`: one per fact and language, and all English wordings for training."""
    questions = {"train": [], "validation": [], "test": []}
    wordings = {**templates["relations"], **templates["inverses"]}
    for fact in facts:
        split, first = splits[fact.id], _stable_hash("wording", fact.id)
        for language in languages:
            options = wordings[fact.relation]["questions"][language]
            chosen = (first + MINI_WORLD_LANGUAGES.index(language)) % len(options)
            every_wording = language == "en" and split == "train"
            slots = {fact.slot: _local_name(fact.name, language, names)}
            for number in range(len(options)) if every_wording else [chosen]:
                questions[split].append(
                    {
                        "id": f"{fact.id}:{language}{number}",
                        "question": _localize(options[number], **slots),
                        "answers": fact.answers,
                        "lang": language,
                        "passage_ids": fact.passage_ids,
                        "fact_id": fact.id,
                    }
                )
    return questions


def _compose_parallel(facts, splits, templates, statements, names, related, languages):
    """Questions of train facts, statements that mention each name at least three times, and general sentences."""
    wordings = {**templates["relations"], **templates["inverses"]}
    sources = [  # (aligned wordings, number of the first one to use, {slot: name})
        (_aligned(wordings[fact.relation]["questions"]), _stable_hash("wording", fact.id), {fact.slot: fact.name})
        for fact in facts
        if splits[fact.id] == "train" and _stable_hash("translate", fact.id) % 100 < PARALLEL_QUESTION_PERCENT
    ]
    for form, size in (("single", 1), ("pair", 2), ("triple", 3)):
        for members in _name_groups(names, related, size):
            sources.append(
                (statements[form], _stable_hash(form, *members), dict(zip("ABC"[:size], members, strict=True)))
            )
    sources += [([sentence], 0, {}) for sentence in statements["general"]]
    pairs = []
    for language in languages:
        if language == "en":
            continue
        offset = MINI_WORLD_LANGUAGES.index(language)
        for options, first, members in sources:
            template = options[(first + offset) % len(options)]
            local = {slot: _local_name(name, language, names) for slot, name in members.items()}
            source, target = _localize(template[language], **local), _localize(template["en"], **members)
            pairs.append({"source": source, "target": target, "lang": language})
    return pairs


def _aligned(wordings):
    """`{language: [wordings]}` to `[{language: wording}]`: the n-th wordings of all languages mean the same."""
    return [dict(zip(wordings, same, strict=True)) for same in zip(*wordings.values(), strict=True)]


def _name_groups(names, related, size):
    """Groups of `size` names with each name in at least one; no fact links two names of a group."""
    order = _stable_shuffle(names, "group", str(size))
    waiting, groups = order + order[: 4 * size], []  # names that are used already complete the last groups
    while len(waiting) > 4 * size:
        group = [waiting.pop(0)]
        while len(group) < size:
            group.append(
                next(
                    name
                    for name in waiting
                    if name not in group and not any(name in related.get(member, ()) for member in group)
                )
            )
            waiting.remove(group[-1])
        groups.append(group)
    return groups


__all__ = ["MINI_WORLD_LANGUAGES", "MiniWorld", "load_mini_world"]
