"""From rows of text to a training batch."""

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

    - `query` (`str`): what the model is asked, in any language;
    - `positive` (`str`, or a passage `{"title", "text"}`): the document that answers it;
    - `negatives` (`list` of the same, *optional*): documents that do not, equally many in all rows of a batch;
    - `negative` (the same, *optional*): instead, the one negative of a text triple;
    - `documents` (`list` of the same, *optional*): instead of the two, all of the row's documents, where none of them
      is known to be the answer, or the first is;
    - `teacher_query` (`str`, *optional*): what the teacher is asked instead, for instance the English translation;
    - `teacher_scores` (`list[float]`, *optional*): the teacher's scores of the positive and the negatives, positive
      first, where they were computed before;
    - `reader_scores` (`list[float]`, *optional*): how much a reader looked at each document. Rows may then have
      different numbers of documents; one with score `-inf` or `None` was absent, and is left out;
    - `teacher_embedding` (`list[float]`, *optional*): the teacher's sentence vector of `teacher_query`, likewise.

    Parallel text is a row whose `query` is the sentence in any language, and whose `teacher_query` and `positive` are
    its English translation.

    Args:
        processor (`RetrieverProcessor`):
            The student's processor.
        teacher_processor (`RetrieverProcessor`, *optional*):
            The teacher's processor, if a teacher runs during training.
        with_documents (`bool`, *optional*, defaults to `True`):
            Whether the student encodes documents.
        with_teacher_documents (`bool`, *optional*, defaults to `True`):
            Whether the teacher, if there is one, encodes them. Rows need no documents where neither does.
        with_reader_scores (`bool`, *optional*, defaults to `False`):
            Whether to read `reader_scores`, for reader distillation.

    Example:
    ```python
    >>> from hf_xlir.data.collators import RetrieverCollator

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
                See the class.

        Returns:
            `dict` with `queries` and, as far as they apply, `teacher_queries`, `teacher_query_keys`
            (`torch.LongTensor` of shape `(batch_size,)`, equal for equal texts), `documents` (the documents of row `i`
            stand at `i * nway` and behind, positive first), `teacher_documents`, `document_keys` (of shape
            `(batch_size * nway,)`), `teacher_scores` (`torch.FloatTensor` of shape `(batch_size, nway)`),
            `teacher_embeddings` (of shape `(batch_size, embedding_dim)`) and `reader_scores` (of shape
            `(batch_size, most documents of a row)`, `-inf` where a row has fewer: `documents` has those there are).

        Raises:
            ValueError: If rows differ in their number of negatives, or scores do not fit the documents.
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
            raise ValueError(f"`documents` is empty for {row['query']!r}: leave the row out.")
        documents.append(of_row)
    return documents


def _negatives(row):
    if row.get("negative") is not None:  # a text triple's
        return [row["negative"]]
    return row.get("negatives") or []


def _check_equal_numbers(rows, documents):
    """Raise unless rows have equally many documents, and as many scores, if they have some."""
    nway = len(documents[0])
    if any(len(of_row) != nway for of_row in documents):
        raise ValueError(
            "All rows of a batch need equally many negatives, got "
            f"{sorted({len(of_row) - 1 for of_row in documents})}. Sample the same number for each row."
        )
    scores = [row.get("teacher_scores") for row in rows]
    if any(of_row is not None for of_row in scores) and any(
        of_row is None or len(of_row) != nway for of_row in scores
    ):
        raise ValueError(f"`teacher_scores` must have, in all rows, one number for each of the {nway} documents.")


def _read_documents(rows, documents):
    """Each row's documents that the reader had, and its scores of them, `(number of rows, most documents)`."""
    kept, scores = [], []
    for row, of_row in zip(rows, documents, strict=True):
        scores_of_row = row.get("reader_scores")
        if scores_of_row is None or len(scores_of_row) != len(of_row):
            got = "none" if scores_of_row is None else len(scores_of_row)
            raise ValueError(f"`reader_scores` must have one number for each of {len(of_row)} documents, got {got}.")
        present = [place for place, score in enumerate(scores_of_row) if _is_score(score)]
        if not present:
            raise ValueError(f"`reader_scores` has no document (all -inf) for {row['query']!r}: leave the row out.")
        kept.append([of_row[place] for place in present])
        scores.append(torch.tensor([scores_of_row[place] for place in present], dtype=torch.float32))
    return kept, torch.nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=-torch.inf)


def _is_score(score):
    """`False` for an absent document's."""
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


__all__ = ["RetrieverCollator"]
