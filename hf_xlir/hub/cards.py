"""Model cards: what is known of a model, by its configuration, its training and its results; the rest is unknown."""

from huggingface_hub import ModelCard, ModelCardData

from .card_families import FAMILIES, LOAD_WITHOUT_THE_PACKAGE, settings_of
from .card_parts import (
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
from .citations import papers_of


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
    reader_distillation="kl",
    training=None,
    evaluations=None,
    limitations=None,
    exported_code=False,
    emissions=None,
    license_name=None,
    license_link=None,
):
    r"""
    A model card with metadata that the Hub accepts, usage that runs as printed, and nothing that was not given: what
    is unknown is said to be.

    Args:
        config (`PreTrainedConfig`):
            Configuration of a model of this package.
        model_id (`str`):
            What `from_pretrained` is called with: `"user/name"`, or a folder.
        language (`str` or `list[str]`, *optional*):
            Codes of the languages that it was trained for.
        license (`str`, *optional*):
            The Hub's name of the licence, such as `"apache-2.0"`.
        datasets (`str` or `list[str]`, *optional*):
            What it was trained on. Ids on the Hub, `"user/name"`, are among the metadata, too.
        base_model (`str` or `list[str]`, *optional*):
            Models that it was made from, the same way.
        tags (`str` or `list[str]`, *optional*):
            Tags beside those of the family.
        pipeline_tag (`str`, *optional*):
            By default the family's.
        objective (`str`, *optional*):
            What it was trained with, one of [`~hf_xlir.training.training_args.OBJECTIVES`], for what to cite.
        reader_distillation (`str`, *optional*, defaults to `"kl"`):
            As in [`RetrieverTrainingArguments`].
        training (`dict[str, str]`, *optional*):
            The training's set-up, as [`~hf_xlir.training.training_facts.training_facts`] has it: what, and its value.
        evaluations (`dict[str, dict[str, dict[str, float]]]`, *optional*):
            Results by dataset, measure and language, such as `{"XOR-TyDi dev": {"recall@2kt": {"ja": 61.2, "macro":
            60.1}}}`. Values are shown as they are, in the unit that they have.
        limitations (`list[str]`, *optional*):
            Sentences beside those of the family.
        exported_code (`bool`, *optional*, defaults to `False`):
            Whether the folder holds its code, so that it loads with `trust_remote_code=True`.
        emissions (`dict`, *optional*):
            The Hub's `co2_eq_emissions`, where they were measured.
        license_name, license_link (`str`, *optional*):
            Of a licence that the Hub has no name for, `license="other"`: a name of its own, and where it is, such as
            `"LICENSE"` in the repository.

    Returns:
        [`~huggingface_hub.ModelCard`]: `save(path)` writes it.

    Raises:
        ValueError: If the model is none of this package's, or a result is no finite number.

    Example:
    ```python
    >>> from hf_xlir import ColBERTXLMRConfig
    >>> from hf_xlir.hub.cards import build_model_card

    >>> results = {"XQuAD-R": {"recall@5": {"ar": 47.9, "ko": 50.25}}}
    >>> card = build_model_card(ColBERTXLMRConfig(), "user/my-colbert", language=["ar", "ko"], evaluations=results)
    >>> card.data.library_name, card.data.pipeline_tag, card.data.eval_results[1].metric_value
    ('hf_xlir', 'sentence-similarity', 50.25)
    >>> "| recall@5 | 47.9 | 50.25 |" in card.text
    True

    ```
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"Cards are for models of type {sorted(FAMILIES)}, got {config.model_type!r}.")
    family = FAMILIES[config.model_type]
    language, datasets, base_model, tags = (listed(each) for each in (language, datasets, base_model, tags))
    evaluations = evaluations or {}
    name = model_id.rstrip("/").rpartition("/")[-1]
    results = eval_results(evaluations, family.task)
    data = ModelCardData(
        language=language or None,
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name="hf_xlir",
        pipeline_tag=pipeline_tag or family.pipeline_tag,
        tags=["hf_xlir", config.model_type, *family.tags, *([objective] if objective else []), *tags],
        base_model=hub_ids(base_model),
        datasets=hub_ids(datasets),
        model_name=name if results else None,
        eval_results=results or None,
        **({} if emissions is None else {"co2_eq_emissions": emissions}),
    )
    papers = papers_of(config.model_type, objective, reader_distillation)
    facts = {
        "Model type": f"`{config.model_type}` of [{papers[0].title}]({papers[0].link})",
        **settings_of(config),
        "Made from": quoted(base_model),
        "Languages": ", ".join(language) or UNKNOWN,
        "Training data": quoted(datasets),
        "Licence": licence(license, license_name, license_link),
    }
    limits = [*family.limitations, *limits_of_results(evaluations, language), *(limitations or [])]
    sections = [
        f"# {name}\n\n{family.summary}\n\n{two_columns(facts)}",
        f"## Usage\n\n{_usage(family, model_id, exported_code)}",
        "## Training\n\n" + (two_columns(training) if training else "How this model was trained is not stated."),
        "## Evaluation\n\n" + (result_tables(evaluations) or "No results are stated: how well it does is unknown."),
        "## Limitations\n\n" + "\n".join(f"- {sentence}" for sentence in limits),
        "## Citation\n\n" + fenced("bibtex", "\n\n".join(paper.bibtex for paper in papers)),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _usage(family, model_id, exported_code):
    def filled(code):
        return fenced("python", code.replace("MODEL_ID", model_id).replace("AUTO_MODEL", family.auto_model))

    parts = ["With `hf_xlir` installed:", filled(family.usage)]
    if family.search is not None:
        parts += ["To search passages, go on with:", filled(family.search)]
    if exported_code:
        parts += [
            "Without it, the model brings its code along. `trust_remote_code=True` runs that code: read it first, and "
            "give the commit that you have read as `revision`.",
            filled(LOAD_WITHOUT_THE_PACKAGE),
        ]
    return "\n\n".join(parts)


__all__ = ["build_model_card"]
