"""Whether a processor and a model belong together."""

from .modeling_retriever import check_positions
from .processing_retriever import RetrieverProcessor


def check_processor(processor, model):
    """
    Compare a retriever's processor with a model, before work starts: with another one's the model would fail in the
    middle, or give vectors that nothing fits.

    Args:
        processor (`RetrieverProcessor`):
            The processor.
        model (`RetrieverPreTrainedModel`):
            The model, also in the wrapper of peft or `torch.compile`.

    Raises:
        ValueError: If the processor is of another family, has other settings than the model's configuration or more
            pieces than the model has embeddings for, or its texts may get longer than the encoder has positions for.

    Example:
    ```python
    >>> from hf_xlir.models.pairing import check_processor

    >>> check_processor(processor, model)  # doctest: +SKIP

    ```
    """
    names = type(processor).__name__, type(model).__name__
    if not isinstance(processor, RetrieverProcessor):
        raise ValueError(f"Expected the processor of `{names[1]}`, got {names[0]}.")
    kinds = processor.config_class.model_type, model.config.model_type
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"`{names[0]}` belongs to models of type {kinds[0]!r}, but `{names[1]}` is of type {kinds[1]!r}: use the "
            "model's own processor."
        )
    processor.check_config(model.config)
    num_pieces, vocab_size = len(processor.tokenizer), model.config.encoder_config.vocab_size
    if num_pieces > vocab_size:
        raise ValueError(f"The tokenizer of `{names[0]}` has {num_pieces} pieces, `{names[1]}` only {vocab_size}.")
    check_positions(model)


__all__ = ["check_processor"]
