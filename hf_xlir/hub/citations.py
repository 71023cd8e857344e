"""Papers to cite, by what a model is and how it was trained."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper on arXiv."""

    key: str
    arxiv: str
    title: str
    authors: str

    @property
    def link(self):
        """Its page."""
        return f"https://huggingface.co/papers/{self.arxiv}"

    @property
    def bibtex(self):
        """Its entry."""
        return (
            f"@misc{{{self.key},\n"
            f"  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n"
            f"  year = {{20{self.arxiv[:2]}}},\n"
            f"  eprint = {{{self.arxiv}}},\n"
            "  archivePrefix = {arXiv},\n"
            f"  url = {{https://arxiv.org/abs/{self.arxiv}}}\n"
            "}"
        )


PAPERS = {
    paper.key: paper
    for paper in (
        Paper(
            "colbert",
            "2004.12832",
            "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
            "Omar Khattab and Matei Zaharia",
        ),
        Paper(
            "colbertv2",
            "2112.01488",
            "ColBERTv2: Effective and Efficient Retrieval via Lightweight Late Interaction",
            "Keshav Santhanam and Omar Khattab and Jon Saad-Falcon and Christopher Potts and Matei Zaharia",
        ),
        Paper(
            "plaid",
            "2205.09707",
            "PLAID: An Efficient Engine for Late Interaction Retrieval",
            "Keshav Santhanam and Omar Khattab and Christopher Potts and Matei Zaharia",
        ),
        Paper(
            "drdecr",
            "2112.08185",
            "Learning Cross-Lingual IR from an English Retriever",
            "Yulong Li and Martin Franz and Md Arafat Sultan and Bhavani Iyer and Young-Suk Lee and Avirup Sil",
        ),
        Paper(
            "dpr",
            "2004.04906",
            "Dense Passage Retrieval for Open-Domain Question Answering",
            "Vladimir Karpukhin and Barlas O{\\u{g}}uz and Sewon Min and Patrick Lewis and Ledell Wu and Sergey "
            "Edunov and Danqi Chen and Wen-tau Yih",
        ),
        Paper(
            "fid",
            "2007.01282",
            "Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering",
            "Gautier Izacard and Edouard Grave",
        ),
        Paper(
            "fidkd",
            "2012.04584",
            "Distilling Knowledge from Reader to Retriever for Question Answering",
            "Gautier Izacard and Edouard Grave",
        ),
        Paper(
            "atlas",
            "2208.03299",
            "Atlas: Few-shot Learning with Retrieval Augmented Language Models",
            "Gautier Izacard and Patrick Lewis and Maria Lomeli and Lucas Hosseini and Fabio Petroni and Timo Schick "
            "and Jane Dwivedi-Yu and Armand Joulin and Sebastian Riedel and Edouard Grave",
        ),
        Paper(
            "marginmse",
            "2010.02666",
            "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
            'Sebastian Hofst{\\"a}tter and Sophia Althammer and Michael Schr{\\"o}der and Mete Sertkan and '
            "Allan Hanbury",
        ),
        Paper(
            "multilingualsbert",
            "2004.09813",
            "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
            "Nils Reimers and Iryna Gurevych",
        ),
    )
}

OF_FAMILY = {"colbert_xlmr": ["colbert"], "biencoder": ["dpr"], "fid_t5": ["fid"]}
OF_OBJECTIVE = {
    "in_batch_nce": ["dpr"],
    "listwise": ["colbertv2"],
    "score_distillation": ["drdecr"],
    "margin_mse": ["marginmse"],
    "reader_distillation": ["fidkd"],
    "token_distillation": ["drdecr"],
    "embedding_distillation": ["multilingualsbert"],
}


def papers_of(model_type, objective=None, reader_distillation="kl"):
    r"""
    The papers that a model stands on.

    Args:
        model_type (`str`):
            Its family.
        objective (`str`, *optional*):
            What it was trained with, one of [`~hf_xlir.training.training_args.OBJECTIVES`].
        reader_distillation (`str`, *optional*, defaults to `"kl"`):
            As in [`RetrieverTrainingArguments`]: the others come from another paper.

    Returns:
        `list[Paper]`: Each once.

    Example:
    ```python
    >>> from hf_xlir.hub.citations import papers_of

    >>> [paper.arxiv for paper in papers_of("colbert_xlmr", "token_distillation")]
    ['2004.12832', '2112.08185']

    ```
    """
    keys = [*OF_FAMILY[model_type], *OF_OBJECTIVE.get(objective, [])]
    if objective == "reader_distillation" and reader_distillation != "kl":
        keys[-1] = "atlas"
    return [PAPERS[key] for key in dict.fromkeys(keys)]


__all__ = ["PAPERS", "Paper", "papers_of"]
