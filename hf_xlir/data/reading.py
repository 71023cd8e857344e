r"""
Reading rows from files that cannot be trusted: one pass, bounded memory, and every row that cannot be read is an error
that names file, line and reason, or is skipped and counted. A line ends at `\n` and nowhere else, since `\r` and the
line separators of Unicode occur inside text.
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import fsspec
from transformers.utils import logging


logger = logging.get_logger(__name__)

ON_ERROR = ("raise", "skip")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 20

# A field quoted as a whole, inner quotes doubled; or else whatever stands before the next tab.
TSV_FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)|([^\t]*)')
JSON_SEPARATORS = re.compile(r"[\s,]*")
JSON_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class RowErrors:
    """
    What happens to rows that cannot be read.

    Args:
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"`: the first bad row is a `ValueError`. `"skip"`: bad rows are left out, and
            [`~RowErrors.report`] logs how many and where.

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

    def report(self) -> None:
        """Log what was skipped."""
        if self.count:
            more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
            logger.warning(f"Skipped {self.count} row(s) that cannot be read: {'; '.join(self.first)}{more}.")


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


def peek(path: str, size: int = 4096) -> bytes:
    """The first bytes of a file, decompressed and without a byte order mark."""
    with open_binary(path) as stream:
        return stream.read(size).removeprefix(BYTE_ORDER_MARK)


def read_raw_lines(path: str, name: str) -> Iterator[bytes]:
    r"""Each line without its end (`\n` or `\r\n`) and, on the first, without a byte order mark."""
    with open_binary(path) as stream:
        prefix = BYTE_ORDER_MARK
        try:
            for line in stream:
                yield line.removeprefix(prefix).removesuffix(b"\n").removesuffix(b"\r")
                prefix = b""
        except GZIP_ERRORS as error:
            raise ValueError(f"`{name}` is not a complete gzip file ({error}). Download it again.") from error


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


def read_json_objects(path: str, name: str, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    """`(line number, object)` for each object of a JSON-lines file, or of a file that is one JSON array."""
    if peek(path).lstrip().startswith(b"["):
        rows = _JsonArray(path, name)
    else:
        rows = _read_json_lines(path, name, errors)
    for number, value, source in rows:
        if not isinstance(value, dict):
            errors.bad(name, number, f"expected a JSON object, got {source[:60]}")
        elif JSON_SURROGATE.search(source) and not _is_unicode(value):
            errors.bad(name, number, "it has half of a surrogate pair (`\\ud800` to `\\udfff`), which is not text")
        else:
            yield number, value


def _is_unicode(value) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_json_lines(path: str, name: str, errors: RowErrors) -> Iterator[tuple[int, object, str]]:
    for number, line in read_lines(path, name, errors):
        try:
            value = json.loads(line)
        except ValueError as error:
            errors.bad(name, number, f"not JSON ({error})")
        else:
            yield number, value, line


class _JsonArray:
    """Iterates `(line number, item, source)` over one array: DPR's and FiD's files are too big to parse as a whole."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.json = json.JSONDecoder()
        self.buffer, self.position, self.line = "", 0, 1
        self.block_size = BLOCK_BYTES

    def __iter__(self):
        with open_binary(self.path) as self.stream:
            self._next_character()
            self._advance(self.position + 1)  # past the opening bracket
            while self._next_character() != "]":
                yield self._item()

    def _item(self) -> tuple[int, object, str]:
        self.block_size = BLOCK_BYTES
        while True:
            try:
                value, end = self.json.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                # Whatever is wrong at the end of the buffer may be right in view of what follows.
                is_cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(self.buffer) - 12
                line = self.line + self.buffer.count("\n", self.position, error.pos)
                if not is_cut_off or not self._fill():
                    raise ValueError(
                        f"`{self.name}`, line {line}: not JSON ({error.msg}). Rows after it cannot be found: "
                        "correct the file, or turn it into JSON lines."
                    ) from error
                continue
            if end == len(self.buffer) and self._fill():  # a number may go on
                continue
            line, source = self.line, self.buffer[self.position : end]
            self._advance(end)
            return line, value, source

    def _next_character(self) -> str:
        while True:
            self._advance(JSON_SEPARATORS.match(self.buffer, self.position).end())
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._fill():
                raise ValueError(f"`{self.name}`, line {self.line}: the array does not end. Download the file again.")

    def _advance(self, position: int) -> None:
        self.line += self.buffer.count("\n", self.position, position)
        self.position = position

    def _fill(self) -> bool:
        try:
            block = self.stream.read(self.block_size)
            text = self.utf8.decode(block, final=not block)
        except UnicodeDecodeError as error:
            before = self.buffer.count("\n", self.position) + error.object.count(b"\n", 0, error.start)
            raise ValueError(
                f"`{self.name}`, line {self.line + before}: byte 0x{error.object[error.start]:02x} is not UTF-8. "
                "Convert the file to UTF-8."
            ) from error
        except GZIP_ERRORS as error:
            raise ValueError(f"`{self.name}` is not a complete gzip file ({error}). Download it again.") from error
        self.buffer, self.position = self.buffer[self.position :] + text, 0
        self.block_size *= 2  # an item longer than a block is parsed again a few times only
        return bool(block)
