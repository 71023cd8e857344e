"""The card of a whole system: what it consists of, and what the cards of its models say that holds for it, too."""

import hashlib
import re

from huggingface_hub import ModelCard, ModelCardData

from ..hub.card_parts import (
    UNKNOWN,
    eval_results,
    fenced,
    hub_ids,
    licence,
    limits_of_results,
    listed,
    quoted,
    result_tables,
    two_columns,
)
from ..hub.citations import papers_of
from ..hub.metadata import check_metadata, faults_of
from .part_facts import LICENCE


USAGE = """
import hf_xlir  # registers the task
from transformers import pipeline

ask = pipeline("{task}", model="{name}")
{call}
"""
# What the Hub calls each task, and its results; what it does; and how to ask
TASKS = {
    "xlir-retrieval": (
        ("text-ranking", "text-retrieval"),
        "Ranks {num_passages:,} passages for questions, by {kinds}.",
        'print(ask("{question}", k=3))',
    ),
    "xlir-question-answering": (
        ("question-answering", "question-answering"),
        "Answers questions from {num_passages:,} passages, which it finds by {kinds}, with a FiD reader.",
        'print(ask("{question}", n_context=5)["answer"])',
    ),
}
KINDS = {"late_interaction": "late interaction of tokens", "dense": "one vector a text", "bm25": "BM25"}
FAMILIES = {"late_interaction": "colbert_xlmr", "dense": "biencoder"}  # to cite
LIMITATION = (
    "What is not among the passages is not found, and what they say is not checked: it may be false or biased."
)
WRITES = "It always writes an answer, also where no passage has one: check it against the passages."
MARK = "\n<!-- Written by hf_xlir, which replaces it unless somebody changed it: {digest} -->\n"


def build_system_card(
    pipeline,
    name,
    language=None,
    license=None,
    license_name=None,
    license_link=None,
    datasets=None,
    base_model=None,
    tags=None,
    evaluations=None,
    limitations=None,
):
    r"""
    The card of a whole system. What is not given here comes from the cards of its models, where these are known, and
    what is unknown is said to be.

    Args:
        pipeline ([`RetrievalPipeline`] or [`QuestionAnsweringPipeline`]):
            The system.
        name (`str`):
            What `transformers.pipeline` is called with: `"user/name"`, or a folder.
        language (`str` or `list[str]`, *optional*):
            Codes of its languages. By default those of all its models.
        license (`str`, *optional*):
            The Hub's name of the whole's licence. By default that which all models have, and the passages, whose
            licence is `passages.info.license`; if they differ, or one is unknown, the card states none.
        license_name, license_link (`str`, *optional*):
            Of a licence that the Hub has no name for, `license="other"`: a name of its own, and where it is.
        datasets (`str` or `list[str]`, *optional*):
            What the models were trained on, and what the passages come from. By default what the models' cards say.
        base_model (`str` or `list[str]`, *optional*):
            The models in it. By default the repositories that they were loaded from or, of models in folders, those
            that their cards name.
        tags (`str` or `list[str]`, *optional*):
            Tags beside those of the task.
        evaluations (`dict[str, dict[str, dict[str, float]]]`, *optional*):
            Results by dataset, measure and language, such as `{"XOR-TyDi dev": {"recall@2kt": {"ja": 61.2}}}`.
        limitations (`list[str]`, *optional*):
            Sentences beside those of the task.

    Returns:
        `str`: The card.

    Raises:
        ValueError: If the metadata are not what the Hub takes, or a result is no finite number.

    Example:
    ```python
    >>> from hf_xlir import RetrievalPipeline
    >>> from hf_xlir.index import BM25Index
    >>> from hf_xlir.pipeline.system_card import build_system_card

    >>> passages = [{"id": "a", "title": "The Tiber", "text": "Rome lies on it."}]
    >>> search = RetrievalPipeline(index=BM25Index.build(passages, progress=False), passages=passages, device="cpu")
    >>> card = build_system_card(search, "user/my-system", language="en", license="mit")
    >>> "license: mit" in card, 'print(ask("The Tiber?", k=3))' in card
    (True, True)

    ```
    """
    system = pipeline.model
    (pipeline_tag, task), description, call = TASKS[pipeline.default_task]
    parts = _parts(system)
    evaluations = evaluations or {}
    base_model = listed(base_model) or _union(parts, "base_model")
    language = listed(language) or _union(parts, "language")
    datasets = listed(datasets) or _union(parts, "datasets")
    if license is None:
        common = _common_licence(parts)
    else:
        common = {"license": license, "license_name": license_name, "license_link": license_link}
    kinds = list(dict.fromkeys(each.kind for each in system.retrievers.values()))
    results = eval_results(evaluations, task)
    title = name.rstrip("/").rpartition("/")[2]
    data = ModelCardData(
        language=language or None,
        library_name="hf_xlir",
        pipeline_tag=pipeline_tag,
        tags=["hf_xlir", pipeline.default_task, *kinds, *listed(tags)],
        base_model=base_model or None,
        datasets=hub_ids(datasets),
        model_name=title if results else None,
        eval_results=results or None,
        **common,
    )
    check_metadata(data.to_dict())
    facts = {
        "Passages": f"{len(system.passages):,}",
        **{_titled(kind): _described(part) for kind, part in parts.items() if "config" in part},
        "Languages": ", ".join(language) or UNKNOWN,
        "Training data": quoted(datasets),
        "Licence": licence(**common) if common else _licences(parts),
    }
    described = description.format(
        num_passages=len(system.passages), kinds=" and ".join(KINDS[kind] for kind in kinds)
    )
    asked = " ".join((system.passages[0].get("title") or system.passages[0]["id"]).split())
    question = f"{asked}?".replace("\\", "").replace('"', "")
    usage = USAGE.format(task=pipeline.default_task, name=name, call=call.format(question=question))
    limits = [LIMITATION, *([WRITES] if pipeline.with_reader else []), *limits_of_results(evaluations, language)]
    families = [FAMILIES[kind] for kind in kinds if kind in FAMILIES] + (["fid_t5"] if pipeline.with_reader else [])
    papers = dict.fromkeys(paper for family in families for paper in papers_of(family))
    sections = [
        f"# {title}\n\n{described}\n\n{two_columns(facts)}",
        f"## Usage\n\n{fenced('python', usage)}",
        "## Evaluation\n\n" + (result_tables(evaluations) or "No results are stated: how well it does is unknown."),
        "## Limitations\n\n" + "\n".join(f"- {sentence}" for sentence in [*limits, *(limitations or [])]),
    ]
    if papers:
        sections.append("## Citation\n\n" + fenced("bibtex", "\n\n".join(paper.bibtex for paper in papers)))
    text = str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))
    return text + MARK.format(digest=_digest(text))


def is_replaceable(text):
    """Whether a card is one of [`build_system_card`] that nobody has changed since."""
    text = text.replace("\r\n", "\n")
    mark = re.search(re.escape(MARK).replace(r"\{digest\}", "([0-9a-f]{16})") + r"\s*$", text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parts(system):
    """What is known of each part by its name: of models their configuration, too."""
    several = len(system.retrievers) > 1
    owners = {f"retriever `{name}`" if several else "retriever": each for name, each in system.retrievers.items()}
    owners |= {"reranker": system.reranker, "reader": system.reader}
    models = {name: each.model for name, each in owners.items() if each is not None and each.model is not None}
    facts = {name: {"config": model.config, **model.facts()} for name, model in models.items()}
    own = {"license": system.passages.info.license or None}
    return {**facts, "passages": {} if faults_of(own)[0] else own}  # Datasets takes any text


def _union(parts, name):
    return list(dict.fromkeys(value for part in parts.values() for value in part.get(name, ())))


def _common_licence(parts):
    """That of all parts, empty if they differ or one is unknown."""
    own = [{name: part[name] for name in LICENCE if part.get(name)} for part in parts.values()]
    return own[0] if own[0] and all(each == own[0] for each in own) else {}


def _licences(parts):
    """What is known of the licences where there is none of the whole."""
    own = [f"{name}: {licence(*(part.get(each) for each in LICENCE))}" for name, part in parts.items()]
    return f"of the whole {UNKNOWN}; {', '.join(own)}"


def _titled(kind):
    return kind[0].upper() + kind[1:]


def _described(part):
    origin = f", made from {quoted(part['base_model'])}" if "base_model" in part else f"; origin {UNKNOWN}"
    return f"`{part['config'].model_type}`{origin}"


__all__ = ["build_system_card", "is_replaceable"]
