"""Arguments of the retriever's trainer."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .losses import READER_DISTILLATIONS
from .publishing import PublishableArguments


OBJECTIVES = (
    "in_batch_nce",
    "listwise",
    "score_distillation",
    "margin_mse",
    "reader_distillation",
    "token_distillation",
    "embedding_distillation",
)
# The arguments below that decide what is learnt, in their order
OBJECTIVE_SETTINGS = (
    "score_scale",
    "in_batch_weight",
    "temperature",
    "distill_in_batch",
    "teacher_documents",
    "teacher_score_scale",
    "reader_distillation",
    "query_weight",
    "distance",
    "contrast_scale",
)


@dataclass
class RetrieverTrainingArguments(PublishableArguments, TrainingArguments):
    r"""
    Arguments of [`RetrieverTrainer`], added to those of [`~transformers.TrainingArguments`].

    Three inherited defaults differ: `remove_unused_columns` is `False`, since the collator reads columns that no model
    takes; `ddp_find_unused_parameters` is `False` unless queries alone are encoded, since DistributedDataParallel
    looks for unused parameters after one forward pass, and would take the other tower for unused; and each process
    reads its own share of a streamed dataset (`dispatch_batches` of `accelerator_config` is `False`), since a batch
    has more documents than queries, and dispatching would cut it.

    Args:
        > Parameters that control the objective

        objective (`str`, *optional*, defaults to `"in_batch_nce"`):
            One of

            - `"in_batch_nce"`: every query against all documents of the batch
              (https://huggingface.co/papers/2004.04906);
            - `"listwise"`: every query against its own documents, positive first
              (https://huggingface.co/papers/2112.01488);
            - `"score_distillation"`: the teacher's scores of those documents (https://huggingface.co/papers/2112.08185);
            - `"margin_mse"`: the teacher's margins between the positive and each negative
              (https://huggingface.co/papers/2010.02666);
            - `"reader_distillation"`: how much each passage of a question helped a reader, as `reader_distillation`
              says (https://huggingface.co/papers/2012.04584). One vector a text is scored by its inner product divided
              by the square root of `embedding_dim`, token vectors by MaxSim;
            - `"token_distillation"`: the teacher's token embeddings on parallel text (same paper);
            - `"embedding_distillation"`: the teacher's sentence vectors on parallel text
              (https://huggingface.co/papers/2004.09813).
        score_scale (`float`, *optional*, defaults to 1.0):
            Factor on the model's scores before a softmax: 1 for inner products and sums of cosines, about 20 for a
            single cosine.
        in_batch_weight (`float`, *optional*, defaults to 0.0):
            With `"listwise"`, the weight of `"in_batch_nce"` beside it; 0 leaves it out.

        > Parameters that control memory

        gradient_cache_chunk_size (`int`, *optional*):
            Texts to hold in memory with their activations at a time, when a batch is too large for it
            (https://huggingface.co/papers/2101.06983): loss and gradients are those of the whole batch, dropout
            included, for one more forward pass. Where no row's loss depends on another row, a small batch with
            `gradient_accumulation_steps` gives the same for less. `None` encodes the batch at once.

        > Parameters that control distillation

        temperature (`float`, *optional*, defaults to 2.0):
            Softens both distributions in score distillation; 2 in DR.DECR.
        distill_in_batch (`bool`, *optional*, defaults to `False`):
            Whether score distillation spans all documents of the batch instead of each query's own.
        reader_distillation (`"kl"`, `"perplexity"` or `"emdr2"`, *optional*, defaults to `"kl"`):
            What reader distillation does with a reader's scores, and which they are: attention scores for `"kl"`,
            answers' log-likelihoods for the others; see [`~hf_xlir.training.losses.reader_distillation_loss`].
        teacher_documents (`bool`, *optional*, defaults to `False`):
            Whether score distillation and Margin-MSE score the student's queries against the teacher's document
            embeddings. The student then never encodes documents: it learns to search the teacher's index, and both
            need one `embedding_dim`.
        teacher_score_scale (`float`, *optional*, defaults to 1.0):
            `score_scale` of the teacher, or of a reader, whose attention to passages may differ little.
        query_weight (`float`, *optional*, defaults to 0.5):
            Weight of the query side in token distillation, against 1 - `query_weight` for the documents; 0.5 in
            DR.DECR. With 1 no documents are encoded, and rows need none.
        distance (`"mse"`, `"l1"` or `"cosine"`, *optional*, defaults to `"mse"`):
            Distance to the teacher: `"mse"` or `"l1"` between tokens, `"mse"` or `"cosine"` between sentence vectors.
        contrast_scale (`float`, *optional*):
            With sentence vectors, adds the cross-entropy of the scaled cosines to the teacher's vectors of the whole
            batch, label = own. `None` leaves it out.

        > Parameters that control evaluation

        eval_k (`int`, *optional*, defaults to 100):
            Passages to rank for each evaluation question.
    """

    objective: str = field(default="in_batch_nce", metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    score_scale: float = field(default=1.0, metadata={"help": "Factor on the model's scores before a softmax."})
    in_batch_weight: float = field(default=0.0, metadata={"help": "Weight of the in-batch term beside listwise."})
    gradient_cache_chunk_size: int | None = field(
        default=None, metadata={"help": "Texts whose activations are in memory at a time; all by default."}
    )
    temperature: float = field(default=2.0, metadata={"help": "Temperature of score distillation."})
    distill_in_batch: bool = field(
        default=False, metadata={"help": "Distil scores of all documents of the batch, not each query's own."}
    )
    teacher_documents: bool = field(
        default=False, metadata={"help": "Score the student's queries against the teacher's document embeddings."}
    )
    teacher_score_scale: float = field(default=1.0, metadata={"help": "Factor on the teacher's scores."})
    reader_distillation: str = field(
        default="kl",
        metadata={"help": f"What to do with a reader's scores: one of {', '.join(READER_DISTILLATIONS)}."},
    )
    query_weight: float = field(default=0.5, metadata={"help": "Weight of queries in token distillation."})
    distance: str = field(default="mse", metadata={"help": 'Distance to the teacher: "mse", "l1" or "cosine".'})
    contrast_scale: float | None = field(
        default=None, metadata={"help": "Scale of the in-batch contrast against the teacher's sentence vectors."}
    )
    eval_k: int = field(default=100, metadata={"help": "Passages to rank for each evaluation question."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The collator reads columns that no model takes."}
    )

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}.")
        if self.reader_distillation not in READER_DISTILLATIONS:
            raise ValueError(
                f"`reader_distillation` must be one of {READER_DISTILLATIONS}, got {self.reader_distillation!r}."
            )
        distances = {"token_distillation": ("mse", "l1"), "embedding_distillation": ("mse", "cosine")}
        allowed = distances.get(self.objective)
        if allowed and self.distance not in allowed:
            raise ValueError(f"`distance` must be one of {allowed} for {self.objective}, got {self.distance!r}.")
        for name, objectives in (
            ("distill_in_batch", ("score_distillation",)),
            ("teacher_documents", ("score_distillation", "margin_mse")),
            ("in_batch_weight", ("listwise",)),
            ("reader_distillation", ("reader_distillation",)),
        ):
            value = getattr(self, name)
            if value not in (False, 0, "kl") and self.objective not in objectives:
                needed = " or ".join(f'"{objective}"' for objective in objectives)
                raise ValueError(f"`{name}={value}` needs `objective={needed}`, got {self.objective!r}.")
        if self.in_batch_weight < 0:
            raise ValueError(f"`in_batch_weight` may not be negative, got {self.in_batch_weight}.")
        if self.gradient_cache_chunk_size is not None and self.gradient_cache_chunk_size < 1:
            raise ValueError(f"`gradient_cache_chunk_size` must be at least 1, got {self.gradient_cache_chunk_size}.")
        if not 0.0 <= self.query_weight <= 1.0:
            raise ValueError(f"`query_weight` must be from 0 to 1, got {self.query_weight}.")
        if self.eval_k < 1:
            raise ValueError(f"`eval_k` must be at least 1, got {self.eval_k}.")
        for name in ("temperature", "score_scale", "teacher_score_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.encodes_documents and self.ddp_find_unused_parameters:
            raise ValueError(
                "`ddp_find_unused_parameters=True` does not work with two forward passes before the gradient: freeze "
                "the parameters that have no part in the loss with `requires_grad_(False)`."
            )
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = not self.encodes_documents
        super().__post_init__()
        if self.gradient_cache_chunk_size is not None and ("lomo" in self.optim or self.deepspeed_plugin):
            raise ValueError(
                "`gradient_cache_chunk_size` does not work with DeepSpeed or LOMO, which take every backward pass for "
                "that of a whole batch: leave one of them out."
            )
        if self.accelerator_config.dispatch_batches:
            raise ValueError(
                "`dispatch_batches=True` would cut a batch's documents to the number of its queries: leave it out."
            )
        self.accelerator_config.dispatch_batches = False

    @property
    def encodes_documents(self):
        """Whether the model in training encodes documents at all."""
        return not self.distils_queries_alone and not self.teacher_documents

    @property
    def teacher_may_encode_documents(self):
        """Whether a teacher, if there is one, has documents to encode."""
        distils_scores = self.objective in ("score_distillation", "margin_mse")
        return distils_scores or (self.objective == "token_distillation" and not self.distils_queries_alone)

    @property
    def distils_queries_alone(self):
        """Whether documents have no part in the objective."""
        queries_alone = self.objective == "token_distillation" and self.query_weight == 1.0
        return queries_alone or self.objective == "embedding_distillation"


__all__ = ["OBJECTIVES", "OBJECTIVE_SETTINGS", "RetrieverTrainingArguments"]
