"""Accuracy as `evaluate` has it, offline."""

import evaluate
import numpy as np
import pytest

from hf_xlir.evaluation.accuracy import Accuracy


def test_the_share_of_equal_ones():
    metric = Accuracy(keep_in_memory=True)
    assert isinstance(metric, evaluate.Metric)
    assert metric.compute(predictions=np.array([0, 1, 2, 2]), references=[0, 1, 2, 0]) == {"accuracy": 0.75}
    assert metric.compute(predictions=[5], references=[-5]) == {"accuracy": 0.0}
    metric.add_batch(predictions=[1, 2], references=[1, 1])
    metric.add(prediction=3, reference=3)
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="Mismatch"):
        metric.compute(predictions=[1, 2], references=[1])


def test_nothing_but_an_empty_folder_is_left_on_the_disk(tmp_path):
    metric = Accuracy(keep_in_memory=True, cache_dir=str(tmp_path))
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
