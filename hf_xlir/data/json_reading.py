"""Reading JSON objects from files of any size, which are JSON lines or one array, with the errors of `reading`."""

import codecs
import json
import re
from collections.abc import Iterator

from .reading import BLOCK_BYTES, RowErrors, open_binary, peek, read_lines, whole_gzip


JSON_SEPARATORS = re.compile(r"[\s,]*")
JSON_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
    """What is no text in a row: a byte that was not UTF-8 and stands in `source` as a surrogate, or an escaped one."""
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
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting, too
            errors.bad(name, number, f"not JSON ({error})")
        else:
            yield number, value, line


class _JsonArray:
    """Iterates `(line number, item, source)` over one array: DPR's and FiD's files are too big to parse as a whole."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")  # a bad byte costs its item only
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
                raise ValueError(f"{self._place()}: something follows the end of the array. Correct the file.")

    def _place(self, line: int | None = None) -> str:
        return f"`{self.name}`, line {line or self.line}"

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
                        f"{self._place(line)}: not JSON ({error.msg}). Rows after it cannot be found: "
                        "correct the file, or turn it into JSON lines."
                    ) from error
                continue
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self._place()}: not readable ({error}). Correct the file.") from error
            if end == len(self.buffer) and self._fill():  # a number may go on
                continue
            line, source = self.line, self.buffer[self.position : end]
            self._advance(end)
            return line, value, source

    def _next_character(self) -> str:
        """The next one that is not space or comma; empty at the end of the file."""
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
        self.block_size *= 2  # an item longer than a block is parsed again a few times only
        return bool(block)
