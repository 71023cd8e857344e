"""The papers that models and indexes build on, for the citations of cards."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper on arXiv: its id, the key of its BibTeX entry, title and authors (in LaTeX)."""

    arxiv: str
    key: str
    title: str | None = None
    authors: str | None = None

    @property
    def link(self):
        """Its page."""
        return f"https://huggingface.co/papers/{self.arxiv}"

    @property
    def bibtex(self):
        """Its BibTeX entry."""
        fields = {
            "title": self.title,
            "author": self.authors,
            "year": f"20{self.arxiv[:2]}",
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            "url": f"https://arxiv.org/abs/{self.arxiv}",
        }
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value is not None]
        return f"@misc{{{self.key},\n" + ",\n".join(lines) + "\n}"


PAPERS = (
    Paper(
        "2004.12832",
        "colbert",
        "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
        "Omar Khattab and Matei Zaharia",
    ),
    Paper(
        "2112.01488",
        "colbertv2",
        "ColBERTv2: Effective and Efficient Retrieval via Lightweight Late Interaction",
        "Keshav Santhanam and Omar Khattab and Jon Saad-Falcon and Christopher Potts and Matei Zaharia",
    ),
    Paper(
        "2205.09707",
        "plaid",
        "PLAID: An Efficient Engine for Late Interaction Retrieval",
        "Keshav Santhanam and Omar Khattab and Christopher Potts and Matei Zaharia",
    ),
    Paper(
        "2112.08185",
        "drdecr",
        "Learning Cross-Lingual IR from an English Retriever",
        "Yulong Li and Martin Franz and Md Arafat Sultan and Bhavani Iyer and Young-Suk Lee and Avirup Sil",
    ),
    Paper(
        "2004.04906",
        "dpr",
        "Dense Passage Retrieval for Open-Domain Question Answering",
        "Vladimir Karpukhin and Barlas O{\\u{g}}uz and Sewon Min and Patrick Lewis and Ledell Wu and Sergey "
        "Edunov and Danqi Chen and Wen-tau Yih",
    ),
    Paper(
        "2007.01282",
        "fid",
        "Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering",
        "Gautier Izacard and Edouard Grave",
    ),
    Paper(
        "2012.04584",
        "fidkd",
        "Distilling Knowledge from Reader to Retriever for Question Answering",
        "Gautier Izacard and Edouard Grave",
    ),
    Paper(
        "2208.03299",
        "atlas",
        "Atlas: Few-shot Learning with Retrieval Augmented Language Models",
        "Gautier Izacard and Patrick Lewis and Maria Lomeli and Lucas Hosseini and Fabio Petroni and Timo Schick "
        "and Jane Dwivedi-Yu and Armand Joulin and Sebastian Riedel and Edouard Grave",
    ),
    Paper(
        "2010.02666",
        "marginmse",
        "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        'Sebastian Hofst{\\"a}tter and Sophia Althammer and Michael Schr{\\"o}der and Mete Sertkan and Allan Hanbury',
    ),
    Paper(
        "2004.09813",
        "multilingualsbert",
        "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        "Nils Reimers and Iryna Gurevych",
    ),
)


def find_papers(names):
    """
    The papers of arXiv ids or BibTeX keys, each once. An arXiv id that is not known here is cited without its title.

    Example:
    ```python
    >>> from hf_xlir.hub.papers import find_papers

    >>> [paper.arxiv for paper in find_papers(["colbert", "2112.08185", "2004.12832"])]
    ['2004.12832', '2112.08185']

    ```
    """
    known = {name: paper for paper in PAPERS for name in (paper.arxiv, paper.key)}
    return list(dict.fromkeys(known.get(name, Paper(name, f"arxiv{name}")) for name in names))


__all__ = ["PAPERS", "Paper", "find_papers"]
