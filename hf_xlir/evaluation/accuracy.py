"""Accuracy as a metric of `evaluate` that needs no download."""

import datasets
import evaluate
import numpy as np


class Accuracy(evaluate.Metric):
    r"""
    The share of predictions that equal their reference: what `evaluate.load("accuracy")` fetches from the Hub.

    Takes the arguments of [`evaluate.Metric`]; with `keep_in_memory=True` no prediction is written to the disk, though
    `evaluate` makes an empty folder in its `cache_dir`.

    Example:
    ```python
    >>> from hf_xlir.evaluation.accuracy import Accuracy

    >>> Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 0])
    {'accuracy': 0.75}

    ```
    """

    def _info(self):
        features = {name: datasets.Value("int64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description="The share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: integers, equally many.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


__all__ = ["Accuracy"]
