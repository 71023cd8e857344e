"""Arguments of the retriever's trainer."""

import json
from dataclasses import dataclass, field, fields

from transformers import TrainingArguments

from ..utils.checks import check_integer
from .objectives import OBJECTIVES, make_objective
from .publishing import PublishableArguments


def _flat_settings():
    """The settings of the registered objectives as fields of a dataclass, by name: `None` where nothing is given."""
    flat, owners = {}, {}
    for name, objective in OBJECTIVES.items():
        for each in fields(objective.Settings):
            flat.setdefault(each.name, each)
            owners.setdefault(each.name, []).append(name)
    return {
        name: (
            each.type,
            field(
                default=None,
                metadata={"help": f"{each.metadata['help']} For {', '.join(owners[name])}; default {each.default}."},
            ),
        )
        for name, each in flat.items()
    }


FLAT_SETTINGS = _flat_settings()


def _with_flat_settings(cls):
    """Add the settings of all objectives to an arguments class, so that they are also command-line options."""
    for name, (kind, default) in FLAT_SETTINGS.items():
        cls.__annotations__[name] = kind
        setattr(cls, name, default)
    return cls


@dataclass(repr=False)
@_with_flat_settings
class RetrieverTrainingArguments(PublishableArguments, TrainingArguments):
    r"""
    Arguments of [`RetrieverTrainer`], added to those of [`~transformers.TrainingArguments`].

    Two inherited defaults differ. `remove_unused_columns` is `False`, since the collator reads columns that no model
    takes. `dispatch_batches` of `accelerator_config` is `False`: each process reads its own share of a streamed
    dataset, since a batch has more documents than queries and dispatching would cut it. The trainer sets
    `ddp_find_unused_parameters` to `False` unless it is given or only queries are encoded: DistributedDataParallel
    looks for unused parameters after one forward pass, and would take the other tower for unused.

    Args:
        > Parameters that control the objective

        objective (`str`, *optional*, defaults to `"in_batch_nce"`):
            Name of a registered objective:

            - `"in_batch_nce"` ([`InBatchNCE`]): each query against all documents of the batch;
            - `"listwise"` ([`Listwise`]): each query against its own documents, positive first;
            - `"score_distillation"` ([`ScoreDistillation`]): a teacher's scores of those documents;
            - `"margin_mse"` ([`MarginMSE`]): a teacher's margins between the positive and each negative;
            - `"reader_distillation"` ([`ReaderDistillation`]): how much each passage helped a reader;
            - `"token_distillation"` ([`TokenDistillation`]): a teacher's token vectors on parallel text;
            - `"embedding_distillation"` ([`EmbeddingDistillation`]): a teacher's sentence vectors on parallel text;
            - one of your own, see [`register_objective`]. [`RetrieverTrainer`] also takes an unregistered object.
        objective_settings (`dict` or `str`, *optional*):
            Settings of the objective by name, or the same as JSON; the objectives' docstrings list them. Those of the
            objectives above may also be given as arguments of their own: `RetrieverTrainingArguments("out",
            objective="listwise", score_scale=20.0)`, `score_scale: 20.0` in a recipe and `--score_scale 20.0` on a
            command line mean `objective_settings={"score_scale": 20.0}`. A setting that is not given is `None` here,
            and has the objective's default in `trainer.objective.settings`.

        > Parameters that control memory

        gradient_cache_chunk_size (`int`, *optional*):
            Number of texts whose activations are in memory at a time, for batches that do not fit
            (https://huggingface.co/papers/2101.06983). Loss and gradients are those of the whole batch, dropout
            included; the cost is one more forward pass. If no row's loss depends on another row, a small batch with
            `gradient_accumulation_steps` does the same for less. `None` encodes the batch at once.

        > Parameters that control evaluation

        eval_k (`int`, *optional*, defaults to 100):
            Number of passages to rank for each evaluation question.

    Raises:
        ValueError: If the objective is not registered, has no such setting, or a value is out of range.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainingArguments

    >>> args = RetrieverTrainingArguments("out", objective="listwise", score_scale=20.0, use_cpu=True)
    >>> RetrieverTrainingArguments("out", objective="listwise", temperature=1.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: The objective `listwise` has no setting `temperature`. Its settings are: ...

    ```
    """

    objective: str = field(default="in_batch_nce", metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    objective_settings: dict | str | None = field(
        default=None, metadata={"help": "Settings of the objective, as JSON; those below may also be given by name."}
    )
    gradient_cache_chunk_size: int | None = field(
        default=None, metadata={"help": "Texts whose activations are in memory at a time; all by default."}
    )
    eval_k: int = field(default=100, metadata={"help": "Passages to rank for each evaluation question."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The collator reads columns that no model takes."}
    )

    def __post_init__(self):
        if isinstance(self.objective_settings, str):
            self.objective_settings = json.loads(self.objective_settings)
        if not isinstance(self.objective_settings, dict | None):
            raise ValueError(f"`objective_settings` must be a dictionary, got {self.objective_settings!r}.")
        make_objective(self.objective, self.given_settings())
        if self.gradient_cache_chunk_size is not None:
            check_integer("gradient_cache_chunk_size", self.gradient_cache_chunk_size)
        check_integer("eval_k", self.eval_k)
        super().__post_init__()
        if self.gradient_cache_chunk_size is not None and ("lomo" in self.optim or self.deepspeed_plugin):
            raise ValueError(
                "`gradient_cache_chunk_size` does not work with DeepSpeed or LOMO, which expect one backward pass per "
                "batch: leave one of them out."
            )
        if self.accelerator_config.dispatch_batches:
            raise ValueError(
                "`dispatch_batches=True` would cut a batch's documents to the number of its queries: leave it out."
            )
        self.accelerator_config.dispatch_batches = False

    def given_settings(self):
        """The settings of the objective that were given, by name."""
        flat = {name: getattr(self, name) for name in FLAT_SETTINGS if getattr(self, name) is not None}
        nested = self.objective_settings or {}
        for name in flat.keys() & nested.keys():
            if flat[name] != nested[name]:
                raise ValueError(
                    f"`{name}` is given twice: {flat[name]!r}, and {nested[name]!r} in `objective_settings`."
                )
        return {**nested, **flat}


__all__ = ["FLAT_SETTINGS", "RetrieverTrainingArguments"]
