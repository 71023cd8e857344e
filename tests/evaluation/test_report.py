"""Systems beside each other, against the metrics one by one and literal tables."""

import json

import pytest
from datasets import Dataset

from hf_xlir.evaluation import Benchmark, compare_runs, evaluate_systems, recall_at_k, reciprocal_rank
from hf_xlir.evaluation.report import EvaluationReport


PASSAGES = Dataset.from_list([{"id": id, "title": "", "text": f"Text {id}."} for id in "abcd"])
QUESTIONS = Dataset.from_dict({"id": [f"q{i}" for i in range(6)], "question": ["?"] * 6})
RELEVANCE = {f"q{i}": ["a"] for i in range(6)}
GROUPS = {f"q{i}": "fi" if i < 4 else "ko" for i in range(6)}
JUDGED = Benchmark("tiny", QUESTIONS, PASSAGES, RELEVANCE, None, GROUPS)
MODEL = {f"q{i}": list("abc") if i < 5 else list("bac") for i in range(6)}
BM25 = {"q0": ["a"], "q1": ["b", "a"], "q5": ["c", "b", "d"]}


def test_values_curves_and_counts():
    report = evaluate_systems(JUDGED, {"model": MODEL, "bm25": BM25}, ["RR", "R@2"])
    assert (report.benchmark, report.num_passages, report.num_questions) == ("tiny", 4, {"fi": 4, "ko": 2})
    assert report.systems == {
        "model": {
            "RR": {"fi": 1.0, "ko": 0.75, "macro": 0.875, "mean": pytest.approx(11 / 12)},
            "R@2": {"fi": 1.0, "ko": 1.0, "macro": 1.0, "mean": 1.0},
        },
        "bm25": {
            "RR": {"fi": 0.375, "ko": 0.0, "macro": 0.1875, "mean": 0.25},
            "R@2": {"fi": 0.5, "ko": 0.0, "macro": 0.25, "mean": pytest.approx(1 / 3)},
        },
    }
    assert report.curves == {"model": {1: 0.75, 2: 1.0}, "bm25": {1: 0.125, 2: 0.25}}  # as deep as was ranked: 3
    assert (report.curve_measure, report.comparisons, report.notes) == ("R", [], [])
    assert report.groups() == ["fi", "ko"]


def test_comparisons_with_the_baseline():
    report = evaluate_systems(JUDGED, {"model": MODEL, "bm25": BM25, "same": BM25}, ["RR", "R@2"], baseline="bm25")
    model, bm25 = (reciprocal_rank(each, RELEVANCE, per_query=True) for each in (MODEL, BM25))
    finnish = [{id: values[id] for id in values if GROUPS[id] == "fi"} for values in (model, bm25)]
    names = [(each["first"], each["second"], each["measure"], each["group"]) for each in report.comparisons]
    assert names == [(name, "bm25", "RR", group) for name in ("model", "same") for group in ("fi", "ko", "all")]
    for each, runs in ((report.comparisons[0], finnish), (report.comparisons[2], (model, bm25))):
        assert each["p_value"] == compare_runs(*runs).p_value
        means = [sum(values.values()) / len(values) for values in runs]
        assert each["difference"] == pytest.approx(means[0] - means[1])
        assert each["num_queries"] == len(runs[0])
    assert all(each["p_value"] == 1 and each["difference"] == 0 for each in report.comparisons[3:])


def test_tests_over_translations_say_that_they_are_not_of_independent_questions():
    systems = {"model": MODEL, "bm25": BM25}
    benchmark = JUDGED._replace(translated=True)
    report = evaluate_systems(benchmark, systems, baseline="bm25")
    [note] = report.notes
    assert "not independent, so these p-values are too small" in note
    assert note in json.loads(report.to_json())["notes"] and report.to_markdown().endswith(f"\n{note}\n")
    korean = benchmark._replace(relevance={"q4": ["a"], "q5": ["a"]})
    for other in (evaluate_systems(benchmark, systems), evaluate_systems(JUDGED, systems, baseline="bm25")):
        assert other.notes == []  # nothing was tested, or no question is another's translation
    assert evaluate_systems(korean, systems, baseline="bm25").notes == []  # nor is one in a single language


def test_questions_with_answers_and_no_groups():
    benchmark = Benchmark("nq", QUESTIONS, PASSAGES, None, {"q0": ["Text a"], "q1": ["text c"], "q2": ["d"]})
    report = evaluate_systems(benchmark, {"model": MODEL}, ["Answer@1", "Answer@3"], baseline="model")
    assert report.systems["model"] == {"Answer@1": {"mean": 1 / 3}, "Answer@3": {"mean": 2 / 3}}
    assert report.curve_measure == "Answer" and report.curves == {"model": {1: 1 / 3, 2: 1 / 3}}
    assert report.num_questions == {"all": 3} and report.groups() == []
    assert "| Answer@3 | model | 66.7 |" in report.to_markdown()
    assert list(evaluate_systems(benchmark, {"model": MODEL}).systems["model"])[-1] == "Answer@100"


REPORT = EvaluationReport(
    "tiny",
    {"fi": 1190, "ko": 2},
    240,
    {
        "model": {
            "RR@10": {"fi": 0.5, "ko": 0.25, "macro": 0.375, "mean": 0.4},
            "R@2kt": {"ko": 1 / 3, "macro": 1 / 3},
        },
        "a|b": {"RR@10": {"fi": 0.0, "ko": 1.0, "macro": 0.5, "mean": 0.1}},
    },
    comparisons=[
        {
            "first": "model",
            "second": "a|b",
            "measure": "RR@10",
            "group": group,
            "num_queries": 1190,
            "difference": difference,
            "p_value": p_value,
        }
        for group, difference, p_value in (("fi", 0.5, 0.0002), ("ko", -0.12345, 0.04))
    ],
    notes=["A note."],
)
MARKDOWN = """\
`tiny`: 1,190 fi, 2 ko questions on 240 passages; values in percent.

| measure | system | fi | ko | macro |
| --- | --- | ---: | ---: | ---: |
| RR@10 | model | 50.0 | 25.0 | 37.5 |
| RR@10 | a\\|b | 0.0 | 100.0 | 50.0 |
| R@2kt | model | - | 33.3 | 33.3 |
| R@2kt | a\\|b | - | - | - |

| measure | systems | language | questions | difference | p |
| --- | --- | --- | ---: | ---: | ---: |
| RR@10 | model - a\\|b | fi | 1,190 | +50.0 | < 0.001 |
| RR@10 | model - a\\|b | ko | 1,190 | -12.3 | 0.040 |

A note.
"""


def test_questions_without_languages_are_counted_alone():
    report = EvaluationReport("nfcorpus", {"all": 1323}, 3633, {"bm25": {"R@1": {"mean": 0.5}}})
    assert report.to_markdown().splitlines()[0] == (
        "`nfcorpus`: 1,323 questions on 3,633 passages; values in percent."
    )


def test_one_language_stands_for_itself():
    """A task's own measures have no mean over questions."""
    values = {"R@2kt": {"ko": 0.5, "macro": 0.5}, "R@1": {"ko": 0.25, "macro": 0.25, "mean": 0.25}}
    report = EvaluationReport("xor-retrieve", {"ko": 4}, 9, {"bm25": values})
    assert report.columns() == (["ko"], ["ko"])
    assert report.to_markdown().splitlines()[2:] == [
        "| measure | system | ko |",
        "| --- | --- | ---: |",
        "| R@2kt | bm25 | 50.0 |",
        "| R@1 | bm25 | 25.0 |",
    ]


def test_markdown_and_json(tmp_path):
    assert REPORT.to_markdown() == MARKDOWN
    REPORT.save(tmp_path / "results")
    assert (tmp_path / "results" / "results.md").read_text("utf-8") == MARKDOWN
    saved = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert saved["systems"] == REPORT.systems and saved["num_questions"] == {"fi": 1190, "ko": 2}
    assert EvaluationReport(**saved).to_markdown() == MARKDOWN
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["results.json", "results.md"]


def test_one_language_needs_no_mean_beside_it():
    korean = Benchmark("k", QUESTIONS, PASSAGES, {"q4": ["a"], "q5": ["a"]}, None, GROUPS)
    report = evaluate_systems(korean, {"model": MODEL, "bm25": BM25}, ["R@1"], baseline="bm25")
    assert "| measure | system | ko |" in report.to_markdown() and "| R@1 | model | 50.0 |" in report.to_markdown()
    assert report.num_questions == {"ko": 2} and [each["group"] for each in report.comparisons] == ["ko"]
    assert report.systems["model"]["R@1"]["mean"] == recall_at_k(MODEL, korean.relevance, 1)


def test_the_curve_is_as_deep_as_the_deepest_ranking():
    report = evaluate_systems(JUDGED, {"one": {"q0": ["b"]}, "two": {"q0": ["b", "a"]}, "none": {}}, ["RR"])
    assert report.curves == {"one": {1: 0, 2: 0}, "two": {1: 0, 2: 0.125}, "none": {1: 0, 2: 0}}
    assert evaluate_systems(JUDGED, {"none": {}}).curves == {"none": {1: 0}}


def test_one_question_is_not_tested_alone():
    benchmark = JUDGED._replace(relevance={"q0": ["a"], "q1": ["a"], "q5": ["a"]})
    report = evaluate_systems(benchmark, {"model": MODEL, "bm25": BM25}, baseline="bm25")
    assert [(each["group"], each["num_queries"]) for each in report.comparisons] == [("fi", 2), ("all", 3)]


def test_errors():
    with pytest.raises(ValueError, match="`systems` is empty"):
        evaluate_systems(JUDGED, {})
    with pytest.raises(ValueError, match="A group is called 'all'"):
        evaluate_systems(JUDGED._replace(groups={**GROUPS, "q0": "all"}), {"model": MODEL})
    with pytest.raises(ValueError, match="`baseline` is 'bm25'"):
        evaluate_systems(JUDGED, {"model": MODEL}, baseline="bm25")
    with pytest.raises(ValueError, match="'P@5' is not a measure"):
        evaluate_systems(JUDGED, {"model": MODEL}, ["P@5"])
