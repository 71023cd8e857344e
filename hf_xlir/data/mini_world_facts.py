"""The facts of the mini world, and the English passages that state them, composed from its tables and templates."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from typing import NamedTuple


VALIDATION_PERCENT = 8
TEST_PERCENT = 12


class Fact(NamedTuple):
    """What one question asks, in whatever language, and where the answer stands."""

    id: str
    relation: str
    slot: str  # of the question template: "X" for the entity, "Y" for the value when the fact is asked backwards
    name: str  # what fills the slot: an English name, or a symbol, year or number
    answers: list
    passage_ids: list
    pairs: list  # the unordered (entity, value) pairs that the fact links; its inverse has one of them
    values: list  # the answers as sentences use them, with their articles


def compose_facts(tables, templates):
    """
    The passages, all facts and the facts' splits.

    Args:
        tables (`dict`):
            `facts.json`: for each kind of entity its relations, and each entity's values.
        templates (`dict`):
            `templates.json`: wordings of passages, statements and questions.

    Returns:
        `tuple(list[dict], list[Fact], dict[str, str])`: passages, facts with their inverses, and `{fact id: split}`.
    """
    passages, facts = _compose_passages(tables, templates, related_names(tables))
    facts = _add_implying_passages(facts, passages, templates)
    facts += _inverse_facts(facts, templates)
    return passages, facts, _split_facts(facts)


# Stable choices


def stable_hash(*parts):
    """A number that depends on the texts `parts` only: Python's own `hash` differs from process to process."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big")


def _choose(options, *key):
    return options[stable_hash(*key) % len(options)]


def stable_shuffle(items, *key):
    """`items` in a mixed order that depends on them and the texts `key` only."""
    return sorted(items, key=lambda item: stable_hash(*key, item))


# English text


def _bare(name):
    """The name without its article: "the Nile" -> "Nile"."""
    return re.sub(r"^(the|a|an) ", "", name)


def _title(name):
    return capitalize(_bare(name))


def capitalize(text):
    """`text` with a capital first letter and otherwise as it is: "the UK" -> "The UK"."""
    return text[0].upper() + text[1:] if text[0].islower() else text


def _join(names):
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _slug(name):
    ascii_name = unicodedata.normalize("NFKD", name.replace("ø", "o").replace("ł", "l")).encode("ascii", "ignore")
    return re.sub(r"[^a-z0-9]+", "-", _bare(ascii_name.decode()).lower()).strip("-")


def _pair(entity, value):
    return tuple(sorted((_bare(entity), _bare(value))))


# Passages and facts


def related_names(tables):
    """`{entity: [entities that a fact links it to, in either direction]}`, for entities that have a passage."""
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
                        other for other in stable_shuffle(entities, "peer", passage_id)[:4] if other not in stated
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
    slots = {"X": entity, "L": _join(stable_shuffle(links, "links", *key)[: 2 + stable_hash("count", *key) % 2])}
    body = [
        _choose(relations[relation]["statements"], relation, *key).format(**slots, Y=_join(answers))
        for relation, answers in known.items()
    ]
    body.append(_choose(spec["links"], "link", *key).format(**slots))
    introduction = _choose(side["intros"], "intro", *key).format(**slots)
    fillers = stable_shuffle(spec["fillers"], "filler", *key)
    wanted_words = 48 + stable_hash("length", *key) % 20
    while len(" ".join([introduction, *body]).split()) < wanted_words:
        body.append(fillers.pop(0).format(**slots))
    return " ".join(capitalize(sentence) for sentence in [introduction, *stable_shuffle(body, "order", *key)])


def _make_fact(relation, entity, values, passage_id):
    return Fact(
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
    """A passage that calls Mount Kenya the highest mountain of Kenya also says in which country Mount Kenya is."""
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
    """Facts asked the other way round: the question names the value, the title of the passage is the answer."""
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
    """`{fact id: split}`; facts that share an unordered (entity, value) pair, also through others, stay together."""
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
        percentile = stable_hash("split", *find(fact.pairs[0])) % 100
        splits[fact.id] = (
            "test"
            if percentile < TEST_PERCENT
            else "validation"
            if percentile < TEST_PERCENT + VALIDATION_PERCENT
            else "train"
        )
    return splits


__all__ = ["Fact", "capitalize", "compose_facts", "related_names", "stable_hash", "stable_shuffle"]
