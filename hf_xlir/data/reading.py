r"""
Reading rows from files that cannot be trusted: one pass, bounded memory, and every row that cannot be read is an error
that names file, line and reason, or is skipped and counted. A line ends at `\n` and nowhere else, since `\r` and the
line separators of Unicode occur inside text.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import fsspec


ON_ERROR = ("raise", "skip")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 20

# A field quoted as a whole, inner quotes doubled; or else whatever stands before the next tab.
TSV_FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)|([^\t]*)')


class RowErrors:
    """
    What happens to rows that cannot be read.

    Args:
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"`: the first bad row is a `ValueError`. `"skip"`: bad rows are left out, and
            [`~RowErrors.report`] says how many and where.

    Raises:
        ValueError: If `on_error` is something else.
    """

    def __init__(self, on_error: str = "raise"):
        if on_error not in ON_ERROR:
            raise ValueError(f"`on_error` is {on_error!r}. Pass one of {', '.join(map(repr, ON_ERROR))}.")
        self.on_error = on_error
        self.count = 0
        self.first: list[str] = []

    def bad(self, name: str, line: int, reason: str) -> None:
        """Report row `line` of the file `name` (counted from 1): `reason` completes "line 5: ..."."""
        if self.on_error == "raise":
            raise ValueError(
                f'`{name}`, line {line}: {reason}. Correct the row, or pass `on_error="skip"` to leave out such rows.'
            )
        self.count += 1
        if len(self.first) < 5:
            self.first.append(f"`{name}`, line {line}: {reason}")

    def report(self) -> str:
        """What was skipped, in one sentence that is empty if nothing was."""
        if not self.count:
            return ""
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"Skipped {self.count} row(s) that cannot be read: {'; '.join(self.first)}{more}."


def is_url(path: str) -> bool:
    """Whether `path` is a URL and not a local file."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """Open a local file or URL; gzip is recognised by its content, whatever the file is called."""
    if is_url(path):
        stream = io.BufferedReader(fsspec.open(path, "rb").open(), BLOCK_BYTES)  # not every server can seek
    else:
        stream = open(path, "rb", buffering=BLOCK_BYTES)
    return gzip.open(stream) if stream.peek(2).startswith(GZIP_MAGIC) else stream


def peek(path: str, name: str, size: int = 4096) -> bytes:
    """The first bytes of a file, decompressed and without a byte order mark."""
    with whole_gzip(name), open_binary(path) as stream:
        return stream.read(size).removeprefix(BYTE_ORDER_MARK)


@contextmanager
def whole_gzip(name: str) -> Iterator[None]:
    """Errors of decompression name the file and what to do."""
    try:
        yield
    except GZIP_ERRORS as error:
        raise ValueError(f"`{name}` is not a complete gzip file ({error}). Download it again.") from error


def read_raw_lines(path: str, name: str) -> Iterator[bytes]:
    r"""Each line without its end (`\n` or `\r\n`) and, on the first, without a byte order mark."""
    with whole_gzip(name), open_binary(path) as stream:
        prefix = BYTE_ORDER_MARK
        for line in stream:
            yield line.removeprefix(prefix).removesuffix(b"\n").removesuffix(b"\r")
            prefix = b""


def decode(raw: bytes) -> tuple[str | None, str | None]:
    """`(text, None)`, or `(None, reason)` for bytes that are not UTF-8."""
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return None, f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8"


def read_lines(path: str, name: str, errors: RowErrors) -> Iterator[tuple[int, str]]:
    """`(line number, text)` of every line. Blank lines are bad rows, except at the end of the file."""
    blank: list[int] = []
    for number, raw in enumerate(read_raw_lines(path, name), start=1):
        if not raw.strip():
            blank.append(number)
            continue
        for blank_number in blank:
            errors.bad(name, blank_number, "the line is blank")
        blank = []
        text, reason = decode(raw)
        if text is None:
            errors.bad(name, number, reason)
        else:
            yield number, text


def split_tsv(line: str, quoting: str) -> list[str]:
    r"""
    The fields of one line of tab-separated text.

    Args:
        line (`str`):
            The line, without its end.
        quoting (`str`):
            `"raw"`: quotes are text. `"csv"`: a field that is quoted as a whole is unquoted, and may hold tabs; any
            other quote is text, and never swallows what follows.
    """
    if quoting == "raw" or '"' not in line:
        return line.split("\t")
    fields, position = [], 0
    while position <= len(line):
        match = TSV_FIELD.match(line, position)
        quoted, plain = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        position = match.end() + 1
    return fields
