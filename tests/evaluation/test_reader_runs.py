"""A file is answered whole, in order, by several processes too, and goes on where it was interrupted."""

import json
import os
import subprocess
import sys

import pytest
import reader_processes
import torch
from launching import ROOT, launch
from reader_processes import make_model

from hf_xlir.evaluation import evaluate_reader, read_answers, reader_runs


TEXTS = ("the rain rained", "Seoul, the capital", "the capital Seoul " * 4, "er", "It was seen in 1876.")


def make_rows():
    rows = []
    for place in range(11):
        ctxs = [
            {"id": f"{place}-{rank}", "text": TEXTS[(place + rank) % 5], "rank": rank} for rank in range(place % 4)
        ]
        rows.append(
            {"id": place, "question": f"Who is {place}?", "answers": ["Seoul"], "lang": ["ko", "fi"][place % 2]}
        )
        rows[-1] |= {"ctxs": ctxs, "note": {"of": "the file's own"}}
    rows[3]["ctxs"][0]["score"] = "79.3"  # a retriever's
    del rows[4]["answers"]
    rows[5] = {"id": 5, "question": "Where is it?", "answers": [], "target": "the rain"}
    return rows


ROWS = make_rows()


@pytest.fixture(scope="module")
def reader():
    return make_model()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(reader_runs, "QUESTIONS_PER_BLOCK", 2)


def run(reader, file, folder, **given):
    return evaluate_reader(
        *reader, file, folder, **{"scores": "attention", "batch_size": 2, "progress": False, **given}
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["dataset_wscores.jsonl", "eval_results.json", "predictions.jsonl", "run.json"]


def test_what_is_written(reader, file, tmp_path):
    folder = tmp_path / "new" / "out"
    results = run(reader, file, folder)
    assert names_in(folder) == WHOLE
    model, processor = reader
    examples = [{"question": row["question"], "ctxs": row.get("ctxs", [])} for row in ROWS]
    answers = read_answers(model, processor, examples, scores="attention")

    predictions = lines_of(folder / "predictions.jsonl")
    assert [row["prediction"] for row in predictions] == [answer.text for answer in answers]
    assert [row["id"] for row in predictions] == [str(place) for place in range(11)]
    assert list(predictions[1]) == ["id", "lang", "question", "prediction", "answers", "exact_match", "f1"]
    assert (predictions[4]["answers"], predictions[4]["exact_match"], predictions[4]["f1"]) == ([], None, None)
    assert (predictions[5]["answers"], predictions[5]["lang"]) == (["the rain"], "")
    assert results == json.loads((folder / "eval_results.json").read_text())
    assert (results["num_questions"], results["num_with_answers"]) == (11, 10)
    known = [row for row in predictions if row["f1"] is not None]
    assert results["f1"] == pytest.approx(sum(row["f1"] for row in known) / 10)
    finnish = [row["f1"] for row in known if row["lang"] == "fi"]
    assert results["fi_f1"] == pytest.approx(sum(finnish) / 4) and "other_exact_match" in results

    scored = lines_of(folder / "dataset_wscores.jsonl")
    for row, of_row, answer in zip(scored, ROWS, answers, strict=True):
        found = [each.pop("score") for each in row.get("ctxs", [])]
        before = json.loads(json.dumps(of_row))
        for each in before.get("ctxs", []):
            each.pop("score", None)
        assert row == before and list(row) == list(of_row)
        assert found[:2] == pytest.approx(answer.scores, abs=1e-5) and found[2:] == [None] * (len(found) - 2)
    assert sum(len(row.get("ctxs", [])) > 2 for row in scored) == 2


def test_likelihoods(reader, file, tmp_path):
    run(reader, file, tmp_path / "out", scores="likelihood")
    for row, of_row in zip(lines_of(tmp_path / "out" / "dataset_wscores.jsonl"), ROWS, strict=True):
        found = [each["score"] for each in row.get("ctxs", [])]
        has_answer = bool(of_row.get("answers") or of_row.get("target"))
        assert [score is not None for score in found] == [has_answer and place < 2 for place in range(len(found))]
        assert all(score < 0 for score in found if score is not None)
    with pytest.raises(ValueError, match="`scores` must be one of"):
        run(reader, file, tmp_path / "other", scores="retrieval")
    assert not (tmp_path / "other").exists()


def test_without_scores_and_from_an_array(reader, file, tmp_path):
    array = tmp_path / "examples.json"
    array.write_text(json.dumps(ROWS), encoding="utf-8")
    results = run(reader, array, tmp_path / "array", scores=None)
    assert names_in(tmp_path / "array") == ["eval_results.json", "predictions.jsonl", "run.json"]
    assert results == run(reader, file, tmp_path / "lines", scores=None, batch_size=3)
    predictions = [(tmp_path / name / "predictions.jsonl").read_bytes() for name in ("array", "lines")]
    assert predictions[0] == predictions[1]


def test_no_answers_at_all(reader, tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text('{"question": "Who?", "ctxs": []}\n{"question": "Where?"}\n')
    assert run(reader, file, tmp_path / "out") == {"num_questions": 2, "num_with_answers": 0}
    assert len(lines_of(tmp_path / "out" / "predictions.jsonl")) == 2
    assert lines_of(tmp_path / "out" / "dataset_wscores.jsonl") == lines_of(file)


def killed(monkeypatch, module, name, after):
    """Lets a function be called `after` times before it dies as the process might."""
    function, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)


def test_a_run_goes_on_wherever_it_was_interrupted(reader, file, tmp_path, monkeypatch):
    expected = run(reader, file, tmp_path / "whole")
    contents = [(tmp_path / "whole" / name).read_bytes() for name in WHOLE]
    read = []
    monkeypatch.setattr(
        reader_runs, "read_answers", lambda *args, **given: read.append(len(args[2])) or read_answers(*args, **given)
    )
    # What gets its name: run.json, two files a block, two merged ones, the results in two steps, run.json
    for point in (0, 1, 2, 9, 12, 13, 14, 15, 16, 17):
        folder, read[:] = tmp_path / f"killed-{point}", []
        with monkeypatch.context() as patch:
            killed(patch, os, "replace", point)
            with pytest.raises(KeyboardInterrupt):
                run(reader, file, folder)
        assert "run.json" not in names_in(folder)
        if point < 13:
            assert names_in(folder) == ["unfinished"]
        finished = max(0, point - 1) // 2
        assert len(read) == min(6, finished + (point > 0))
        read[:] = []
        assert run(reader, file, folder) == expected
        assert len(read) == 6 - min(finished, 6)
        assert names_in(folder) == WHOLE
        assert [(folder / name).read_bytes() for name in WHOLE] == contents
    read[:] = []
    assert run(reader, file, folder) == expected and read == []
    (folder / "unfinished").mkdir()
    assert run(reader, file, folder) == expected and names_in(folder) == WHOLE


def test_results_of_another_run_stay(reader, file, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    run(reader, file, folder)
    before = {name: (folder / name).read_bytes() for name in WHOLE}
    for given, differing in (({"num_beams": 2}, "num_beams"), ({"scores": "likelihood"}, "scores")):
        with pytest.raises(ValueError, match=rf"another run: `{differing}` differ"):
            run(reader, file, folder, **given)
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Who?", "answers": ["x"]}')
    with pytest.raises(ValueError, match="another run: `path` differ"):
        run(reader, other, folder)
    with torch.no_grad():
        model, processor = make_model()
        model.shared.weight[5] += 1
    with pytest.raises(ValueError, match="`model` differ"):
        run((model, processor), file, folder)
    assert {name: (folder / name).read_bytes() for name in WHOLE} == before
    assert run(reader, other, folder, overwrite=True, scores=None)["num_questions"] == 1
    assert names_in(folder) == ["eval_results.json", "predictions.jsonl", "run.json"]

    killed(monkeypatch, reader_runs, "_write_part", 1)
    with pytest.raises(KeyboardInterrupt):
        run(reader, file, tmp_path / "begun")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="`path` differ"):
        run(reader, other, tmp_path / "begun")
    with pytest.raises(ValueError, match="not used by the model.*'num_beam'"):
        run(reader, file, tmp_path / "failed", num_beam=2)
    assert run(reader, other, tmp_path / "failed")["num_questions"] == 1  # nothing was read, so nothing is lost
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "eval_results.json").write_text("{}")
    with pytest.raises(ValueError, match="has files that this run would replace: `eval_results.json`"):
        run(reader, file, tmp_path / "taken")


def test_two_runs_at_once_do_not_disturb_each_other(reader, file, tmp_path, monkeypatch):
    expected, folder = run(reader, file, tmp_path / "alone"), tmp_path / "out"
    write_part, refused = reader_runs._write_part, []

    def interrupted(*args):
        """Halfway through the first run another one is started, the same or one that would begin anew."""
        with pytest.raises(RuntimeError, match=r"Another run is writing into `.*out`"):
            run(reader, file, folder, overwrite=bool(refused))
        refused.append(names_in(folder))
        write_part(*args)

    monkeypatch.setattr(reader_runs, "_write_part", interrupted)
    assert run(reader, file, folder) == expected
    assert refused == [["evaluation.lock", "unfinished"]] * 6 and names_in(folder) == WHOLE
    for name in WHOLE:
        assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    (folder / "evaluation.lock").touch()  # a killed run's
    assert run(reader, file, folder) == expected and names_in(folder) == WHOLE


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q", "ctxs": [{"text": "a"}', "not JSON"),
        ('{"question": "q", "ctxs": [{"title": "a"}]}', "entry 1 of `ctxs` is not an object with a `text`"),
        ('{"question": "q", "ctxs": [{"text": " "}]}', "entry 1 of `ctxs` has an empty `text`"),
        ('{"question": "q", "answers": "a"}', "`answers` is not a list of texts"),
        ('{"id": 2, "question": "q"}', "the id `2` has occurred before"),
        ('{"ctxs": []}', "it has no question"),
    ],
)
def test_a_bad_row_costs_nothing(reader, file, tmp_path, line, reason):
    lines = file.read_text("utf-8").splitlines()
    whole = run(reader, file, tmp_path / "out")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    file.write_text("\n".join([*lines[:8], line, *lines[8:]]), encoding="utf-8")
    for folder in ("new", "out"):
        with pytest.raises(ValueError, match=rf"examples.jsonl`, line 9: {reason}"):
            run(reader, file, tmp_path / folder, overwrite=True)
    assert not (tmp_path / "new").exists()
    assert names_in(tmp_path / "out") == WHOLE and (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    if line.startswith('{"ctxs'):
        assert run(reader, file, tmp_path / "new", on_error="skip") == whole
        assert (tmp_path / "new" / "predictions.jsonl").read_bytes() == before


def test_files_that_cannot_be_read(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file `absent.jsonl`"):
        run(reader, "absent.jsonl", tmp_path / "out")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="empty.jsonl` has no rows to read"):
        run(reader, empty, tmp_path / "out")
    with pytest.raises(ValueError, match="`batch_size` must be .*got 0"):
        run(reader, empty, tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists()


def test_two_processes_share_a_file(reader, file, tmp_path):
    """The blocks are put together in order."""
    expected = run(reader, file, tmp_path / "one")
    for rank, (results, parts) in enumerate(launch(reader_processes.__file__, tmp_path)):
        assert results == expected and parts == [f"{number:08d}" for number in range(rank, 6, 2)]
    for name in WHOLE:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Sixteen times as many rows, of a hundred kilobytes each, and a model that only says where it is."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import json, resource, sys
sys.path[:0] = [{str(ROOT)!r}]
import torch
from hf_xlir.evaluation import reader_runs
from hf_xlir.evaluation.reader_runs import ReadAnswer

reader_runs.fingerprint_of = lambda *args: {{}}
reader_runs.read_answers = lambda model, processor, examples, *args, **given: [
    ReadAnswer("x", [0.5] * len(example["ctxs"])) for example in examples
]
class Model:
    device = torch.device("cpu")
peaks = []
for count in (40, 640):
    path = f"{tmp_path}/{{count}}.jsonl"
    with open(path, "w") as stream:
        for number in range(count):
            ctxs = [{{"text": f"{{number}} {{rank}} " + "word " * 200}} for rank in range(100)]
            stream.write(json.dumps({{"question": "Who?", "answers": ["x"], "ctxs": ctxs}}) + "\\n")
    reader_runs.QUESTIONS_PER_BLOCK = 8
    results = reader_runs.evaluate_reader(
        Model, None, path, f"{tmp_path}/out-{{count}}", scores="attention", batch_size=1, progress=False
    )
    assert results["exact_match"] == 1 and results["num_questions"] == count
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 25  # of 64 MB
