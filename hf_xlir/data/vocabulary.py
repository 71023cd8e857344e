"""Vocabularies for small models: a big one reduced to what the data uses, or a new one trained on it."""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


SPACE = "▁"
# The ids of XLM-R; `<mask>` comes last, after the pieces.
LEADING_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"

# While learning, pieces may not run across these boundaries: Japanese has no spaces, and without the rule the phrases
# that many questions share ("の首都はどこですか") become single pieces. Segmenting text afterwards needs no rule.
SCRIPT_RUNS = r"\p{Hiragana}+|[\p{Katakana}ー]+|\p{Han}+|\p{N}+|\p{P}+"


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
    >>> from hf_xlir.data import reduce_vocabulary, train_tokenizer

    >>> tokenizer = train_tokenizer(["Where is Paris?", "Who saw the Seine?"], vocab_size=60)
    >>> small, kept_ids = reduce_vocabulary(tokenizer, ["Where is Paris?"])
    >>> len(small) == len(kept_ids) < len(tokenizer)
    True
    >>> small.tokenize("Where is Paris?") == tokenizer.tokenize("Where is Paris?")
    True

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


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000, max_piece_length: int = 16):
    r"""
    Train a multilingual tokenizer with XLM-R's conventions on `texts`: offline, in a second or two for 20k questions.

    The model is Unigram: text becomes the most likely sequence of pieces. Candidate pieces come from byte-pair merges
    and their probabilities from hard EM on whole counts, which repeats bit for bit where the trainer of `tokenizers`
    does not. Text is NFKC-normalised, and case is kept.

    Args:
        texts (`Iterable[str]`):
            Sentences in any languages.
        vocab_size (`int`, *optional*, defaults to 8000):
            Most tokens the vocabulary may have, special tokens included; small data may not fill it. At most half of
            it goes to single characters: if there are more, the rarest become `<unk>`.
        max_piece_length (`int`, *optional*, defaults to 16):
            Most characters a piece may have.

    Returns:
        `PreTrainedTokenizerFast`: writes `<s> A </s>` and `<s> A </s></s> B </s>`; ids 0 to 3 are `<s>`, `<pad>`,
        `</s>`, `<unk>`, and `<mask>` is last. After `save_pretrained` it loads through `AutoTokenizer`.

    Raises:
        TypeError: If `texts` is one string.
        ValueError: If `texts` is empty or blank, or `vocab_size` has no room for pieces.

    Example:
    ```python
    >>> from hf_xlir.data import train_tokenizer

    >>> tokenizer = train_tokenizer(["Where is Paris?", "パリはどこですか。"], vocab_size=60)
    >>> tokenizer.decode(tokenizer("Where is Paris?").input_ids)
    '<s> Where is Paris?</s>'

    ```
    """
    num_special = len(LEADING_SPECIAL_TOKENS) + 1
    if vocab_size < 2 * num_special:
        raise ValueError(f"`vocab_size` is {vocab_size}, and {num_special} of it are special tokens. Pass thousands.")
    normalizer = normalizers.NFKC()
    lines = [normalizer.normalize_str(text).split() for block in _blocks(texts, 10_000) for text in block]
    segments = _segments({word for line in lines for word in line})
    words = Counter(segment for line in lines for word in line for segment in segments[word])
    if not words:
        raise ValueError("`texts` has no text to learn from. Pass some sentences of every language.")

    num_pieces = vocab_size - num_special
    characters = _count_pieces(words, None)
    alphabet = {SPACE, *_most_frequent(characters, max(1, vocab_size // 2 - 1))}
    # Merges give more candidates than needed, and EM keeps those that segmentation uses.
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe_trainer = trainers.BpeTrainer(
        vocab_size=num_pieces + num_pieces // 3 + len(characters),
        min_frequency=2,
        max_token_length=max_piece_length,
        show_progress=False,
    )
    bpe.train_from_iterator(
        (" ".join(segment for word in line for segment in segments[word]) for line in lines), bpe_trainer
    )
    bpe.pre_tokenizer = None
    counts = _count_pieces(words, bpe)
    for _ in range(3):
        counts = _select(counts, alphabet, num_pieces)
        counts = _count_pieces(words, _unigram(counts))
    return _as_xlmr(_unigram(_select(counts, alphabet, num_pieces)), normalizer)


def _segments(words: Iterable[str]) -> dict[str, list[str]]:
    """Each word, behind the mark for a space, in the parts that pieces may not run across."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement=SPACE), pre_tokenizers.Split(Regex(SCRIPT_RUNS), "isolated")]
    )
    return {word: [segment for segment, _ in splitter.pre_tokenize_str(word)] for word in words}


def _count_pieces(words: Counter, tokenizer: Tokenizer | None) -> Counter:
    """How often each piece occurs when `tokenizer` splits the words; each character where there is none."""
    counts: Counter[str] = Counter()
    if tokenizer is None:
        split = words.keys()
    else:
        split = (encoding.tokens for encoding in tokenizer.encode_batch(list(words), add_special_tokens=False))
    for pieces, count in zip(split, words.values(), strict=True):
        for piece in pieces:
            counts[piece] += count
    return counts


def _most_frequent(counts: Counter, size: int) -> list[str]:
    return sorted(counts, key=lambda piece: (-counts[piece], piece))[:size]


def _select(counts: Counter, alphabet: set[str], size: int) -> Counter:
    """The whole alphabet, then the most frequent pieces that are made of it, `size` in all."""
    pieces = Counter({piece: n for piece, n in counts.items() if len(piece) > 1 and alphabet.issuperset(piece)})
    kept = [*alphabet, *_most_frequent(pieces, size - len(alphabet))]
    return Counter({piece: counts[piece] for piece in kept})


def _unigram(counts: Counter) -> Tokenizer:
    # One is added to each count: a fallback character that segmentation never used has a probability too.
    total = sum(counts.values()) + len(counts)
    scores = [(piece, math.log((counts[piece] + 1) / total)) for piece in _most_frequent(counts, len(counts))]
    special = [(token, 0.0) for token in LEADING_SPECIAL_TOKENS]
    unk_id = LEADING_SPECIAL_TOKENS.index("<unk>")
    return Tokenizer(models.Unigram([*special, *scores, (MASK_TOKEN, 0.0)], unk_id=unk_id, byte_fallback=False))


def _as_xlmr(backend: Tokenizer, normalizer) -> PreTrainedTokenizerFast:
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE)]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    # Not `XLMRobertaTokenizer`: reloading that class drops every normaliser but the one of XLM-R's own vocabulary.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=MASK_TOKEN,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


__all__ = ["reduce_vocabulary", "train_tokenizer"]
