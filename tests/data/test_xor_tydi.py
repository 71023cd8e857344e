"""XOR-TyDi's questions and translations."""

import json
import zipfile
from collections import Counter

import pytest

from hf_xlir.data import load_xor_translations, load_xor_tydi, xor_tydi


RETRIEVE = "xor_dev_retrieve_eng_span_v1_1.jsonl"


def rows_of(*rows):
    base = {"question": "?", "answers": ["NA"], "lang": "ko", "split": "dev"}
    return "".join(json.dumps({**base, "id": str(index), **row}) + "\n" for index, row in enumerate(rows))


def test_spaces_in_language_codes_are_stripped(write, tmp_path):
    write("xor_train_full.jsonl", rows_of({"lang": " ar"}, {"lang": "ja", "id": 7}))
    questions = load_xor_tydi("full", "train", tmp_path)
    assert questions.to_list() == [
        {"id": "0", "question": "?", "answers": ["NA"], "lang": "ar"},
        {"id": "7", "question": "?", "answers": ["NA"], "lang": "ja"},
    ]
    assert load_xor_tydi("full", "train", tmp_path, languages=["ar"])["id"][:] == ["0"]
    with pytest.raises(ValueError, match="no rows to load"):
        load_xor_tydi("full", "train", tmp_path, languages=("te",))


def test_test_questions_have_no_answers(write, tmp_path):
    write("xor_test_full_q_only_v1_1.jsonl", '{"id": "1", "question": "?", "lang": "fi", "split": "test"}\n')
    assert load_xor_tydi("full", "test", tmp_path)[0]["answers"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retrieval", "train"), "`task` must be one of 'retrieve', 'full', got 'retrieval'"),
        (("retrieve", "dev"), "`split` must be one of 'train', 'validation', 'test', got 'dev'"),
        (("full", "train", None, ["ar", "en"]), "`languages` must be one of 'ar', 'bn'.*got 'en'"),
        (("full", "train", None, "ar"), r"`languages` is the string 'ar'. Pass a list, such as \['ar'\]"),
        (("full", "train", None, []), "`languages` is empty"),
    ],
)
def test_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_xor_tydi(*arguments)


def test_missing_files_are_named_with_their_address(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"has no file `{RETRIEVE}`. Download https://nlp.cs.washington.edu/.*"
    ):
        load_xor_tydi("retrieve", "validation", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no file `ko-en.ko`"):
        load_xor_translations("ko", tmp_path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": " "}, "it has no question"),
        ({"question": None}, "it has no question"),
        ({"answers": "NA"}, "`answers` is not a list of texts"),
        ({"answers": [1]}, "`answers` is not a list of texts"),
        ({"lang": "en"}, "`lang` is 'en', not one of ar, bn"),
        ({"id": "0"}, "the id `0` has occurred before"),
        ({"id": ""}, "it has no id"),
    ],
)
def test_bad_rows(write, tmp_path, row, reason):
    write(RETRIEVE, rows_of({}, row, {}))
    with pytest.raises(ValueError, match=f"{RETRIEVE}`, line 2: {reason}"):
        load_xor_tydi("retrieve", "validation", tmp_path)
    assert load_xor_tydi("retrieve", "validation", tmp_path, on_error="skip")["id"][:] == ["0", "2"]


def test_translations_leave_out_pairs_without_translation(write, tmp_path):
    write("ko-en.ko", "하나\n둘\n")
    write("ko-en.en", "one\n\n")
    assert load_xor_translations("ko", tmp_path).to_list() == [{"source": "하나", "target": "one"}]
    with pytest.raises(ValueError, match="ko-en.en`, line 2: the line is blank"):
        load_xor_translations("ko", tmp_path, on_error="raise")
    with pytest.raises(ValueError, match="`language` must be one of"):
        load_xor_translations("en", tmp_path)


@pytest.mark.parametrize(
    ("task", "split", "name"),
    [
        ("retrieve", "train", "xor_train_retrieve_eng_span.jsonl"),
        ("retrieve", "validation", "xor_dev_retrieve_eng_span_v1_1.jsonl"),
        ("retrieve", "test", "xor_test_retrieve_eng_span_q_only_v1_1.jsonl"),
        ("full", "train", "xor_train_full.jsonl"),
        ("full", "validation", "xor_dev_full_v1_1.jsonl"),
        ("full", "test", "xor_test_full_q_only_v1_1.jsonl"),
    ],
)
def test_questions_are_downloaded_once(write, tmp_path, served, monkeypatch, task, split, name):
    assert xor_tydi.XOR_TYDI_URL == "https://nlp.cs.washington.edu/xorqa/XORQA_site/data"
    monkeypatch.setattr(xor_tydi, "XOR_TYDI_URL", served)
    write(name, rows_of({"lang": " ar"}))
    expected = [{"id": "0", "question": "?", "answers": ["NA"], "lang": "ar"}]
    assert load_xor_tydi(task, split).to_list() == expected
    (tmp_path / name).unlink()
    assert load_xor_tydi(task, split).to_list() == expected


def test_what_cannot_be_downloaded_is_named(served, monkeypatch):
    monkeypatch.setattr(xor_tydi, "XOR_TYDI_URL", served)
    with pytest.raises(ConnectionError, match="xor_train_full.jsonl` could not be downloaded.*`data_dir`"):
        load_xor_tydi("full", "train")
    with pytest.raises(ConnectionError, match="trans_data_all_langs.zip` could not be downloaded"):
        load_xor_translations("te")


def test_translations_come_from_the_official_archive(tmp_path, served, monkeypatch):
    with zipfile.ZipFile(tmp_path / "trans_data_all_langs.zip", "w") as archive:
        archive.writestr("some/folder/te-en.te", "ఒకటి\n")
        archive.writestr("some/folder/te-en.en", "one\n")
    monkeypatch.setattr(xor_tydi, "XOR_TYDI_URL", served)
    assert load_xor_translations("te").to_list() == [{"source": "ఒకటి", "target": "one"}]
    with pytest.raises(FileNotFoundError, match="has no file `ko-en.ko`"):
        load_xor_translations("ko")


def test_the_published_training_questions(shared_data):
    questions = load_xor_tydi("retrieve", "train", shared_data / "xor_tydi")
    assert len(questions) == 15_250
    assert Counter(questions["lang"]) == dict(bn=2582, ar=2574, ko=2469, ja=2288, fi=2088, ru=1941, te=1308)
    assert questions.split == "train"


def test_the_published_development_questions(shared_data):
    folder = shared_data / "xor_tydi"
    questions = load_xor_tydi("retrieve", "validation", folder)
    assert len(questions) == 2110
    assert Counter(questions["lang"]) == dict(fi=360, ar=350, bn=312, ko=299, ja=296, ru=255, te=238)
    assert sum(bool(set(answers) - {"yes", "no"}) for answers in questions["answers"]) == 1928
    some = load_xor_tydi("retrieve", "validation", folder, languages=["ja", "ko"])
    assert some["id"][:] == [row["id"] for row in questions if row["lang"] in ("ja", "ko")]


def test_the_published_translations(shared_data):
    counts = {
        language: len(load_xor_translations(language, shared_data / "xor_tydi"))
        for language in xor_tydi.XOR_TYDI_LANGUAGES
    }
    # 32,877 lines, one of which has no translation.
    assert counts == dict(ar=4648, bn=4687, fi=4638, ja=4700, ko=4697, ru=4745, te=4761)
    assert load_xor_translations("ar", shared_data / "xor_tydi" / "translations").num_rows == 4648
