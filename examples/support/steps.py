"""What the steps of the quickstart have in common: trainings, recall, tables, and a line of progress per step."""

import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback

from hf_xlir import FiDT5Config, RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.evaluation import rank_passages, success_at_k
from hf_xlir.index import DenseIndex, LateInteractionIndex, TokenEmbeddings, embed_queries


class Data(NamedTuple):
    """Passages; questions to learn from and questions about other facts to be tested on; translated sentences."""

    passages: Dataset
    train: Dataset
    test: Dataset
    parallel: list[dict]


@contextmanager
def progress(text):
    """Print a line for a step: what it does, and in the end how long it took."""
    started = time.perf_counter()
    print(f"{text} ...", end=" ", flush=True)
    yield
    print(f"{time.perf_counter() - started:.0f} s", flush=True)


def training_settings(args, steps, batch_size, learning_rate):
    """The arguments that all trainings share; `--steps_factor` scales the number of steps."""
    return {
        "output_dir": str(Path(args.output_dir, "training")),
        "max_steps": max(1, round(steps * args.steps_factor)),
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.08,
        "weight_decay": 0.0,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-12,  # squared distances between unit vectors have tiny gradients
        "max_grad_norm": 2.0,
        "seed": args.seed,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def run_training(trainer):
    """Train without the lines that a trainer prints."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def train_retriever(
    args, model, processor, rows, objective, *, steps, batch_size, learning_rate_factor=1, teacher=None, **options
):
    """Train a retriever; `teacher` is a model, or a model and its processor, and `options` belong to the objective."""
    teacher, teacher_processor = teacher if isinstance(teacher, tuple) else (teacher, None)
    settings = training_settings(args, steps, batch_size, args.learning_rate * learning_rate_factor)
    trainer = RetrieverTrainer(
        model,
        RetrieverTrainingArguments(**settings, objective=objective, **options),
        processing_class=processor,
        teacher=teacher,
        teacher_processor=teacher_processor,
        train_dataset=rows,
    )
    run_training(trainer)


def recall(model, processor, questions, passages, cutoffs=(1, 5, 20), by_language=True):
    """The percentage of questions with a gold passage in the top k, per language; and the rankings."""
    rankings, _ = rank_passages(model, processor, questions, passages, k=max(cutoffs), progress=False)
    groups = {}
    for id, lang, gold in zip(questions["id"], questions["lang"], questions["passage_ids"], strict=True):
        groups.setdefault(lang if by_language else "all", {})[id] = gold
    result = {
        group: [round(100 * success_at_k({id: rankings[id] for id in gold}, gold, k=k), 1) for k in cutoffs]
        for group, gold in groups.items()
    }
    return (with_mean(result) if by_language else result), rankings


def choose_sentences(retriever, questions, rankings, sentences, embeddings, num_sentences):
    """By id of the question, the sentences of its best passage that the retriever scores highest."""
    exact = {"nbits": None} if isinstance(embeddings, TokenEmbeddings) else {}
    index = (LateInteractionIndex if exact else DenseIndex).build(embeddings, **exact)
    queries = embed_queries(*retriever, questions["question"][:], progress=False)
    sentences_of, questions_of, chosen = {}, {}, {}
    for sentence in sentences:
        sentences_of.setdefault(sentence["id"].rpartition("#")[0], []).append(sentence["id"])
    ids = questions["id"][:]
    for row, id in enumerate(ids):
        questions_of.setdefault(rankings[id][0], []).append(row)
    for passage, rows in questions_of.items():
        masks = {"query_mask": queries.mask[rows]} if exact else {}
        own = sentences_of[passage]
        _, found = index.search_batch(queries.embeddings[rows], num_sentences, allowed_ids=own, **masks)
        for row, best in zip(rows, np.asarray(found).tolist(), strict=True):
            chosen[ids[row]] = [sentences[each] for each in best if each >= 0]
    return chosen


@torch.no_grad()
def read(reader, processor, questions, contexts, batch_size=64):
    """Greedy answers, each from its question's sentences."""
    answers = []
    for start in range(0, len(questions), batch_size):
        block = slice(start, start + batch_size)
        inputs = processor(questions[block], contexts[block]).to(reader.device)
        generated = reader.generate(**inputs, max_new_tokens=16, do_sample=False, num_beams=1)
        answers += [text.strip() for text in processor.batch_decode(generated, skip_special_tokens=True)]
    return answers


def with_mean(row):
    """Add the mean over the languages other than English."""
    others = [values for language, values in row.items() if language != "en"]
    if others:
        row["mean of others"] = [round(float(value), 1) for value in np.mean(others, axis=0)]
    return row


def print_table(title, results):
    """Print rows of results with one column per language."""
    names = dict.fromkeys(column for row in results.values() for column in row)
    columns = sorted(names, key=lambda column: (column == "mean of others", column != "en", column))
    cells = [
        [name, *(" / ".join(map(str, row.get(column, ["-"]))) for column in columns)] for name, row in results.items()
    ]
    cells.insert(0, ["", *columns])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for first, *others in cells:
        print("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    print(flush=True)


def all_texts(data):
    """All text that a vocabulary may be made of: no test question."""
    texts = [f"{title} {text}" for title, text in zip(data.passages["title"], data.passages["text"], strict=True)]
    texts += data.train["question"]
    return texts + [text for pair in data.parallel for text in (pair["source"], pair["target"])]


def small_encoder(tokenizer, hidden_size, layers, dropout=0.0):
    """The configuration of a small XLM-R."""
    return {
        "model_type": "xlm-roberta",
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def small_reader(tokenizer):
    """The configuration of a small reader, with half a million parameters."""
    return FiDT5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=1,
        dropout_rate=0.0,
        scale_decoder_outputs=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
