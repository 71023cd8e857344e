"""Late interaction between token embeddings, as pure tensor functions."""

import torch


def maxsim_scores(query_embeddings, document_embeddings, query_mask=None, document_mask=None):
    r"""
    Scores of every query against every document: the largest similarity of each query token to any kept token of the
    document, summed over the query's kept tokens (ColBERT, https://huggingface.co/papers/2004.12832).

    Args:
        query_embeddings (`torch.FloatTensor` of shape `(num_queries, query_length, embedding_dim)`):
            L2-normalised token embeddings; each similarity is then a cosine and a score has no unit.
        document_embeddings (`torch.FloatTensor` of shape `(num_documents, document_length, embedding_dim)`):
            Token embeddings, same dtype and device.
        query_mask (`torch.BoolTensor` of shape `(num_queries, query_length)`, *optional*):
            `True` for tokens that count. All count by default.
        document_mask (`torch.BoolTensor` of shape `(num_documents, document_length)`, *optional*):
            `True` for tokens that may be matched. The others get `-inf`, since a 0 would beat a negative cosine.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, num_documents)`, at least float32: sums in half precision would tie
        different documents.

    Raises:
        ValueError: If shapes do not match, or a document keeps no token.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir.models.late_interaction import maxsim_scores

    >>> queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> documents = torch.tensor([[[0.8, 0.6], [0.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    >>> kept = torch.tensor([[True, False], [True, True]])
    >>> maxsim_scores(queries, documents, None, kept)
    tensor([[1.4000, 0.0000]])

    ```
    """
    query_mask, document_mask = _checked_masks(query_embeddings, document_embeddings, query_mask, document_mask, 3)
    (num_queries, query_length, _), (num_documents, document_length, _) = (
        query_embeddings.shape,
        document_embeddings.shape,
    )
    # One matrix product for all pairs: (num_queries * query_length, num_documents * document_length)
    similarities = query_embeddings.flatten(0, 1) @ document_embeddings.flatten(0, 1).T
    similarities = similarities.view(num_queries, query_length, num_documents, document_length)
    similarities = similarities.masked_fill(~document_mask[None, None], float("-inf"))
    best = similarities.max(dim=-1).values  # (num_queries, query_length, num_documents)
    best = best.masked_fill(~query_mask[:, :, None], 0.0)
    return best.sum(dim=1, dtype=torch.promote_types(best.dtype, torch.float32))  # (num_queries, num_documents)


def maxsim_pair_scores(query_embeddings, document_embeddings, query_mask=None, document_mask=None):
    r"""
    Scores of every query against its own documents, as in n-way training.

    Args:
        query_embeddings (`torch.FloatTensor` of shape `(num_queries, query_length, embedding_dim)`):
            Token embeddings.
        document_embeddings (`torch.FloatTensor` of shape `(num_queries, nway, document_length, embedding_dim)`):
            Each query's documents.
        query_mask (`torch.BoolTensor` of shape `(num_queries, query_length)`, *optional*):
            `True` for tokens that count.
        document_mask (`torch.BoolTensor` of shape `(num_queries, nway, document_length)`, *optional*):
            `True` for tokens that may be matched.

    Returns:
        `torch.FloatTensor` of shape `(num_queries, nway)`, at least float32.

    Raises:
        ValueError: If shapes do not match, or a document keeps no token.
    """
    query_mask, document_mask = _checked_masks(query_embeddings, document_embeddings, query_mask, document_mask, 4)
    if len(document_embeddings) != len(query_embeddings):
        raise ValueError(
            f"Got {len(query_embeddings)} queries, but documents for {len(document_embeddings)}: give each query its "
            "own documents."
        )
    # (num_queries, nway, query_length, document_length)
    similarities = query_embeddings[:, None] @ document_embeddings.transpose(-1, -2)
    similarities = similarities.masked_fill(~document_mask[:, :, None], float("-inf"))
    best = similarities.max(dim=-1).values  # (num_queries, nway, query_length)
    best = best.masked_fill(~query_mask[:, None], 0.0)
    return best.sum(dim=-1, dtype=torch.promote_types(best.dtype, torch.float32))


def maxsim_matches(query_embeddings, document_embeddings, document_mask=None):
    r"""
    The document token that each query token matches, and their similarity: the explanation of one score.

    Args:
        query_embeddings (`torch.FloatTensor` of shape `(query_length, embedding_dim)`):
            Token embeddings of one query.
        document_embeddings (`torch.FloatTensor` of shape `(document_length, embedding_dim)`):
            Token embeddings of one document.
        document_mask (`torch.BoolTensor` of shape `(document_length,)`, *optional*):
            `True` for tokens that may be matched.

    Returns:
        `tuple(torch.FloatTensor, torch.LongTensor)`, each of shape `(query_length,)`: similarity and position of the
        best document token.
    """
    if document_mask is not None:
        document_mask = document_mask[None]
    _, document_mask = _checked_masks(query_embeddings[None], document_embeddings[None], None, document_mask, 3)
    similarities = query_embeddings @ document_embeddings.T  # (query_length, document_length)
    return tuple(similarities.masked_fill(~document_mask, float("-inf")).max(dim=-1))


def _checked_masks(query_embeddings, document_embeddings, query_mask, document_mask, document_rank):
    if query_embeddings.dim() != 3 or document_embeddings.dim() != document_rank:
        raise ValueError(
            f"Expected query embeddings of 3 and document embeddings of {document_rank} dimensions, got shapes "
            f"{tuple(query_embeddings.shape)} and {tuple(document_embeddings.shape)}."
        )
    if query_embeddings.shape[-1] != document_embeddings.shape[-1]:
        raise ValueError(
            f"Query embeddings have {query_embeddings.shape[-1]} dimensions, document embeddings "
            f"{document_embeddings.shape[-1]}: encode both with one model."
        )
    masks = []
    for name, mask, embeddings in (
        ("query_mask", query_mask, query_embeddings),
        ("document_mask", document_mask, document_embeddings),
    ):
        if mask is None:
            mask = torch.ones(embeddings.shape[:-1], dtype=torch.bool, device=embeddings.device)
        if mask.shape != embeddings.shape[:-1]:
            raise ValueError(f"`{name}` must have shape {tuple(embeddings.shape[:-1])}, got {tuple(mask.shape)}.")
        masks.append(mask.bool())
    empty = ~masks[1].any(dim=-1)
    if empty.any():
        raise ValueError(
            f"Documents {empty.nonzero().squeeze(-1).tolist()[:10]} keep no token: leave empty documents out."
        )
    return masks


__all__ = ["maxsim_matches", "maxsim_pair_scores", "maxsim_scores"]
