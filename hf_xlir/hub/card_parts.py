"""What cards of models, indexes and whole systems are put together from."""

import math
import re
from numbers import Real

from huggingface_hub import EvalResult


UNKNOWN = "not stated"
ALL_LANGUAGES = r"all|mean|micro|macro( over \d+ of \d+)?"  # what stands in the place of a language


def two_columns(rows):
    """A Markdown table of a dictionary."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in rows.items())])


def fenced(language, code):
    """A block of code."""
    return f"```{language}\n{code.strip()}\n```"


def cell(text):
    """Text that neither ends a cell of a table nor its row."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def quoted(names):
    """Names as code, [`UNKNOWN`] for none."""
    return ", ".join(f"`{name}`" for name in names) or UNKNOWN


def listed(value):
    """One text or several, as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def hub_ids(names):
    """Those that are ids on the Hub by their looks, `None` for none."""
    return [name for name in names if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)] or None


def licence(license, license_name=None, license_link=None):
    """What a card says of a licence; that of a file in the repository is a link, too."""
    name = license_name or license or UNKNOWN
    return name if license_link is None else f"[{name}]({license_link})"


def is_mean(language):
    """Whether results of this name are those of several languages."""
    return re.fullmatch(ALL_LANGUAGES, language) is not None


def result_tables(evaluations):
    r"""
    Results as Markdown: a table for each dataset, a row for each measure and a column for each language, means last.

    Args:
        evaluations (`dict[str, dict[str, dict[str, float]]]`):
            Results by dataset, measure and language.

    Returns:
        `str`: The tables, empty if there are no results.

    Example:
    ```python
    >>> from hf_xlir.hub.card_parts import result_tables

    >>> print(result_tables({"XQuAD-R": {"recall@5": {"mean": 49.0, "ar": 47.9}}}))
    | XQuAD-R | ar | mean |
    |---|---|---|
    | recall@5 | 47.9 | 49 |

    ```
    """
    tables = []
    for dataset, measures in evaluations.items():
        languages = list(dict.fromkeys(language for values in measures.values() for language in values))
        languages.sort(key=is_mean)
        lines = [f"| {cell(dataset)} | {' | '.join(languages)} |", "|---" * (len(languages) + 1) + "|"]
        for measure, values in measures.items():
            cells = [f"{values[each]:.6g}" if each in values else "" for each in languages]
            lines.append(f"| {cell(measure)} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def eval_results(evaluations, task):
    r"""
    Results as the Hub reads them, one for each dataset, measure and language.

    Args:
        evaluations (`dict[str, dict[str, dict[str, float]]]`):
            Results by dataset, measure and language.
        task (`str`):
            The Hub's name of the task.

    Returns:
        `list[huggingface_hub.EvalResult]`: `dataset_config` is the language.

    Raises:
        ValueError: If a result is no finite number.
    """
    results = []
    for dataset, measures in evaluations.items():
        id = dataset if hub_ids([dataset]) else re.sub(r"[^\w.]+", "-", dataset, flags=re.ASCII).strip("-") or "data"
        for measure, values in measures.items():
            for language, value in values.items():
                if not isinstance(value, Real) or not math.isfinite(value):
                    raise ValueError(f"{measure} of {dataset!r} in {language!r} must be a number, got {value!r}.")
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


def limits_of_results(evaluations, language):
    """Sentences on what the results of a model or system, and its languages, leave open."""
    of_all = {language for measures in evaluations.values() for values in measures.values() for language in values}
    measured = sorted(language for language in of_all if not is_mean(language))
    if not evaluations:
        sentences = ["Nothing here says how well it does, in any language: evaluate it on your own data first."]
    elif measured:
        sentences = [f"It was evaluated in {', '.join(measured)}; how well it does in others is unknown."]
    else:
        sentences = ["Its results are not by language; how well it does in each is unknown."]
    return sentences if language else [*sentences, "Which languages it was trained for is not stated."]


__all__ = [
    "UNKNOWN",
    "cell",
    "eval_results",
    "fenced",
    "hub_ids",
    "is_mean",
    "licence",
    "limits_of_results",
    "listed",
    "quoted",
    "result_tables",
    "two_columns",
]
