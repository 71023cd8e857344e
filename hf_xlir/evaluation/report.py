"""Systems on a benchmark, beside each other: for a model card, and for programs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..utils.files import write_text
from .measures import ANSWER_MEASURE, BY_ANSWER, BY_RELEVANCE, MEANS, evaluate_rankings, means_by_group
from .rankings import by_query
from .significance import compare_runs


NOT_INDEPENDENT = (
    "The tests over `all` languages count each translation of a question as a question of its own. Those are not "
    "independent, so that these p-values are too small: rely on those of single languages."
)
CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the recall curve, as far as was ranked


@dataclass
class EvaluationReport:
    r"""
    What [`evaluate_systems`] returns, and what [`~hf_xlir.evaluation.plots.plot_by_language`] draws.

    Args:
        benchmark (`str`):
            Its name.
        num_questions (`dict[str, int]`):
            Questions that count, of each language; those of benchmarks without languages under `"all"`.
        num_passages (`int`):
            Passages that were ranked.
        systems (`dict[str, dict[str, dict[str, float]]]`):
            For each system and measure the value of each language, their mean `"macro"`, and `"mean"`, that over all
            questions; from 0 to 1.
        curves (`dict[str, dict[int, float]]`):
            For each system the value of `curve_measure` at rising cutoffs, as the mean over languages.
        curve_measure (`str`):
            `"R"`, recall, or `"Answer"`, DPR's accuracy.
        comparisons (`list[dict]`):
            Tests of two systems, as [`compare_runs`] returns them, with `first`, `second`, `measure` and `group`.
        notes (`list[str]`):
            What a reader must know, such as that a value is an approximation.
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
        """What tables and charts show: the keys of values, and their titles. One language needs no mean beside it."""
        groups = self.groups()
        if not groups:
            return ["mean"], ["all"]
        return ([*groups, "macro"] if len(groups) > 1 else groups,) * 2

    def to_markdown(self):
        """Tables in Markdown, in per cent: a row a measure and system, a column a language; then the tests."""
        names, titles = self.columns()
        groups = {group: "" if group == "all" else f" {group}" for group in self.num_questions}
        counts = ", ".join(f"{count:,}{groups[group]}" for group, count in self.num_questions.items())
        lines = [f"`{self.benchmark}`: {counts} questions on {self.num_passages:,} passages; values in per cent.", ""]
        lines += _table_head(["measure", "system"], titles)
        measures = dict.fromkeys(measure for values in self.systems.values() for measure in values)
        for measure in measures:
            for system, values in self.systems.items():
                of_measure = values.get(measure, {})
                cells = [f"{100 * of_measure[name]:.1f}" if name in of_measure else "-" for name in names]
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
        """Write `results.json` and `results.md` into a folder, which is made if absent; each is whole or not there."""
        write_text(Path(folder, "results.json"), self.to_json())
        write_text(Path(folder, "results.md"), self.to_markdown())


def evaluate_systems(benchmark, systems, measures=None, *, baseline=None, seed=0):
    r"""
    Measure the rankings of several systems on a benchmark, by language, and test whether they differ.

    Args:
        benchmark ([`Benchmark`]):
            What was ranked; see [`load_benchmark`].
        systems (`dict[str, ...]`):
            By the name of each system, its ranking, in any form that [`evaluate_rankings`] takes.
        measures (`list[str]`, *optional*):
            See [`evaluate_rankings`], and its defaults. Systems are compared by the first.
        baseline (`str`, *optional*):
            The system that each of the others is compared with, in each language and over all questions; none by
            default. Where questions are translations of each other, as XQuAD's are, they are not independent, and the
            p-value over all of them is too small: a note of the report says so.
        seed (`int`, *optional*, defaults to 0):
            Of the tests' draws.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If there are no systems, the baseline is none of them, a group is called `"all"`, or as
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
        raise ValueError("`systems` is empty: give the ranking of at least one.")
    if baseline is not None and baseline not in systems:
        raise ValueError(f"`baseline` is {baseline!r}, which is none of {list(systems)}.")
    if "all" in (benchmark.groups or {}).values():
        raise ValueError("A group cannot be called 'all', which is the name of all of them: rename it.")
    if measures is None:
        measures = BY_ANSWER if benchmark.relevance is None else BY_RELEVANCE
    curve_measure = ANSWER_MEASURE if benchmark.relevance is None else "R"
    depth = max(len(ranking) for each in systems.values() for ranking in [*by_query(each).values(), ()])
    cutoffs = [k for k in CUTOFFS if k <= depth] or [1]
    of_curve = {k: f"{curve_measure}@{k}" for k in cutoffs}

    per_query, values, curves = {}, {}, {}
    for name, rankings in systems.items():
        per_query[name] = evaluate_rankings(
            rankings,
            benchmark.relevance,
            [*measures, *of_curve.values()],
            answers=benchmark.answers,
            passages=benchmark.passages,
            per_query=True,
        )
        means = {measure: means_by_group(each, benchmark.groups) for measure, each in per_query[name].items()}
        values[name] = {measure: means[measure] for measure in measures}
        curves[name] = {k: means[measure].get("macro", means[measure]["mean"]) for k, measure in of_curve.items()}

    first = measures[0]
    counted = next(iter(per_query.values()))[first]
    groups = benchmark.groups or dict.fromkeys(counted, "all")
    members = {group: [query for query in counted if groups[query] == group] for group in sorted(set(groups.values()))}
    members = {group: queries for group, queries in members.items() if queries}
    comparisons = []
    if baseline is not None:
        parts = members if len(members) == 1 else {**members, "all": list(counted)}
        for name in systems:
            comparisons += [
                _compare(per_query, name, baseline, first, group, queries, seed)
                for group, queries in parts.items()
                if name != baseline and len(queries) > 1
            ]
    num_questions = {group: len(queries) for group, queries in members.items()}
    of_all = benchmark.translated and len(members) > 1 and any(each["group"] == "all" for each in comparisons)
    notes = [NOT_INDEPENDENT] if of_all else []
    return EvaluationReport(
        benchmark.name, num_questions, len(benchmark.passages), values, curves, curve_measure, comparisons, notes
    )


def _compare(per_query, first, second, measure, group, queries, seed):
    runs = [{query: per_query[name][measure][query] for query in queries} for name in (first, second)]
    test = compare_runs(*runs, seed=seed)
    return {"first": first, "second": second, "measure": measure, "group": group, **test._asdict()}


def _table_head(texts, numbers):
    return [_row([*texts, *numbers]), _row(["---"] * len(texts) + ["---:"] * len(numbers))]


def _row(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


__all__ = ["EvaluationReport", "evaluate_systems"]
