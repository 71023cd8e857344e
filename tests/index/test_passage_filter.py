"""Filters of passages: the classifier against its own optimality conditions, and the rules."""

import numpy as np
import pytest
import torch

from hf_xlir.index import DenseEmbeddings
from hf_xlir.index.passage_filter import L2_WEIGHT, PassageFilter, _logistic_regression, best_share, fitting_rows


def corpus(num_passages=400, seed=0):
    """The first quarter lies apart along one direction."""
    values = np.random.default_rng(seed).standard_normal((num_passages, 6)).astype("float32")
    values[: num_passages // 4] += np.array([2, -1, 0, 0, 0, 0], dtype="float32")
    return DenseEmbeddings(values, [f"p{row}" for row in range(num_passages)])


def test_unseen_passages_of_the_kind_are_scored_higher():
    embeddings = corpus()
    scores = PassageFilter.fit(embeddings, [f"p{row}" for row in range(50)]).scores(embeddings)
    assert scores.dtype == np.float32 and scores.shape == (400,)
    unseen, others = scores[50:100], scores[100:]
    assert np.mean(unseen[:, None] > others[None]) > 0.9  # area under the curve
    kept = best_share(scores, 0.4)
    assert len(kept) == 160 and np.mean(kept < 100) * 160 > 90


def test_regression_is_at_its_minimum():
    """The gradient of the penalised loss, written out in NumPy, is 0 at the found weights."""
    generator = np.random.default_rng(1)
    positives, negatives = generator.standard_normal((30, 4)) + 1, generator.standard_normal((90, 4)) * 2 + 5
    weight, bias = _logistic_regression(torch.from_numpy(positives), torch.from_numpy(negatives))
    vectors = np.concatenate([positives, negatives])
    deviation = vectors.std(axis=0, ddof=1).mean()
    weight, bias = weight.double().numpy(), float(bias)
    gradient, of_bias = 2 * L2_WEIGHT * weight * deviation, 0.0
    for sign, each in ((1, positives), (-1, negatives)):
        slopes = -sign / (1 + np.exp(sign * (each @ weight + bias)))
        gradient = gradient + (slopes[:, None] * (each - vectors.mean(axis=0)) / deviation).mean(axis=0)
        of_bias += slopes.mean()
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    assert of_bias == pytest.approx(0, abs=1e-4)


def test_saved_and_loaded(tmp_path):
    embeddings = corpus()
    fitted = PassageFilter.fit(embeddings, ["p1", "p2", "p3"], seed=3)
    fitted.save(tmp_path / "filter.safetensors")
    loaded = PassageFilter.load(tmp_path / "filter.safetensors")
    np.testing.assert_allclose(loaded.scores(embeddings), fitted.scores(embeddings), rtol=1e-6)
    again = PassageFilter.fit(embeddings, ["p1", "p2", "p3"], seed=3)
    np.testing.assert_array_equal(again.scores(embeddings), fitted.scores(embeddings))


def test_blocks_do_not_matter(monkeypatch):
    embeddings = corpus(50)
    fitted = PassageFilter.fit(embeddings, ["p1", "p2"])
    expected = fitted.scores(embeddings)
    monkeypatch.setattr("hf_xlir.index.passage_filter.PASSAGES_PER_BLOCK", 7)
    np.testing.assert_allclose(fitted.scores(embeddings), expected, rtol=1e-6)


def test_what_cannot_be_learnt():
    embeddings = corpus(4)
    with pytest.raises(ValueError, match=r"1 of `positive_ids`.*\['x'\]"):
        PassageFilter.fit(embeddings, ["p0", "x"])
    for ids, found in (([], "got 0 needed and 4"), (embeddings.ids, "got 4 needed and 0")):
        with pytest.raises(ValueError, match=found):
            PassageFilter.fit(embeddings, ids)
    other = DenseEmbeddings(np.ones((2, 3), "float32"), ["a", "b"])
    with pytest.raises(ValueError, match="have 3 dimensions, the filter 6"):
        PassageFilter.fit(embeddings, ["p0"]).scores(other)


def test_the_best_share():
    scores = np.array([0.5, 2.0, 0.5, -1.0])
    assert best_share(scores, 1).tolist() == [0, 1, 2, 3]
    assert best_share(scores, 0.5).tolist() == [0, 1]  # of equal ones the first
    assert best_share(scores, 0.01).tolist() == [1]
    for share in (0, 1.1, -1):
        with pytest.raises(ValueError, match="`share`"):
            best_share(scores, share)


def test_rules():
    passages = [
        {"title": "List of rivers", "text": "one two three"},
        {"title": "Seine", "text": "one two three four"},
        {"title": None, "text": " one\ttwo\n"},
        {"text": "one"},
    ]
    assert fitting_rows(passages).tolist() == [0, 1, 2, 3]
    assert fitting_rows(passages, min_words=2, max_words=3).tolist() == [0, 2]
    assert fitting_rows(passages, drop_titles="^List of").tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="`drop_titles`"):
        fitting_rows(passages, drop_titles="(")
