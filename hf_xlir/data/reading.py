r"""
Reads lines and JSON from untidy files of any size: one pass, bounded memory. A row that cannot be read is an error
that names file, line and reason, or it is skipped and counted. A line ends only at `\n`, since `\r` and the line
separators of Unicode occur inside text.
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import fsspec

from ..utils.checks import check_choice


GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 20

JSON_SEPARATORS = re.compile(r"[\s,]*")
JSON_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# A field that is quoted as a whole, with inner quotes doubled, or else the text before the next tab
TSV_FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)|([^\t]*)')


class RowErrors:
    """Raises a `ValueError` at the first bad row (`on_error="raise"`), or counts bad rows (`"skip"`)."""

    def __init__(self, on_error: str = "raise"):
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.count = 0
        self.first: list[str] = []

    def bad(self, name: str, line: int, reason: str) -> None:
        """Report row `line` (counted from 1) of the file `name`; `reason` completes "line 5: ..."."""
        if self.on_error == "raise":
            raise ValueError(
                f'`{name}`, line {line}: {reason}. Correct the row, or pass `on_error="skip"` to skip bad rows.'
            )
        self.count += 1
        if len(self.first) < 5:
            self.first.append(f"`{name}`, line {line}: {reason}")

    def report(self) -> str:
        """One sentence about the skipped rows; empty if there are none."""
        if not self.count:
            return ""
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"Skipped {self.count} row(s) that cannot be read: {'; '.join(self.first)}{more}."


def is_url(path: str) -> bool:
    """Whether `path` is a URL and not a local file."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """Open a local file or URL; gzip is recognised by its content, not by the file's name."""
    if is_url(path):
        stream = io.BufferedReader(fsspec.open(path, "rb").open(), BLOCK_BYTES)  # some servers cannot seek
    else:
        stream = open(path, "rb", buffering=BLOCK_BYTES)
    return gzip.open(stream) if stream.peek(2).startswith(GZIP_MAGIC) else stream


def peek(path: str, name: str, size: int = 4096) -> bytes:
    """The first bytes of a file, decompressed and without a byte order mark."""
    with whole_gzip(name), open_binary(path) as stream:
        return stream.read(size).removeprefix(BYTE_ORDER_MARK)


@contextmanager
def whole_gzip(name: str) -> Iterator[None]:
    """Turns errors of decompression into a `ValueError` that names the file."""
    try:
        yield
    except GZIP_ERRORS as error:
        raise ValueError(f"`{name}` is not a complete gzip file ({error}). Download it again.") from error


def read_raw_lines(path: str, name: str) -> Iterator[bytes]:
    r"""Each line without its end (`\n` or `\r\n`); the first without a byte order mark."""
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
    """`(line number, text)` of each line. Blank lines are bad rows, except at the end of the file."""
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


def converted(rows, convert, name: str, errors: RowErrors) -> Iterator[tuple[int, dict]]:
    """`(line number, convert(row, position))` per row; a `ValueError` of `convert` is the reason of a bad row."""
    for position, (number, row) in enumerate(rows):
        try:
            record = convert(row, position)
        except (ValueError, OverflowError) as error:
            errors.bad(name, number, str(error))
        else:
            yield number, record


def question_of(row: dict) -> str:
    """The `question` of a row."""
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("it has no question")
    return question


def is_list_of_texts(value) -> bool:
    """Whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def split_tsv(line: str, quoting: str) -> list[str]:
    """
    The fields of a tab-separated line. `"raw"`: quotes are text. `"csv"`: a field that is quoted as a whole is
    unquoted and may hold tabs; any other quote is text, so that a stray one never swallows what follows.
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
    if peek(path, name).lstrip().startswith(b"["):
        rows = _JsonArray(path, name)
    else:
        rows = _read_json_lines(path, name, errors)
    yield from _usable(rows, dict, "object", name, errors)


def read_json_lists(path: str, name: str, errors: RowErrors) -> Iterator[tuple[int, list]]:
    """`(line number, list)` for each line of a file of JSON lines that are arrays."""
    yield from _usable(_read_json_lines(path, name, errors), list, "array", name, errors)


def _usable(rows, wanted: type, description: str, name: str, errors: RowErrors):
    for number, value, source in rows:
        reason = _not_text(source, value)
        if reason is None and not isinstance(value, wanted):
            reason = f"expected a JSON {description}, got {source[:60]}"
        if reason is None:
            yield number, value
        else:
            errors.bad(name, number, reason)


def _not_text(source: str, value) -> str | None:
    """Why a row is not text: a byte that is not UTF-8 (a surrogate in `source`), or an escaped half of a pair."""
    try:
        source.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"byte 0x{ord(source[error.start]) - 0xDC00:02x} is not UTF-8"
    if JSON_SURROGATE.search(source):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return "it has half of a surrogate pair (`\\ud800` to `\\udfff`), which is not text"
    return None


def _read_json_lines(path: str, name: str, errors: RowErrors) -> Iterator[tuple[int, object, str]]:
    for number, line in read_lines(path, name, errors):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # also for thousands of digits, and for deep nesting
            errors.bad(name, number, f"not JSON ({error})")
        else:
            yield number, value, line


class _JsonArray:
    """Iterates `(line number, item, source)` over an array; DPR's and FiD's files are too large to parse whole."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")  # a bad byte spoils only its item
        self.json = json.JSONDecoder()
        self.buffer, self.position, self.line = "", 0, 1
        self.block_size = BLOCK_BYTES

    def __iter__(self):
        with open_binary(self.path) as self.stream:
            self._next_character()
            self._advance(self.position + 1)  # past the opening bracket
            while (character := self._next_character()) != "]":
                if not character:
                    raise ValueError(f"{self._place()}: the array does not end. Download the file again.")
                yield self._item()
            self._advance(self.position + 1)
            if self._next_character():
                raise ValueError(f"{self._place()}: text follows the end of the array. Correct the file.")

    def _place(self, line: int | None = None) -> str:
        return f"`{self.name}`, line {line or self.line}"

    def _item(self) -> tuple[int, object, str]:
        self.block_size = BLOCK_BYTES
        while True:
            try:
                value, end = self.json.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                # An error at the end of the buffer may go away once more of the file is read
                is_cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(self.buffer) - 12
                line = self.line + self.buffer.count("\n", self.position, error.pos)
                if not is_cut_off or not self._fill():
                    raise ValueError(
                        f"{self._place(line)}: not JSON ({error.msg}). Rows after it cannot be found: "
                        "correct the file, or turn it into JSON lines."
                    ) from error
                continue
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self._place()}: not readable ({error}). Correct the file.") from error
            if end == len(self.buffer) and self._fill():  # a number may continue
                continue
            line, source = self.line, self.buffer[self.position : end]
            self._advance(end)
            return line, value, source

    def _next_character(self) -> str:
        """The next character that is neither space nor comma; empty at the end of the file."""
        while True:
            self._advance(JSON_SEPARATORS.match(self.buffer, self.position).end())
            if self.position < len(self.buffer) or not self._fill():
                return self.buffer[self.position : self.position + 1]

    def _advance(self, position: int) -> None:
        self.line += self.buffer.count("\n", self.position, position)
        self.position = position

    def _fill(self) -> bool:
        with whole_gzip(self.name):
            block = self.stream.read(self.block_size)
        text = self.utf8.decode(block, final=not block)
        self.buffer, self.position = self.buffer[self.position :] + text, 0
        self.block_size *= 2  # so that a long item is parsed again only a few times
        return bool(block)
