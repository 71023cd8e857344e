"""What [`RetrieverTrainer`] checks before work starts: that models, data and objective fit together."""

from datasets import Dataset, IterableDataset


def check_teacher(teacher, model, args):
    """Raise if the objective needs a teacher, or one of another shape."""
    reasons = [f"`{name}=True`" for name in ("distill_in_batch", "teacher_documents") if getattr(args, name)]
    if args.objective == "token_distillation":
        reasons.append(f"`objective={args.objective!r}`")
    if teacher is None and reasons:
        raise ValueError(f"{reasons[0]} needs a `teacher`.")
    if teacher is model:
        raise ValueError("`teacher` and `model` are one object: give the teacher weights of its own.")
    own_kind = model.config.model_type
    kind = {"token_distillation": "colbert_xlmr", "embedding_distillation": "biencoder"}.get(args.objective, own_kind)
    if own_kind != kind:
        raise ValueError(f"`objective={args.objective!r}` needs a model of type {kind!r}, got {own_kind!r}.")
    if teacher is None:
        return
    shapes = [
        (config.model_type, config.embedding_dim or config.encoder_config.hidden_size)
        for config in (model.config, teacher.config)
    ]
    compared = args.objective in ("token_distillation", "embedding_distillation") or args.teacher_documents
    if compared and shapes[0] != shapes[1]:
        reason = "`teacher_documents=True`" if args.teacher_documents else f"`objective={args.objective!r}`"
        raise ValueError(
            f"{reason} needs a student of the teacher's kind and embedding size, got {shapes[0]} for a teacher with "
            f"{shapes[1]}."
        )


def positions_correspond(processor, teacher_processor):
    """Whether two ColBERT processors put the same piece of a document at the same position."""
    if processor is teacher_processor:
        return True
    tokenizer, teacher_tokenizer = processor.tokenizer, teacher_processor.tokenizer
    same_tokenizer = tokenizer is teacher_tokenizer or tokenizer.get_vocab() == teacher_tokenizer.get_vocab()
    return same_tokenizer and processor.document_length == teacher_processor.document_length


def check_columns(dataset, name, args, teacher):
    """Raise if a dataset lacks a column that the objective needs, as far as it tells its columns."""
    if isinstance(dataset, list | Dataset) and len(dataset):
        columns = [column for column, value in dataset[0].items() if value is not None]  # loaders leave some empty
    else:
        columns = dataset.column_names if isinstance(dataset, Dataset | IterableDataset) else None
    if columns is None:
        return
    needed = ["query"]
    distils_scores = args.objective in ("score_distillation", "margin_mse")
    if "documents" not in columns:
        if not args.distils_queries_alone:
            needed.append("positive")
        needs_negatives = args.objective == "listwise" or (distils_scores and not args.distill_in_batch)
        if needs_negatives and "negative" not in columns:
            needed.append("negatives")
    if args.objective == "reader_distillation":
        needed.append("reader_scores")
    if teacher is None and distils_scores:
        needed.append("teacher_scores")
    if teacher is None and args.objective == "embedding_distillation":
        needed.append("teacher_embedding")
    missing = [column for column in needed if column not in columns]
    if missing:
        hint = " Or give a `teacher`." if missing in (["teacher_scores"], ["teacher_embedding"]) else ""
        raise ValueError(
            f"`{name}` lacks {missing}, which `objective={args.objective!r}` needs; it has {columns}.{hint}"
        )


__all__ = ["check_columns", "check_teacher", "positions_correspond"]
