"""Losses, objectives, trainers and hard-negative mining."""

from ..utils.lazy import lazy_exports


_LAZY = {
    "HardNegativeRefresh": ".hard_negative_refresh",
    "ReaderTrainer": ".reader_trainer",
    "ReaderTrainingArguments": ".reader_trainer",
    "RetrieverTrainer": ".trainer",
    "RetrieverTrainingArguments": ".training_args",
    "mine_hard_negatives": ".hard_negatives",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
