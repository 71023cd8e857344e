"""DPR's top-k accuracy as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import answer_recall_at_k


DESCRIPTION = """
The share of questions for which one of the first k retrieved texts contains an answer, compared token by token
and ignoring case: DPR's top-k accuracy.
"""

CITATION = """
@inproceedings{karpukhin-etal-2020-dense,
    title = "Dense Passage Retrieval for Open-Domain Question Answering",
    author = "Karpukhin, Vladimir and Oguz, Barlas and Min, Sewon and Lewis, Patrick and Wu, Ledell and Edunov, Sergey
        and Chen, Danqi and Yih, Wen-tau",
    booktitle = "Proceedings of EMNLP",
    year = "2020",
    url = "https://aclanthology.org/2020.emnlp-main.550",
}
"""

INPUTS = """
predictions: for each question the list of retrieved texts, best first.
references: for each question the list of its answers.
k: number of texts to look at, or several numbers; 1, 5, 20 and 100 by default.
"""


class AnswerRecall(evaluate.Metric):
    r"""
    [`answer_recall_at_k`] as a metric of `evaluate`: with a value between 0 and 1 for each `k`.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.answer_recall import AnswerRecall

    >>> texts = [["Rome lies on the Tiber.", "Paris lies on the Seine."]]
    >>> AnswerRecall(keep_in_memory=True).compute(predictions=texts, references=[["Seine"]], k=[1, 2])
    {'answer_recall@1': 0.0, 'answer_recall@2': 1.0}

    ```
    """

    def _info(self):
        texts = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": texts, "references": texts}),
            codebase_urls=["https://github.com/facebookresearch/DPR"],
        )

    def _compute(self, predictions, references, k=(1, 5, 20, 100)):
        cutoffs = [k] if isinstance(k, int) else list(k)
        recall = answer_recall_at_k(predictions, references, k=cutoffs)
        return {f"answer_recall@{cutoff}": value for cutoff, value in recall.items()}


__all__ = ["AnswerRecall"]
