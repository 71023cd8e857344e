"""A reader's answers in memory and from a file, its scores against plain T5, and resumed runs."""

import json
import os
import subprocess
import sys

import pytest
import reader_processes
import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer
from launching import ROOT, launch
from reader_processes import make_model
from transformers import T5Config, T5ForConditionalGeneration

from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration, FiDT5Processor
from hf_xlir.evaluation import answer_log_likelihoods, evaluate_reader, read_answers, reader_runs
from hf_xlir.evaluation.reader_runs import answer_metrics, judge_answer, known_answers


# Examples in memory


RAIN = {"title": "Rain", "text": "the rain rained"}
SEOUL = {"text": "Seoul, the capital", "score": 3.0}
LONG = {"title": "Long", "text": "the capital Seoul " * 5}
EXAMPLES = [
    {"question": "Who?", "ctxs": [RAIN, LONG, SEOUL]},
    {"question": "What is the capital?", "ctxs": []},
    {"question": "Where?", "ctxs": [SEOUL]},
    {"question": "When?", "ctxs": [SEOUL, RAIN]},
    {"question": "Why?", "ctxs": [LONG, RAIN]},
]


@pytest.fixture(scope="module")
def small_reader():
    tokenizer = make_tokenizer()
    backbone = make_backbone(vocab_size=len(tokenizer))
    return make_reader(backbone), FiDT5Processor(tokenizer, answer_maxlength=6, n_context=2)


def test_answers_and_scores_do_not_depend_on_the_batch(small_reader):
    model, processor = small_reader
    expected = []
    for example in EXAMPLES:
        inputs = processor([example["question"]], [example["ctxs"]])
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        scores = model.reader_scores(**inputs)[0].tolist() if example["ctxs"] else []
        expected.append((processor.decode(tokens[0], skip_special_tokens=True).strip(), scores))
    assert len({text for text, _ in expected}) > 1 and [len(scores) for _, scores in expected] == [2, 0, 1, 2, 2]
    for batch_size in (1, 2, 5):
        answers = read_answers(model, processor, EXAMPLES, batch_size, scores="attention")
        for answer, (text, scores) in zip(answers, expected, strict=True):
            assert answer.text == text and answer.scores == pytest.approx(scores, abs=1e-5)
    model.train()
    assert [answer.text for answer in read_answers(model, processor, EXAMPLES)] == [text for text, _ in expected]
    assert not model.training


def test_likelihoods_of_each_question(small_reader):
    model, processor = small_reader
    known = [{"target": "the rain"}, {"answers": ["Seoul", "rain"]}, {}, {"answers": ["the capital Seoul"]}, {}]
    examples = [example | more for example, more in zip(EXAMPLES, known, strict=True)]
    expected = [None] * 5
    for place, answer in ((0, "the rain"), (1, "Seoul"), (3, "the capital Seoul")):
        expected[place] = []
        for passage in EXAMPLES[place]["ctxs"][:2]:
            inputs = processor([EXAMPLES[place]["question"]], [[passage]], [answer])
            logits = model(**inputs).logits[0].detach().log_softmax(dim=1)
            expected[place].append(float(logits.gather(1, inputs["labels"].T).sum()))
    for batch_size in (1, 3, 5):
        answers = read_answers(model, processor, examples, batch_size, scores="likelihood")
        for answer, scores in zip(answers, expected, strict=True):
            assert answer.scores == (None if scores is None else pytest.approx(scores, abs=1e-4))
    texts = [answer.text for answer in read_answers(model, processor, examples)]
    assert [answer.text for answer in answers] == texts


@pytest.mark.parametrize("scores", ["attention", "likelihood"])
def test_scores_that_are_not_finite(scores):
    tokenizer = make_tokenizer()
    model = make_reader(make_backbone(vocab_size=len(tokenizer)))
    with torch.no_grad():
        model.decoder.block[0].layer[1].EncDecAttention.k.weight[0] = torch.nan
    long = {**SEOUL, "text": SEOUL["text"] * 20}  # torch's sdpa makes 0 of NaN where there are fewer than 16 tokens
    example = {"question": "Who?", "ctxs": [long], "answers": ["Seoul"], "target": None}
    with pytest.raises(ValueError, match="scores of passages for 'Who\\?' are not all finite"):
        read_answers(model, FiDT5Processor(tokenizer), [example], scores=scores, max_new_tokens=2)


def test_unknown_scores(small_reader):
    with pytest.raises(ValueError, match="`scores` must be one of .*got True"):
        read_answers(*small_reader, EXAMPLES, scores=True)


def test_generation_arguments(small_reader):
    model, processor = small_reader
    answers = read_answers(model, processor, EXAMPLES[:1], num_beams=3, max_new_tokens=2)
    inputs = processor(["Who?"], [EXAMPLES[0]["ctxs"]])
    tokens = model.generate(**inputs, num_beams=3, max_new_tokens=2)
    assert answers == [(processor.decode(tokens[0], skip_special_tokens=True).strip(), None)]


@pytest.mark.parametrize(("limit", "length"), [(4, 4), (None, 50)])
def test_length_of_answers(small_reader, monkeypatch, limit, length):
    model, processor = small_reader
    outputs, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **given: outputs.append(generate(**given)) or outputs[-1])
    monkeypatch.setattr(processor, "answer_maxlength", limit)
    read_answers(model, processor, EXAMPLES[:1], min_new_tokens=length)
    assert outputs[0].sequences.shape == torch.Size([1, 1 + length])  # and the token that decoding starts from


def test_judge_answer():
    assert judge_answer("the Seine", ["Oder", "Seine"]) == {"exact_match": True, "f1": 1.0}
    judged = judge_answer("river Seine", ["Seine"])
    assert judged["exact_match"] is False and judged["f1"] == pytest.approx(2 / 3)
    assert judge_answer("Seine", []) == {"exact_match": None, "f1": None}
    assert known_answers({"answers": ["a", "b"], "target": "a"}) == ["a", "b"]
    assert known_answers({"answers": [], "target": ""}) == [""]
    assert known_answers({"answers": [], "target": None}) == []


def row(lang, exact_match, f1):
    return {"lang": lang, "exact_match": exact_match, "f1": f1}


def test_metrics_of_one_language():
    judged = [row("fi", True, 1.0), row("fi", None, None), row("fi", False, 0.5), row("fi", False, 0.0)]
    assert answer_metrics(iter(judged)) == {"exact_match": pytest.approx(1 / 3), "f1": 0.5}
    assert answer_metrics([{"exact_match": True, "f1": 1.0}]) == {"exact_match": 1.0, "f1": 1.0}
    assert answer_metrics([row("fi", None, None)]) == answer_metrics([]) == {}


def test_metrics_of_several_languages():
    judged = [row("ko", True, 1.0), row("fi", True, 1.0), row("ko", False, 0.5), row("", False, 0.0)]
    judged += [row("ar", None, None), row("ko", True, 1.0)]
    assert answer_metrics(judged) == {
        "exact_match": 0.6,
        "f1": 0.7,
        "macro_exact_match": pytest.approx((1 + 2 / 3 + 0) / 3),
        "macro_f1": pytest.approx((1 + 2.5 / 3 + 0) / 3),
        "fi_exact_match": 1.0,
        "fi_f1": 1.0,
        "ko_exact_match": pytest.approx(2 / 3),
        "ko_f1": pytest.approx(2.5 / 3),
        "other_exact_match": 0.0,
        "other_f1": 0.0,
    }


# Likelihoods


T5_SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
LABELS = torch.tensor([[7, 9, 1, -100], [5, 1, -100, -100]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same weights as a reader and as plain T5."""
    torch.manual_seed(0)
    plain = T5ForConditionalGeneration(T5Config(**T5_SIZES, decoder_start_token_id=0)).double().eval()
    for parameter in plain.parameters():
        parameter.data.mul_(2)  # far from equal likelihoods
    reader = FiDT5ForConditionalGeneration(FiDT5Config(**T5_SIZES, decoder_start_token_id=0)).double().eval()
    reader.load_state_dict(plain.state_dict())
    return reader, plain


def passage_inputs():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(2, 50, (2, 3, 6), generator=generator)
    lengths = torch.tensor([[6, 2, 0], [4, 6, 1]])  # one passage is absent
    return input_ids, (torch.arange(6) < lengths[:, :, None]).long()


@pytest.mark.parametrize("passages_per_step", [1, 2, 16])
def test_equal_plain_t5_passage_by_passage(models, passages_per_step):
    (reader, plain), (input_ids, mask) = models, passage_inputs()
    found = answer_log_likelihoods(reader, input_ids, mask, LABELS, passages_per_step)
    for question in range(2):
        for passage in range(3):
            ids = input_ids[question, passage][mask[question, passage].bool()]
            if not len(ids):
                assert found[question, passage] == -torch.inf
                continue
            answer = LABELS[question][LABELS[question] != -100]
            decoder_ids = torch.cat([torch.zeros(1, dtype=torch.long), answer[:-1]])
            with torch.no_grad():
                logits = plain(input_ids=ids[None], decoder_input_ids=decoder_ids[None]).logits[0]
            expected = sum(logits[i].log_softmax(dim=0)[token] for i, token in enumerate(answer))
            assert found[question, passage].item() == pytest.approx(expected.item(), abs=1e-10)
    assert found[mask.any(dim=2)].std() > 0.01


def test_the_loss_of_one_passage_is_its_mean(models):
    reader, (input_ids, mask) = models[0], passage_inputs()
    found = answer_log_likelihoods(reader, input_ids[:1, :1], mask[:1, :1], LABELS[:1])
    loss = reader(input_ids=input_ids[:1, :1], attention_mask=mask[:1, :1], labels=LABELS[:1]).loss
    assert found.item() == pytest.approx(-3 * loss.item())


def test_half_precision_is_summed_in_float32(models):
    reader, (input_ids, mask) = FiDT5ForConditionalGeneration(models[0].config).bfloat16().eval(), passage_inputs()
    found = answer_log_likelihoods(reader, input_ids, mask, LABELS)
    assert found.dtype == torch.float32 and found[0, 0] < 0


def test_likelihoods_of_wrong_shapes(models):
    reader, (input_ids, mask) = models[0], passage_inputs()
    with pytest.raises(ValueError, match=r"rows \[1\] have no token"):
        answer_log_likelihoods(reader, input_ids, mask, torch.tensor([[4, 1], [-100, -100]]))
    for wrong in ((input_ids[0], mask[0], LABELS), (input_ids, mask[:, :2], LABELS), (input_ids, mask, LABELS[:1])):
        with pytest.raises(ValueError, match=r"must have the shape \(batch_size, num_passages, length\)"):
            answer_log_likelihoods(reader, *wrong)


# Files


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


def test_files_that_are_written(reader, file, tmp_path):
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


def test_likelihoods_in_a_file(reader, file, tmp_path):
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


def test_rows_without_answers(reader, tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text('{"question": "Who?", "ctxs": []}\n{"question": "Where?"}\n')
    assert run(reader, file, tmp_path / "out") == {"num_questions": 2, "num_with_answers": 0}
    assert len(lines_of(tmp_path / "out" / "predictions.jsonl")) == 2
    assert lines_of(tmp_path / "out" / "dataset_wscores.jsonl") == lines_of(file)


def killed(monkeypatch, module, name, after):
    """Let a function be called `after` times, then raise, as if the process were killed."""
    function, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)


@pytest.mark.parametrize("points", [(0, 9, 16), pytest.param(range(18), marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_run_resumes_wherever_it_was_killed(points, reader, file, tmp_path, monkeypatch):
    expected = run(reader, file, tmp_path / "whole")
    contents = [(tmp_path / "whole" / name).read_bytes() for name in WHOLE]
    read = []
    monkeypatch.setattr(
        reader_runs, "read_answers", lambda *args, **given: read.append(len(args[2])) or read_answers(*args, **given)
    )
    # Renamed are: run.json, two files per block, two merged files, the results in two steps, run.json
    for point in points:
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


def test_results_of_another_run_are_kept(reader, file, tmp_path, monkeypatch):
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
        """Start another run halfway through the first: the same run, or one that overwrites."""
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
        ('{"question": "q", "ctxs": [{"text": " "}]}', "entry 1 of `ctxs` has an empty `text`"),
        ('{"ctxs": []}', "it has no question"),
    ],
)
def test_a_bad_row_ends_the_run_before_it_starts(reader, file, tmp_path, line, reason):
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
    expected = run(reader, file, tmp_path / "one")
    for rank, (results, parts) in enumerate(launch(reader_processes.__file__, tmp_path)):
        assert results == expected and parts == [f"{number:08d}" for number in range(rank, 6, 2)]
    for name in WHOLE:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Sixteen times as many rows of a hundred kilobytes, with a model that only has a device."""
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
