"""Parallel text."""

import gzip

import pytest

from hf_xlir.data import load_parallel


def rows(dataset):
    return [(row["source"], row["target"]) for row in dataset]


def test_lines_of_two_files_correspond(write):
    source = write("a.ko", '하나\r\n둘\t"둘\r\n셋 \u2028 넷\r\n')
    target = write("a.en", "NA\nnull\ttwo\nthree\rfour\n\n")
    expected = [("하나", "NA"), ('둘\t"둘', "null\ttwo"), ("셋 \u2028 넷", "three\rfour")]
    assert rows(load_parallel(source, target)) == expected
    assert rows(load_parallel(source, target, streaming=True)) == expected


def test_unequal_files_are_an_error_even_if_rows_may_be_skipped(write):
    source, target = write("a.ko", "하나\n둘\n"), write("a.en", "one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"a.ko` has 2 lines and .*a.en` has 3"):
        load_parallel(source, target, on_error="skip")


@pytest.mark.parametrize(
    ("second_line", "message"),
    [(b"", "line 2: the line is blank, while its translation is not"), (b"\xff", r"line 2: byte 1 .* is not UTF-8")],
)
def test_a_bad_line_costs_its_pair_and_no_other(write, second_line, message):
    source = write("a.ko", "하나\n둘\n셋\n")
    target = write("a.en", b"one\n" + second_line + b"\nthree\n")
    with pytest.raises(ValueError, match=f"a.en`, {message}"):
        load_parallel(source, target)
    assert rows(load_parallel(source, target, on_error="skip")) == [("하나", "one"), ("셋", "three")]


def test_a_pair_of_blank_lines_is_a_bad_row(write):
    source, target = write("a.ko", "하나\n\n셋\n"), write("a.en", "one\n\nthree\n")
    with pytest.raises(ValueError, match="line 2: the line is blank, and so is its translation"):
        load_parallel(source, target)
    assert len(load_parallel(source, target, on_error="skip")) == 2


@pytest.mark.parametrize("name", ["triples.h5", "pairs.tsv.gz"])
def test_one_file_of_columns_whatever_its_suffix(write, name):
    width = 3 if name.startswith("triples") else 2
    lines = [["하나 ", "one", "one"][:width], ['"둘', "two", "two"][:width]]
    text = "".join("\t".join(line) + "\n" for line in lines).encode()
    path = write(name, gzip.compress(text) if name.endswith(".gz") else text)
    assert rows(load_parallel(path)) == [("하나 ", "one"), ('"둘', "two")]


def test_two_files_of_three_columns_give_their_first_columns(write):
    other = write("7lan.other.clean.h5", "하나\tx\tx\n둘\ty\ty\n")
    english = write("7lan.en.clean.h5", "one\tone\tone\ntwo\ttwo\ttwo\n")
    assert rows(load_parallel(other, english)) == [("하나", "one"), ("둘", "two")]
    ragged = write("ragged.h5", "one\tone\tone\ntwo\n")
    with pytest.raises(ValueError, match="ragged.h5`, line 2: expected 3 columns as in the first line, got 1"):
        load_parallel(other, ragged)


def test_ragged_or_empty_columns_are_named(write):
    path = write("a.tsv", "하나\tone\n둘\n셋\t \n\tfour\n다섯\tfive\n")
    with pytest.raises(ValueError, match="a.tsv`, line 2: expected 2 columns as in the first line, got 1"):
        load_parallel(path)
    assert rows(load_parallel(path, on_error="skip")) == [("하나", "one"), ("다섯", "five")]


def test_one_plain_file_is_not_parallel_text(write):
    with pytest.raises(ValueError, match="1 column.*pass it as `target_path`"):
        load_parallel(write("a.ko", "하나\n"))


def test_a_missing_file_is_named_before_anything_is_read(write):
    with pytest.raises(FileNotFoundError, match="no file `.*absent.en`"):
        load_parallel(write("a.ko", b"\xff"), "absent.en")


def test_a_changed_file_is_read_again(write):
    source, target = write("a.ko", "하나\n"), write("a.en", "one\n")
    first = load_parallel(source, target)
    assert load_parallel(source, target).cache_files == first.cache_files
    write("a.en", "ONE!\n")
    assert rows(load_parallel(source, target)) == [("하나", "ONE!")]
    assert rows(first) == [("하나", "one")]


def test_dr_decr_files(shared_data):
    folder = shared_data / "primeqa_samples"
    other = folder / "7lan_notrim_triple_2ep.other.clean.h5"
    alone = load_parallel(other)
    assert len(alone) == 5
    assert alone[4] == {
        "source": "私の家族は彼女の事が大好きでした。",
        "target": "My family were very fond of my girlfriend.",
    }
    assert rows(load_parallel(other, folder / "7lan_notrim_triple_2ep.en.clean.h5")) == rows(alone)


@pytest.mark.parametrize("language", ["arb", "ben", "fin", "jpn", "kor", "rus", "tel"])
def test_ntrex(shared_data, language):
    folder = shared_data / "ntrex"
    pairs = load_parallel(folder / f"ntrex.{language}.txt", folder / "ntrex.eng.txt")
    assert len(pairs) == 1997
    assert pairs[0]["target"] == "Welsh AMs worried about 'looking like muppets'"
    assert not any("\r" in text for pair in pairs for text in pair.values())


@pytest.mark.parametrize(("language", "count"), [("ara", 1000), ("jpn", 1000), ("tel", 234)])
def test_tatoeba(shared_data, language, count):
    stem = shared_data / "tatoeba" / f"tatoeba.{language}-eng"
    assert len(load_parallel(f"{stem}.{language}", f"{stem}.eng")) == count
