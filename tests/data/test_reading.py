import csv
import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.data.reading import RowErrors, read_lines, split_tsv


def lines_of(path, on_error="raise"):
    errors = RowErrors(on_error)
    return list(read_lines(path, path, errors)), errors


def test_a_line_ends_at_a_newline_and_nowhere_else(write):
    texts = ["a\rb", "c\u2028d\x85e\x0bf\x0c", "g\x00h"]
    assert lines_of(write("a.txt", "\n".join(texts)))[0] == list(enumerate(texts, start=1))
    assert lines_of(write("b.txt", "one\r\ntwo\r\n"))[0] == [(1, "one"), (2, "two")]


def test_a_byte_order_mark_is_not_text(write):
    assert lines_of(write("a.txt", "\ufeffone\n\ufefftwo\n"))[0] == [(1, "one"), (2, "\ufefftwo")]


def test_blank_lines_count_only_within_the_text(write):
    assert lines_of(write("end.txt", "one\n\n \n"))[0] == [(1, "one")]
    path = write("middle.txt", "one\n\n\ntwo\n")
    with pytest.raises(ValueError, match=r"middle.txt`, line 2: the line is blank.*on_error=\"skip\""):
        lines_of(path)
    lines, errors = lines_of(path, "skip")
    assert lines == [(1, "one"), (4, "two")]
    assert errors.count == 2


def test_bad_utf8_is_named_with_its_byte(write):
    path = write("bad.txt", b"one\ntw\xffo\nthree\n")
    with pytest.raises(ValueError, match=r"bad.txt`, line 2: byte 3 of the line \(0xff\) is not UTF-8"):
        lines_of(path)
    assert lines_of(path, "skip")[0] == [(1, "one"), (3, "three")]


def test_gzip_is_recognised_by_content_and_must_be_complete(write):
    content = gzip.compress(b"one\ntwo\n" * 1000)
    assert len(lines_of(write("text.tsv", content))[0]) == 2000
    with pytest.raises(ValueError, match="cut.tsv.gz` is not a complete gzip file"):
        lines_of(write("cut.tsv.gz", content[:-20]))


def test_on_error_has_two_values():
    with pytest.raises(ValueError, match="`on_error` must be one of .raise., .skip., got .ignore."):
        RowErrors("ignore")


def test_skipped_rows_are_counted_and_the_first_are_named():
    errors = RowErrors("skip")
    assert errors.report() == ""
    for line in range(1, 9):
        errors.bad("a.tsv", line, "the line is blank")
    assert errors.report().startswith("Skipped 8 row(s) that cannot be read: `a.tsv`, line 1: the line is blank;")
    assert errors.report().endswith("line 5: the line is blank; and 3 more.")


FIELDS = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])), min_size=1, max_size=4)


@given(FIELDS)
def test_csv_fields_survive_quoting(fields):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="\t", lineterminator="", quoting=csv.QUOTE_ALL).writerow(fields)
    assert split_tsv(buffer.getvalue(), "csv") == fields


@given(FIELDS)
def test_minimal_csv_quoting_is_read_as_python_does(fields):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter="\t", lineterminator="").writerow(fields)
    assert split_tsv(buffer.getvalue(), "csv") == fields


@given(FIELDS)
def test_raw_fields_are_verbatim(fields):
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
def test_stray_quotes_are_text(line, fields):
    assert split_tsv(line, "csv") == fields
