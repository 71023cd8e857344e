"""Choosing the passages of a corpus that are worth space in its index."""

import re

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


NEGATIVES_PER_POSITIVE = 10
L2_WEIGHT = 1e-3
ITERATIONS = 200
PASSAGES_PER_BLOCK = 2**14


class PassageFilter:
    r"""
    Scores how likely questions are to need a passage, by a logistic regression on its vector. The linear classifier of
    https://huggingface.co/papers/2012.15156 shrinks an index in the same way: it keeps the best-scored passages only.

    Args:
        weight (`torch.FloatTensor` of shape `(embedding_dim,)`):
            Direction of needed passages.
        bias (`float`):
            Number that is added to the inner product.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_xlir.index import DenseEmbeddings, PassageFilter

    >>> values = np.random.default_rng(0).standard_normal((100, 4)).astype("float32")
    >>> values[:20, 0] += 3  # what was needed so far
    >>> embeddings = DenseEmbeddings(values, [str(row) for row in range(100)])
    >>> scores = PassageFilter.fit(embeddings, [str(row) for row in range(10)]).scores(embeddings)
    >>> bool(scores[10:20].mean() > scores[20:].mean() + 1)
    True

    ```
    """

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, float(bias)

    @classmethod
    def fit(cls, embeddings, positive_ids, seed=0):
        r"""
        Fit a filter to the passages that training questions needed.

        Args:
            embeddings ([`DenseEmbeddings`]):
                All passages.
            positive_ids (`Iterable[str]`):
                Needed passages, such as gold passages or passages with an answer. Up to 10 times as many others are
                drawn as negatives; both kinds weigh the same.
            seed (`int`, *optional*, defaults to 0):
                Seed of the draw.

        Returns:
            [`PassageFilter`].

        Raises:
            ValueError: If an id is unknown, or either kind has no passage.
        """
        row_of_id = {id: row for row, id in enumerate(embeddings.ids)}
        positive_ids = set(positive_ids)
        unknown = sorted(str(id) for id in positive_ids if id not in row_of_id)
        if unknown:
            raise ValueError(f"{len(unknown)} of `positive_ids` are not among the passages, such as {unknown[:5]}.")
        positives = np.array(sorted(row_of_id[id] for id in positive_ids), dtype=np.int64)
        others = np.setdiff1d(np.arange(len(embeddings)), positives)
        if not len(positives) or not len(others):
            raise ValueError(
                f"A filter needs both kinds of passages, got {len(positives)} needed and {len(others)} others."
            )
        number = min(len(others), NEGATIVES_PER_POSITIVE * len(positives))
        negatives = np.sort(np.random.default_rng(seed).choice(others, number, replace=False))
        kinds = (np.asarray(embeddings.values[rows], dtype=np.float64) for rows in (positives, negatives))
        return cls(*_logistic_regression(*map(torch.from_numpy, kinds)))

    def scores(self, embeddings):
        """Log-odds that the passages of [`DenseEmbeddings`] are needed: float32 of shape `(number of passages,)`."""
        if embeddings.embedding_dim != len(self.weight):
            raise ValueError(
                f"The embeddings have {embeddings.embedding_dim} dimensions, the filter {len(self.weight)}: use the "
                "model that it was fitted with."
            )
        scores = np.empty(len(embeddings), dtype=np.float32)
        for start in range(0, len(embeddings), PASSAGES_PER_BLOCK):
            block = torch.from_numpy(np.asarray(embeddings.values[start : start + PASSAGES_PER_BLOCK], np.float32))
            scores[start : start + len(block)] = (block @ self.weight + self.bias).numpy()
        return scores

    def save(self, path):
        """Write a safetensors file."""
        save_file({"weight": self.weight.contiguous(), "bias": torch.tensor([self.bias])}, path)

    @classmethod
    def load(cls, path):
        """Read what [`~PassageFilter.save`] wrote."""
        with safe_open(path, "pt") as file:
            return cls(file.get_tensor("weight"), file.get_tensor("bias"))


def best_share(scores, share):
    r"""
    Rows of the best-scored passages, in rising order.

    Args:
        scores (`numpy.ndarray` of shape `(number of passages,)`):
            Higher is better; of equal scores the first rows are kept.
        share (`float`):
            Share to keep, above 0 and at most 1; at least one passage is kept.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be above 0 and at most 1, got {share}.")
    number = max(1, round(share * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:number])


def fitting_rows(passages, min_words=0, max_words=None, drop_titles=None):
    r"""
    Rows of the passages with a suitable length and title, in rising order.

    Args:
        passages (`Iterable[dict]`):
            Rows with `text` and perhaps `title`.
        min_words, max_words (`int`, *optional*):
            Minimum and maximum number of words of a text, split at white space.
        drop_titles (`str`, *optional*):
            A regular expression; passages whose title contains it are dropped, such as
            `r"^(List of|Index of)|\(disambiguation\)"`.

    Returns:
        `numpy.ndarray` of int64.

    Raises:
        ValueError: If `drop_titles` is not a regular expression.
    """
    try:
        pattern = None if drop_titles is None else re.compile(drop_titles)
    except re.error as error:
        raise ValueError(f"`drop_titles` is not a regular expression: {drop_titles!r}: {error}") from error

    def fits(passage):
        if pattern is not None and pattern.search(passage.get("title") or ""):
            return False
        number = len(passage["text"].split())
        return min_words <= number and (max_words is None or number <= max_words)

    return np.flatnonzero(np.fromiter((fits(passage) for passage in passages), dtype=bool))


def _logistic_regression(positives, negatives):
    """Weight and bias that separate two sets of float64 vectors, which weigh the same."""
    vectors = torch.cat([positives, negatives])
    mean, deviation = vectors.mean(dim=0), vectors.std(dim=0).mean().clamp_min(1e-12)
    scaled = [(each - mean) / deviation for each in (positives, negatives)]
    weight = torch.zeros(vectors.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = L2_WEIGHT * weight.square().sum()
        for sign, each in zip((1, -1), scaled, strict=True):
            loss = loss + torch.nn.functional.softplus(-sign * (each @ weight + bias)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = (weight / deviation).detach()
    return weight.float(), float(bias.detach() - mean @ weight)


__all__ = ["PassageFilter", "best_share", "fitting_rows"]
