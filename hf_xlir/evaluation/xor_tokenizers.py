"""The tokenizers of XOR-TyDi's metrics: NLTK's for English passages, MeCab's for Japanese answers."""

import os


TREEBANK = "treebank"
APPROXIMATION = (
    "treebank (an approximation: the official tokenizer splits texts into sentences first, by NLTK's Punkt data)"
)


def passage_tokenizer(tokenize=None):
    r"""
    What cuts passages into tokens for R@2kt and R@5kt.

    Args:
        tokenize (`str` or `Callable[[str], list[str]]`, *optional*):
            By default the official one, NLTK's `word_tokenize`; `"treebank"` is the same without its splitter of
            sentences, which needs no download; or a function from a text to its tokens.

    Returns:
        `tuple[Callable[[str], list[str]], str | None]`: The function, and what to say of it in a result: `None` if it
        is the official one or the caller's.

    Raises:
        LookupError: If `tokenize` is `None` and Punkt's data, a download, is not there.
        ValueError: If `tokenize` is something else.

    Example:
    ```python
    >>> from hf_xlir.evaluation.xor_tokenizers import passage_tokenizer

    >>> tokenize, name = passage_tokenizer("treebank")
    >>> tokenize("It isn't 5,000 (yet).")
    ['It', 'is', "n't", '5,000', '(', 'yet', ')', '.']
    >>> name.split()[:3]
    ['treebank', '(an', 'approximation:']

    ```
    """
    if callable(tokenize):
        return tokenize, None
    if tokenize == TREEBANK:
        from nltk.tokenize import NLTKWordTokenizer

        return NLTKWordTokenizer().tokenize, APPROXIMATION
    if tokenize is not None:
        raise ValueError(
            f"`tokenize` must be `None` for NLTK's `word_tokenize`, {TREEBANK!r}, or a function from a text to its "
            f"tokens, got {tokenize!r}."
        )
    from nltk.tokenize import word_tokenize

    try:
        word_tokenize("Is it there? It is.")
    except LookupError:
        raise LookupError(
            "XOR-Retrieve's official tokenizer, NLTK's `word_tokenize`, needs Punkt's data, which is not in any of "
            'NLTK\'s folders. Get it once with `import nltk; nltk.download("punkt_tab")`, or pass '
            f'`tokenize="{TREEBANK}"`, which does without: an approximation, and named so in the result.'
        ) from None
    return word_tokenize, None


def japanese_segmenter():
    r"""
    What puts spaces between the words of Japanese answers: MeCab, with the dictionary `unidic-lite`.

    Returns:
        `Callable[[str], str]`: A text's words, a space after each and a line break at the end, as MeCab's mode
        `wakati` writes them.

    Raises:
        ImportError: If one of the two is not installed.

    Example:
    ```python
    >>> from hf_xlir.evaluation.xor_tokenizers import japanese_segmenter

    >>> japanese_segmenter()("日本の首都")  # doctest: +SKIP
    '日本 の 首都 \n'

    ```
    """
    try:
        import MeCab
        import unidic_lite
    except ImportError as error:
        raise ImportError(
            "Japanese answers are split into words by MeCab with `unidic-lite`, which are not installed: "
            "`pip install hf_xlir[japanese]`, or pass a function of your own as `segment_japanese`."
        ) from error

    # Named, since MeCab prefers another dictionary where one is installed, and splits otherwise then
    folder = unidic_lite.DICDIR
    return MeCab.Tagger(f'-Owakati -r "{os.path.join(folder, "mecabrc")}" -d "{folder}"').parse


__all__ = ["japanese_segmenter", "passage_tokenizer"]
