"""Sentences of the mini world in its eight languages: questions about its facts, and aligned pairs with English."""

from .mini_world_facts import capitalize, stable_hash, stable_shuffle


MINI_WORLD_LANGUAGES = ("en", "ar", "bn", "fi", "ja", "ko", "ru", "te")

PARALLEL_QUESTION_PERCENT = 25  # share of the train facts whose questions are also translation pairs


def _localize(template, **slots):
    return capitalize(template.format(**slots))


def _local_name(name, language, names):
    """Symbols, years and numbers are the same in every language and are in no table."""
    return names[name][language] if name in names else name


def compose_questions(facts, splits, templates, names, languages):
    """`{split: questions}`: of each fact one in each language, and in English all wordings for training."""
    questions = {"train": [], "validation": [], "test": []}
    wordings = {**templates["relations"], **templates["inverses"]}
    for fact in facts:
        split, first = splits[fact.id], stable_hash("wording", fact.id)
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


def compose_parallel(facts, splits, templates, statements, names, related, languages):
    """Questions of train facts, statements that mention every name at least three times, and general sentences."""
    wordings = {**templates["relations"], **templates["inverses"]}
    sources = [  # (aligned wordings, number of the first one to use, {slot: name})
        (_aligned(wordings[fact.relation]["questions"]), stable_hash("wording", fact.id), {fact.slot: fact.name})
        for fact in facts
        if splits[fact.id] == "train" and stable_hash("translate", fact.id) % 100 < PARALLEL_QUESTION_PERCENT
    ]
    for form, size in (("single", 1), ("pair", 2), ("triple", 3)):
        for members in _name_groups(names, related, size):
            sources.append(
                (statements[form], stable_hash(form, *members), dict(zip("ABC"[:size], members, strict=True)))
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
    """Groups of `size` names, every name in one at least; no two names of a group are linked by a fact."""
    order = stable_shuffle(names, "group", str(size))
    waiting, groups = order + order[: 4 * size], []  # names that had their turn fill up the last groups
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


__all__ = ["MINI_WORLD_LANGUAGES", "compose_parallel", "compose_questions"]
