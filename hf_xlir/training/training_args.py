"""Arguments of the retriever's trainer."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


OBJECTIVES = (
    "in_batch_nce",
    "listwise",
    "score_distillation",
    "token_distillation",
    "embedding_distillation",
)


@dataclass
class RetrieverTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`RetrieverTrainer`], added to those of [`~transformers.TrainingArguments`].

    One inherited default differs: `remove_unused_columns` is `False`, since the collator reads columns that no model
    takes.

    Args:
        > Parameters that control the objective

        objective (`str`, *optional*, defaults to `"in_batch_nce"`):
            One of

            - `"in_batch_nce"`: every query against all documents of the batch
              (https://huggingface.co/papers/2004.04906);
            - `"listwise"`: every query against its own documents, positive first
              (https://huggingface.co/papers/2112.01488);
            - `"score_distillation"`: the teacher's scores of those documents (https://huggingface.co/papers/2112.08185);
            - `"token_distillation"`: the teacher's token embeddings on parallel text (same paper);
            - `"embedding_distillation"`: the teacher's sentence vectors on parallel text
              (https://huggingface.co/papers/2004.09813).
        score_scale (`float`, *optional*, defaults to 1.0):
            Factor on the model's scores before a softmax: 1 for inner products and sums of cosines, about 20 for a
            single cosine.

        > Parameters that control distillation

        temperature (`float`, *optional*, defaults to 2.0):
            Softens both distributions in score distillation; 2 in DR.DECR.
        distill_in_batch (`bool`, *optional*, defaults to `False`):
            Whether score distillation spans all documents of the batch instead of each query's own.
        teacher_score_scale (`float`, *optional*, defaults to 1.0):
            `score_scale` of the teacher.
        query_weight (`float`, *optional*, defaults to 0.5):
            Weight of the query side in token distillation, against 1 - `query_weight` for the documents; 0.5 in
            DR.DECR.
        distance (`"mse"`, `"l1"` or `"cosine"`, *optional*, defaults to `"mse"`):
            Distance to the teacher: `"mse"` or `"l1"` between tokens, `"mse"` or `"cosine"` between sentence vectors.
        contrast_scale (`float`, *optional*):
            With sentence vectors, adds the cross-entropy of the scaled cosines to the teacher's vectors of the whole
            batch, label = own. `None` leaves it out.
    """

    objective: str = field(default="in_batch_nce", metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    score_scale: float = field(default=1.0, metadata={"help": "Factor on the model's scores before a softmax."})
    temperature: float = field(default=2.0, metadata={"help": "Temperature of score distillation."})
    distill_in_batch: bool = field(
        default=False, metadata={"help": "Distil scores of all documents of the batch, not each query's own."}
    )
    teacher_score_scale: float = field(default=1.0, metadata={"help": "Factor on the teacher's scores."})
    query_weight: float = field(default=0.5, metadata={"help": "Weight of queries in token distillation."})
    distance: str = field(default="mse", metadata={"help": 'Distance to the teacher: "mse", "l1" or "cosine".'})
    contrast_scale: float | None = field(
        default=None, metadata={"help": "Scale of the in-batch contrast against the teacher's sentence vectors."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The collator reads columns that no model takes."}
    )

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}.")
        distances = {"token_distillation": ("mse", "l1"), "embedding_distillation": ("mse", "cosine")}
        allowed = distances.get(self.objective)
        if allowed and self.distance not in allowed:
            raise ValueError(f"`distance` must be one of {allowed} for {self.objective}, got {self.distance!r}.")
        if not 0.0 <= self.query_weight <= 1.0:
            raise ValueError(f"`query_weight` must be from 0 to 1, got {self.query_weight}.")
        for name in ("temperature", "score_scale", "teacher_score_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        super().__post_init__()


__all__ = ["OBJECTIVES", "RetrieverTrainingArguments"]
