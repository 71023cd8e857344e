"""From rows of text to training batches of retrievers and readers."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class RetrieverCollator:
    r"""
    Makes the batches of [`RetrieverTrainer`] from rows of text.

    A row has

    - `query` (`str`): the question for the model, in any language;
    - `positive` (`str`, or a passage `{"title", "text"}`): a document that answers it;
    - `negatives` (`list` of documents, *optional*): documents that do not, the same number in all rows of a batch;
    - `negative` (a document, *optional*): the only negative, as in a text triple, in place of `negatives`;
    - `documents` (`list` of documents, *optional*): all documents of the row, in place of `positive` and `negatives`,
      where the first is the answer or the answer is unknown;
    - `teacher_query` (`str`, *optional*): the question for the teacher, for example an English translation;
    - `teacher_scores` (`list[float]`, *optional*): precomputed scores of the teacher, of the positive first and then
      of the negatives;
    - `teacher_embedding` (`list[float]`, *optional*): the precomputed sentence vector of `teacher_query`;
    - `reader_scores` (`list[float]`, *optional*): a reader's attention to each document. Rows may then have different
      numbers of documents; one with score `-inf` or `None` was absent and is skipped.

    A row of parallel text has a sentence in any language as `query`, and its English translation as `teacher_query`
    and `positive`.

    Args:
        processor (`RetrieverProcessor`):
            The student's processor.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor, if a teacher encodes during training.
        with_documents (`bool`, *optional*, defaults to `True`):
            Whether the student encodes documents.
        with_teacher_documents (`bool`, *optional*, defaults to `True`):
            Whether a teacher encodes documents. Rows need documents only if the student or the teacher encodes them.
        with_reader_scores (`bool`, *optional*, defaults to `False`):
            Whether to read `reader_scores`, for reader distillation.

    Example:
    ```python
    >>> from hf_xlir.data import RetrieverCollator

    >>> collator = RetrieverCollator(processor)  # doctest: +SKIP
    >>> batch = collator([{"query": "Who?", "positive": "She did.", "negatives": ["It rained."]}])  # doctest: +SKIP
    >>> batch["documents"]["input_ids"].shape[0]  # doctest: +SKIP
    2

    ```
    """

    processor: object
    teacher_processor: object | None = None
    with_documents: bool = True
    with_teacher_documents: bool = True
    with_reader_scores: bool = False

    def __call__(self, rows):
        """
        Tokenize rows.

        Args:
            rows (`list[dict]`):
                Rows as the class describes them.

        Returns:
            `dict` with `queries` and, as far as they apply:

            - `documents`: those of row `i` from `i * nway` on, positive first, and `document_keys`
              (`torch.LongTensor` of shape `(batch_size * nway,)`, equal for equal texts);
            - `teacher_queries`, `teacher_query_keys` (of shape `(batch_size,)`) and `teacher_documents`;
            - `teacher_scores` (`torch.FloatTensor` of shape `(batch_size, nway)`) and `teacher_embeddings` (of shape
              `(batch_size, embedding_dim)`);
            - `reader_scores` (of shape `(batch_size, most documents per row)`), `-inf` where a row has fewer;
              `documents` then has only those that exist.

        Raises:
            ValueError: If rows have different numbers of negatives, or scores do not fit the documents.
        """
        has_teacher = self.teacher_processor is not None
        has_teacher_documents = has_teacher and self.with_teacher_documents
        documents, reader_scores = None, None
        if self.with_documents or has_teacher_documents:
            documents = _documents(rows)
            if self.with_reader_scores:
                documents, reader_scores = _read_documents(rows, documents)
            else:
                _check_equal_numbers(rows, documents)

        batch = {"queries": dict(self.processor.process_queries([row["query"] for row in rows], warn=False))}
        teacher_queries = [row.get("teacher_query") or row["query"] for row in rows]
        if has_teacher:
            batch["teacher_queries"] = dict(self.teacher_processor.process_queries(teacher_queries, warn=False))
        if rows[0].get("teacher_embedding") is not None:
            vectors = np.array([row["teacher_embedding"] for row in rows], dtype=np.float32)
            batch["teacher_embeddings"] = torch.from_numpy(vectors)
        if has_teacher or "teacher_embeddings" in batch:
            batch["teacher_query_keys"] = torch.tensor([_key([query]) for query in teacher_queries])
        if documents is None:
            return batch

        titles, texts = zip(*[_title_and_text(document) for of_row in documents for document in of_row], strict=True)
        batch["document_keys"] = torch.tensor([_key(pair) for pair in zip(titles, texts, strict=True)])
        if self.with_documents:
            batch["documents"] = dict(self.processor.process_documents(texts, titles=titles))
        if has_teacher_documents:
            batch["teacher_documents"] = dict(self.teacher_processor.process_documents(texts, titles=titles))
        if rows[0].get("teacher_scores") is not None:
            batch["teacher_scores"] = torch.tensor([row["teacher_scores"] for row in rows], dtype=torch.float32)
        if reader_scores is not None:
            batch["reader_scores"] = reader_scores
        return batch


def _documents(rows):
    """The documents of each row, positive first."""
    documents = []
    for row in rows:
        of_row = row.get("documents")
        if of_row is None:
            of_row = [row["positive"], *_negatives(row)]
        if not of_row:
            raise ValueError(f"`documents` is empty for {row['query']!r}: remove the row.")
        documents.append(of_row)
    return documents


def _negatives(row):
    if row.get("negative") is not None:  # as in a text triple
        return [row["negative"]]
    return row.get("negatives") or []


def _check_equal_numbers(rows, documents):
    """Raise unless all rows have the same number of documents and, if any row has scores, as many scores."""
    nway = len(documents[0])
    if any(len(of_row) != nway for of_row in documents):
        raise ValueError(
            "All rows of a batch need the same number of negatives, got "
            f"{sorted({len(of_row) - 1 for of_row in documents})}. Sample the same number for each row."
        )
    scores = [row.get("teacher_scores") for row in rows]
    if any(of_row is not None for of_row in scores) and any(
        of_row is None or len(of_row) != nway for of_row in scores
    ):
        raise ValueError(f"`teacher_scores` must have one number for each of the {nway} documents in every row.")


def _read_documents(rows, documents):
    """The documents of each row that the reader had, and its scores, `(num_rows, most documents per row)`."""
    kept, scores = [], []
    for row, of_row in zip(rows, documents, strict=True):
        scores_of_row = row.get("reader_scores")
        if scores_of_row is None or len(scores_of_row) != len(of_row):
            got = "none" if scores_of_row is None else len(scores_of_row)
            raise ValueError(f"`reader_scores` must have one number for each of {len(of_row)} documents, got {got}.")
        present = [place for place, score in enumerate(scores_of_row) if _is_score(score)]
        if not present:
            raise ValueError(f"`reader_scores` has no document (all -inf) for {row['query']!r}: remove the row.")
        kept.append([of_row[place] for place in present])
        scores.append(torch.tensor([scores_of_row[place] for place in present], dtype=torch.float32))
    return kept, torch.nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=-torch.inf)


def _is_score(score):
    """Whether the document was there; an error unless its score is a float32 number."""
    if score is None or score == -math.inf:
        return False
    if not abs(score) <= torch.finfo(torch.float32).max:  # not NaN either
        raise ValueError(
            f"`reader_scores` must be finite in float32, or -inf or `None` for an absent document, got {score}."
        )
    return True


def _title_and_text(document):
    if isinstance(document, str):
        return "", document
    return document.get("title") or "", document["text"]


def _key(texts):
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass
class ReaderCollator:
    r"""
    Makes the batches of [`ReaderTrainer`] from questions, their passages and their answers.

    A row is an example of [`load_reader_examples`]: `question`, `ctxs` (any number of passages; the processor keeps
    the first `n_context`), and `target` or `answers`. The reader learns to write the `target`, or else the first
    answer; [`answer_rows`] sets the target to a random answer.

    Args:
        processor ([`FiDT5Processor`]):
            The reader's processor.

    Example:
    ```python
    >>> from transformers import T5Tokenizer
    >>> from hf_xlir import FiDT5Processor
    >>> from hf_xlir.data import ReaderCollator

    >>> collator = ReaderCollator(FiDT5Processor(T5Tokenizer()))  # or `from_pretrained("google-t5/t5-base")`
    >>> passages = [{"title": "Nile", "text": "It flows north."}, {"title": "Oder", "text": "It flows north, too."}]
    >>> batch = collator([{"question": "Where does the Nile flow?", "ctxs": passages, "answers": ["north"]}])
    >>> sorted(batch), batch["input_ids"].shape[:2]
    (['attention_mask', 'input_ids', 'labels'], torch.Size([1, 2]))

    ```
    """

    processor: object

    def __call__(self, rows):
        """
        Tokenize rows.

        Args:
            rows (`list[dict]`):
                Rows as the class describes them.

        Returns:
            `dict`: The outputs of [`FiDT5Processor`]; `labels` only if all rows have a target or answers.
        """
        targets = [target_of(row) for row in rows]
        inputs = self.processor(
            [row["question"] for row in rows],
            passages=[row["ctxs"] for row in rows],
            answers=None if None in targets else targets,
        )
        return dict(inputs)


def target_of(row):
    """The text that the reader learns to write: the `target`, else the first of the `answers`, else `None`."""
    if row.get("target") is not None:
        return row["target"]
    return next(iter(row.get("answers") or ()), None)


__all__ = ["ReaderCollator", "RetrieverCollator", "target_of"]
