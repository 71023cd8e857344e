"""
Questions and passages for tests, and what two processes find and mine together.

Two CPU processes write `OUTPUT/0.pt` and `OUTPUT/1.pt`:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        tests/training/two_process_retrieval.py OUTPUT [ranking]
"""

import os
import random
import sys
from pathlib import Path

import torch
from datasets import Dataset
from two_processes import WORDS, make_arguments, make_retriever, make_tokenizer

from hf_xlir import RetrieverTrainer
from hf_xlir.training.checkpoints import find_damage
from hf_xlir.training.hard_negatives import HardNegativeRefresh
from hf_xlir.training.retrieval_evaluation import rank_passages_together
from hf_xlir.utils import process_group


FAMILIES = ("colbert", "biencoder")


def make_passages(number=30):
    generator = random.Random(9)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(number)]
    return Dataset.from_dict({"id": [f"p{i}" for i in range(number)], "title": ["Town"] * number, "text": texts})


def make_questions(number=12, first=0):
    """Each has the beginning of a passage as its question, and that passage and the next one as gold."""
    texts = make_passages()["text"][:]
    rows = [
        {
            "id": f"q{i}",
            "question": " ".join(texts[i].split()[:3]),
            "passage_ids": [f"p{i}", f"p{i + 1}"],
            "answers": [texts[i].split()[3]],
        }
        for i in range(first, first + number)
    ]
    return Dataset.from_list(rows)


def rank(family, questions, passages, k):
    model, processor = make_retriever(family, make_tokenizer())
    return rank_passages_together(model.double(), processor, questions, passages, k, progress=False)


def train(folder, resume=None, **arguments):
    """Train in float64 with refreshed negatives and evaluation. Returns the negatives, the metrics and the weights."""
    model, processor = make_retriever("biencoder", make_tokenizer(), dropout=arguments.pop("dropout", 0.0))
    refresh = HardNegativeRefresh(make_questions(), make_passages(), depth=(0, 4), exclude_answers=False)
    arguments = {
        "objective": "in_batch_nce",
        "per_device_train_batch_size": 6,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 4,
        **arguments,
    }
    trainer = RetrieverTrainer(
        model.double(),
        make_arguments(folder, **arguments),
        processor,
        train_dataset=refresh.rows,
        eval_dataset=make_questions(first=8),
        eval_passages=make_passages(),
        callbacks=[refresh],
    )
    trainer.train(resume_from_checkpoint=resume)
    metrics = [entry for entry in trainer.state.log_history if "eval_recall@5" in entry]
    metrics = [{name: value for name, value in entry.items() if "@" in name} for entry in metrics]
    return refresh.negatives, metrics, {name: weights.detach() for name, weights in model.named_parameters()}


@process_group()
def main():
    torch.set_num_threads(1)
    folder, rank_of_process, all_of_it = Path(sys.argv[1]), int(os.environ["RANK"]), len(sys.argv) == 2
    results = {}
    for family in FAMILIES:
        results[family] = tuple(rank(family, make_questions(), make_passages(), k=20))
        results[family, "few"] = tuple(rank(family, make_questions(1), make_passages(1), k=20))
    if all_of_it:
        results |= trainings(folder)
    torch.save(results, folder / f"{rank_of_process}.pt")


def trainings(folder):
    """A whole run, one that is resumed from it, and one with half of each batch."""
    small = {"per_device_train_batch_size": 2, "dropout": 0.1}
    results = {"whole": train(folder / "whole", **small)}
    results["files"] = sorted(path.name for path in (folder / "whole" / "checkpoint-4").iterdir())
    results["damage"] = find_damage(folder / "whole" / "checkpoint-4")
    results["resumed"] = train(folder / "resumed", str(folder / "whole" / "checkpoint-2"), **small)
    results["halves"] = train(folder / "halves")
    return results


if __name__ == "__main__":
    main()
