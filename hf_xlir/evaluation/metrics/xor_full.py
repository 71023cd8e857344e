"""XOR-Full's F1, exact match and BLEU as a metric of `evaluate`."""

import datasets
import evaluate

from hf_xlir.evaluation import xor_full_metrics


DESCRIPTION = """
F1, exact match and BLEU of XOR-Full: answers to questions in seven languages, in the language of the question. In
percent, by language and as the mean over languages: `macro` if all seven have a question, otherwise another name.
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
    `list(load_xor_tydi("full", "validation").select_columns(["id", "lang", "answers"]))`.
segment_japanese: by default MeCab with `unidic-lite`, which is needed if a question is Japanese; or a function that
    puts white space between the words of a text.
"""


class XorFull(evaluate.Metric):
    r"""
    [`xor_full_metrics`] as a metric of `evaluate`, with the same inputs and results.

    With `keep_in_memory=True` no prediction is written to the disk.

    Example:
    ```python
    >>> from hf_xlir.evaluation.metrics.xor_full import XorFull

    >>> references = [{"id": "1", "lang": "ru", "answers": ["Москва"]}]
    >>> metric = XorFull(keep_in_memory=True)
    >>> metric.compute(predictions=[{"id": "1", "answer": "Москва"}], references=references)["bleu"]
    {'ru': 100.0, 'macro over 1 of 7': 100.0}

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

    def _compute(self, predictions, references, segment_japanese=None):
        return xor_full_metrics(predictions, references, segment_japanese=segment_japanese)


__all__ = ["XorFull"]
