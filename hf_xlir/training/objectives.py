"""
Training objectives: one class per objective, and their registry.

An objective says which columns it reads, what it needs of a teacher and which settings it has. Called with the
embeddings of a batch, it returns the terms of the loss. Everything else in the package asks the objective.
"""

import math
from dataclasses import dataclass, field, fields
from inspect import isclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..models.late_interaction import maxsim_pair_scores, maxsim_scores
from ..utils.checks import check_choice
from .distributed import gather_with_gradient, process_index
from .losses import (
    READER_DISTILLATIONS,
    count_distilled_tokens,
    embedding_distillation_loss,
    floating,
    in_batch_nce_loss,
    listwise_cross_entropy_loss,
    margin_mse_loss,
    reader_distillation_loss,
    score_distillation_loss,
    token_distillation_loss,
)


OBJECTIVES = {}  # class by name
DOCUMENT_COLUMNS = ("positive", "negatives", "documents")
MAX_SIMILARITIES = 2**27  # of token pairs at once: 0.5 GiB in float32


def setting(default, help):
    """A field of an objective's `Settings`, with the text that `--help` shows."""
    return field(default=default, metadata={"help": help})


class Objective:
    r"""
    Base class of training objectives. A subclass defines the class attributes below and `__call__`. Pass it to
    [`RetrieverTrainer`] as an object (`objective=MyObjective()`), or register it with [`register_objective`] and name
    it in [`RetrieverTrainingArguments`].

    Each process calls the objective with its own part of the batch. An objective that compares across the batch
    gathers the other processes' embeddings, as [`batch_scores`] does.

    Class attributes (properties where they depend on the settings):

    - `name` (`str`): the name in [`RetrieverTrainingArguments`], logs and model cards.
    - `columns` (`tuple[str]`, defaults to `("query", "positive")`): columns that the rows must have, in the words of
      [`RetrieverCollator`]. Rows with `documents` need no `positive` and `negatives`, rows with `negative` no
      `negatives`. They are checked before training starts. With a `data_collator` of your own they are not.
    - `needs_teacher` (`bool`, defaults to `False`): whether a teacher model must be given. It then encodes queries and
      documents as far as the batch has them.
    - `stored_columns` (`tuple[str]`, defaults to `()`): columns with results of a teacher that ran before. Rows need
      them where no teacher is given.
    - `papers` (`tuple[str]`, defaults to `()`): arXiv ids of the papers that model cards cite.
    - `Settings`: a dataclass with the objective's settings and their defaults; empty by default.
    - `vectors` (`"vectors"`, `"token_vectors"` or `None`, the default): what the model must return, one vector per
      text or per token, if it matters.
    - `compares_vectors` (`bool`, defaults to `False`): whether vectors of the model are compared with those of the
      teacher. Both must then have the same `vectors` and `embedding_dim`.
    - `encodes_documents` (`bool`): whether the model encodes documents. By default, whether `columns` names any.
    - `teacher_encodes_documents` (`bool`): the same for the teacher, if there is one. By default, whether a teacher is
      needed and the model encodes documents.

    Attributes:
        settings: The `Settings`.
        margin (`torch.FloatTensor`, *optional*):
            Mean difference between the score of the positive and that of the best negative in the last call, see
            [`score_margin`]. The trainer logs it. `None` for objectives that do not set it.

    Args:
        settings:
            Values of the settings by name.

    Raises:
        ValueError: If the objective has no such setting, or a value is out of range.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.models.modeling_retriever import RetrieverOutput
    >>> from hf_xlir.training import Listwise, Objective

    >>> class SquaredError(Objective):
    ...     name, columns = "squared_error", ("query", "positive")
    ...
    ...     def __call__(self, outputs, batch):
    ...         difference = outputs["queries"].embeddings - outputs["documents"].embeddings
    ...         return {"squared_error": difference.square().mean()}

    >>> outputs = {"queries": RetrieverOutput(torch.eye(2)), "documents": RetrieverOutput(2 * torch.eye(2))}
    >>> SquaredError()(outputs, {})
    {'squared_error': tensor(0.5000)}
    >>> outputs["documents"] = RetrieverOutput(torch.eye(2)[[0, 1, 1, 0]])  # a positive and a negative per query
    >>> Listwise(score_scale=2.0)(outputs, {})
    {'listwise': tensor(0.1269)}

    ```
    """

    name = None
    columns = ("query", "positive")
    needs_teacher = False
    stored_columns = ()
    papers = ()
    vectors = None
    compares_vectors = False
    margin = None

    @dataclass(frozen=True)
    class Settings:
        """None."""

    settings = Settings()

    def __init__(self, **settings):
        names = [each.name for each in fields(self.Settings)]
        unknown = [name for name in settings if name not in names]
        if unknown:
            raise ValueError(
                f"The objective `{self.name}` has no setting {', '.join(f'`{name}`' for name in unknown)}. "
                f"Its settings are: {', '.join(f'`{name}`' for name in names) or 'none'}."
            )
        self.settings = self.Settings(**settings)

    def __call__(self, outputs, batch):
        """
        The loss of a batch.

        Args:
            outputs (`dict[str, RetrieverOutput]`):
                `queries` and, if the model encodes them, `documents`; `teacher_queries` and `teacher_documents` as far
                as [`Objective.teacher_texts`] names them.
            batch (`dict`):
                The batch of [`RetrieverCollator`]: inputs of the models, keys of texts, and stored results of a
                teacher or reader.

        Returns:
            `dict[str, torch.FloatTensor]`: Scalars by name. Their sum is the loss. Each is a mean over the rows of
            this process, or over what [`Objective.count_items`] counts under its name, times its weight.
        """
        raise NotImplementedError(f"`{type(self).__name__}` does not define `__call__`.")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed.items())})"

    @property
    def changed(self):
        """The settings that differ from their defaults, by name."""
        values = {each.name: (getattr(self.settings, each.name), each.default) for each in fields(self.settings)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def encodes_documents(self):
        """Whether the model encodes documents."""
        return not set(DOCUMENT_COLUMNS).isdisjoint(self.columns)

    @property
    def teacher_encodes_documents(self):
        """Whether a teacher, if there is one, encodes documents."""
        return self.needs_teacher and self.encodes_documents

    def prepare(self, processor, teacher_processor=None):
        """Called once by the trainer, with the processors of the model and of the teacher."""

    def teacher_texts(self, batch):
        """Which texts of a batch the teacher encodes: a list of `"queries"` and `"documents"`."""
        return [kind for kind in ("queries", "documents") if self.needs_teacher and f"teacher_{kind}" in batch]

    def count_items(self, batch):
        """
        Over how many items of this process each term is a mean: `dict[str, torch.LongTensor]` of scalars. `"rows"`
        holds for every term without an entry of its own.
        """
        mask = _mask(batch["queries"])
        return {"rows": torch.full((), len(mask), device=mask.device)}


def register_objective(objective):
    r"""
    Register an objective, so that [`RetrieverTrainingArguments`] takes it by its name. Also works as a decorator.

    Args:
        objective (`type`):
            A subclass of [`Objective`] with a `name`.

    Returns:
        The class.

    Raises:
        ValueError: If it is not a subclass of [`Objective`], has no name, or another class has that name.

    Example:
    ```python
    >>> from hf_xlir.training import Objective, register_objective

    >>> @register_objective
    ... class MyObjective(Objective):
    ...     name, columns = "my_objective", ("query", "positive")

    ```
    """
    if not isclass(objective) or not issubclass(objective, Objective):
        raise ValueError(f"Expected a subclass of `Objective`, got {objective!r}.")
    if not isinstance(objective.name, str) or not objective.name:
        raise ValueError(f"`{objective.__name__}.name` must be a text, got {objective.name!r}.")
    known = OBJECTIVES.get(objective.name, objective)
    if (known.__module__, known.__qualname__) != (objective.__module__, objective.__qualname__):
        raise ValueError(
            f"Another objective, `{known.__qualname__}`, has the name {objective.name!r}: choose another."
        )
    OBJECTIVES[objective.name] = objective
    return objective


def objective_class(name):
    """The registered class of a name."""
    return OBJECTIVES[check_choice("objective", name, tuple(OBJECTIVES))]


def make_objective(objective, settings):
    """An [`Objective`] from itself, its class or its registered name; settings are for the latter two."""
    if isinstance(objective, Objective):
        if settings:
            raise ValueError(
                f"`objective={objective!r}` has its settings already: leave {sorted(settings)} out of the arguments."
            )
        return objective
    if isclass(objective) and issubclass(objective, Objective):
        return objective(**settings)
    if not isinstance(objective, str):
        raise ValueError(f"`objective` must be an `Objective`, its class or its name, got {type(objective).__name__}.")
    return objective_class(objective)(**settings)


def _check_positive(settings, *names):
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(settings, name)}.")


@dataclass(frozen=True)
class _ScoreSettings:
    score_scale: float = setting(1.0, "Factor on the model's scores before a softmax.")

    def __post_init__(self):
        _check_positive(self, "score_scale")


@register_objective
class InBatchNCE(Objective):
    """
    Cross-entropy of each query over the documents of all rows and processes, the label being its own positive
    (https://huggingface.co/papers/2004.04906). Copies of the positive are left out. `negatives` of the rows are hard
    negatives.

    Settings: `score_scale` (defaults to 1.0): factor on the model's scores. 1 suits inner products and sums of
    cosines, about 20 a single cosine.
    """

    name = "in_batch_nce"
    papers = ("2004.04906",)
    Settings = _ScoreSettings

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        loss, self.margin = _in_batch_nce(outputs, batch, self.settings.score_scale)
        return {"in_batch": loss}


@register_objective
class Listwise(Objective):
    """
    Cross-entropy of each query over its own documents, positive first (https://huggingface.co/papers/2112.01488).

    Settings: `score_scale` as in [`InBatchNCE`]; `in_batch_weight` (defaults to 0.0): weight of [`InBatchNCE`]'s loss,
    which is added.
    """

    name = "listwise"
    columns = ("query", "positive", "negatives")
    papers = ("2112.01488",)

    @dataclass(frozen=True)
    class Settings(_ScoreSettings):
        """See [`Listwise`]."""

        in_batch_weight: float = setting(0.0, "Weight of the in-batch term beside the listwise one.")

        def __post_init__(self):
            super().__post_init__()
            if self.in_batch_weight < 0:
                raise ValueError(f"`in_batch_weight` must be at least 0, got {self.in_batch_weight}.")

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        scale, weight = self.settings.score_scale, self.settings.in_batch_weight
        scores = pair_scores(outputs["queries"], outputs["documents"]) * scale
        self.margin = _margin_of_first(scores)
        terms = {"listwise": listwise_cross_entropy_loss(scores)}
        if weight:
            terms["in_batch"] = weight * _in_batch_nce(outputs, batch, scale)[0]
        return terms


@dataclass(frozen=True)
class _TeacherScoreSettings(_ScoreSettings):
    teacher_score_scale: float = setting(1.0, "Factor on the scores of the teacher or reader.")
    teacher_documents: bool = setting(False, "Score the model's queries against the teacher's document embeddings.")

    def __post_init__(self):
        _check_positive(self, "score_scale", "teacher_score_scale")


class _TeacherScores(Objective):
    """What objectives on a teacher's scores share. Scores are computed by the teacher, or stored in the rows."""

    columns = ("query", "positive", "negatives")
    stored_columns = ("teacher_scores",)
    teacher_encodes_documents = True
    in_batch = False  # whether each query is scored with the documents of all rows

    @property
    def needs_teacher(self):
        return self.in_batch or self.settings.teacher_documents

    @property
    def compares_vectors(self):
        return self.settings.teacher_documents

    @property
    def encodes_documents(self):
        return not self.settings.teacher_documents

    def teacher_texts(self, batch):
        scores = self.in_batch or "teacher_scores" not in batch
        return ["queries"] * scores + ["documents"] * (scores or self.settings.teacher_documents)

    def _scores(self, outputs, batch):
        """Scaled scores of the model and the teacher."""
        score = batch_scores if self.in_batch else pair_scores
        documents = outputs["teacher_documents" if self.settings.teacher_documents else "documents"]
        scores = score(outputs["queries"], documents)
        if scores.shape[1] == 1:
            raise ValueError(
                "One document per query leaves nothing to distil: add `negatives`, or use `score_distillation` with "
                "`distill_in_batch=True`."
            )
        if "teacher_queries" in outputs:
            teacher_scores = score(outputs["teacher_queries"], outputs["teacher_documents"])
        else:
            teacher_scores = batch["teacher_scores"]
        return scores * self.settings.score_scale, teacher_scores * self.settings.teacher_score_scale


@register_objective
class ScoreDistillation(_TeacherScores):
    """
    KL divergence from the teacher's distribution over the documents of a query to the model's
    (https://huggingface.co/papers/2112.08185).

    Settings: `score_scale` and `teacher_score_scale` (default to 1.0): factors on the scores; `temperature` (defaults
    to 2.0, as in DR.DECR): softens both distributions; `distill_in_batch` (defaults to `False`): score the documents
    of all rows and processes instead of the query's own; `teacher_documents` (defaults to `False`): score the model's
    queries against the teacher's document embeddings. The model then learns to search the teacher's index, and never
    encodes documents.
    """

    name = "score_distillation"
    papers = ("2112.08185",)

    @dataclass(frozen=True)
    class Settings(_TeacherScoreSettings):
        """See [`ScoreDistillation`]."""

        temperature: float = setting(2.0, "Softens the distributions of model and teacher.")
        distill_in_batch: bool = setting(False, "Distil scores of all documents of the batch, not each query's own.")

        def __post_init__(self):
            super().__post_init__()
            _check_positive(self, "temperature")

    @property
    def in_batch(self):
        """Whether each query is scored with the documents of all rows."""
        return self.settings.distill_in_batch

    @property
    def columns(self):
        """Columns that the rows must have."""
        return ("query", "positive") if self.in_batch else ("query", "positive", "negatives")

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        scores, teacher_scores = self._scores(outputs, batch)
        loss = score_distillation_loss(scores, teacher_scores, self.settings.temperature)
        if self.in_batch:
            self.margin = score_margin(scores, *_own_columns(batch["document_keys"], len(scores)))
        else:
            self.margin = _margin_of_first(scores)
        return {"score_distillation": loss}


@register_objective
class MarginMSE(_TeacherScores):
    """
    Squared error of the margins between the positive and each negative, compared with the teacher's
    (https://huggingface.co/papers/2010.02666).

    Settings: `score_scale`, `teacher_score_scale` and `teacher_documents` as in [`ScoreDistillation`].
    """

    name = "margin_mse"
    papers = ("2010.02666",)
    Settings = _TeacherScoreSettings

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        scores, teacher_scores = self._scores(outputs, batch)
        self.margin = _margin_of_first(scores)
        return {"margin_mse": margin_mse_loss(scores, teacher_scores)}


@register_objective
class ReaderDistillation(Objective):
    """
    How much each passage of a question helped a reader (https://huggingface.co/papers/2012.04584). Models with one
    vector per text are scored by the inner product divided by the square root of `embedding_dim`, token vectors by
    MaxSim.

    Settings: `score_scale` as in [`InBatchNCE`]; `teacher_score_scale` (defaults to 1.0): factor on the reader's
    scores, which may differ little; `reader_distillation` (`"kl"`, the default, `"perplexity"` or `"emdr2"`): the
    loss, see [`reader_distillation_loss`]. The rows' `reader_scores` are attention scores for `"kl"`, log-likelihoods
    of the answer for the others.
    """

    name = "reader_distillation"
    columns = ("query", "positive", "reader_scores")

    @dataclass(frozen=True)
    class Settings(_ScoreSettings):
        """See [`ReaderDistillation`]."""

        teacher_score_scale: float = setting(1.0, "Factor on the scores of the teacher or reader.")
        reader_distillation: str = setting("kl", f"The loss on a reader's scores: {', '.join(READER_DISTILLATIONS)}.")

        def __post_init__(self):
            _check_positive(self, "score_scale", "teacher_score_scale")
            check_choice("reader_distillation", self.reader_distillation, READER_DISTILLATIONS)

    @property
    def papers(self):
        """What model cards cite."""
        return ("2012.04584",) if self.settings.reader_distillation == "kl" else ("2208.03299",)

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        if "reader_scores" not in batch:
            raise ValueError("Reader distillation needs rows with `reader_scores`, and a collator that reads them.")
        reader_scores, queries = batch["reader_scores"] * self.settings.teacher_score_scale, outputs["queries"]
        present = reader_scores > -torch.inf
        scores = pair_scores(queries, outputs["documents"], present) * self.settings.score_scale
        if queries.embedding_mask is None:  # section 3.3 of the paper
            scores = scores / math.sqrt(queries.embeddings.shape[1])
        loss = reader_distillation_loss(scores, reader_scores, self.settings.reader_distillation)
        return {"reader_distillation": loss}


@register_objective
class TokenDistillation(Objective):
    """
    The teacher's token vectors on parallel text (https://huggingface.co/papers/2112.08185), see
    [`token_distillation_loss`]. Tokens of queries are aligned. Those of documents are too where the teacher's
    processor cuts them differently.

    Settings: `query_weight` (defaults to 0.5, as in DR.DECR): weight of the queries, against `1 - query_weight` for
    the documents; with 1 no documents are encoded; `distance` (`"mse"`, the default, or `"l1"`).
    """

    name = "token_distillation"
    needs_teacher = True
    papers = ("2112.08185",)
    vectors = "token_vectors"
    compares_vectors = True
    align_documents = False

    @dataclass(frozen=True)
    class Settings:
        """See [`TokenDistillation`]."""

        query_weight: float = setting(0.5, "Weight of queries, against 1 - `query_weight` for documents.")
        distance: str = setting("mse", "Distance to the teacher's vectors: mse, l1 (tokens) or cosine (sentences).")

        def __post_init__(self):
            if not 0.0 <= self.query_weight <= 1.0:
                raise ValueError(f"`query_weight` must be from 0 to 1, got {self.query_weight}.")
            check_choice("distance", self.distance, ("mse", "l1"))

    @property
    def columns(self):
        """Columns that the rows must have."""
        return ("query",) if self.settings.query_weight == 1.0 else ("query", "positive")

    def prepare(self, processor, teacher_processor=None):
        """Documents are aligned unless both processors put the same piece at the same position."""
        self.align_documents = not _positions_correspond(processor, teacher_processor)

    def count_items(self, batch):
        """The distilled tokens of each side."""
        masks = _mask(batch["queries"]), _mask(batch["teacher_queries"])
        counts = {"queries": count_distilled_tokens(*masks, align=True)}
        if "documents" in batch:
            masks = _mask(batch["documents"]), _mask(batch["teacher_documents"])
            counts["documents"] = count_distilled_tokens(*masks, self.align_documents)
        return counts

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        terms = {}
        for kind, side in (("queries", 0), ("documents", 2)):
            if kind not in outputs:
                continue
            student, teacher = outputs[kind], outputs[f"teacher_{kind}"]
            embeddings, masks = [None] * 4, [None] * 4
            embeddings[side : side + 2] = student.embeddings, teacher.embeddings
            masks[side : side + 2] = student.embedding_mask, teacher.embedding_mask
            terms[kind] = token_distillation_loss(
                *embeddings,
                *masks,
                query_weight=self.settings.query_weight,
                distance=self.settings.distance,
                align_documents=self.align_documents,
            )
        return terms


@register_objective
class EmbeddingDistillation(Objective):
    """
    The teacher's sentence vectors on parallel text (https://huggingface.co/papers/2004.09813), computed by the teacher
    or stored in the rows.

    Settings: `distance` (`"mse"`, the default, or `"cosine"`); `contrast_scale` (`None` by default): adds the
    cross-entropy of the cosines to the teacher's vectors of all rows and processes, times this factor; 20 is usual.
    """

    name = "embedding_distillation"
    columns = ("query",)
    stored_columns = ("teacher_embedding",)
    papers = ("2004.09813",)
    vectors = "vectors"
    compares_vectors = True

    @dataclass(frozen=True)
    class Settings:
        """See [`EmbeddingDistillation`]."""

        distance: str = setting("mse", "Distance to the teacher's vectors: mse, l1 (tokens) or cosine (sentences).")
        contrast_scale: float | None = setting(None, "Scale of the in-batch contrast to the teacher's vectors.")

        def __post_init__(self):
            check_choice("distance", self.distance, ("mse", "cosine"))
            if self.contrast_scale is not None:
                _check_positive(self, "contrast_scale")

    def teacher_texts(self, batch):
        """The queries, unless their vectors are stored."""
        return [] if "teacher_embeddings" in batch else ["queries"]

    def __call__(self, outputs, batch):
        """The loss, see [`Objective`]."""
        student = floating(outputs["queries"].embeddings, "student")
        stored = "teacher_queries" not in outputs
        teacher = batch["teacher_embeddings"] if stored else outputs["teacher_queries"].embeddings
        teacher = teacher.to(student.dtype)
        terms = {"regression": embedding_distillation_loss(student, teacher, self.settings.distance)}
        if self.settings.contrast_scale is not None:
            # the teacher's vectors of all pairs, of all processes, are negatives
            teacher = gather_with_gradient(F.normalize(teacher, dim=1))
            scores = F.normalize(student, dim=1) @ teacher.T * self.settings.contrast_scale
            positives, copies = _own_columns(batch["teacher_query_keys"], len(scores))
            terms["contrast"] = in_batch_nce_loss(scores, positives, copies)
            self.margin = score_margin(scores, positives, copies)
        return terms


def _in_batch_nce(outputs, batch, scale):
    """The loss of [`InBatchNCE`] and its margin."""
    scores = batch_scores(outputs["queries"], outputs["documents"]) * scale
    positives, copies = _own_columns(batch["document_keys"], len(scores))
    return in_batch_nce_loss(scores, positives, copies), score_margin(scores, positives, copies)


def _own_columns(own_keys, num_queries):
    """
    Column of each query's positive among the texts of all processes, `(num_queries,)`, and which other columns are
    copies of it, `(num_queries, number of texts)`. The texts of a query stand together, its positive first.
    """
    marked = torch.stack([own_keys, torch.full_like(own_keys, process_index())], dim=1)
    keys, processes = gather_with_gradient(marked).unbind(dim=1)
    first = (processes < process_index()).sum()
    positives = first + torch.arange(num_queries, device=keys.device) * (len(own_keys) // num_queries)
    copies = keys == keys[positives][:, None]
    return positives, copies.scatter(1, positives[:, None], False)


def _margin_of_first(scores):
    return score_margin(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def _mask(texts):
    """`True` for tokens whose vectors count, as the models take it."""
    return (texts["attention_mask"] if texts.get("embedding_mask") is None else texts["embedding_mask"]).bool()


def _positions_correspond(processor, teacher_processor):
    """Whether two processors put the same piece of a document at the same position."""
    if processor is teacher_processor:
        return True
    tokenizer, teacher_tokenizer = processor.tokenizer, teacher_processor.tokenizer
    same_tokenizer = tokenizer is teacher_tokenizer or tokenizer.get_vocab() == teacher_tokenizer.get_vocab()
    return same_tokenizer and processor.document_length == teacher_processor.document_length


def batch_scores(queries, documents):
    """
    Scores of this process's queries against the documents of all processes.

    Args:
        queries (`RetrieverOutput`):
            The embeddings of `num_queries` queries.
        documents (`RetrieverOutput`):
            The embeddings of this process's documents.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, number of documents of all processes)`, at least float32: in half
        precision the scores of good documents tie.
    """
    # Processes exchange half precision
    embeddings = floating(gather_with_gradient(documents.embeddings), "documents")
    asked = floating(queries.embeddings, "queries")
    if documents.embedding_mask is None:
        return asked @ embeddings.T
    mask = gather_with_gradient(documents.embedding_mask)
    return _maxsim_in_blocks(asked, embeddings, queries.embedding_mask, mask, MAX_SIMILARITIES)


def pair_scores(queries, documents, present=None):
    """
    Scores of each query with its own documents.

    Args:
        queries (`RetrieverOutput`):
            The embeddings of `num_queries` queries.
        documents (`RetrieverOutput`):
            The embeddings of their documents, grouped by query.
        present (`torch.BoolTensor` of shape `(num_queries, nway)`, *optional*):
            For different numbers of documents per query: `True` where `documents` has one. Other scores are
            meaningless.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, nway)`, at least float32.
    """
    asked = floating(queries.embeddings, "queries")
    embeddings, mask = floating(documents.embeddings, "documents"), documents.embedding_mask
    if present is None:
        shape = len(asked), -1
        embeddings = embeddings.unflatten(0, shape)  # (num_queries, nway, ...)
        mask = None if mask is None else mask.unflatten(0, shape)
    else:
        embeddings = _spread(embeddings, present, 0.0)
        mask = None if mask is None else _spread(mask, present, True)  # a document of masked tokens would be an error
    if mask is None:
        return torch.einsum("qd,qnd->qn", asked, embeddings)
    return maxsim_pair_scores(asked, embeddings, queries.embedding_mask, mask)


@torch.no_grad()
def score_margin(scores, positive_indices, left_out=None):
    """
    Mean difference between the score of the positive and that of the best negative. Above 0 the positive comes first.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_documents)`):
            Scores, higher is better.
        positive_indices (`torch.LongTensor` of shape `(num_queries,)`):
            Column of each query's positive.
        left_out (`torch.BoolTensor` of shape `(num_queries, num_documents)`, *optional*):
            `True` for documents that must not count as negatives.

    Returns:
        `torch.FloatTensor`: A scalar. Queries without a negative do not count.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.training import score_margin

    >>> score_margin(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]]), torch.tensor([0, 1]))  # 1 and -4
    tensor(-1.5000)

    ```
    """
    own = positive_indices[:, None]
    negatives = scores if left_out is None else scores.masked_fill(left_out, -torch.inf)
    best = negatives.scatter(1, own, -torch.inf).amax(dim=1)  # (num_queries,)
    counts = best > -torch.inf
    margins = torch.where(counts, scores.gather(1, own)[:, 0] - best, 0.0)
    return margins.sum() / counts.sum().clamp(min=1)


def _maxsim_in_blocks(queries, documents, query_mask, document_mask, most):
    """
    Late-interaction scores of all pairs. More than `most` similarities of tokens are computed in blocks, and again for
    the gradient, since those of a batch of thousands do not fit into memory.
    """
    tokens = queries.shape[1] * documents.shape[1]  # similarities of a query and a document
    if len(queries) * len(documents) * tokens <= most:
        return maxsim_scores(queries, documents, query_mask, document_mask)
    num_documents = min(len(documents), max(1, math.isqrt(most // tokens)))  # square blocks are the fewest products
    num_queries = max(1, most // (tokens * num_documents))
    query_blocks = list(zip(queries.split(num_queries), query_mask.split(num_queries), strict=True))
    columns = []
    for embeddings, mask in zip(documents.split(num_documents), document_mask.split(num_documents), strict=True):
        blocks = [
            checkpoint(
                maxsim_scores, of_block, embeddings, mask_of_block, mask, use_reentrant=False, preserve_rng_state=False
            )
            for of_block, mask_of_block in query_blocks
        ]
        columns.append(torch.cat(blocks))
    return torch.cat(columns, dim=1)


def _spread(rows, present, fill):
    """Rows at the positions where `present` is `True`: `(number of True, ...)` to `(num_queries, nway, ...)`."""
    spread = rows.new_full((*present.shape, *rows.shape[1:]), fill)
    return spread.index_put((present,), rows)


__all__ = [
    "OBJECTIVES",
    "EmbeddingDistillation",
    "InBatchNCE",
    "Listwise",
    "MarginMSE",
    "Objective",
    "ReaderDistillation",
    "ScoreDistillation",
    "TokenDistillation",
    "batch_scores",
    "make_objective",
    "objective_class",
    "pair_scores",
    "register_objective",
    "score_margin",
    "setting",
]
