"""Systems beside each other on a benchmark: values by language, tests of significance, and a report."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..utils.checks import check_choice, check_integer
from ..utils.files import write_text
from ..utils.progress import progress_bar
from .measures import ANSWER_MEASURE, BY_ANSWER, BY_RELEVANCE, MEANS, evaluate_rankings, means_by_group, parse_measures
from .rankings import RankedPassages, by_query


NOT_INDEPENDENT = (
    "The tests over `all` languages count each translation of a question as a separate question. Translations are not "
    "independent, so these p-values are too small: rely on the tests of single languages."
)
CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the recall curve, up to the depth of the rankings
METHODS = ("permutation", "t")
PERMUTATIONS_PER_BLOCK = 1_000_000  # signs to draw at once, divided by the number of queries


@dataclass
class EvaluationReport:
    r"""
    The result of [`evaluate_systems`] and [`evaluate_pipeline`], and the input of [`plot_by_language`].

    Args:
        benchmark (`str`):
            The benchmark's name.
        num_questions (`dict[str, int]`):
            Number of questions that count, by language; under `"all"` for benchmarks without languages.
        num_passages (`int`):
            Number of passages in the benchmark.
        systems (`dict[str, dict[str, dict[str, float]]]`):
            For each system and measure the value of each language, `"macro"`, the mean over languages, and `"mean"`,
            the mean over questions. From 0 to 1.
        curves (`dict[str, dict[int, float]]`):
            For each system the value of `curve_measure` at increasing cutoffs, as the mean over languages.
        curve_measure (`str`):
            `"R"`, recall, or `"Answer"`, DPR's accuracy.
        comparisons (`list[dict]`):
            Tests between two systems: the fields of [`compare_runs`]'s result, and `first`, `second`, `measure` and
            `group`.
        notes (`list[str]`):
            What readers must know, for example that a value is an approximation.
    """

    benchmark: str
    num_questions: dict[str, int]
    num_passages: int
    systems: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    curve_measure: str = "R"
    comparisons: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def groups(self):
        """The languages that have a value, in the order of tables."""
        values = next(iter(next(iter(self.systems.values())).values()))
        return [group for group in values if group not in MEANS]

    def columns(self):
        """The keys of the values in tables and charts, and their titles. One language needs no mean beside it."""
        groups = self.groups()
        if not groups:
            return ["mean"], ["all"]
        return ([*groups, "macro"] if len(groups) > 1 else groups,) * 2

    def to_markdown(self):
        """Markdown tables in percent: one row per measure and system, one column per language; then the tests."""
        names, titles = self.columns()
        groups = {group: "" if group == "all" else f" {group}" for group in self.num_questions}
        counts = ", ".join(f"{count:,}{groups[group]}" for group, count in self.num_questions.items())
        lines = [f"`{self.benchmark}`: {counts} questions on {self.num_passages:,} passages; values in percent.", ""]
        lines += _table_head(["measure", "system"], titles)
        measures = dict.fromkeys(measure for values in self.systems.values() for measure in values)
        for measure in measures:
            for system, values in self.systems.items():
                by_language = values.get(measure, {})
                cells = [f"{100 * by_language[name]:.1f}" if name in by_language else "-" for name in names]
                lines.append(_row([measure, system, *cells]))
        if self.comparisons:
            lines += ["", *_table_head(["measure", "systems", "language"], ["questions", "difference", "p"])]
            for each in self.comparisons:
                systems = f"{each['first']} - {each['second']}"
                p_value = "< 0.001" if each["p_value"] < 0.001 else f"{each['p_value']:.3f}"
                numbers = [f"{each['num_queries']:,}", f"{100 * each['difference']:+.1f}", p_value]
                lines.append(_row([each["measure"], systems, each["group"], *numbers]))
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def to_json(self):
        """All fields as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    def save(self, folder):
        """Write `results.json` and `results.md` into a folder, each completely or not at all."""
        write_text(Path(folder, "results.json"), self.to_json())
        write_text(Path(folder, "results.md"), self.to_markdown())


def evaluate_systems(benchmark, systems, measures=None, *, baseline=None, seed=0):
    r"""
    Measure the rankings of several systems on a benchmark, by language, and test whether they differ.

    Args:
        benchmark ([`Benchmark`]):
            The benchmark that was ranked; see [`load_benchmark`].
        systems (`dict[str, ...]`):
            The ranking of each system by name, in any form that [`evaluate_rankings`] takes.
        measures (`list[str]`, *optional*):
            As for [`evaluate_rankings`], with its defaults. Systems are compared by the first measure.
        baseline (`str`, *optional*):
            The system to compare each other system with, in each language and over all questions. By default nothing
            is compared. Questions that are translations of each other, such as XQuAD's, are not independent, so the
            p-value over all of them is too small; a note in the report says so.
        seed (`int`, *optional*, defaults to 0):
            Seed of the tests.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If there are no systems, `baseline` is not one of them, or a group is called `"all"`; and as
            [`evaluate_rankings`] raises.

    Example:
    ```python
    >>> from hf_xlir.evaluation import evaluate_systems, load_benchmark, rank_by_bm25

    >>> benchmark = load_benchmark("mini-world", languages=["en", "fi"])
    >>> ranked = rank_by_bm25(benchmark.questions, benchmark.passages, k=5, progress=False)
    >>> report = evaluate_systems(benchmark, {"bm25": ranked}, ["R@1", "RR"])
    >>> report.groups(), list(report.systems["bm25"])
    (['en', 'fi'], ['R@1', 'RR'])

    ```
    """
    if not systems:
        raise ValueError("`systems` is empty: give the ranking of at least one system.")
    if baseline is not None and baseline not in systems:
        raise ValueError(f"`baseline` is {baseline!r}, which is not among the systems {list(systems)}.")
    if "all" in (benchmark.groups or {}).values():
        raise ValueError("A group is called 'all', which stands for all groups: rename it.")
    if measures is None:
        measures = BY_ANSWER if benchmark.relevance is None else BY_RELEVANCE
    curve_measure = ANSWER_MEASURE if benchmark.relevance is None else "R"
    depth = max(len(ranking) for each in systems.values() for ranking in [*by_query(each).values(), ()])
    cutoffs = [k for k in CUTOFFS if k <= depth] or [1]
    curve_measures = {k: f"{curve_measure}@{k}" for k in cutoffs}

    per_query, values, curves = {}, {}, {}
    for name, rankings in systems.items():
        per_query[name] = evaluate_rankings(
            rankings,
            benchmark.relevance,
            [*measures, *curve_measures.values()],
            answers=benchmark.answers,
            passages=benchmark.passages,
            per_query=True,
        )
        means = {measure: means_by_group(each, benchmark.groups) for measure, each in per_query[name].items()}
        values[name] = {measure: means[measure] for measure in measures}
        curves[name] = {
            k: means[measure].get("macro", means[measure]["mean"]) for k, measure in curve_measures.items()
        }

    counted = next(iter(per_query.values()))[measures[0]]
    groups = benchmark.groups or dict.fromkeys(counted, "all")
    members = {group: [query for query in counted if groups[query] == group] for group in sorted(set(groups.values()))}
    members = {group: queries for group, queries in members.items() if queries}
    comparisons = [] if baseline is None else _compare_all(per_query, baseline, measures[0], members, seed)
    over_all = any(each["group"] == "all" for each in comparisons)
    return EvaluationReport(
        benchmark.name,
        num_questions={group: len(queries) for group, queries in members.items()},
        num_passages=len(benchmark.passages),
        systems=values,
        curves=curves,
        curve_measure=curve_measure,
        comparisons=comparisons,
        notes=[NOT_INDEPENDENT] if benchmark.translated and len(members) > 1 and over_all else [],
    )


def evaluate_pipeline(pipeline, benchmark, measures=None, *, k=100, batch_size=64, name="pipeline", progress=True):
    r"""
    Ask a retrieval pipeline the questions of a benchmark, and measure what it finds, by language.

    Args:
        pipeline (`Callable`):
            A [`RetrievalPipeline`], or any function with its signature: `pipeline(texts, k=k)` returns, for each text,
            a list of passages as dictionaries with `id`, best first. A `score` is not needed: the order counts.
        benchmark ([`Benchmark`]):
            Questions and relevance judgements or answers; see [`load_benchmark`]. The pipeline's passage ids must be
            the benchmark's.
        measures (`list[str]`, *optional*):
            As for [`evaluate_rankings`], with its defaults.
        k (`int`, *optional*, defaults to 100):
            Number of passages to retrieve per question: at least the largest cutoff of `measures`.
        batch_size (`int`, *optional*, defaults to 64):
            Number of questions per call of the pipeline.
        name (`str`, *optional*, defaults to `"pipeline"`):
            The system's name in the report.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, unless those of transformers are disabled.

    Returns:
        [`EvaluationReport`]: With one system. To compare several, give their rankings to [`evaluate_systems`].

    Raises:
        ValueError: If the benchmark has neither judgements nor answers, a measure is unknown or looks at more than `k`
            passages, the pipeline does not return one list per question, or a passage lacks an `id`.

    Example:
    ```python
    >>> from hf_xlir.evaluation import evaluate_pipeline, load_benchmark

    >>> benchmark = load_benchmark("mini-world", languages=["en", "fi"])
    >>> first = [{"id": id} for id in benchmark.passages["id"][:10]]
    >>> report = evaluate_pipeline(lambda texts, k: [first[:k]] * len(texts), benchmark, ["R@5"], k=5, progress=False)
    >>> list(report.systems["pipeline"]["R@5"])
    ['en', 'fi', 'macro', 'mean']

    ```
    """
    k, batch_size = check_integer("k", k), check_integer("batch_size", batch_size)
    parsed = parse_measures(measures, benchmark.relevance is not None, benchmark.answers is not None)
    deeper = [measure for measure, (_, cutoff) in parsed.items() if (cutoff or 0) > k]
    if deeper:
        raise ValueError(f"`{deeper[0]}` looks at more passages than `k`, which is {k}: raise `k`.")
    ids, texts = benchmark.questions["id"][:], benchmark.questions["question"][:]
    rankings = {}
    with progress_bar(total=len(ids), show=progress, desc=name, unit="question") as bar:
        for start in range(0, len(ids), batch_size):
            batch = texts[start : start + batch_size]
            results = pipeline(batch, k=k + benchmark.without_own_id)
            if not isinstance(results, list) or len(results) != len(batch):
                raise ValueError(f"The pipeline must return a list with one entry for each of {len(batch)} questions.")
            for id, passages in zip(ids[start : start + batch_size], results, strict=True):
                rankings[id] = _found_ids(id, passages, benchmark)[:k]
            bar.update(len(batch))
    return evaluate_systems(benchmark, {name: RankedPassages(rankings, {})}, list(parsed))


def _found_ids(query, passages, benchmark):
    """The ids that a pipeline found. The query's own id is left out where BEIR does so, unless it is judged."""
    try:
        ids = [passage["id"] for passage in passages]
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"The pipeline must return a list of passages with `id` for each question, got {str(passages)[:60]!r}."
        ) from error
    judged = (benchmark.relevance or {}).get(query, ())
    own = query if benchmark.without_own_id and query not in judged else None
    return [id for id in ids if id != own]


class Comparison(NamedTuple):
    r"""
    The result of [`compare_runs`].

    Args:
        num_queries (`int`):
            Number of queries compared.
        difference (`float`):
            The mean of the first run's values minus the mean of the second run's.
        p_value (`float`):
            The probability that runs of equal quality differ at least this much, in either direction.
    """

    num_queries: int
    difference: float
    p_value: float


def compare_runs(first, second, method="permutation", *, num_permutations=9999, seed=0):
    r"""
    Test whether two runs differ on the same queries: a paired, two-sided test.

    Args:
        first (`dict[str, float]`):
            The value of each query by a measure, as the metrics return with `per_query=True`.
        second (`dict[str, float]`):
            The other run's values for the same queries.
        method (`str`, *optional*, defaults to `"permutation"`):
            `"permutation"`: Fisher's randomisation test, which assumes no distribution. It exchanges the two values of
            each query at random, by `scipy.stats.permutation_test`, and tries all exchanges if there are at most
            `num_permutations`. `"t"`: Student's t test of the differences. Smucker et al. ("A comparison of
            statistical significance tests for information retrieval evaluation", CIKM 2007) find that they agree.
        num_permutations (`int`, *optional*, defaults to 9999):
            Number of exchanges to draw. No p-value is below `2 / (num_permutations + 1)`.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        [`Comparison`]: `num_queries`, `difference` and `p_value`. The p-value is 1 if no query has two different
        values.

    Raises:
        ValueError: If the runs have different queries, fewer than two, or values that are not finite numbers; or if an
            argument is unknown or out of range.

    Example:
    ```python
    >>> from hf_xlir.evaluation import compare_runs

    >>> values = {"q1": 1.0, "q2": 1.0, "q3": 0.5, "q4": 1.0}
    >>> compare_runs(values, dict.fromkeys(values, 0.0))
    Comparison(num_queries=4, difference=0.875, p_value=0.125)

    ```
    """
    from scipy import stats

    check_choice("method", method, METHODS)
    num_permutations = check_integer("num_permutations", num_permutations)
    other = sorted(first.keys() ^ second.keys(), key=str)
    if other:
        raise ValueError(
            f"The runs must have the same queries, but {len(other)} are in one run only, such as {other[:3]}."
        )
    if len(first) < 2:
        raise ValueError(f"At least two queries are needed, got {len(first)}.")
    try:
        differences = np.array([first[query] - second[query] for query in first], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The runs have values that are not numbers ({error}).") from None
    if not np.isfinite(differences).all():
        raise ValueError("The runs have values that are not finite.")
    if not differences.any():
        return Comparison(len(first), 0.0, 1.0)
    if method == "t":
        p_value = stats.ttest_1samp(differences, 0.0).pvalue if np.ptp(differences) else 0.0
    else:
        p_value = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=num_permutations,
            batch=max(1, PERMUTATIONS_PER_BLOCK // len(first)),
            random_state=np.random.default_rng(seed),
        ).pvalue
    return Comparison(len(first), float(differences.mean()), float(p_value))


def _compare_all(per_query, baseline, measure, members, seed):
    """Tests of each system against the baseline, in each group and over all queries."""
    parts = members if len(members) == 1 else {**members, "all": list(per_query[baseline][measure])}
    comparisons = []
    for name in per_query:
        for group, queries in parts.items():
            if name != baseline and len(queries) > 1:
                runs = [{query: per_query[each][measure][query] for query in queries} for each in (name, baseline)]
                test = compare_runs(*runs, seed=seed)._asdict()
                comparisons.append({"first": name, "second": baseline, "measure": measure, "group": group, **test})
    return comparisons


def _table_head(texts, numbers):
    return [_row([*texts, *numbers]), _row(["---"] * len(texts) + ["---:"] * len(numbers))]


def _row(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


__all__ = ["EvaluationReport", "compare_runs", "evaluate_pipeline", "evaluate_systems"]
