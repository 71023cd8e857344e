"""From a reader's examples to a training batch."""

from dataclasses import dataclass


@dataclass
class ReaderCollator:
    r"""
    Makes the batches of [`ReaderTrainer`]: questions, their passages, and what the reader shall write.

    A row is an example as [`load_reader_examples`] returns it: `question`, `ctxs` (passages, of which the processor
    keeps the first `n_context`, and of which there may be fewer or none), and `target` or `answers`. What the reader
    shall write is the `target`, or else the first of the answers; [`answer_rows`] sets it to any of them.

    Args:
        processor ([`FiDT5Processor`]):
            The reader's processor.

    Example:
    ```python
    >>> from transformers import T5Tokenizer
    >>> from hf_xlir import FiDT5Processor
    >>> from hf_xlir.data.reader_collator import ReaderCollator

    >>> collator = ReaderCollator(FiDT5Processor(T5Tokenizer()))  # or `from_pretrained("google-t5/t5-base")`
    >>> passages = [{"title": "Nile", "text": "It flows north."}, {"title": "Oder", "text": "It flows north, too."}]
    >>> batch = collator([{"question": "Where does the Nile flow?", "ctxs": passages, "answers": ["north"]}])
    >>> sorted(batch), batch["input_ids"].shape[:2]
    (['attention_mask', 'input_ids', 'labels'], torch.Size([1, 2]))

    ```
    """

    processor: object

    def __call__(self, rows):
        """
        Tokenize rows.

        Args:
            rows (`list[dict]`):
                See the class.

        Returns:
            `dict` of what [`FiDT5Processor`] returns; `labels` only if all rows have a target or answers.
        """
        targets = [target_of(row) for row in rows]
        inputs = self.processor(
            [row["question"] for row in rows],
            passages=[row["ctxs"] for row in rows],
            answers=None if None in targets else targets,
        )
        return dict(inputs)


def target_of(row):
    """What the reader shall write: the row's `target`, or else the first of its `answers`, or `None`."""
    if row.get("target") is not None:
        return row["target"]
    return next(iter(row.get("answers") or ()), None)


__all__ = ["ReaderCollator"]
