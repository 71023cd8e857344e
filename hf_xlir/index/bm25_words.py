"""What BM25 counts as words, in languages with spaces between them and without."""

import unicodedata
from collections.abc import Callable

import regex

from ..utils.checks import check_choice
from .passages import read_rows


WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
# Scripts that are written without spaces between words; the mark of long vowels belongs to two of them, and so to none
SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
PART = regex.compile(rf"(?P<spaceless>[{SPACELESS}]+)|[^{SPACELESS}]+")
LETTER = regex.compile(r"\p{L}")
CHARACTER = regex.compile(r"\X")  # a letter with its marks
PASSAGES_LOOKED_AT = 1000
SHARE_WITHOUT_SPACES = 0.2  # of letters; in English passages it is the rare name


def words(text):
    """Runs of letters, digits and marks, in lower case."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def bigrams(text):
    r"""
    [`words`], but for scripts that are written without spaces: of Chinese, Japanese, Thai, Lao, Khmer and Burmese each
    two neighbouring characters are one, as Lucene's analyzer for Chinese and Japanese has it. One alone is itself.

    Args:
        text (`str`):
            A text, perhaps of several scripts.

    Returns:
        `list[str]`

    Example:
    ```python
    >>> from hf_xlir.index.bm25_words import bigrams

    >>> bigrams("東京都は Tokyo にある")
    ['東京', '京都', '都は', 'tokyo', 'にあ', 'ある']

    ```
    """
    found = []
    for word in words(text):
        for part in PART.finditer(word):
            if part["spaceless"] is None:
                found.append(part[0])
                continue
            characters = CHARACTER.findall(part[0])
            pairs = zip(characters, characters[1:], strict=False)
            found += [first + second for first, second in pairs] or characters
    return found


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"words": words, "bigrams": bigrams}


def splitter(tokenize=None):
    """The function that splits texts, of its name or as it is; [`words`] by default. `ValueError` for another name."""
    if tokenize is None:
        return words
    if isinstance(tokenize, str):
        check_choice("tokenize", tokenize, tuple(TOKENIZERS))
        return TOKENIZERS[tokenize]
    return tokenize


def tokenizer_for(passages):
    r"""
    Which of the two suits passages: `"bigrams"` where at least a fifth of the letters of the first thousand are of a
    script without spaces, otherwise `"words"`.

    Args:
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title`.

    Returns:
        `str`: A key of `TOKENIZERS`.

    Example:
    ```python
    >>> from hf_xlir.index.bm25_words import tokenizer_for

    >>> [tokenizer_for([{"id": "a", "text": text}]) for text in ("東京は日本の首都。", "Tokyo (東京) is the capital.")]
    ['bigrams', 'words']

    ```
    """
    letters = spaceless = 0
    rows = read_rows(passages, 0, PASSAGES_LOOKED_AT)
    for text in [*rows["text"], *(rows["title"] or [])]:
        letters += len(LETTER.findall(text))
        spaceless += sum(len(LETTER.findall(part[0])) for part in PART.finditer(text) if part["spaceless"])
    return "bigrams" if spaceless and spaceless >= SHARE_WITHOUT_SPACES * letters else "words"


__all__ = ["TOKENIZERS", "bigrams", "splitter", "tokenizer_for", "words"]
