"""XOR-Retrieve's R@2kt and R@5kt as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import xor_retrieve_metrics


DESCRIPTION = """
R@2kt and R@5kt of XOR-Retrieve: the share of questions for which the first 2,000 or 5,000 tokens of the retrieved
texts contain an answer, in percent, by language and as the mean over languages.
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
predictions: for each question a dictionary with `id`, `lang` (such as "ja") and `ctxs`, the retrieved texts in order.
references: as many dictionaries with only `id` and `answers`, in any order, such as
    `list(load_xor_tydi("retrieve", "validation").select_columns(["id", "answers"]))`.
tokenize: by default NLTK's `word_tokenize`, which needs `nltk.download("punkt_tab")`; "treebank", an approximation
    without the download; or a function from a text to its tokens.
"""


class XorRetrieve(evaluate.Metric):
    r"""
    [`xor_retrieve_metrics`] as a metric of `evaluate`, with the same inputs and results.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.xor_retrieve import XorRetrieve

    >>> found = [{"id": "1", "lang": "ja", "ctxs": ["Tokyo is the capital."]}]
    >>> references = [{"id": "1", "answers": ["Tokyo"]}]
    >>> metric = XorRetrieve(keep_in_memory=True)
    >>> metric.compute(predictions=found, references=references, tokenize=str.split)["recall@2kt"]
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
                    "predictions": {"id": text, "lang": text, "ctxs": texts},
                    "references": {"id": text, "answers": texts},
                }
            ),
            codebase_urls=["https://github.com/AkariAsai/XORQA"],
        )

    def _compute(self, predictions, references, tokenize=None):
        return xor_retrieve_metrics(predictions, references, tokenize=tokenize)


__all__ = ["XorRetrieve"]
