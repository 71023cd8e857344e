"""XQuAD."""

import json

import pytest

from hf_xlir.data import load_xquad


SMALL = {
    "version": "1.1",
    "data": [
        {
            "title": "New_York",
            "paragraphs": [
                {
                    "context": "NA.",
                    "qas": [{"id": "q", "question": "?", "answers": [{"text": "null", "answer_start": 0}] * 2}],
                }
            ],
        }
    ],
}


def test_a_small_file(write, tmp_path):
    write("xquad.vi.json", json.dumps(SMALL))
    passages, questions = load_xquad("vi", tmp_path)
    assert passages.to_list() == [{"id": "0-0", "title": "New York", "text": "NA."}]
    assert questions.to_list() == [
        {"id": "q", "question": "?", "answers": ["null"], "lang": "vi", "passage_ids": ["0-0"]}
    ]


def test_unknown_languages_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="`language` must be one of .ar., .de.*got .ko."):
        load_xquad("ko", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no file `xquad.ar.json`. Download https://github.com"):
        load_xquad("ar", tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder `absent`"):
        load_xquad("ar", "absent")


@pytest.mark.parametrize("content", ["[]", "{", '{"data": [{"title": "t"}]}', b"\xff"])
def test_other_files_are_refused(write, tmp_path, content):
    write("xquad.en.json", content)
    with pytest.raises(ValueError, match="xquad.en.json` is not SQuAD 1.1 JSON"):
        load_xquad("en", tmp_path)


def test_the_published_files_are_aligned(shared_data):
    english, arabic = (load_xquad(language, shared_data / "xquad") for language in ("en", "ar"))
    assert (len(english.passages), len(english.questions)) == (240, 1190)
    assert english.passages["id"][:] == arabic.passages["id"][:]
    assert len(set(english.passages["id"])) == 240
    assert english.questions["id"][:] == arabic.questions["id"][:]
    assert english.questions["passage_ids"][:] == arabic.questions["passage_ids"][:]
    assert set(arabic.questions["lang"]) == {"ar"}
    assert english.passages[0]["title"] == "Super Bowl 50"
    texts = dict(zip(english.passages["id"], english.passages["text"], strict=True))
    for question in english.questions:
        assert all(answer in texts[question["passage_ids"][0]] for answer in question["answers"])
