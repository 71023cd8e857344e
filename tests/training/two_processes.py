"""
Tiny models and data for the trainer's tests, and what two processes train on them.

Two CPU processes write `OUTPUT/0.pt` and `OUTPUT/1.pt`, for all cases or those that are named:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        tests/training/two_processes.py OUTPUT [CASE ...]
"""

import os
import random
import sys

import torch
from datasets import Dataset
from transformers import BertTokenizer

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.utils import process_group
from support.vocabulary import train_tokenizer


WORDS = "north south east west river hill lake town bridge road stone water green blue white black".split()

# transformers before 5.23 has the older name
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in RetrieverTrainingArguments.__dataclass_fields__
)

# name: (family, settings of the model, arguments of the training)
CASES = {
    "colbert nce": ("colbert", {}, {"objective": "in_batch_nce"}),
    "two towers nce": ("biencoder", {"share_encoders": False}, {"objective": "in_batch_nce"}),
    "listwise": ("biencoder", {}, {"objective": "listwise"}),
    "score distillation": ("colbert", {}, {"objective": "score_distillation"}),
    "in-batch distillation": ("colbert", {}, {"objective": "score_distillation", "distill_in_batch": True}),
    "teacher's documents": (
        "biencoder",
        {"share_encoders": False},
        {"objective": "score_distillation", "distill_in_batch": True, "teacher_documents": True},
    ),
    "listwise and in batch": ("colbert", {}, {"objective": "listwise", "in_batch_weight": 0.5}),
    "margin mse": ("colbert", {}, {"objective": "margin_mse"}),
    "reader": ("biencoder", {"share_encoders": False}, {"objective": "reader_distillation"}),
    "tokens": ("colbert", {}, {"objective": "token_distillation"}),
    "tokens of another tokenizer": ("colbert", {}, {"objective": "token_distillation", "query_weight": 0.3}),
    "vectors": (
        "biencoder",
        {"share_encoders": False, "pooling": "mean"},
        {"objective": "embedding_distillation", "contrast_scale": 20.0},
    ),
    "activation checkpointing": (
        "biencoder",
        {"share_encoders": False},
        {"objective": "in_batch_nce", CHECKPOINTING: True},
    ),
}
# Their batches in chunks of three: the last chunk is smaller, queries have fewer chunks than documents, and the
# processes' documents for a reader are not equally many
CACHED = (
    "colbert nce",
    "two towers nce",
    "in-batch distillation",
    "teacher's documents",
    "reader",
    "tokens",
    "vectors",
)
for name in CACHED:
    family, settings, arguments = CASES[name]
    CASES[f"{name}, cached"] = family, settings, {**arguments, "gradient_cache_chunk_size": 3}


def make_tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 3, vocab_size=120)


def make_bert_tokenizer():
    """WordPieces of BERT: short words whole, long ones in letters, so that positions are others."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in WORDS if len(word) < 5] + ["[unused0]", "[unused1]"]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)})


def make_retriever(family, tokenizer, seed=0, dropout=0.0, model_type=None, **settings):
    """A model with random weights and its processor."""
    torch.manual_seed(seed)
    encoder = {
        "model_type": model_type or ("bert" if family == "biencoder" else "xlm-roberta"),
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
    }
    if family == "colbert":
        settings = {"embedding_dim": 8, "query_length": 12, "document_length": 24, **settings}
        config, model_class, processor_class = ColBERTXLMRConfig, ColBERTXLMRModel, ColBERTXLMRProcessor
    else:
        settings = {"query_length": 12, "document_length": 24, **settings}
        config, model_class, processor_class = BiEncoderConfig, BiEncoderModel, BiEncoderProcessor
    config = config(encoder_config=encoder, **settings)
    return model_class(config), processor_class.from_config(tokenizer, config)


def make_rows(number=16, num_negatives=2, seed=0):
    """Random words; the third row's positive is the first row's, and both have one English query."""
    generator = random.Random(seed)

    def text(most):
        return " ".join(generator.choices(WORDS, k=generator.randint(2, most)))

    rows = [
        {
            "query": text(5),
            "teacher_query": text(5),
            "positive": {"title": text(2), "text": text(8)},
            "negatives": [{"title": "", "text": text(8)} for _ in range(num_negatives)],
        }
        for _ in range(number)
    ]
    for row in rows[2:3]:
        row.update(positive=rows[0]["positive"], teacher_query=rows[0]["teacher_query"])
    return Dataset.from_list(rows)


def make_reader_rows(number=16, seed=0):
    """Rows with one to four documents, of which the reader did not have all, and its scores of them."""
    generator = random.Random(seed)
    rows = []
    for row in make_rows(number, num_negatives=3, seed=seed):
        documents = [row["positive"], *row["negatives"]][: generator.randint(1, 4)]
        scores = [generator.gauss(0, 2) for _ in documents]
        if len(documents) == 4:
            scores[2] = float("-inf")
        rows.append({"query": row["query"], "documents": documents, "reader_scores": scores})
    return Dataset.from_list(rows)


def make_arguments(output_dir, **arguments):
    """Plain gradient descent over the rows in their order, and no output."""
    defaults = {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return RetrieverTrainingArguments(str(output_dir), **{**defaults, **arguments})


def logged_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train(case, output_dir, streamed=False, dtype=torch.float64, **arguments):
    """Train one of the cases for five steps. Returns the losses, the weights and what else was logged."""
    family, settings, own_arguments = CASES[case]
    tokenizer = make_tokenizer()
    model, processor = make_retriever(family, tokenizer, **settings)
    if "another tokenizer" in case:
        teacher, teacher_processor = make_retriever(family, make_bert_tokenizer(), seed=1, model_type="bert")
    else:
        teacher, teacher_processor = make_retriever(family, tokenizer, seed=1, **settings)
    rows = make_reader_rows() if case.startswith("reader") else make_rows()
    trainer = RetrieverTrainer(
        model.to(dtype),
        make_arguments(output_dir, **{"max_steps": 5, **own_arguments, **arguments}),
        processor,
        teacher=teacher.to(dtype),
        teacher_processor=teacher_processor,
        train_dataset=rows.to_iterable_dataset() if streamed else rows,
    )
    trainer.train()
    return {
        "losses": logged_losses(trainer),
        "weights": {name: weights.detach() for name, weights in model.named_parameters()},
        "logs": [
            {name: value for name, value in entry.items() if name == "margin" or name.startswith("loss_")}
            for entry in trainer.state.log_history[:-1]
        ],
    }


@process_group()
def main():
    torch.set_num_threads(1)
    (output_dir, *names), rank = sys.argv[1:], int(os.environ["RANK"])
    half = {"per_device_train_batch_size": 4}
    results = {case: train(case, output_dir, **half) for case in names or CASES}
    if not names:
        results["float32"] = {case: train(case, output_dir, dtype=torch.float32, **half) for case in CASES}
        twice = {"gradient_accumulation_steps": 2, **half}
        results["accumulated"] = train("colbert nce", output_dir, **twice)
        results["accumulated, cached"] = train("two towers nce, cached", output_dir, **twice)
        results["streamed"] = train("colbert nce", output_dir, streamed=True, **half)
    torch.save(results, os.path.join(output_dir, f"{rank}.pt"))


if __name__ == "__main__":
    main()
