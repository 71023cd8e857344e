"""Exact match and F1 of short answers as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import exact_match, f1_score


DESCRIPTION = """
Exact match and F1 of predicted answers after SQuAD's normalisation, with the best of each question's answers. Means
over questions, between 0 and 1.
"""

CITATION = """
@inproceedings{rajpurkar-etal-2016-squad,
    title = "{SQ}u{AD}: 100,000+ Questions for Machine Comprehension of Text",
    author = "Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy",
    booktitle = "Proceedings of EMNLP",
    year = "2016",
    url = "https://aclanthology.org/D16-1264",
}
"""

INPUTS = """
predictions: for each question the predicted answer.
references: for each question the list of its answers, at least one.
"""


class OpenDomainQA(evaluate.Metric):
    r"""
    [`exact_match`] and [`f1_score`] as a metric of `evaluate`: means over questions, between 0 and 1.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.open_domain_qa import OpenDomainQA

    >>> metric = OpenDomainQA(keep_in_memory=True)
    >>> metric.compute(predictions=["the Seine", "Rhine"], references=[["Seine"], ["Elbe"]])
    {'exact_match': 0.5, 'f1': 0.5}

    ```
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
            codebase_urls=["https://rajpurkar.github.io/SQuAD-explorer/"],
        )

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references, strict=True))
        return {
            name: sum(measure(prediction, answers) for prediction, answers in pairs) / len(pairs)
            for name, measure in {"exact_match": exact_match, "f1": f1_score}.items()
        }


__all__ = ["OpenDomainQA"]
