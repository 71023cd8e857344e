"""Rank metrics as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import evaluate_rankings


DESCRIPTION = """
R@k, Success@k, RR@k, nDCG@k and MAP of rankings, by `ir-measures`. Means over queries, between 0 and 1.
"""

CITATION = """
@inproceedings{macavaney-etal-2022-streamlining,
    title = "Streamlining Evaluation with ir-measures",
    author = "MacAvaney, Sean and Macdonald, Craig and Ounis, Iadh",
    booktitle = "Proceedings of ECIR",
    year = "2022",
}
"""

INPUTS = """
predictions: for each query the list of ranked passages' ids, best first.
references: for each query the list of its relevant passages' ids, at least one.
measures: which of "R@k", "Success@k", "RR", "RR@k", "nDCG@k", "MAP" and "MAP@k", with a number for k.
"""


class RetrievalRanking(evaluate.Metric):
    r"""
    [`evaluate_rankings`] as a metric of `evaluate`, for relevance without grades. Values are means over queries,
    between 0 and 1.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.retrieval_ranking import RetrievalRanking

    >>> rankings, relevant = [["a", "b", "c"], ["c", "a"]], [["b", "z"], ["c"]]
    >>> RetrievalRanking(keep_in_memory=True).compute(
    ...     predictions=rankings, references=relevant, measures=["R@2", "Success@2", "RR@10"]
    ... )
    {'R@2': 0.75, 'Success@2': 1.0, 'RR@10': 0.75}

    ```
    """

    def _info(self):
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": ids, "references": ids}),
            codebase_urls=["https://github.com/terrierteam/ir_measures"],
        )

    def _compute(self, predictions, references, measures=("R@1", "R@10", "Success@10", "RR@10", "nDCG@10", "MAP")):
        rankings, relevance = ({str(i): ids for i, ids in enumerate(column)} for column in (predictions, references))
        return {name: values["mean"] for name, values in evaluate_rankings(rankings, relevance, measures).items()}


__all__ = ["RetrievalRanking"]
