"""Checks of [`RetrieverTrainer`]: models, rows and batches fit the objective. All of them ask the objective."""

import torch
from datasets import Dataset, IterableDataset


def check_models(objective, model, teacher):
    """Raise unless the models are what the objective needs."""
    if teacher is None and objective.needs_teacher:
        raise ValueError(f"`objective={objective!r}` needs a `teacher`.")
    if teacher is model:
        raise ValueError("`teacher` and `model` are one object: give the teacher weights of its own.")
    kind, vectors = model.config.model_type, _vectors_of(model)
    if objective.vectors not in (None, vectors):
        raise ValueError(
            f"`objective={objective!r}` needs a model that returns {objective.vectors!r}, got {kind!r}, which returns "
            f"{vectors!r}."
        )
    if teacher is None or not objective.compares_vectors:
        return
    shapes = [
        (config.model_type, config.embedding_dim or config.encoder_config.hidden_size)
        for config in (model.config, teacher.config)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`objective={objective!r}` needs a student of the teacher's family and embedding size, got {shapes[0]} "
            f"for a teacher with {shapes[1]}."
        )


def check_columns(dataset, name, objective, teacher):
    """Raise if a dataset lacks a column that the objective declares, as far as it tells its columns."""
    row = dataset[0] if isinstance(dataset, list | Dataset) and len(dataset) else None
    if row is not None:
        columns = [column for column, value in row.items() if value is not None and value != []]
    else:
        columns = dataset.column_names if isinstance(dataset, Dataset | IterableDataset) else None
    if columns is None:
        return
    found = set(columns)
    if "negative" in found:
        found.add("negatives")
    if "documents" in found:
        found |= {"positive", "negatives"} if row is None or len(row["documents"]) > 1 else {"positive"}
    needed = [*objective.columns, *(objective.stored_columns if teacher is None else ())]
    missing = [column for column in needed if column not in found]
    if missing:
        hint = " Or give a `teacher`." if set(missing) <= set(objective.stored_columns) else ""
        raise ValueError(f"`{name}` lacks {missing}, which `objective={objective!r}` needs; it has {columns}.{hint}")


def check_batch(objective, batch):
    """Raise if an objective of negatives gets a batch without."""
    keys = batch.get("document_keys")
    if "negatives" in objective.columns and keys is not None and len(keys) == len(batch["queries"]["input_ids"]):
        raise ValueError(
            f"`objective={objective!r}` needs rows with at least one negative, got a batch of one document per query."
        )


def check_terms(objective, terms):
    """A copy of an objective's terms, which must be scalars by name."""
    if not isinstance(terms, dict) or not terms or any(torch.numel(term) != 1 for term in terms.values()):
        shapes = terms
        if isinstance(terms, dict):
            shapes = {name: tuple(term.shape) for name, term in terms.items()}
        raise ValueError(f"`{type(objective).__name__}` must return scalars by name, got {shapes}.")
    return dict(terms)


def _vectors_of(model):
    return "token_vectors" if model.config.model_type == "colbert_xlmr" else "vectors"


__all__ = ["check_batch", "check_columns", "check_models", "check_terms"]
