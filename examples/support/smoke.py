"""A training script in small: a tiny model and the mini world, as the files that the script reads in earnest."""

import json
import os
import random
import shutil
from pathlib import Path

from torch.random import fork_rng, manual_seed
from transformers import AutoModel, T5Config, T5ForConditionalGeneration, XLMRobertaConfig

from hf_xlir.data import load_mini_world

from .vocabulary import train_tokenizer


# What `--smoke` sets, unless the command line says otherwise; where a recipe accumulates batches, it accumulates two
SMOKE_ARGUMENTS = {
    "max_steps": 4,
    "global_batch_size": 8,
    "warmup_steps": 1,
    "logging_steps": 1,
    "eval_steps": 2,
    "save_steps": 2,
    "bf16": False,
    "fp16": False,
    "dataloader_num_workers": 0,
    "report_to": "none",
}
NUM_ROWS = 48
NUM_PASSAGES = 96
NUM_EVAL_QUESTIONS = 16
NUM_NEGATIVES = 2


def prepare_smoke(training_args):
    r"""
    Write a tiny encoder and small data into the folder `smoke` of the output folder, unless they are there already.

    Args:
        training_args (`TrainingArguments`):
            The script's arguments. One process per machine writes, and the others wait for it.

    Returns:
        `dict[str, str]`: Paths by name: `encoder` (an XLM-R with its tokenizer); `triples`, `teacher_triples` (the
        same with English queries), `queries`, `passages`, `nway` (ids with scores); `dpr`; `rows` (of
        [`load_training_rows`], with `teacher_query`); `reader_examples` (with scores and answers); `backbone` (a T5
        with the encoder's tokenizer); `source` and `target`; `texts` (with labels); `questions` (for evaluation on
        `passages`); and `cache`, a folder for Arrow files.

    Example:
    ```python
    >>> from transformers import TrainingArguments
    >>> from hf_xlir.data import load_triples
    >>> from support.smoke import prepare_smoke

    >>> paths = prepare_smoke(TrainingArguments("out", use_cpu=True))
    >>> len(load_triples(paths["triples"], cache_dir=paths["cache"]))
    48

    ```
    """
    folder = Path(training_args.output_dir, "smoke")
    with training_args.main_process_first(desc="writing the data of a smoke run"):
        if not folder.is_dir():
            unfinished = folder.with_name("smoke_unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir(parents=True)
            _write_all(unfinished)
            os.replace(unfinished, folder)
    paths = {path.stem: str(path) for path in folder.iterdir()}
    return {**paths, "cache": str(folder / "cache")}


def _write_all(folder):
    world = load_mini_world(["en", "fi", "ko"])
    passages = {passage["id"]: passage for passage in world.passages}
    train = world.questions["train"].to_list()
    english = {row["fact_id"]: row["question"] for row in train if row["lang"] == "en"}
    draw = random.Random(0).sample
    asked = draw([row for row in train if row["lang"] != "en" and row["fact_id"] in english], NUM_ROWS)
    evaluation = draw(world.questions["validation"].to_list(), NUM_EVAL_QUESTIONS)
    gold = {id: passages[id] for row in [*asked, *evaluation] for id in row["passage_ids"]}
    chosen = list({**gold, **{each["id"]: each for each in draw(list(passages.values()), NUM_PASSAGES)}}.values())
    pairs = draw(world.parallel.to_list(), NUM_ROWS)

    rows = [
        {
            "id": row["id"],
            "lang": row["lang"],
            "query": row["question"],
            "teacher_query": english[row["fact_id"]],
            "positive": passages[row["passage_ids"][0]],
            "negatives": _negatives(place, row["passage_ids"], chosen),
        }
        for place, row in enumerate(asked)
    ]
    documents = [[row["positive"], *row["negatives"]] for row in rows]
    ranked = [
        [[each["id"], _shared_words(row, each)] for each in of_row]
        for row, of_row in zip(rows, documents, strict=True)
    ]

    _write_tsv(folder / "triples.tsv", [_triple(row["query"], row) for row in rows])
    _write_tsv(folder / "teacher_triples.tsv", [_triple(row["teacher_query"], row) for row in rows])
    _write_tsv(folder / "queries.tsv", [(row["id"], row["query"]) for row in rows])
    header = ("id", "text", "title")
    _write_tsv(folder / "passages.tsv", [header, *((each["id"], each["text"], each["title"]) for each in chosen)])
    _write_lines(folder / "nway.jsonl", [[row["id"], *of_row] for row, of_row in zip(rows, ranked, strict=True)])
    _write_lines(folder / "rows.jsonl", rows)
    _write_lines(
        folder / "dpr.jsonl",
        [
            {
                "question": row["query"],
                "answers": question["answers"],
                "positive_ctxs": [row["positive"]],
                "hard_negative_ctxs": row["negatives"],
                "negative_ctxs": [],
            }
            for row, question in zip(rows, asked, strict=True)
        ],
    )
    _write_lines(
        folder / "reader_examples.jsonl",
        [
            {
                "question": row["query"],
                "answers": question["answers"],
                "lang": row["lang"],
                "ctxs": [{**each, "score": _shared_words(row, each)} for each in of_row],
            }
            for row, question, of_row in zip(rows, asked, documents, strict=True)
        ],
    )
    for name in ("source", "target"):
        (folder / f"{name}.txt").write_text("\n".join(pair[name] for pair in pairs), encoding="utf-8")
    _write_lines(
        folder / "texts.jsonl", [{"text": each["text"], "label": each["id"].split("-")[0]} for each in chosen]
    )
    _write_lines(folder / "questions.jsonl", evaluation)

    texts = [each["text"] for each in chosen] + [pair[name] for pair in pairs for name in ("source", "target")]
    texts += [row[name] for row in rows for name in ("query", "teacher_query")]
    tokenizer = train_tokenizer(texts, vocab_size=600)
    _save_encoder(folder / "encoder", tokenizer)
    _save_backbone(folder / "backbone", tokenizer)


def _save_encoder(folder, tokenizer):
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=264,  # texts of 256 tokens, as in DPR
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with fork_rng(devices=[]):
        manual_seed(0)
        AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_backbone(folder, tokenizer):
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with fork_rng(devices=[]):
        manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _negatives(place, gold, passages):
    others = [passage for passage in passages if passage["id"] not in gold]
    return [others[(place + offset * len(others) // NUM_NEGATIVES) % len(others)] for offset in range(NUM_NEGATIVES)]


def _shared_words(row, passage):
    """A score that says something: how many words of the English question the passage has."""
    words = set(row["teacher_query"].rstrip("?").lower().split())
    return float(len(words & set(f"{passage['title']} {passage['text']}".lower().split())))


def _triple(query, row):
    return (query, row["positive"]["text"], row["negatives"][0]["text"])


def _write_tsv(path, rows):
    path.write_text("\n".join(map("\t".join, rows)), encoding="utf-8")


def _write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


__all__ = ["SMOKE_ARGUMENTS", "prepare_smoke"]
