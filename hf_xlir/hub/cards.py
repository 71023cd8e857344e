"""Cards for the Hub: templates in `templates/`, filled with facts that training, indexes and pipelines hand over."""

import math
import re
from numbers import Real
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

from ..models.auto import FAMILIES, family_of
from .papers import find_papers


TEMPLATES = Path(__file__).with_name("templates")
UNKNOWN = "not stated"
MEANS = r"all|mean|micro|macro( over \d+ of \d+)?"  # columns that are not languages
# The Hub's task, the task of results, tags and papers, by the kind of vectors that a model returns
_BY_VECTORS = {
    "token_vectors": (
        *("sentence-similarity", "text-retrieval"),
        ["colbert", "late-interaction", "cross-lingual-retrieval", "multi-vector"],
        ["colbert"],
    ),
    "vectors": (
        *("sentence-similarity", "text-retrieval"),
        ["dual-encoder", "dense-retrieval", "cross-lingual-retrieval"],
        ["dpr"],
    ),
    None: (
        *("question-answering", "question-answering"),
        ["fusion-in-decoder", "open-domain-question-answering"],
        ["fid"],
    ),
}
EXAMPLE = "template.md"


def render_card(template, facts):
    r"""
    Fill a template of a card.

    Args:
        template (`str` or `os.PathLike`):
            A file of `hf_xlir/hub/templates`, such as `"retriever.md.jinja"`, or the path of a template of your own,
            which may extend those.
        facts (`dict`):
            The names that the template uses. `metadata` is a [`~huggingface_hub.ModelCardData`] or
            [`~huggingface_hub.DatasetCardData`].

    Returns:
        [`~huggingface_hub.ModelCard`] or [`~huggingface_hub.DatasetCard`], by the metadata: `save(path)` writes it.

    Raises:
        jinja2.TemplateError: If there is no such template, or it uses a name that is not given.
    """
    own = Path(template)
    loaders = [FileSystemLoader(TEMPLATES), *([FileSystemLoader(own.parent)] if own.is_file() else [])]
    environment = Environment(
        loader=ChoiceLoader(loaders), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False
    )
    environment.filters |= {
        "cell": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
        "known": lambda rows: {name: value for name, value in rows.items() if value is not None},
        "languages": _languages,
        "measured_languages": _measured_languages,
        "quoted": quoted,
    }
    text = environment.get_template(own.name).render(facts)
    card_class = DatasetCard if isinstance(facts["metadata"], DatasetCardData) else ModelCard
    return card_class(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def build_model_card(
    config,
    model_id,
    language=None,
    license=None,
    datasets=None,
    base_model=None,
    tags=None,
    pipeline_tag=None,
    objective=None,
    papers=(),
    training=None,
    evaluations=None,
    limitations=None,
    exported_code=False,
    emissions=None,
    license_name=None,
    license_link=None,
):
    r"""
    The card of a model. It has metadata that the Hub accepts and usage that runs as printed. Where nothing was
    given it says "not stated".

    Args:
        config (`PreTrainedConfig`):
            Configuration of a model whose family is registered ([`~hf_xlir.models.auto.register_family`]).
        model_id (`str`):
            What `from_pretrained` is called with: `"user/name"`, or a folder.
        language (`str` or `list[str]`, *optional*):
            Codes of the languages that the model was trained for.
        license (`str`, *optional*):
            The Hub's name of the license, such as `"apache-2.0"`.
        datasets (`str` or `list[str]`, *optional*):
            Training data. Ids on the Hub, `"user/name"`, also become metadata.
        base_model (`str` or `list[str]`, *optional*):
            Models that it was made from. Ids on the Hub also become metadata.
        tags (`str` or `list[str]`, *optional*):
            Tags in addition to those of the family.
        pipeline_tag (`str`, *optional*):
            The Hub's task. By default that of the family.
        objective (`str`, *optional*):
            Name of the training objective, which becomes a tag.
        papers (`Iterable[str]`, *optional*):
            Papers that the training follows, as arXiv ids (`Objective.papers`). They are cited after the family's.
        training (`dict[str, str]`, *optional*):
            Rows of the table of the training's setup.
        evaluations (`dict[str, dict[str, dict[str, float]]]`, *optional*):
            Results by dataset, measure and language, such as `{"XOR-TyDi dev": {"recall@2kt": {"ja": 61.2, "macro":
            60.1}}}`, shown as they are given.
        limitations (`list[str]`, *optional*):
            Sentences in addition to those of the family.
        exported_code (`bool`, *optional*, defaults to `False`):
            Whether the repository holds the model's code and loads with `trust_remote_code=True`.
        emissions (`dict`, *optional*):
            The Hub's `co2_eq_emissions`, if measured.
        license_name, license_link (`str`, *optional*):
            For `license="other"`: the license's name, and a link such as `"LICENSE"`, a file of the repository.

    Returns:
        [`~huggingface_hub.ModelCard`]: `save(path)` writes it.

    Raises:
        ValueError: If the model's family is not registered, or a result is not a finite number.

    Example:
    ```python
    >>> from hf_xlir import ColBERTXLMRConfig
    >>> from hf_xlir.hub import build_model_card

    >>> results = {"XQuAD-R": {"recall@5": {"ar": 47.9, "ko": 50.25}}}
    >>> card = build_model_card(ColBERTXLMRConfig(), "user/my-colbert", language=["ar", "ko"], evaluations=results)
    >>> card.data.library_name, card.data.pipeline_tag, card.data.eval_results[1].metric_value
    ('hf_xlir', 'sentence-similarity', 50.25)
    >>> "| recall@5 | 47.9 | 50.25 |" in card.text
    True

    ```
    """
    family = family_of(config)
    task, results_task, own_tags, own_papers = _BY_VECTORS[family.vectors]
    language, datasets, base_model = (listed(each) for each in (language, datasets, base_model))
    evaluations, papers = evaluations or {}, find_papers([*own_papers, *papers])
    name = model_id.rstrip("/").rpartition("/")[-1]
    results = eval_results(evaluations, results_task)
    metadata = ModelCardData(
        language=language or None,
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name="hf_xlir",
        pipeline_tag=pipeline_tag or task,
        tags=["hf_xlir", config.model_type, *own_tags, *listed(objective), *listed(tags)],
        base_model=hub_ids(base_model),
        datasets=hub_ids(datasets),
        model_name=name if results else None,
        eval_results=results or None,
        **({} if emissions is None else {"co2_eq_emissions": emissions}),
    )
    facts = {
        "metadata": metadata,
        "config": config,
        "vectors": family.vectors,
        "auto_model": family.auto_model.__name__,
        "model_id": model_id,
        "name": name,
        "model_type": f"`{config.model_type}`, after [{papers[0].title}]({papers[0].link})",
        "base_model": quoted(base_model),
        "language": language,
        "languages": ", ".join(language) or UNKNOWN,
        "datasets": quoted(datasets),
        "license": license_text(license, license_name, license_link),
        "exported_code": exported_code,
        "training": training or {},
        "evaluations": evaluations,
        "limitations": limitations or [],
        "papers": papers,
    }
    return render_card(family.card_template or f"{family.role}.md.jinja", facts)


def family_cards():
    r"""
    The files of `model_cards/`: a card for each family with its default configuration, and one with every field.

    Returns:
        `dict[str, str]`: Texts by file name.

    Example:
    ```python
    >>> from hf_xlir.hub import family_cards

    >>> sorted(family_cards())
    ['biencoder.md', 'colbert_xlmr.md', 'fid_t5.md', 'template.md']

    ```
    """
    cards = {
        f"{model_type}.md": build_model_card(family.config(), f"user/my-{model_type}", exported_code=True)
        for model_type, family in FAMILIES.items()
    }
    cards[EXAMPLE] = build_model_card(
        FAMILIES["colbert_xlmr"].config(),
        "user/name",
        language=["code of the first language", "of the second"],
        license="the Hub's name of the license",
        datasets=["user/dataset on the Hub", "name of another dataset"],
        base_model="user/base-model",
        tags=["your tags"],
        objective="token_distillation",
        papers=["2112.08185"],
        training={
            "Objective": "filled in by `RetrieverTrainer`, like the whole table",
            "Hardware": "recorded during training",
            "Duration": "of all runs, without interruptions",
            "Energy": "not measured, unless `codecarbon` measured it",
        },
        evaluations={"name of the data": {"recall@5": {"ar": 0.0, "ko": 0.0, "mean": 0.0}}},
        limitations=["What you found this model cannot do."],
        exported_code=True,
    )
    return {name: str(card) for name, card in cards.items()}


def write_family_cards(folder):
    """Write [`family_cards`] to a folder. Call it after a change of the templates."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in family_cards().items():
        (folder / name).write_text(text, encoding="utf-8")


def eval_results(evaluations, task):
    """Results as a list of `huggingface_hub.EvalResult`, one per dataset, measure and language."""
    results = []
    for dataset, measures in evaluations.items():
        id = dataset if hub_ids([dataset]) else re.sub(r"[^\w.]+", "-", dataset, flags=re.ASCII).strip("-") or "data"
        for measure, values in measures.items():
            for language, value in values.items():
                if not isinstance(value, Real) or not math.isfinite(value):
                    raise ValueError(
                        f"{measure} of {dataset!r} in {language!r} is {value!r}, expected a finite number."
                    )
                results.append(
                    EvalResult(
                        task_type=task,
                        dataset_type=id,
                        dataset_name=f"{dataset} ({language})",
                        dataset_config=language,
                        metric_type=measure,
                        metric_value=float(value),
                    )
                )
    return results


def listed(value):
    """One text or several, as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def quoted(names):
    """Names as inline code."""
    return ", ".join(f"`{name}`" for name in names) or UNKNOWN


def hub_ids(names):
    """Those that look like ids on the Hub, `None` if there are none."""
    return [name for name in names if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)] or None


def license_text(license=None, license_name=None, license_link=None):
    """A license as Markdown."""
    name = license_name or license or UNKNOWN
    return name if license_link is None else f"[{name}]({license_link})"


def _languages(measures):
    """The columns of a table of results: languages, then means."""
    languages = dict.fromkeys(language for values in measures.values() for language in values)
    return sorted(languages, key=lambda language: re.fullmatch(MEANS, language) is not None)


def _measured_languages(evaluations):
    """The languages that results are about, without means."""
    columns = {language for measures in evaluations.values() for language in _languages(measures)}
    return sorted(language for language in columns if not re.fullmatch(MEANS, language))


__all__ = [
    *("build_model_card", "eval_results", "family_cards", "hub_ids", "license_text", "listed", "quoted"),
    *("render_card", "write_family_cards"),
]
