"""A whole system as a repository on the Hub, and its card."""

import hashlib
import re
import tempfile
import warnings
from pathlib import Path

from huggingface_hub import HfApi, ModelCardData

from ..hub.cards import UNKNOWN, eval_results, hub_ids, license_text, listed, quoted, render_card
from ..hub.metadata import CARD, LICENSE, check_card, check_metadata, faults_of
from ..hub.papers import find_papers
from ..hub.upload import files_of, push_files
from ..utils.files import write_text
from .saving import PARTS, check_saveable, save_system


# How an index finds passages, and the papers to cite, by the kind of its queries
METHODS = {
    "token_vectors": ("late interaction of tokens", ("2004.12832",)),
    "vectors": ("one vector per text", ("2004.04906",)),
}
READER_PAPERS = ("2007.01282",)
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
    """
    The card of a whole system as text; `name` is what `transformers.pipeline` is called with. What is not given comes
    from the cards of the models and from `passages.info.license`. A license is stated only if all parts have it.
    """
    system, reads = pipeline.model, pipeline.with_reader
    parts = _known_parts(system)
    evaluations = evaluations or {}
    base_model = listed(base_model) or _union(parts, "base_model")
    language = listed(language) or _union(parts, "language")
    datasets = listed(datasets) or _union(parts, "datasets")
    if license is None:
        common = _common_license(parts)
    else:
        common = {"license": license, "license_name": license_name, "license_link": license_link}
    indexes = {each.kind: each.index for each in system.retrievers.values()}
    methods = {kind: METHODS.get(index.queries, (f"`{kind}`", ())) for kind, index in indexes.items()}
    results = eval_results(evaluations, "question-answering" if reads else "text-retrieval")
    title = name.rstrip("/").rpartition("/")[2]
    metadata = ModelCardData(
        language=language or None,
        library_name="hf_xlir",
        pipeline_tag="question-answering" if reads else "text-ranking",
        tags=["hf_xlir", pipeline.default_task, *indexes, *listed(tags)],
        base_model=base_model or None,
        datasets=hub_ids(datasets),
        model_name=title if results else None,
        eval_results=results or None,
        **common,
    )
    check_metadata(metadata.to_dict())
    first = system.passages[0]
    question = " ".join((first.get("title") or first["id"]).split()).replace("\\", "").replace('"', "")
    papers = [paper for _, papers in methods.values() for paper in papers]
    facts = {
        "metadata": metadata,
        "name": title,
        "model_id": name,
        "task": pipeline.default_task,
        "reader": reads,
        "num_passages": len(system.passages),
        "methods": [method for method, _ in methods.values()],
        "models": {kind[0].upper() + kind[1:]: part for kind, part in parts.items() if "model_type" in part},
        "language": language,
        "languages": ", ".join(language) or UNKNOWN,
        "datasets": quoted(datasets),
        "license": license_text(**common) if common else _licenses(parts),
        "question": f"{question}?",
        "evaluations": evaluations,
        "limitations": limitations or [],
        "papers": find_papers([*papers, *(READER_PAPERS if reads else ())]),
    }
    text = str(render_card("system.md.jinja", facts))
    return text + MARK.format(digest=_digest(text))


def is_replaceable(text):
    """Whether a card is one of [`build_system_card`] that nobody has changed since."""
    text = text.replace("\r\n", "\n")
    mark = re.search(re.escape(MARK).replace(r"\{digest\}", "([0-9a-f]{16})") + r"\s*$", text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def save_with_card(pipeline, path, card):
    """See [`RetrievalPipeline.save_pretrained`]; `card` are the arguments of its card."""
    build_system_card(pipeline, "name", **card)  # raises for wrong arguments before anything is written
    save_system(pipeline.model, path, pipeline.task, pipeline._forward_params)
    file = Path(path, CARD)
    if card or not file.exists() or is_replaceable(file.read_text(encoding="utf-8")):
        write_text(file, build_system_card(pipeline, file.absolute().parent.name, **card))


def push_system(pipeline, repo_id, private, token, revision, commit_message, card, arguments):
    """See [`RetrievalPipeline.push_to_hub`]; `arguments` are those of the card."""
    if card is not None and arguments:
        raise ValueError(f"Give either `card` or the card's arguments ({sorted(arguments)}), not both.")
    if card is not None:
        check_card(card)
    for part in pipeline.model.model_parts():
        part.facts(token=token, offline=False)
    build_system_card(pipeline, "name", **arguments)  # raises for wrong arguments before a repository is made
    check_saveable(pipeline.model, pipeline._forward_params)
    api = HfApi(token=token, library_name="hf_xlir")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if card is None and (arguments or _may_be_replaced(api, repo_id, revision)):
        card = build_system_card(pipeline, repo_id, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        save_system(pipeline.model, folder, pipeline.task, pipeline._forward_params)
        if card is not None:
            write_text(Path(folder, CARD), card)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the passages
            return push_files(
                files_of(folder),
                repo_id,
                replaced=[f"{part}{end}" for part in PARTS for end in "/-"],  # of a system that was there before
                token=token,
                revision=revision,
                commit_message=commit_message,
            )


def _may_be_replaced(api, repo_id, revision):
    """Whether a repository has no card, or one that nobody has changed since it was written here."""
    if not api.file_exists(repo_id, CARD, revision=revision):
        return True
    with tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(repo_id, CARD, revision=revision, local_dir=folder)
        return is_replaceable(Path(file).read_text(encoding="utf-8"))


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known_parts(system):
    """What is known of each part, by its name. Models also have a `model_type`."""
    several = len(system.retrievers) > 1
    owners = {f"retriever `{name}`" if several else "retriever": each for name, each in system.retrievers.items()}
    owners |= {"reranker": system.reranker, "reader": system.reader}
    models = {name: each.model for name, each in owners.items() if each is not None and each.model is not None}
    facts = {
        name: {"model_type": model.model_type, "base_model": None, **model.facts()} for name, model in models.items()
    }
    own = {"license": system.passages.info.license or None}
    return {**facts, "passages": {} if faults_of(own) else own}  # Datasets takes any text


def _union(parts, name):
    return list(dict.fromkeys(value for part in parts.values() for value in part.get(name) or ()))


def _common_license(parts):
    """The license of all parts, empty if they differ or one is unknown."""
    own = [{name: part[name] for name in LICENSE if part.get(name)} for part in parts.values()]
    return own[0] if own[0] and all(each == own[0] for each in own) else {}


def _licenses(parts):
    """What is known of the licenses if there is none of the whole."""
    own = [f"{name}: {license_text(*(part.get(each) for each in LICENSE))}" for name, part in parts.items()]
    return f"of the whole {UNKNOWN}; {', '.join(own)}"


__all__ = ["build_system_card", "is_replaceable", "push_system", "save_with_card"]
