"""XOR-EnglishSpan's F1 and exact match as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import xor_english_span_metrics


DESCRIPTION = """
F1 and exact match of XOR-EnglishSpan: English answers to questions in seven languages, normalised as for SQuAD. In
percent, by language and as the mean over languages.
"""

CITATION = """
@inproceedings{asai-etal-2021-xor,
    title = "{XOR} {QA}: Cross-lingual Open-Retrieval Question Answering",
    author = "Asai, Akari and Kasai, Jungo and Clark, Jonathan and Lee, Kenton and Choi, Eunsol and
        Hajishirzi, Hannaneh",
    booktitle = "Proceedings of NAACL-HLT",
    year = "2021",
    url = "https://aclanthology.org/2021.naacl-main.46",
}
"""

INPUTS = """
predictions: for each question a dictionary with `id` and `answer`.
references: as many dictionaries with only `id`, `lang` (such as "ja") and `answers`, in any order, such as
    `list(load_xor_tydi("retrieve", "validation").select_columns(["id", "lang", "answers"]))`.
"""


class XorEnglishSpan(evaluate.Metric):
    r"""
    [`xor_english_span_metrics`] as a metric of `evaluate`, with the same inputs and results.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.xor_english_span import XorEnglishSpan

    >>> references = [{"id": "1", "lang": "ja", "answers": ["the Edo period"]}]
    >>> metric = XorEnglishSpan(keep_in_memory=True)
    >>> metric.compute(predictions=[{"id": "1", "answer": "Edo Period"}], references=references)["exact_match"]
    {'ja': 100.0, 'macro': 100.0}

    ```
    """

    def _info(self):
        text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": {"id": text, "answer": text},
                    "references": {"id": text, "lang": text, "answers": texts},
                }
            ),
            codebase_urls=["https://github.com/AkariAsai/XORQA"],
        )

    def _compute(self, predictions, references):
        return xor_english_span_metrics(predictions, references)


__all__ = ["XorEnglishSpan"]
