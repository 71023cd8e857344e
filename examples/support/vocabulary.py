"""A tokenizer with XLM-R's conventions, trained offline on small data."""

import math
from collections import Counter

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


SPACE = "▁"
# The ids of XLM-R; `<mask>` comes last, after the pieces.
LEADING_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"

# While learning, pieces may not run across these boundaries: Japanese has no spaces, and without the rule the phrases
# that many questions share ("の首都はどこですか") become single pieces. Segmenting text afterwards needs no rule.
SCRIPT_RUNS = r"\p{Hiragana}+|[\p{Katakana}ー]+|\p{Han}+|\p{N}+|\p{P}+"


def train_tokenizer(texts, vocab_size=8000, max_piece_length=16):
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
    >>> from support.vocabulary import train_tokenizer

    >>> tokenizer = train_tokenizer(["Where is Paris?", "パリはどこですか。"], vocab_size=60)
    >>> tokenizer.decode(tokenizer("Where is Paris?").input_ids)
    '<s> Where is Paris?</s>'

    ```
    """
    num_special = len(LEADING_SPECIAL_TOKENS) + 1
    if vocab_size < 2 * num_special:
        raise ValueError(f"`vocab_size` is {vocab_size}, and {num_special} of it are special tokens. Pass thousands.")
    if isinstance(texts, str):
        raise TypeError("`texts` is one string. Pass an iterable of strings, for example a list.")
    normalizer = normalizers.NFKC()
    lines = [normalizer.normalize_str(text).split() for text in texts]
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


def _segments(words):
    """Each word, behind the mark for a space, in the parts that pieces may not run across."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement=SPACE), pre_tokenizers.Split(Regex(SCRIPT_RUNS), "isolated")]
    )
    return {word: [segment for segment, _ in splitter.pre_tokenize_str(word)] for word in words}


def _count_pieces(words: Counter, tokenizer: Tokenizer | None):
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


def _most_frequent(counts: Counter, size: int):
    return sorted(counts, key=lambda piece: (-counts[piece], piece))[:size]


def _select(counts: Counter, alphabet: set[str], size: int):
    """The whole alphabet, then the most frequent pieces that are made of it, `size` in all."""
    pieces = Counter({piece: n for piece, n in counts.items() if len(piece) > 1 and alphabet.issuperset(piece)})
    kept = [*alphabet, *_most_frequent(pieces, size - len(alphabet))]
    return Counter({piece: counts[piece] for piece in kept})


def _unigram(counts: Counter):
    # One is added to each count: a fallback character that segmentation never used has a probability too.
    total = sum(counts.values()) + len(counts)
    scores = [(piece, math.log((counts[piece] + 1) / total)) for piece in _most_frequent(counts, len(counts))]
    special = [(token, 0.0) for token in LEADING_SPECIAL_TOKENS]
    unk_id = LEADING_SPECIAL_TOKENS.index("<unk>")
    return Tokenizer(models.Unigram([*special, *scores, (MASK_TOKEN, 0.0)], unk_id=unk_id, byte_fallback=False))


def _as_xlmr(backend: Tokenizer, normalizer):
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
