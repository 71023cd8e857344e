"""Lines and JSON from untidy files."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.data import reading
from hf_xlir.data.reading import RowErrors, read_json_lists, read_json_objects, read_lines, split_tsv


def lines_of(path, on_error="raise"):
    errors = RowErrors(on_error)
    return list(read_lines(path, path, errors)), errors


FIELDS = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])), min_size=1, max_size=4)


class TestLines:
    def test_a_line_ends_at_a_newline_and_nowhere_else(self, write):
        texts = ["a\rb", "c\u2028d\x85e\x0bf\x0c", "g\x00h"]
        assert lines_of(write("a.txt", "\n".join(texts)))[0] == list(enumerate(texts, start=1))
        assert lines_of(write("b.txt", "one\r\ntwo\r\n"))[0] == [(1, "one"), (2, "two")]

    def test_a_byte_order_mark_is_not_text(self, write):
        assert lines_of(write("a.txt", "\ufeffone\n\ufefftwo\n"))[0] == [(1, "one"), (2, "\ufefftwo")]

    def test_blank_lines_count_only_within_the_text(self, write):
        assert lines_of(write("end.txt", "one\n\n \n"))[0] == [(1, "one")]
        path = write("middle.txt", "one\n\n\ntwo\n")
        with pytest.raises(ValueError, match=r"middle.txt`, line 2: the line is blank.*on_error=\"skip\""):
            lines_of(path)
        lines, errors = lines_of(path, "skip")
        assert lines == [(1, "one"), (4, "two")]
        assert errors.count == 2

    def test_bad_utf8_is_named_with_its_byte(self, write):
        path = write("bad.txt", b"one\ntw\xffo\nthree\n")
        with pytest.raises(ValueError, match=r"bad.txt`, line 2: byte 3 of the line \(0xff\) is not UTF-8"):
            lines_of(path)
        assert lines_of(path, "skip")[0] == [(1, "one"), (3, "three")]

    def test_gzip_is_recognised_by_content_and_must_be_complete(self, write):
        content = gzip.compress(b"one\ntwo\n" * 1000)
        assert len(lines_of(write("text.tsv", content))[0]) == 2000
        with pytest.raises(ValueError, match="cut.tsv.gz` is not a complete gzip file"):
            lines_of(write("cut.tsv.gz", content[:-20]))

    def test_on_error_has_two_values(self):
        with pytest.raises(ValueError, match="`on_error` must be one of .raise., .skip., got .ignore."):
            RowErrors("ignore")

    def test_skipped_rows_are_counted_and_the_first_are_named(self):
        errors = RowErrors("skip")
        assert errors.report() == ""
        for line in range(1, 9):
            errors.bad("a.tsv", line, "the line is blank")
        assert errors.report().startswith("Skipped 8 row(s) that cannot be read: `a.tsv`, line 1: the line is blank;")
        assert errors.report().endswith("line 5: the line is blank; and 3 more.")

    @given(FIELDS)
    def test_csv_fields_survive_quoting(self, fields):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter="\t", lineterminator="", quoting=csv.QUOTE_ALL).writerow(fields)
        assert split_tsv(buffer.getvalue(), "csv") == fields

    @given(FIELDS)
    def test_minimal_csv_quoting_is_read_as_python_does(self, fields):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter="\t", lineterminator="").writerow(fields)
        assert split_tsv(buffer.getvalue(), "csv") == fields

    @given(FIELDS)
    def test_raw_fields_are_verbatim(self, fields):
        fields = [field.replace("\t", " ") for field in fields]
        assert split_tsv("\t".join(fields), "raw") == fields

    @pytest.mark.parametrize(
        ("line", "fields"),
        [
            ('1\t"a ""b"" c"\tT', ["1", 'a "b" c', "T"]),
            ('1\t"tab\there"\tT', ["1", "tab\there", "T"]),
            ('1\t"said" he\tT', ["1", '"said" he', "T"]),
            ('1\t"open\tT', ["1", '"open', "T"]),
            ('1\tan inner "quote"\tT', ["1", 'an inner "quote"', "T"]),
            ('1\t""\t', ["1", "", ""]),
            ('"', ['"']),
        ],
    )
    def test_stray_quotes_are_text(self, line, fields):
        assert split_tsv(line, "csv") == fields


def objects_of(path, on_error="raise"):
    errors = RowErrors(on_error)
    return list(read_json_objects(path, path, errors)), errors


ROWS = [{"a": 1}, {"b": ["x", {"y": "] } , ["}]}, {"text": 'é🙂\\"\n' * 50}, {"n": 1.5e300, "t": None}]


class TestJson:
    @pytest.mark.parametrize("indent", [None, 4])
    @pytest.mark.parametrize("ensure_ascii", [True, False])
    @pytest.mark.parametrize("block", [2, 3, 7, 64, 1 << 20])
    def test_arrays_are_read_item_by_item_at_any_block_size(self, write, monkeypatch, indent, ensure_ascii, block):
        monkeypatch.setattr(reading, "BLOCK_BYTES", block)
        text = json.dumps(ROWS, indent=indent, ensure_ascii=ensure_ascii)
        objects, _ = objects_of(write("rows.json", f"\n {text}\n"))
        assert [row for _, row in objects] == ROWS
        first_lines = [
            1 + f"\n {text}"[: f"\n {text}".index(start)].count("\n") for start in ('"a"', '"b"', '"text"', '"n"')
        ]
        # An indented object starts a line before its first key.
        assert [number + (indent is not None) for number, _ in objects] == first_lines

    def test_a_byte_order_mark_is_not_text(self, write):
        assert objects_of(write("a.json", '\ufeff[{"a": 1}]'))[0] == [(1, {"a": 1})]
        assert objects_of(write("a.jsonl", '\ufeff{"a": 1}'))[0] == [(1, {"a": 1})]

    def test_gzip_must_be_complete(self, write):
        content = gzip.compress(b'[{"a": 1}, {"a": 2}]' + b" " * 10_000)
        assert len(objects_of(write("whole.json", content))[0]) == 2
        with pytest.raises(ValueError, match="cut.json.gz` is not a complete gzip file"):
            objects_of(write("cut.json.gz", content[:-12]))

    def test_lines_may_be_lists(self, write):
        path = write("rows.jsonl", '[1, [2, 0.5]]\n{"a": 1}\n[]\n')
        errors = RowErrors("skip")
        assert list(read_json_lists(path, path, errors)) == [(1, [1, [2, 0.5]]), (3, [])]
        assert errors.first == [f'`{path}`, line 2: expected a JSON array, got {{"a": 1}}']

    def test_arrays_may_be_empty(self, write):
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
    def test_bad_json_is_named_with_file_and_line(self, write, text, message):
        with pytest.raises(ValueError, match=f"rows.json`, {message}"):
            objects_of(write("rows.json", text))

    def test_bad_json_lines_are_skipped(self, write):
        objects, errors = objects_of(write("rows.jsonl", '{"a": 1}\n{"a": \n3\n{"a": "\\ud83d\\ude00"}\n'), "skip")
        assert objects == [(1, {"a": 1}), (4, {"a": "😀"})]
        assert errors.count == 2

    def test_a_bad_byte_in_an_array_costs_its_item_only(self, write):
        path = write("rows.json", b'[{"a": "x\xff"},\n{"a": "\xc3\xa9"},\n3,\n{"a": "\\udc00"}]')
        objects, errors = objects_of(path, "skip")
        assert objects == [(2, {"a": "é"})]
        assert [first.split("line ")[1] for first in errors.first] == [
            "1: byte 0xff is not UTF-8",
            "3: expected a JSON object, got 3",
            "4: it has half of a surrogate pair (`\\ud800` to `\\udfff`), which is not text",
        ]

    def test_memory_does_not_grow_with_an_array(self, write, peak_memory):
        row = json.dumps({"ctxs": [{"text": "word " * 100}] * 50})

        def peak(num_rows):
            path = write("rows.json", "[" + ", ".join([row] * num_rows) + "]")
            return peak_memory(lambda: read_json_objects(path, path, RowErrors()))

        assert peak(1000) < 1.2 * peak(250)
