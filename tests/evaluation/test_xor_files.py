"""Prediction files of XOR-TyDi's tasks: format, round trip and errors."""

import gzip
import json

import datasets
import pytest

from hf_xlir.evaluation import (
    RankedPassages,
    load_xor_answers,
    load_xor_retrieve_predictions,
    write_xor_answers,
    write_xor_retrieve_predictions,
    xor_retrieve_metrics,
    xor_retrieve_predictions,
)


PASSAGES = [{"id": id, "title": f"Title {id}", "text": f"text {id}"} for id in "abcde"]
QUESTIONS = [{"id": "q1", "lang": " ar", "answers": ["text e"]}, {"id": "q2", "lang": "ko", "answers": ["text a"]}]
PREDICTIONS = [
    {"id": "q1", "lang": "ar", "ctxs": ["text c", "text e"]},
    {"id": "q2", "lang": "ko", "ctxs": []},
]


class TestFromRankings:
    @pytest.mark.parametrize("as_dataset", [False, True])
    def test_texts_in_the_order_of_the_ranking(self, as_dataset, monkeypatch):
        monkeypatch.setattr("hf_xlir.evaluation.rankings.PASSAGES_PER_BLOCK", 2)
        of = datasets.Dataset.from_list if as_dataset else list
        predictions = xor_retrieve_predictions({"q1": ["c", "e"], "q9": ["?"]}, of(QUESTIONS), of(PASSAGES))
        assert predictions == PREDICTIONS
        for ranked in ({"q1": {"e": 1.0, "c": 1.0}}, RankedPassages({"q1": ["e", "c"]}, {"q1": [0.5, 0.5]})):
            assert xor_retrieve_predictions(ranked, of(QUESTIONS), of(PASSAGES)) == PREDICTIONS  # ties by id
        result = xor_retrieve_metrics(predictions, QUESTIONS, tokenize=str.split)
        assert result["recall@2kt"] == {"ar": 100.0, "ko": 0.0, "macro": 50.0}

    @pytest.mark.parametrize(
        ("rankings", "questions", "message"),
        [
            ({"q1": ["c", "z"]}, QUESTIONS, "not among `passages`, such as .'z'."),
            ({"q1": ["c", "c"]}, QUESTIONS, "ranking of query `q1` names the passage `c` twice"),
            ({"q1": "c"}, QUESTIONS, "ranking of query `q1` must be a list of ids, got 'c'"),
            ({"q9": ["c"]}, QUESTIONS, r"`rankings` has \['q9'\], `questions` has \['q1', 'q2'\]"),
            ({"q1": ["c"]}, [{"id": "q1"}], "`questions`, row 0: `lang` of the question `q1` is None"),
            ({"q1": ["c"]}, [{"id": 1, "lang": "ja"}], "`questions`, row 0: its `id` is 1"),
        ],
    )
    def test_errors(self, rankings, questions, message):
        with pytest.raises(ValueError, match=message):
            xor_retrieve_predictions(rankings, questions, PASSAGES)


class TestRetrieved:
    def test_round_trip_in_the_official_format(self, tmp_path):
        path = tmp_path / "new" / "predictions.json"
        rows = [{**PREDICTIONS[0], "more": 1}, {"id": "q2", "lang": "ja", "ctxs": ("東京\n\u2028", '"')}]
        write_xor_retrieve_predictions(path, iter(rows))
        expected = [PREDICTIONS[0], {"id": "q2", "lang": "ja", "ctxs": ["東京\n\u2028", '"']}]
        assert json.loads(path.read_text("utf-8")) == expected
        assert "東京" in path.read_text("utf-8")
        assert load_xor_retrieve_predictions(path) == expected
        assert [each.name for each in path.parent.iterdir()] == ["predictions.json"]

    def test_a_bad_row_leaves_the_file_unchanged(self, tmp_path):
        path = tmp_path / "predictions.json"
        write_xor_retrieve_predictions(path, PREDICTIONS)
        before = path.read_bytes()
        for rows, message in [
            ([*PREDICTIONS, PREDICTIONS[0]], "`predictions`, row 2: the question `q1` occurred before"),
            (
                [{"id": "q1", "lang": "ja", "ctxs": [{"text": "x"}]}],
                "`predictions`, row 0: `ctxs` of the question `q1`",
            ),
        ]:
            with pytest.raises(ValueError, match=message):
                write_xor_retrieve_predictions(path, rows)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("form", ["array", "lines", "gzip"])
    def test_forms(self, tmp_path, form):
        path = tmp_path / "predictions"
        lines = [json.dumps(row) for row in PREDICTIONS]
        text = "\n".join(lines) if form == "lines" else f"[{', '.join(lines)}]"
        path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
        assert load_xor_retrieve_predictions(path) == PREDICTIONS

    def test_ids_become_strings(self, tmp_path):
        path = tmp_path / "predictions.json"
        path.write_text('[{"id": -1018987027025691298, "lang": "te", "ctxs": []}]')
        assert load_xor_retrieve_predictions(path)[0]["id"] == "-1018987027025691298"

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ('{"id": "q1", "lang": "ja", "ctxs": []}', "the question `q1` occurred before"),
            ('{"lang": "ja", "ctxs": []}', "its `id` is None; ids are non-empty"),
            ('{"id": true, "lang": "ja", "ctxs": []}', "its `id` is True; ids are non-empty"),
            ('{"id": "q2", "ctxs": []}', "`lang` of the question `q2` is None"),
            ('{"id": "q2", "lang": "ja", "ctxs": [1]}', r"`ctxs` of the question `q2` must be a list .*, got '\[1\]'"),
            ('{"id": "q2", "lang": "ja"}', "`ctxs` of the question `q2` must be a list .*, got 'None'"),
            ('["q2"]', "expected a JSON object"),
            ('{"id": "q2"', "not JSON"),
        ],
    )
    def test_bad_rows_are_named_or_skipped(self, tmp_path, row, reason):
        path = tmp_path / "predictions.jsonl"
        good = '{"id": "q1", "lang": "ja", "ctxs": ["x"]}'
        path.write_text(f"{good}\n{row}\n")
        with pytest.raises(ValueError, match=f"predictions.jsonl`, line 2: .*{reason}"):
            load_xor_retrieve_predictions(path)
        assert load_xor_retrieve_predictions(path, on_error="skip") == [json.loads(good)]

    def test_missing_and_empty_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            load_xor_retrieve_predictions(tmp_path / "absent.json")
        (tmp_path / "empty.json").write_text("[]")
        with pytest.raises(ValueError, match="empty.json` has no predictions"):
            load_xor_retrieve_predictions(tmp_path / "empty.json")


class TestAnswers:
    def test_round_trip_in_the_official_format(self, tmp_path):
        path, answers = tmp_path / "new" / "answers.json", {"12345": "東京", "-6": 'a "b"\n', "7": ""}
        write_xor_answers(path, answers)
        assert json.loads(path.read_text("utf-8")) == answers
        assert "東京" in path.read_text("utf-8")
        assert load_xor_answers(path) == answers
        assert [each.name for each in path.parent.iterdir()] == ["answers.json"]
        for bad in ({"1": None}, {2: "x"}):
            with pytest.raises(ValueError, match="`answers` must map question ids"):
                write_xor_answers(path, bad)
        assert load_xor_answers(path) == answers

    @pytest.mark.parametrize(
        "content",
        [b'{"1": "x", "2": {"answer": "y", "score": {"a": 1}}}', b'\xef\xbb\xbf{"1": "x",\n"2": "y"}\n'],
    )
    @pytest.mark.parametrize("zipped", [False, True])
    def test_forms(self, tmp_path, content, zipped):
        path = tmp_path / "answers.json"
        path.write_bytes(gzip.compress(content) if zipped else content)
        assert load_xor_answers(path) == {"1": "x", "2": "y"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b'{"1": "x", "2": "y", "1": "x"}', "answers.json` has the question `1` more than once"),
            (b'{"1": 5}', "answers.json`, question `1`: the answer must be a string, got 5"),
            (b'{"1": {"text": "x"}}', "answers.json`, question `1`: the answer must be a string, got None"),
            (b'{"1": ["x"]}', r"answers.json`, question `1`: the answer must be a string, got \['x'\]"),
            (b'[{"id": "1", "answer": "x"}]', "answers.json` must be one JSON object from question ids"),
            (b'[["1", "x"]]', "answers.json` must be one JSON object"),
            (b'"x"', "answers.json` must be one JSON object"),
            (b'{"1": "x"', "answers.json` is not JSON: .*line 1 column 10"),
            (b"[" * 200_000, "answers.json` is not JSON"),
            (b'{"1": "\xff"}', "answers.json` cannot be read: byte 8 .0xff. is not UTF-8"),
            (b"{}", "answers.json` has no predictions"),
        ],
    )
    def test_bad_files(self, tmp_path, content, message):
        path = tmp_path / "answers.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_xor_answers(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            load_xor_answers(tmp_path / "absent.json")
