r"""
Training speed, side by side: `RetrieverTrainer` against a bare PyTorch loop and against the trainers of PyLate and
Sentence Transformers, on one model, the same batches in the same order, and equally many threads.

    python benchmarks/training.py
    python benchmarks/training.py --peer_python PEERS/bin/python NEWEST/bin/python

- listwise: a ColBERT, and a query's own positive and three negatives (PyLate: `Distillation` from a teacher that is
  sure of the positive, which is the same loss);
- nce: a dual encoder, and all positives of the batch (Sentence Transformers: `MultipleNegativesRankingLoss`).

What is measured: all of a step, from rows of text to the optimizer's update, tokenization included, and logging each
ten steps where a trainer logs. What is not: imports, loading, and the first steps. Each measurement is a process of
its own, and the sides take turns, round after round: a ratio is the median of the rounds' ratios. Beside the wall
clock stands the processes' CPU time, which a busy machine disturbs less. At the start, without dropout, the losses of
the bare loop's first steps must be those of `RetrieverTrainer`.

The peers have environments of their own, since PyLate 1.6.0 allows no newer libraries than these:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    PEERS/bin/pip install sentence-transformers==5.3.0 transformers==5.3.0 datasets accelerate ujson fastkmeans==0.5.0
    PEERS/bin/pip install --no-deps pylate==1.6.0  # without fast-plaid, its index, which would need torch 2.11
    python -m venv NEWEST
    NEWEST/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    NEWEST/bin/pip install sentence-transformers==6.2.0 transformers==5.23.0 datasets accelerate
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModel, XLMRobertaConfig

from hf_xlir.data import load_mini_world


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from support.vocabulary import train_tokenizer  # noqa: E402


WORKERS = Path(__file__).with_name("training_workers.py")
TASKS = {"listwise": "pylate", "nce": "sentence-transformers"}  # and the package of the peer
PASSED_ON = ("keep_memory", "threads", "hidden_size", "query_length", "document_length")
NUM_NEGATIVES = 3
CHECKED_STEPS = 3
MOST_DIFFERENCE = 1e-4  # of losses of ours and of the bare loop, relative
# glibc then keeps the memory that a step frees for the next step, instead of giving it back to the system
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
SMOKE = {
    "rounds": 1,
    "steps": 2,
    "warmup_steps": 1,
    "listwise_batch_size": 4,
    "nce_batch_size": 4,
    "hidden_size": 32,
    "num_layers": 1,
    "vocab_size": 600,
    "document_length": 24,
}


class Side(NamedTuple):
    """What is measured, which interpreter runs it, and its name in the table."""

    kind: str
    python: str
    name: str


def main():
    """Prepare, check, measure, and print the tables."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        peers = find_peers(args.peer_python)
        prepare(args, folder)
        versions = ask_versions(sys.executable)
        print(f"torch {versions['torch']}, transformers {versions['transformers']}, {args.threads} thread(s)")
        for task, package in TASKS.items():
            batch_size = getattr(args, f"{task}_batch_size")
            settings = {
                "task": task,
                "folder": folder,
                "batch_size": batch_size,
                "learning_rate": 1e-4,
                **{name: getattr(args, name) for name in PASSED_ON},
            }
            sides = [Side("ours", sys.executable, "RetrieverTrainer"), Side("bare", sys.executable, "bare loop")]
            sides += [side for side in peers if side.kind == package]
            check_losses(sides, settings)
            print_table(task, batch_size, measure(sides, settings, args))


def parse_arguments():
    """The command line; errors in it end the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", nargs="*", default=[], help="Interpreters where peers are installed.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each side is measured.")
    parser.add_argument("--steps", type=int, default=8, help="Steps of a measurement.")
    parser.add_argument("--warmup_steps", type=int, default=2, help="Steps before, which do not count.")
    parser.add_argument("--threads", type=int, default=1, help="Threads per process.")
    parser.add_argument("--listwise_batch_size", type=int, default=32, help="Queries, each with four documents.")
    parser.add_argument("--nce_batch_size", type=int, default=64, help="Queries, each with one document.")
    parser.add_argument("--hidden_size", type=int, default=256, help="Width of the encoder.")
    parser.add_argument("--num_layers", type=int, default=4, help="Layers of the encoder.")
    parser.add_argument("--vocab_size", type=int, default=8000, help="Pieces of the tokenizer.")
    parser.add_argument("--query_length", type=int, default=32, help="Token ids of a query.")
    parser.add_argument(
        "--document_length", type=int, default=64, help="Token ids of a document; nearly all of them have as many."
    )
    parser.add_argument(
        "--keep_memory",
        action="store_true",
        help=f"Run RetrieverTrainer with {' '.join(map('='.join, KEPT_MEMORY.items()))}.",
    )
    parser.add_argument("--smoke", action="store_true", help="The smallest sizes, to see that it runs.")
    if "--smoke" in sys.argv:
        parser.set_defaults(**SMOKE)
    args = parser.parse_args()
    for name, value in vars(args).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}.")
    for python in args.peer_python:
        if not Path(python).is_file():
            parser.error(f"--peer_python names no file: {python}. Give an environment's bin/python.")
    return args


def find_peers(interpreters):
    """The peers that each interpreter has."""
    peers = []
    for python in interpreters:
        versions = ask_versions(python)
        found = [package for package in TASKS.values() if package in versions]
        if not found:
            raise SystemExit(f"{python} has neither of {list(TASKS.values())}: install one there, see --help.")
        own = f"torch {versions['torch'].split('+')[0]}, transformers {versions['transformers']}"
        if "pylate" in found:
            own += f", sentence-transformers {versions['sentence-transformers']}"
        peers += [Side(package, python, f"{package} {versions[package]} ({own})") for package in found]
    return peers


def ask_versions(python):
    """Versions of the libraries that an interpreter has."""
    return json.loads(subprocess.run([python, WORKERS, "versions"], check=True, capture_output=True).stdout)


def prepare(args, folder):
    """Write the tokenizer, an encoder and ColBERT's projection with random weights, and the rows, into a folder."""
    world = load_mini_world()
    tokenizer = train_tokenizer([*world.passages["text"], *world.questions["train"]["question"]], args.vocab_size)
    tokenizer.add_tokens(["[Q] ", "[D] "])  # PyLate's markers, which ColBERT takes, too
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=max(1, args.hidden_size // 64),
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    torch.save(torch.randn(128, args.hidden_size) / args.hidden_size**0.5, Path(folder, "projection.pt"))

    num_steps = max(args.steps + args.warmup_steps, CHECKED_STEPS) + 2  # trainers read ahead
    num_rows = num_steps * max(args.listwise_batch_size, args.nce_batch_size)
    rows = list(islice(compose_rows(world), num_rows))
    Path(folder, "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def compose_rows(world):
    """Rows without end: passage after passage, so that no batch has one twice, each time with another question."""
    passages = [f"{passage['title']} {passage['text']}" for passage in world.passages]
    place_of = {id: place for place, id in enumerate(world.passages["id"])}
    questions = {}
    for row in world.questions["train"]:
        questions.setdefault(place_of[row["passage_ids"][0]], []).append(row["question"])
    for turn in count():
        for place, own in questions.items():
            negatives = [(place + (each + 1) * 97 + turn) % len(passages) for each in range(NUM_NEGATIVES)]
            yield {
                "query": own[turn % len(own)],
                "positive": passages[place],
                "negatives": [passages[negative] for negative in negatives],
            }


def run(side, settings):
    """What a side's process writes."""
    folder = settings["folder"]
    settings_path, result_path = Path(folder, "settings.json"), Path(folder, "result.json")
    settings_path.write_text(json.dumps(settings), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    threads = {name: str(settings["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    command = [side.python, str(WORKERS), side.kind, str(settings_path), str(result_path)]
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    if side.kind == "ours" and settings["keep_memory"]:
        environment.update(KEPT_MEMORY)
    if side.kind not in ("ours", "bare"):
        environment.pop("PYTHONPATH", None)  # of this environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(result_path.read_text(encoding="utf-8"))


def check_losses(sides, settings):
    """Stop unless ours and the bare loop have the same losses on the first batches; print the peers' differences."""
    losses = [run(side, {**settings, "steps": CHECKED_STEPS, "check": True})["losses"] for side in sides]
    for side, of_side in zip(sides[1:], losses[1:], strict=True):
        difference = max(abs(own - other) / abs(other) for own, other in zip(losses[0], of_side, strict=True))
        print(f"{settings['task']}: losses {of_side} of {side.name} differ from ours by {difference:.1e} at most")
        if side.kind == "bare" and not difference <= MOST_DIFFERENCE:
            raise SystemExit(f"The bare loop has other mathematics than ours, whose losses are {losses[0]}.")


def measure(sides, settings, args):
    """Samples a second of each side, one dict `{"wall", "cpu"}` a round: the sides take turns."""
    settings = {**settings, "steps": args.warmup_steps + args.steps, "check": False}
    speeds = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side in sides:
            result = run(side, settings)
            first, last = args.warmup_steps - 1, settings["steps"] - 1
            samples = args.steps * settings["batch_size"]
            speeds[side].append(
                {name: samples / (result[name][last] - result[name][first]) for name in ("wall", "cpu")}
            )
    return speeds


def print_table(task, batch_size, speeds):
    """One line a side, in Markdown."""
    ours = next(iter(speeds.values()))
    print(f"\n| {task}, batch {batch_size} | samples/s | ours / this | samples/CPU s | ours / this |")
    print("|---|---|---|---|---|")
    for side, of_side in speeds.items():
        cells = []
        for name in ("wall", "cpu"):
            values = [each[name] for each in of_side]
            ratios = [own[name] / each[name] for own, each in zip(ours, of_side, strict=True)]
            cells.append(f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            cells.append("" if side.kind == "ours" else f"{statistics.median(ratios):.2f}")
        print(f"| {side.name} | {' | '.join(cells)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
