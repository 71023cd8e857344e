import gzip
import json
import tracemalloc

import pytest

from hf_xlir.data import reading
from hf_xlir.data.reading import RowErrors, read_json_lists, read_json_objects


def objects_of(path, on_error="raise"):
    errors = RowErrors(on_error)
    return list(read_json_objects(path, path, errors)), errors


ROWS = [{"a": 1}, {"b": ["x", {"y": "] } , ["}]}, {"text": 'é🙂\\"\n' * 50}, {"n": 1.5e300, "t": None}]


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("block", [2, 3, 7, 64, 1 << 20])
def test_arrays_are_read_item_by_item_at_any_block_size(write, monkeypatch, indent, ensure_ascii, block):
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    text = json.dumps(ROWS, indent=indent, ensure_ascii=ensure_ascii)
    objects, _ = objects_of(write("rows.json", f"\n {text}\n"))
    assert [row for _, row in objects] == ROWS
    first_lines = [
        1 + f"\n {text}"[: f"\n {text}".index(start)].count("\n") for start in ('"a"', '"b"', '"text"', '"n"')
    ]
    # An indented object starts a line before its first key.
    assert [number + (indent is not None) for number, _ in objects] == first_lines


def test_a_byte_order_mark_is_not_text(write):
    assert objects_of(write("a.json", '\ufeff[{"a": 1}]'))[0] == [(1, {"a": 1})]
    assert objects_of(write("a.jsonl", '\ufeff{"a": 1}'))[0] == [(1, {"a": 1})]


def test_gzip_must_be_complete(write):
    content = gzip.compress(b'[{"a": 1}, {"a": 2}]' + b" " * 10_000)
    assert len(objects_of(write("whole.json", content))[0]) == 2
    with pytest.raises(ValueError, match="cut.json.gz` is not a complete gzip file"):
        objects_of(write("cut.json.gz", content[:-12]))


def test_lines_may_be_lists(write):
    path = write("rows.jsonl", '[1, [2, 0.5]]\n{"a": 1}\n[]\n')
    errors = RowErrors("skip")
    assert list(read_json_lists(path, path, errors)) == [(1, [1, [2, 0.5]]), (3, [])]
    assert errors.first == [f'`{path}`, line 2: expected a JSON array, got {{"a": 1}}']


def test_arrays_may_be_empty(write):
    assert objects_of(write("empty.json", " [ ] "))[0] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": }\n]', "line 2: not JSON"),
        ('[{"a": 1},\n{"a": 2}', "line 2: the array does not end"),
        ('[{"a": 1},\n{"a": "2', "line 2: not JSON"),
        (b'[{"a": 1},\n{"a": "\xff"}]', "line 2: byte 0xff is not UTF-8"),
        ('[{"a": 1}\n]\n\n[{"a": 2}]', "line 4: text follows the end of the array"),
        ('[{"a": 1},\n{"a": ' + "9" * 5000 + "}]", "line 2: not readable .*digits"),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}", "line 2: not JSON .*digits"),
        ('{"a": 1}\n{"a": ' + "[" * 100_000 + "}", "line 2: not JSON"),
        ('[{"a": 1},\n7]', "line 2: expected a JSON object, got 7"),
        ('{"a": 1}\n{"a": }\n', "line 2: not JSON"),
        ('{"a": 1}\n[2]\n', r"line 2: expected a JSON object, got \[2\]"),
        ('{"a": 1}\n{"a": "\\ud83d"}\n', "line 2: it has half of a surrogate pair"),
    ],
)
def test_bad_json_is_named_with_file_and_line(write, text, message):
    with pytest.raises(ValueError, match=f"rows.json`, {message}"):
        objects_of(write("rows.json", text))


def test_bad_json_lines_are_skipped(write):
    objects, errors = objects_of(write("rows.jsonl", '{"a": 1}\n{"a": \n3\n{"a": "\\ud83d\\ude00"}\n'), "skip")
    assert objects == [(1, {"a": 1}), (4, {"a": "😀"})]
    assert errors.count == 2


def test_a_bad_byte_in_an_array_costs_its_item_only(write):
    path = write("rows.json", b'[{"a": "x\xff"},\n{"a": "\xc3\xa9"},\n3,\n{"a": "\\udc00"}]')
    objects, errors = objects_of(path, "skip")
    assert objects == [(2, {"a": "é"})]
    assert [first.split("line ")[1] for first in errors.first] == [
        "1: byte 0xff is not UTF-8",
        "3: expected a JSON object, got 3",
        "4: it has half of a surrogate pair (`\\ud800` to `\\udfff`), which is not text",
    ]


def test_the_memory_for_an_array_does_not_grow_with_it(write):
    row = json.dumps({"ctxs": [{"text": "word " * 100}] * 50})

    def peak(num_rows):
        path = write("rows.json", "[" + ", ".join([row] * num_rows) + "]")
        tracemalloc.start()
        assert sum(1 for _ in read_json_objects(path, path, RowErrors())) == num_rows
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(1000) < 1.2 * peak(250)
