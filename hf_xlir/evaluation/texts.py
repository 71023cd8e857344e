"""Passages' texts by id, of those that were ranked only."""

from datasets import Dataset


PASSAGES_PER_BLOCK = 100_000


def texts_by_id(ids, passages):
    r"""
    The texts of some passages. All ids are read, but only these texts.

    Args:
        ids (`Iterable[str]`):
            The passages that are wanted.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id` and `text`.

    Returns:
        `dict[str, str]`

    Raises:
        ValueError: If one of them is not among `passages`.

    Example:
    ```python
    >>> from hf_xlir.evaluation.texts import texts_by_id

    >>> texts_by_id(["b"], [{"id": "a", "text": "On the Seine."}, {"id": "b", "text": "On the Tiber."}])
    {'b': 'On the Tiber.'}

    ```
    """
    wanted, rows = set(ids), {}
    for start in range(0, len(passages), PASSAGES_PER_BLOCK):
        block = _column(passages, "id", slice(start, start + PASSAGES_PER_BLOCK))
        rows |= {id: row for row, id in enumerate(block, start) if id in wanted}
    unknown = sorted(wanted - rows.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} ranked passages are not among `passages`, such as {unknown[:3]}: give the passages that "
            "were ranked."
        )
    return dict(zip(rows, _column(passages, "text", list(rows.values())), strict=True)) if rows else {}


def _column(passages, name, rows):
    """One column of some rows, a slice or a list of numbers; other columns of a dataset are not decoded."""
    if isinstance(passages, Dataset):
        with passages.formatted_as(columns=[name]):
            return passages[rows][name]
    return [row[name] for row in (passages[rows] if isinstance(rows, slice) else (passages[row] for row in rows))]


__all__ = ["texts_by_id"]
