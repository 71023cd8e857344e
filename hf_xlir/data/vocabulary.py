"""Reduces the vocabulary of a tokenizer to the pieces that the data uses."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .building import blocks


SPACE = "▁"


def reduce_vocabulary(tokenizer, texts: Iterable[str], tokens: Iterable[str] = ()):
    r"""
    A smaller tokenizer that splits `texts` into exactly the same pieces as `tokenizer` does.

    It keeps the pieces that occur in `texts`, all special and added tokens, and the single characters of these pieces,
    so that unseen words in the same scripts can still be split. Pieces keep their order, and ids have no gaps: the
    special ids of XLM-R stay the same (`<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, `<mask>` last).

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            A tokenizer with a Unigram model, such as XLM-R's. It is not changed.
        texts (`Iterable[str]`):
            The texts whose pieces to keep. They are read once, in blocks.
        tokens (`Iterable[str]`, *optional*):
            Further pieces to keep, such as all pieces of a script. They do not change how `texts` are split.

    Returns:
        `tuple(PreTrainedTokenizerFast, torch.LongTensor)`: The tokenizer, of the same class, and `kept_ids` of shape
        `(new_vocab_size,)`, the old id of each new id.

    Raises:
        TypeError: If `tokenizer` has no `tokenizers` backend, or `texts` is one string.
        ValueError: If its model is not Unigram, `texts` is empty, or one of `tokens` is not in the vocabulary.

    Example:
    ```python
    >>> from transformers import XLMRobertaTokenizer
    >>> from hf_xlir.data import reduce_vocabulary

    >>> pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁Where", "▁is", "▁Paris", "▁Rome", "?"]
    >>> tokenizer = XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces])
    >>> small, kept_ids = reduce_vocabulary(tokenizer, ["Where is Paris?"])
    >>> small.tokenize("Where is Paris?"), len(tokenizer) - len(small)
    (['▁Where', '▁is', '▁Paris', '?'], 1)

    ```
    The embeddings of the kept pieces are `model.get_input_embeddings().weight[kept_ids]`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(
            f"`tokenizer` is a {type(tokenizer).__name__}, which has no `tokenizers` backend. Pass a fast tokenizer, "
            "for example `AutoTokenizer.from_pretrained(...)`."
        )
    state = json.loads(backend.to_str())
    if state["model"]["type"] != "Unigram":
        raise ValueError(
            f"`tokenizer` has a {state['model']['type']} model, but only Unigram vocabularies can be reduced, since "
            "other kinds depend on merges. Pass a tokenizer such as XLM-R's."
        )
    vocabulary = state["model"]["vocab"]
    kept = sorted(_seen_ids(tokenizer, texts) | _structural_ids(state) | _ids_of(tokenizer, tokens))
    kept = sorted(set(kept) | _character_ids(vocabulary, kept))
    new_id = {old: new for new, old in enumerate(kept)}

    state["model"]["vocab"] = [vocabulary[old] for old in kept if old < len(vocabulary)]
    state["model"]["unk_id"] = new_id[state["model"]["unk_id"]]
    state["added_tokens"] = [{**token, "id": new_id[token["id"]]} for token in state["added_tokens"]]
    state["truncation"] = state["padding"] = None
    for token in ((state["post_processor"] or {}).get("special_tokens") or {}).values():
        token["ids"] = [new_id[old] for old in token["ids"]]

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        # Through `tokenizers`, which checks the edited state
        Tokenizer.from_str(json.dumps(state)).save(str(Path(folder) / "tokenizer.json"))
        small = type(tokenizer).from_pretrained(folder)
    small.name_or_path = tokenizer.name_or_path
    return small, torch.tensor(kept, dtype=torch.long)


def _seen_ids(tokenizer, texts: Iterable[str]) -> set[int]:
    seen: set[int] = set()
    for block in _blocks(texts, 10_000):
        # `verbose=False`, since the warning about long texts is for models
        encoded = tokenizer(block, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        seen.update(*encoded["input_ids"])
    if not seen:
        raise ValueError("`texts` has no text. Pass the texts whose pieces the smaller vocabulary must keep.")
    return seen


def _ids_of(tokenizer, tokens: Iterable[str]) -> set[int]:
    known = tokenizer.get_vocab()
    tokens = list(tokens)
    unknown = [token for token in tokens if token not in known]
    if unknown:
        raise ValueError(f"{len(unknown)} of `tokens` are not in the vocabulary, such as {unknown[:5]}.")
    return {known[token] for token in tokens}


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    if isinstance(texts, str):
        raise TypeError("`texts` is one string. Pass an iterable of strings, for example a list.")
    yield from blocks(texts, size)


def _structural_ids(state: dict) -> set[int]:
    """Ids that any segmentation needs: special tokens, bytes, the space, and the least likely piece."""
    vocabulary = state["model"]["vocab"]
    kept = {token["id"] for token in state["added_tokens"]} | {state["model"]["unk_id"]}
    # The score of an unknown character derives from the least likely piece
    kept.add(min(range(len(vocabulary)), key=lambda index: vocabulary[index][1]))
    for index, (piece, _) in enumerate(vocabulary):
        is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
        if piece == SPACE or (state["model"]["byte_fallback"] and is_byte):
            kept.add(index)
    return kept


def _character_ids(vocabulary: list, kept: list[int]) -> set[int]:
    characters = set().union(*(vocabulary[index][0] for index in kept if index < len(vocabulary)))
    return {index for index, (piece, _) in enumerate(vocabulary) if len(piece) == 1 and piece in characters}


__all__ = ["reduce_vocabulary"]
