"""A smaller vocabulary for a small model: the pieces that the data uses."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer


SPACE = "▁"


def reduce_vocabulary(tokenizer, texts: Iterable[str], tokens: Iterable[str] = ()):
    r"""
    A smaller tokenizer that splits `texts` into exactly the pieces that `tokenizer` splits them into.

    Kept are the pieces that occur in `texts`, every special or added token, and each kept piece's single characters,
    so that unseen words of the same scripts still have a segmentation. The kept pieces keep their order: the special
    ids of XLM-R stay where they are (`<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, `<mask>` last), without gaps between.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            A tokenizer with a Unigram model, such as XLM-R's. It is not changed.
        texts (`Iterable[str]`):
            The texts whose pieces are kept; read once, in blocks.
        tokens (`Iterable[str]`, *optional*):
            Further pieces to keep, such as all those of a script. `texts` are split as before with them, too.

    Returns:
        `tuple(PreTrainedTokenizerFast, torch.LongTensor)`: the tokenizer, of the same class, and `kept_ids` of shape
        `(new_vocab_size,)`, the old id of each new one.

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
    The rows of the embeddings that stay are `model.get_input_embeddings().weight[kept_ids]`.
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
            f"`tokenizer` has a {state['model']['type']} model and only Unigram vocabularies can be reduced: pieces "
            "of the other kinds depend on merges. Pass a tokenizer such as XLM-R's."
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
        # Serialised again by `tokenizers`, which checks what was edited here.
        Tokenizer.from_str(json.dumps(state)).save(str(Path(folder) / "tokenizer.json"))
        small = type(tokenizer).from_pretrained(folder)
    small.name_or_path = tokenizer.name_or_path
    return small, torch.tensor(kept, dtype=torch.long)


def _seen_ids(tokenizer, texts: Iterable[str]) -> set[int]:
    seen: set[int] = set()
    for block in _blocks(texts, 10_000):
        # The length warning does not apply: nothing here goes through a model.
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
    iterator = iter(texts)
    while block := list(islice(iterator, size)):
        yield block


def _structural_ids(state: dict) -> set[int]:
    """Ids that segmentation needs whatever the texts: special tokens, bytes, the space, and the least likely piece."""
    vocabulary = state["model"]["vocab"]
    kept = {token["id"] for token in state["added_tokens"]} | {state["model"]["unk_id"]}
    # An unknown character costs a fixed amount more than the least likely piece, which is therefore kept.
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
