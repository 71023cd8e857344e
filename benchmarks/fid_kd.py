r"""
What a reader teaches a retriever in rounds, on the built-in mini world: questions come with answers, never with the
passage that holds them.

    python benchmarks/fid_kd.py --output_dir out
    python benchmarks/fid_kd.py --output_dir out_kl --reader_distillation kl

1. Passages are the English sentences of the mini world; a sentence is known to answer a question, for measuring only,
   if it is one of the question's passage and says the answer.
2. The retriever, a ColBERT of one layer of word vectors, has learned to find a sentence from some of its words; the
   reader, a tiny T5, to write a word that is missing from a sentence. Neither has seen a question.
3. `examples/iterate_fid_kd.py` runs its rounds: the retriever finds sentences, the reader says how likely each makes
   the answer, the retriever learns from that. Its table, of test questions, is printed.

`--reader_distillation kl` is FiD-KD as published: in each round the reader learns to answer from what was found, and
its cross-attention teaches. It learns from the questions of which a sentence that was found says an answer, mostly
with another answer in its place: a reader that learns so few questions by heart looks at nothing in particular.

All of it is the same for the same `--seed`, on one machine.
"""

import argparse
import importlib.util
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_xlir import (
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    FiDT5Config,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.data import load_mini_world


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from support.mimetic_init import mimetic_init_  # noqa: E402
from support.vocabulary import train_tokenizer  # noqa: E402


SCRIPT = Path(__file__).parents[1] / "examples" / "iterate_fid_kd.py"
VOCAB_SIZE, HIDDEN_SIZE, READER_SIZE = 4000, 256, 64
# Defaults per way to teach: sentences that are found, questions, the retriever's learning rate, and the reader's
# steps in each round. The likelihood of the answer is computed passage by passage: it takes longer.
TEACHING = {
    "kl": {"n_context": 12, "num_questions": None, "kd_learning_rate": 1e-4, "answer_steps": 800},
    "perplexity": {"n_context": 24, "num_questions": 1200, "kd_learning_rate": 5e-4, "answer_steps": 0},
}
TEACHING["emdr2"] = TEACHING["perplexity"]
COMMONEST = 40  # passages that a word to be found may be in, at most
TRAINING = {
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.08,
    "weight_decay": 0.0,
    "adam_beta2": 0.98,
    "max_grad_norm": 2.0,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def main():
    """Prepare, and run the rounds."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    world, generator = load_mini_world(["en"]), random.Random(args.seed)
    sentences = split_passages(world.passages)
    tokenizer = train_tokenizer([*world.passages["text"], *world.questions["train"]["question"]], VOCAB_SIZE)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    paths = write_data(args, world, sentences, generator)
    paths["retriever"] = str(train_retriever(args, tokenizer, sentences, generator))
    paths["reader"] = str(train_reader(args, tokenizer, sentences, generator))
    run_rounds(args, paths)


def split_passages(passages):
    """A row for each sentence; `passage` is the id of the passage that it is from."""
    rows = []
    for passage in passages:
        for number, text in enumerate(re.split(r"(?<=[.!?]) ", passage["text"])):
            row = {"id": f"{passage['id']}#{number}", "title": passage["title"], "text": text}
            rows.append({**row, "passage": passage["id"]})
    return rows


def write_data(args, world, sentences, generator):
    """Passages, and questions of which some sentence of their passage says the answer, as files."""
    of_passage = {}
    for row in sentences:
        of_passage.setdefault(row["passage"], []).append(row)
    Dataset.from_list(sentences).remove_columns("passage").to_json(args.output_dir / "passages.jsonl")
    paths = {"passages": str(args.output_dir / "passages.jsonl")}
    for split, number in (("train", args.num_questions), ("test", None)):
        rows = []
        for question in world.questions[split]:
            own = [row for id in question["passage_ids"] for row in of_passage[id]]
            answers = [answer.lower() for answer in question["answers"]]
            gold = [row["id"] for row in own if any(answer in row["text"].lower() for answer in answers)]
            if gold:
                kept = {name: question[name] for name in ("id", "question", "answers", "lang")}
                # Of training questions nobody is told
                rows.append(kept | ({"passage_ids": gold} if split == "test" else {}))
        generator.shuffle(rows)
        paths[split] = str(args.output_dir / f"{split}.jsonl")
        with open(paths[split], "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:number])
    return paths


def train_retriever(args, tokenizer, sentences, generator):
    """A ColBERT that finds a sentence from its title and some of its words."""
    encoder = {
        "model_type": "xlm-roberta",
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": 0,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = ColBERTXLMRConfig(
        encoder_config=encoder,
        embedding_dim=HIDDEN_SIZE // 2,
        query_length=40,
        document_length=64,
        query_expansion="none",
        query_marker_id=tokenizer.unk_token_id,
        document_marker_id=tokenizer.unk_token_id,
    )
    model = ColBERTXLMRModel(config)
    processor = ColBERTXLMRProcessor.from_config(tokenizer, model.config)
    rows = []
    for _ in range(64 * args.retriever_steps):
        row = generator.choice(sentences)
        words = [word for word in row["text"].rstrip(".").split() if generator.random() < 0.3]
        words += row["title"].split() if generator.random() < 0.8 or not words else []
        generator.shuffle(words)
        rows.append({"query": " ".join(words), "positive": {"title": row["title"], "text": row["text"]}})
    training_args = RetrieverTrainingArguments(
        str(args.output_dir / "training"),
        max_steps=args.retriever_steps,
        per_device_train_batch_size=64,
        learning_rate=1e-3,
        objective="in_batch_nce",
        seed=args.seed,
        use_cpu=True,
        **TRAINING,
    )
    RetrieverTrainer(model, training_args, processing_class=processor, train_dataset=rows).train()
    return save(args.output_dir / "retriever", model, processor)


def train_reader(args, tokenizer, sentences, generator):
    """A reader that writes the word which the question misses: from its sentence, then from among others."""
    config = FiDT5Config(
        vocab_size=len(tokenizer),
        d_model=READER_SIZE,
        d_kv=READER_SIZE // 4,
        d_ff=2 * READER_SIZE,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=1,
        dropout_rate=0.0,
        scale_decoder_outputs=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = mimetic_init_(FiDT5ForConditionalGeneration(config))
    processor = FiDT5Processor(tokenizer, text_maxlength=80, answer_maxlength=8, n_context=args.n_context)
    passages_with = Counter(word for row in sentences for word in set(words_of(row["text"])))

    def examples(number, num_passages):
        found = []
        while len(found) < number:
            row = generator.choice(sentences)
            words = row["text"].rstrip(".").split()
            places = [
                place
                for place, word in enumerate(words)
                if words_of(word) and max(passages_with[each] for each in words_of(word)) <= COMMONEST
            ]
            if not places:
                continue
            missing = generator.choice(places)
            kept = [word for place, word in enumerate(words) if place != missing and generator.random() < 0.6]
            kept = row["title"].split() + kept if generator.random() < 0.7 else kept
            ctxs = [row, *generator.sample(sentences, num_passages - 1)]
            generator.shuffle(ctxs)
            question = f"What {' '.join(kept)}?"
            found.append({"question": question, "target": words[missing].strip(",:;"), "ctxs": ctxs})
        return found

    def collate(rows):
        columns = ([row[name] for row in rows] for name in ("question", "ctxs", "target"))
        return dict(processor(*columns))

    for num_passages, steps, learning_rate in (
        (1, args.reader_steps, 5e-3),
        (4, args.reader_steps // 3, 2.5e-3),
    ):
        training_args = TrainingArguments(
            str(args.output_dir / "training"),
            max_steps=max(1, steps),
            per_device_train_batch_size=64,
            learning_rate=learning_rate,
            adam_epsilon=1e-12,
            remove_unused_columns=False,
            seed=args.seed,
            use_cpu=True,
            **TRAINING,
        )
        Trainer(model, training_args, collate, examples(64 * max(1, steps), num_passages)).train()
    return save(args.output_dir / "reader", model, processor)


def words_of(text):
    """Words in lower case."""
    return re.findall(r"\w+", text.lower())


def save(folder, model, processor):
    """Write a model with its processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run_rounds(args, paths):
    """`iterate_fid_kd.py` with what was prepared."""
    of_retriever = {"max_steps": args.kd_steps, "per_device_train_batch_size": 32}
    of_retriever |= {"learning_rate": args.kd_learning_rate, "teacher_score_scale": args.teacher_score_scale}
    of_reader = {"max_steps": args.answer_steps, "per_device_train_batch_size": 24, "learning_rate": 3e-3}
    of_reader["substitute_answers"] = 0.8
    given = {
        "retriever": paths["retriever"],
        "reader": paths["reader"],
        "train_questions": paths["train"],
        "eval_questions": paths["test"],
        "passages": paths["passages"],
        "rounds": args.rounds,
        "n_context": args.n_context,
        "reader_distillation": args.reader_distillation,
        "retriever_arguments": " ".join(f"--{name} {value}" for name, value in (TRAINING | of_retriever).items()),
        "reader_arguments": " ".join(f"--{name} {value}" for name, value in (TRAINING | of_reader).items()),
        "seed": args.seed,
        "output_dir": args.output_dir / "rounds",
    }
    command = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    spec = importlib.util.spec_from_file_location("example_iterate_fid_kd", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    options = ["--answered_only"] if args.answer_steps else ["--keep_reader"]
    script.main([*command, *options, "--use_cpu", "--k", "1", "5", "20"])


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of data, models and rounds.")
    parser.add_argument(
        "--reader_distillation", choices=sorted(TEACHING), default="perplexity", help="What the reader teaches by."
    )
    parser.add_argument("--teacher_score_scale", type=float, default=1.0, help="Factor on the reader's scores.")
    parser.add_argument("--rounds", type=int, default=2, help="How often the reader teaches the retriever.")
    parser.add_argument("--n_context", type=int, help="Sentences that are found and learnt from.")
    parser.add_argument("--num_questions", type=int, help="To learn from; all by default for kl.")
    parser.add_argument("--retriever_steps", type=int, default=60, help="Steps of the retriever without questions.")
    parser.add_argument("--reader_steps", type=int, default=700, help="Steps of the reader before the first round.")
    parser.add_argument("--answer_steps", type=int, help="Steps of the reader in each round; 0 leaves it as it is.")
    parser.add_argument("--kd_steps", type=int, default=60, help="Steps of the retriever in each round.")
    parser.add_argument("--kd_learning_rate", type=float, help="Learning rate of the retriever in each round.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of data and trainings.")
    parser.add_argument("--smoke", action="store_true", help="The smallest sizes, to see that it runs.")
    if "--smoke" in sys.argv:
        parser.set_defaults(rounds=1, n_context=3, num_questions=20, retriever_steps=2, reader_steps=3, kd_steps=2)
    args = parser.parse_args()
    for name, value in TEACHING[args.reader_distillation].items():
        if getattr(args, name) is None:
            setattr(args, name, min(value or 0, 2) if args.smoke and name == "answer_steps" else value)
    return args


if __name__ == "__main__":
    main()
