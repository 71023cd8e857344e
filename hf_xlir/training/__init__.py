"""Losses, objectives, trainers and hard-negative mining."""

from ..utils.lazy import lazy_exports


_LAZY = {
    "EmbeddingDistillation": ".objectives",
    "HardNegativeRefresh": ".hard_negatives",
    "InBatchNCE": ".objectives",
    "Listwise": ".objectives",
    "MarginMSE": ".objectives",
    "OBJECTIVES": ".objectives",
    "Objective": ".objectives",
    "PublishingMixin": ".publishing",
    "READER_DISTILLATIONS": ".losses",
    "ReaderDistillation": ".objectives",
    "ReaderTrainer": ".reader_trainer",
    "ReaderTrainingArguments": ".reader_trainer",
    "RetrievalPrediction": ".retrieval_evaluation",
    "RetrieverTrainer": ".trainer",
    "RetrieverTrainingArguments": ".arguments",
    "ScoreDistillation": ".objectives",
    "TokenDistillation": ".objectives",
    "WholeCheckpointsMixin": ".checkpoints",
    "align_tokens": ".losses",
    "answer_rows": ".rows",
    "batch_scores": ".objectives",
    "dpr_rows": ".rows",
    "embedding_distillation_loss": ".losses",
    "in_batch_nce_loss": ".losses",
    "last_whole_checkpoint": ".checkpoints",
    "listwise_cross_entropy_loss": ".losses",
    "margin_mse_loss": ".losses",
    "mine_hard_negatives": ".hard_negatives",
    "pair_scores": ".objectives",
    "rank_passages_together": ".retrieval_evaluation",
    "reader_distillation_loss": ".losses",
    "reader_rows": ".rows",
    "register_objective": ".objectives",
    "retrieval_metrics": ".retrieval_evaluation",
    "score_distillation_loss": ".losses",
    "score_margin": ".objectives",
    "token_distillation_loss": ".losses",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _LAZY)
