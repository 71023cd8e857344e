"""Model cards: those of trained models come from their Trainer, those of the families from here."""

from pathlib import Path

from ..models.auto import FAMILIES
from .cards import build_model_card


TEMPLATE = "template.md"


def family_cards():
    r"""
    A card for each family of models with its default configuration, and one that shows what a complete card has. The
    files in `model_cards/` are these.

    Returns:
        `dict[str, str]`: Texts by file name.

    Example:
    ```python
    >>> from hf_xlir.hub.family_cards import family_cards

    >>> sorted(family_cards())
    ['biencoder.md', 'colbert_xlmr.md', 'fid_t5.md', 'template.md']

    ```
    """
    cards = {
        f"{model_type}.md": build_model_card(family.config(), f"user/my-{model_type}", exported_code=True)
        for model_type, family in FAMILIES.items()
    }
    config_class = FAMILIES["colbert_xlmr"].config
    cards[TEMPLATE] = build_model_card(
        config_class(),
        "user/name",
        language=["first language's code", "second"],
        license="the Hub's name of the licence",
        datasets=["user/dataset on the Hub", "another's name"],
        base_model="user/base-model",
        tags=["tags of your own"],
        objective="token_distillation",
        training={
            "Objective": "filled by `RetrieverTrainer`, as is all of this table",
            "Hardware": "recorded while training",
            "Duration": "of all runs, interruptions left out",
            "Energy": "not measured, unless `codecarbon` did",
        },
        evaluations={"name of the data": {"recall@5": {"ar": 0.0, "ko": 0.0, "mean": 0.0}}},
        limitations=["What you found this model cannot do."],
        exported_code=True,
    )
    return {name: str(card) for name, card in cards.items()}


def write_family_cards(folder):
    """Write [`family_cards`] to a folder, after a change of what cards say."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in family_cards().items():
        (folder / name).write_text(text, encoding="utf-8")


__all__ = ["build_model_card", "family_cards", "write_family_cards"]
