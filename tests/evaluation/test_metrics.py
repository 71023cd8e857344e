"""Each metric of `evaluate`, loaded by its path as users do, equals the function behind it."""

import ast
import random
import re
import sys
from pathlib import Path

import datasets
import evaluate
import pytest

from hf_xlir import evaluation
from hf_xlir.evaluation import metric_path


NAMES = ("answer_recall", "open_domain_qa", "retrieval_ranking", "xor_english_span", "xor_full", "xor_retrieve")
WORDS = ["Nile", "Seine", "the Tiber", "東京", "Москва", "yes", "1990年"]
ROOT = Path(evaluation.__file__).parents[2]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` with its own folders for copied code and for results."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", folder / "modules")
        patch.setattr("evaluate.config.HF_METRICS_CACHE", folder / "metrics")
        patch.setattr(sys, "path", [*sys.path])
        yield lambda name, **options: evaluate.load(metric_path(name), **options)


@pytest.fixture
def rng():
    return random.Random(0)


def random_questions(rng, number=40):
    return [
        {
            "id": f"q{i}",
            "question": "?",
            "lang": rng.choice(["ko", "te", "ru"]),
            "answers": rng.sample(WORDS, k=rng.randint(1, 3)),
        }
        for i in range(number)
    ]


def columns(questions, *names):
    """Columns as the descriptions of the metrics ask for."""
    return list(datasets.Dataset.from_list(questions).select_columns(list(names)))


def random_texts(rng):
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 4))) for _ in range(rng.randint(0, 6))]


class TestValues:
    def test_xor_retrieve(self, load, rng):
        questions = random_questions(rng)
        found = [{"id": row["id"], "lang": row["lang"], "ctxs": random_texts(rng)} for row in questions]
        references = columns(questions[::-1], "id", "answers")
        result = load("xor_retrieve").compute(predictions=found, references=references, tokenize=str.split)
        assert result == evaluation.xor_retrieve_metrics(found, questions, tokenize=str.split)
        assert 0 < result["recall@2kt"]["macro"] < 100
        result = load("xor_retrieve").compute(predictions=found, references=references, tokenize="treebank")
        assert "approximation" in result["tokenizer"]

    @pytest.mark.parametrize("name", ["xor_english_span", "xor_full"])
    def test_xor_answers(self, load, rng, name):
        questions = random_questions(rng)
        answers = {row["id"]: rng.choice(WORDS) for row in questions}
        rows = [{"id": id, "answer": answer} for id, answer in answers.items()]
        references = columns(questions, "id", "lang", "answers")
        result = load(name).compute(predictions=rows, references=references)
        assert result == getattr(evaluation, f"{name}_metrics")(answers, questions)
        assert 0 < list(result["f1"].values())[-1] < 100
        with pytest.raises(ValueError, match="two predictions"):
            load(name).compute(predictions=[rows[0], *rows[:-1]], references=references)

    def test_xor_full_with_a_segmenter(self, load):
        result = load("xor_full").compute(
            predictions=[{"id": "1", "answer": "京都"}],
            references=[{"id": "1", "lang": "ja", "answers": ["東京"]}],
            segment_japanese=" ".join,
        )
        assert result["f1"] == {"ja": 50.0, "macro over 1 of 7": 50.0}

    def test_answer_recall(self, load, rng):
        questions = random_questions(rng)
        texts, answers = [random_texts(rng) for _ in questions], [row["answers"] for row in questions]
        result = load("answer_recall").compute(predictions=texts, references=answers)
        expected = evaluation.answer_recall_at_k(texts, answers, k=[1, 5, 20, 100])
        assert result == {f"answer_recall@{k}": value for k, value in expected.items()}
        assert 0 < result["answer_recall@1"] < result["answer_recall@5"] < 1
        result = load("answer_recall").compute(predictions=texts, references=answers, k=3)
        assert result == {"answer_recall@3": evaluation.answer_recall_at_k(texts, answers, k=3)}

    def test_retrieval_ranking(self, load, rng):
        rankings = [rng.sample("abcdefghijklmnop", k=12) for _ in range(30)]
        relevant = [rng.sample("abcdefghijklmnop", k=rng.randint(1, 4)) for _ in range(30)]
        result = load("retrieval_ranking").compute(predictions=rankings, references=relevant)
        of_query, judged = dict(enumerate(rankings)), dict(enumerate(relevant))
        of_query, judged = ({str(id): ids for id, ids in each.items()} for each in (of_query, judged))
        assert result == {
            "R@1": evaluation.recall_at_k(of_query, judged, 1),
            "R@10": evaluation.recall_at_k(of_query, judged, 10),
            "Success@10": evaluation.success_at_k(of_query, judged, 10),
            "RR@10": evaluation.reciprocal_rank(of_query, judged, 10),
            "nDCG@10": evaluation.ndcg_at_k(of_query, judged, 10),
            "MAP": evaluation.average_precision(of_query, judged),
        }
        assert len(set(result.values())) == 6
        assert load("retrieval_ranking").compute(
            predictions=rankings, references=relevant, measures=["Success@3"]
        ) == {"Success@3": evaluation.success_at_k(of_query, judged, 3)}

    def test_open_domain_qa(self, load, rng):
        predictions = ["Tiber", "Nile", "Москва река", "x"]
        references = [["the Tiber"], ["Seine", "nile."], ["Москва"], ["y", "z"]]
        metric = load("open_domain_qa")
        assert metric.compute(predictions=predictions, references=references) == {
            "exact_match": 0.5,
            "f1": pytest.approx((1 + 1 + 2 / 3) / 4),
        }
        for prediction, answers in zip(predictions, references, strict=True):  # question by question, as in a loop
            metric.add(prediction=prediction, reference=answers)
        assert metric.compute()["exact_match"] == 0.5


class TestFiles:
    def test_names(self):
        assert {path.stem for path in Path(metric_path("xor_full")).parent.glob("*.py")} == {*NAMES, "__init__"}
        with pytest.raises(ValueError, match="'answer_recall'.*got 'bleu'"):
            metric_path("bleu")
        with pytest.raises(ValueError, match="got '__init__'"):
            metric_path("__init__")

    @pytest.mark.parametrize("name", NAMES)
    def test_each_describes_itself(self, load, name):
        metric = load(name, keep_in_memory=True)
        assert isinstance(metric, evaluate.Metric) and metric.name == name
        assert len(metric.description) > 50 and metric.codebase_urls
        assert re.match(r"\s*@inproceedings{", metric.citation)
        assert all(f"\n{each}: " in metric.inputs_description for each in ("predictions", "references"))

    @pytest.mark.parametrize("name", NAMES)
    def test_each_can_stand_alone_in_a_space(self, name):
        """`evaluate` finds imports line by line and copies one file: no siblings, no nested imports."""
        tree = ast.parse(Path(metric_path(name)).read_text("utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert all(node in tree.body and node.lineno == node.end_lineno for node in imports)
        modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
        assert modules == {"datasets", "evaluate", "hf_xlir.evaluation"}
        assert not any(getattr(node, "level", 0) for node in imports)

    def test_they_are_installed_with_the_package(self):
        find_packages = pytest.importorskip("setuptools", reason="needs setuptools").find_packages
        assert "hf_xlir.evaluation.metrics" in find_packages(str(ROOT), include=["hf_xlir.*"])
