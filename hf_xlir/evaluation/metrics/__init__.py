"""
Metrics of `evaluate`, one a file, which needs this package and no other file: `evaluate.load` takes its path, and a
Space with the file, under the Space's name, and a `requirements.txt` that names `hf_xlir` publishes it.
"""

from pathlib import Path


FOLDER = Path(__file__).parent


def metric_path(name):
    r"""
    Where a metric's file is, for `evaluate.load`.

    Args:
        name (`str`):
            `"answer_recall"`, `"open_domain_qa"`, `"retrieval_ranking"`, `"xor_english_span"`, `"xor_full"` or
            `"xor_retrieve"`.

    Returns:
        `str`

    Raises:
        ValueError: If there is no such metric.

    Example:
    ```python
    >>> from pathlib import Path
    >>> import evaluate
    >>> from hf_xlir.evaluation.metrics import metric_path

    >>> Path(metric_path("open_domain_qa")).name
    'open_domain_qa.py'
    >>> metric = evaluate.load(metric_path("open_domain_qa"), keep_in_memory=True)  # doctest: +SKIP
    >>> metric.compute(predictions=["the Seine"], references=[["Seine"]])  # doctest: +SKIP
    {'exact_match': 1.0, 'f1': 1.0}

    ```
    """
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    if name not in names:
        raise ValueError(f"There is no metric {name!r}. Choose among {', '.join(names)}.")
    return str(FOLDER / f"{name}.py")


__all__ = ["metric_path"]
