"""Which passages of a ranking may be negatives, by rank and score."""

import math
from dataclasses import dataclass

from ..evaluation.runner import RankedPassages


SAMPLING = ("top", "random")


@dataclass(frozen=True)
class NegativeChoice:
    r"""
    How negatives are chosen from a ranking. [`mine_hard_negatives`] says what the fields mean, and has their defaults.

    Args:
        num_negatives (`int`):
            Negatives a question.
        depth (`tuple[int, int]`):
            First rank to look at, from 0, and the one to stop before.
        absolute_margin (`float`, *optional*):
            How far a negative's score must at least be below the positive's.
        relative_margin (`float`, *optional*):
            The same as a share of the positive's score.
        sampling (`"top"` or `"random"`):
            Whether to take the first, or random ones.
        exclude_answers (`bool`):
            Whether a passage that holds an answer is no negative.
        seed (`int`):
            Of whatever is random.

    Raises:
        ValueError: If a field is out of range.
    """

    num_negatives: int = 1
    depth: tuple[int, int] = (0, 100)
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: str = "top"
    exclude_answers: bool = True
    seed: int = 0

    def __post_init__(self):
        if self.num_negatives < 1:
            raise ValueError(f"`num_negatives` must be at least 1, got {self.num_negatives}.")
        if len(self.depth) != 2 or not 0 <= self.depth[0] < self.depth[1]:
            raise ValueError(f"`depth` must be a rank from 0 and a higher one to stop before, got {self.depth}.")
        for name in ("absolute_margin", "relative_margin"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be a number from 0, got {getattr(self, name)}.")
        if self.sampling not in SAMPLING:
            raise ValueError(f"`sampling` must be one of {SAMPLING}, got {self.sampling!r}.")

    @property
    def has_margin(self):
        """Whether scores matter."""
        return self.absolute_margin is not None or self.relative_margin is not None

    def highest_score(self, positive):
        """The highest score that a negative may have, from the positive's."""
        absolute, relative = self.absolute_margin or 0.0, self.relative_margin or 0.0
        return positive - max(absolute, relative * abs(positive))

    def candidates(self, ids, scores, positive):
        r"""
        What rank and score allow.

        Args:
            ids (`list[str]`):
                A question's passages, best first.
            scores (`list[float]`, *optional*):
                Their scores; needed for a margin.
            positive (`str`):
                The id of the question's positive.

        Returns:
            `tuple[list[str], set[str]]`: Passages that may be negatives, best first; and those that may not even be
            drawn at random, since they rank above the depth's end or are too close to the positive.
        """
        start, stop = self.depth
        close = set()
        if self.has_margin:
            # an unranked positive is below all ranked passages, so that none of them is below it
            highest = self.highest_score(scores[ids.index(positive)]) if positive in ids else -math.inf
            close = {id for id, score in zip(ids, scores, strict=True) if score > highest}
        return [id for id in ids[start:stop] if id not in close], close.union(ids[:stop])


def ranking_of(question, rankings, needs_scores):
    r"""
    The ranking of one question, whatever holds it.

    Args:
        question (`str`):
            The question's id.
        rankings ([`RankedPassages`], `dict[str, list[str]]` or `dict[str, dict[str, float]]`):
            Rankings of questions.
        needs_scores (`bool`):
            Whether one without scores is an error.

    Returns:
        `tuple[list[str], list[float] | None]`: Passages' ids, best first, and their scores, falling.

    Raises:
        ValueError: If there is none, it has no scores or a score that is NaN, or names a passage twice.
    """
    ranked, scores = rankings, None
    if isinstance(rankings, RankedPassages):
        ranked, scores = rankings.rankings, rankings.scores.get(question)
    if question not in ranked:
        raise ValueError(f"The question `{question}` has no ranking: rank passages for all questions.")
    ids = ranked[question]
    if isinstance(ids, dict):
        if any(math.isnan(score) for score in ids.values()):
            raise ValueError(f"The ranking of question `{question}` has a score that is NaN.")
        pairs = sorted(ids.items(), key=lambda pair: -pair[1])
        return [id for id, _ in pairs], [score for _, score in pairs]
    if not isinstance(ids, list | tuple):
        raise ValueError(
            f"The ranking of question `{question}` must be a list of ids, or scores by id, got {type(ids).__name__}."
        )
    if len(set(ids)) < len(ids):
        twice = next(id for place, id in enumerate(ids) if id in ids[:place])
        raise ValueError(f"The ranking of question `{question}` names the passage `{twice}` twice.")
    if needs_scores and (scores is None or len(scores) != len(ids)):
        raise ValueError(f"The ranking of question `{question}` has no scores, which a margin needs.")
    return list(ids), scores


__all__ = ["NegativeChoice", "ranking_of"]
