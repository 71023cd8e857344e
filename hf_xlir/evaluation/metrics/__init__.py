"""
Metrics for `evaluate`, one per file. Each file needs only this package: `evaluate.load` takes its path. To publish a
metric, put its file into a Space under the Space's name, with a `requirements.txt` that names `hf_xlir`.
"""

from pathlib import Path


FOLDER = Path(__file__).parent


def metric_path(name):
    r"""
    The path of a metric's file, for `evaluate.load`.

    Args:
        name (`str`):
            `"answer_recall"`, `"open_domain_qa"`, `"retrieval_ranking"`, `"xor_english_span"`, `"xor_full"` or
            `"xor_retrieve"`.

    Returns:
        `str`

    Raises:
        ValueError: If the metric is unknown.

    Example:
    ```python
    >>> from pathlib import Path
    >>> import evaluate
    >>> from hf_xlir.evaluation import metric_path

    >>> Path(metric_path("open_domain_qa")).name
    'open_domain_qa.py'
    >>> metric = evaluate.load(metric_path("open_domain_qa"), keep_in_memory=True)  # doctest: +SKIP
    >>> metric.compute(predictions=["the Seine"], references=[["Seine"]])  # doctest: +SKIP
    {'exact_match': 1.0, 'f1': 1.0}

    ```
    """
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    if name not in names:
        raise ValueError(f"`name` must be one of {', '.join(map(repr, names))}, got {name!r}.")
    return str(FOLDER / f"{name}.py")


__all__ = ["metric_path"]
