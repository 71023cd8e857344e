"""Reports and pipelines against single metrics and literal tables; tests of significance by hand."""

import json
import math
from itertools import product

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir import RetrievalPipeline
from hf_xlir.evaluation import (
    Benchmark,
    EvaluationReport,
    compare_runs,
    evaluate_pipeline,
    evaluate_systems,
    load_benchmark,
    rank_by_bm25,
    recall_at_k,
    reciprocal_rank,
)
from hf_xlir.index import BM25Index


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


def test_a_note_on_tests_over_translations():
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


def test_measures_of_one_language_without_a_mean():
    """The official measures of a task have no mean over questions."""
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


# Pipelines


def pipeline_of(found, calls):
    """A pipeline that returns `found[text]`, and notes how it was called."""

    def pipeline(texts, k):
        calls.append((list(texts), k))
        return [[{"id": id, "text": "?"} for id in found[text][:k]] for text in texts]

    return pipeline


def test_a_pipeline_gets_the_values_of_its_rankings():
    questions = Dataset.from_dict({"id": list(MODEL), "question": [f"{id}?" for id in MODEL]})
    benchmark, calls = JUDGED._replace(questions=questions), []
    pipeline = pipeline_of({f"{id}?": ids for id, ids in MODEL.items()}, calls)
    report = evaluate_pipeline(pipeline, benchmark, ["RR", "R@2"], k=2, batch_size=4, name="model", progress=False)
    assert [(len(texts), k) for texts, k in calls] == [(4, 2), (2, 2)]
    expected = evaluate_systems(benchmark, {"model": {id: ids[:2] for id, ids in MODEL.items()}}, ["RR", "R@2"])
    assert report == expected
    assert list(evaluate_pipeline(pipeline, benchmark, progress=False).systems["pipeline"])[0] == "R@1"  # the defaults


def test_a_retrieval_pipeline():
    benchmark = load_benchmark("mini-world", languages=["en", "fi"])
    index = BM25Index.build(benchmark.passages, progress=False)
    search = RetrievalPipeline(index=index, passages=benchmark.passages, device="cpu")
    report = evaluate_pipeline(search, benchmark, name="bm25", progress=False)
    ranked = rank_by_bm25(benchmark.questions, benchmark.passages, progress=False)
    assert report == evaluate_systems(benchmark, {"bm25": ranked})
    assert report.systems["bm25"]["R@5"]["en"] > report.systems["bm25"]["R@5"]["fi"]


def test_the_question_s_own_passage_is_left_out_unless_it_is_judged():
    questions = Dataset.from_dict({"id": ["a", "b"], "question": ["A?", "B?"]})
    benchmark = Benchmark("own", questions, PASSAGES, {"a": ["a"], "b": ["c"]}, without_own_id=True)
    calls = []
    pipeline = pipeline_of({"A?": ["a", "b", "c"], "B?": ["b", "c", "a"]}, calls)
    report = evaluate_pipeline(pipeline, benchmark, ["R@1"], k=1, progress=False)
    assert report.systems["pipeline"] == {"R@1": {"mean": 1.0}} and calls[0][1] == 2  # no place is lost


def test_answers_are_measured_without_judgements():
    benchmark = load_benchmark("mini-world", languages=["fi"])._replace(relevance=None)
    ids = benchmark.passages["id"][:5]
    report = evaluate_pipeline(
        lambda texts, k: [[{"id": id} for id in ids]] * len(texts), benchmark, ["Answer@5"], k=5, progress=False
    )
    expected = evaluate_systems(benchmark, {"pipeline": dict.fromkeys(benchmark.answers, ids)}, ["Answer@5"])
    assert report.systems == expected.systems


@pytest.mark.parametrize(
    ("pipeline", "options", "message"),
    [
        (None, {"measures": ["R@10"], "k": 5}, "`R@10` looks at more passages than `k`, which is 5"),
        (None, {"measures": ["P@5"]}, "'P@5' is not a measure"),
        (None, {"k": 0}, "`k` must be a positive integer, got 0"),
        (lambda texts, k: [], {}, "one entry for each of 6 questions"),
        (lambda texts, k: [["a"]] * len(texts), {}, r"passages with `id` for each question"),
        (lambda texts, k: [[{"text": "x"}]] * len(texts), {}, "passages with `id`"),
        (lambda texts, k: [[{"id": "a"}] * 2] * len(texts), {}, "names the passage `a` twice"),
    ],
)
def test_errors_of_pipelines(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_pipeline(pipeline, JUDGED, progress=False, **options)


# Tests of significance


def runs(*differences):
    first = {f"q{i}": 0.25 + difference for i, difference in enumerate(differences)}
    return first, dict.fromkeys(reversed(first), 0.25)  # in another order of the same queries


EIGHTHS = st.lists(st.integers(-4, 4).map(lambda value: value / 8), min_size=2, max_size=8)  # exact in binary


@settings(max_examples=30)
@given(EIGHTHS)
def test_all_exchanges_are_tried_if_they_are_few(differences):
    result = compare_runs(*runs(*differences))
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    below = sum(each <= sum(differences) for each in sums) / len(sums)
    above = sum(each >= sum(differences) for each in sums) / len(sums)
    assert result.num_queries == len(differences)
    assert result.difference == pytest.approx(sum(differences) / len(differences))
    assert result.p_value == pytest.approx(min(1.0, 2 * min(below, above)))


def test_p_values_by_hand():
    assert compare_runs(*runs(1.0, 1.0, 0.5, 1.0)) == (4, 0.875, 2 / 16)
    assert compare_runs(*runs(-1.0, -1.0, -0.5, -1.0)) == (4, -0.875, 2 / 16)


def test_drawn_exchanges_repeat_and_approximate_all():
    differences = [((7 * i) % 11 - 4) / 8 for i in range(15)]
    drawn = compare_runs(*runs(*differences), num_permutations=9999, seed=1)
    exact = compare_runs(*runs(*differences), num_permutations=2**15)
    assert drawn == compare_runs(*runs(*differences), num_permutations=9999, seed=1)
    assert drawn.p_value != exact.p_value and drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert drawn != compare_runs(*runs(*differences), num_permutations=9999, seed=2)


def test_the_lowest_p_value():
    assert compare_runs(*runs(*[0.5] * 200), num_permutations=499).p_value == pytest.approx(2 / 500)


def test_t_by_its_formula():
    differences = (0.5, 0.25, 0.0, 0.75)
    result = compare_runs(*runs(*differences), method="t")
    # t = mean / (s / sqrt(n)), and for 3 degrees of freedom its distribution has a closed form
    mean = sum(differences) / 4
    t = mean / math.sqrt(sum((each - mean) ** 2 for each in differences) / 3 / 4)
    tail = 0.5 - (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi
    assert result == (4, 0.375, pytest.approx(2 * tail))
    assert compare_runs(*runs(0.5, 0.5), method="t").p_value == 0


@pytest.mark.parametrize("method", ["permutation", "t"])
def test_equal_runs(method):
    assert compare_runs(*runs(0.0, 0.0, 0.0), method=method) == (3, 0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}, {}, r"2 are in one run only, such as \['b', 'c'\]"),
        ({"a": 1.0, 1: 1.0}, {"b": 1.0}, {}, r"3 are in one run only, such as \[1, 'a', 'b'\]"),
        ({"a": "1", "b": "1"}, {"a": 1.0, "b": 1.0}, {}, "The runs have values that are not numbers"),
        ({"a": 1.0}, {"a": 0.0}, {}, "At least two queries are needed, got 1"),
        ({"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 1.0}, {}, "not finite"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, {"method": "wilcoxon"}, "`method` must be one of .*'wilcoxon'"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, {"num_permutations": 0}, "`num_permutations` must be a positive"),
    ],
)
def test_errors_of_runs(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        compare_runs(first, second, **options)
