"""The rows of XOR-TyDi's metrics, checked: questions with answers, and what a system has found."""

from collections.abc import Mapping

from ..data.xor_tydi import XOR_TYDI_LANGUAGES


def check_references(references, needs_language):
    """
    The answers of each question, or its answers and language, by id.

    Args:
        references (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `answers` and, if `needs_language`, `lang`, as [`load_xor_tydi`] returns them.
        needs_language (`bool`):
            Whether to look at `lang`.

    Returns:
        `dict[str, list[str]]` or `dict[str, tuple[str, list[str]]]`

    Raises:
        ValueError: If there are none, or one lacks something or occurs twice.
    """
    checked = {}
    for position, row in enumerate(references):
        where = f"`references`, row {position}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: it must be a dictionary of `id` and `answers`, got {str(row)[:60]!r}.")
        id, answers = row.get("id"), row.get("answers")
        if not isinstance(id, str) or not id:
            raise ValueError(f"{where}: its `id` is {id!r}. Ids are texts, not empty.")
        if not is_list_of_texts(answers):
            raise ValueError(f"{where}: `answers` of the question `{id}` must be a list of texts, got {answers!r}.")
        if id in checked:
            raise ValueError(f"{where}: the question `{id}` has occurred before. Ids must be unique.")
        checked[id] = answers
        if needs_language:
            language = str(row.get("lang", "")).strip()  # the published training file has `" ar"`
            if language not in XOR_TYDI_LANGUAGES:
                raise ValueError(
                    f"{where}: `lang` of the question `{id}` is {row.get('lang')!r}, not one of "
                    f"{', '.join(XOR_TYDI_LANGUAGES)}."
                )
            if not answers:
                raise ValueError(f"{where}: the question `{id}` has no answers, so that it cannot be scored.")
            checked[id] = (language, answers)
    if not checked:
        raise ValueError("`references` is empty: give at least one question.")
    return checked


def fault_of_retrieved(row):
    """What is wrong with a row of XOR-Retrieve's predictions, or `None`."""
    if not isinstance(row, Mapping):
        return f"it must be a dictionary of `id`, `lang` and `ctxs`, got {str(row)[:60]!r}"
    if not isinstance(row.get("id"), str) or not row["id"]:
        return f"its `id` is {row.get('id')!r}; ids are texts, not empty"
    if not isinstance(row.get("lang"), str) or not row["lang"].strip():
        return f"`lang` of the question `{row['id']}` is {row.get('lang')!r}; it is a language's code, such as 'ja'"
    if not is_list_of_texts(row.get("ctxs")):
        return (
            f"`ctxs` of the question `{row['id']}` must be a list of the retrieved texts, best first, got "
            f"{str(row.get('ctxs'))[:60]!r}"
        )
    return None


def is_list_of_texts(value):
    """Whether it is a list or tuple of strings."""
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


__all__ = ["check_references", "fault_of_retrieved", "is_list_of_texts"]
