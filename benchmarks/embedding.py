r"""
Embedding speed, side by side: `embed_passages` in float32 and in bfloat16 against Sentence Transformers' `encode`,
with one model (mean pooling, L2 norm), the same texts and equally many threads.

    python benchmarks/embedding.py --peer_python PEER/bin/python --xquad_dir XQUAD

What is measured: from texts to vectors in memory, tokenization included, on texts of mixed length: docstrings of
Python's standard library, a sample that a seed draws, and XQuAD's English paragraphs where their folder is given. What
is not: imports, loading, and a first round that warms up. The sides take turns, round after round: a ratio is the
median of the rounds' ratios. Beside the wall clock stands the processes' CPU time, which a busy machine disturbs less.
Vectors must agree: the smallest cosine with Sentence Transformers' is printed, or with our own in float32 without it.

The peer runs in the current environment, or in one of its own:

    python -m venv PEER
    PEER/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    PEER/bin/pip install sentence-transformers==6.2.0 transformers==5.23.0
"""

import argparse
import ast
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from hf_xlir import BiEncoderModel, BiEncoderProcessor
from hf_xlir.data import load_xquad
from hf_xlir.index import embed_passages


PEER = Path(__file__).with_name("embedding_peer.py")
FEWEST_WORDS = 5
DTYPES = ("float32", "bfloat16")
LEAST_COSINE = 0.999


def main():
    """Measure, and print a table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    texts = read_texts(args.num_docstrings, args.xquad_dir, args.num_paragraphs, args.seed)
    model = BiEncoderModel.from_pretrained(
        args.model, pooling="mean", normalize=True, document_length=args.document_length
    )
    processor = BiEncoderProcessor.from_config(AutoTokenizer.from_pretrained(args.model), model.config)
    lengths = processor.process_documents(texts)["attention_mask"].sum(dim=1)
    quantiles = [int(each) for each in lengths.float().quantile(torch.tensor([0.1, 0.5, 0.9]))]
    print(f"{len(texts)} texts of {float(lengths.float().mean()):.0f} tokens (10/50/90%: {quantiles})")

    with tempfile.TemporaryDirectory() as folder:
        peer = start_peer(args, texts, Path(folder))
        times, vectors = measure(model, processor, texts, peer, args.rounds)
        if peer is not None:
            peer.communicate()
            vectors["peer"] = np.load(Path(folder, "vectors.npy"))
    report(times, vectors, len(texts))


def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="name or folder")
    parser.add_argument("--peer_python", help="interpreter with Sentence Transformers; by default this one, if it has")
    parser.add_argument("--xquad_dir", help="folder with xquad.en.json")
    parser.add_argument("--num_docstrings", type=int, default=1000)
    parser.add_argument("--num_paragraphs", type=int, default=240, help="of XQuAD")
    parser.add_argument("--document_length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_texts(num_docstrings, xquad_dir, num_paragraphs, seed):
    """Docstrings of the standard library, drawn by a seed, and XQuAD's paragraphs."""
    found = set()
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        if {"site-packages", "test", "tests", "lib2to3"} & set(path.relative_to(library).parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                words = (ast.get_docstring(node) or "").split()
                if len(words) >= FEWEST_WORDS:
                    found.add(" ".join(words))
    generator = random.Random(seed)
    texts = generator.sample(sorted(found), num_docstrings)
    if xquad_dir is not None:
        texts += load_xquad("en", xquad_dir).passages["text"][:num_paragraphs]
        generator.shuffle(texts)
    return texts


def start_peer(args, texts, folder):
    """The peer's process, loaded and waiting, or `None`."""
    if args.peer_python is None and importlib.util.find_spec("sentence_transformers") is None:
        print("Without Sentence Transformers: give `--peer_python` to compare.")
        return None
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    command = [args.peer_python or sys.executable, PEER, args.model, folder / "texts.json", folder / "vectors.npy"]
    command = [*map(str, command), str(args.threads), str(args.document_length)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdout.readline() == "ready\n", "the peer did not start"
    return peer


def measure(model, processor, texts, peer, rounds):
    """`{side: [(wall, CPU) seconds of each round]}` and our vectors of each dtype."""
    passages = [{"id": str(position), "text": text} for position, text in enumerate(texts)]
    times, vectors = {}, {}
    for round in range(rounds + 1):
        for side in [*(["peer"] if peer else []), *DTYPES]:
            if side == "peer":
                peer.stdin.write("\n")
                peer.stdin.flush()
                taken = tuple(map(float, peer.stdout.readline().split()))
            else:
                wall, cpu = time.perf_counter(), time.process_time()
                found = embed_passages(model, processor, passages, dtype=side, progress=False)
                taken = time.perf_counter() - wall, time.process_time() - cpu
                vectors[side] = found.values
            if round:
                times.setdefault(side, []).append(taken)
    return times, vectors


def report(times, vectors, num_texts):
    """Print a Markdown table."""
    base = "peer" if "peer" in times else "float32"
    names = {"peer": "Sentence Transformers", **{dtype: f"`embed_passages`, {dtype}" for dtype in DTYPES}}
    print("| | texts/s | times as fast | by CPU time | smallest cosine |\n|---|---|---|---|---|")
    for side, taken in times.items():
        ratios = [
            statistics.median(of_base[clock] / own[clock] for of_base, own in zip(times[base], taken, strict=True))
            for clock in (0, 1)
        ]
        speed = num_texts / statistics.median(wall for wall, _ in taken)
        cosine = float((vectors[base].astype(np.float64) * vectors[side]).sum(axis=1).min())
        print(f"| {names[side]} | {speed:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {cosine:.5f} |")
        assert cosine >= LEAST_COSINE, f"{names[side]} gives other vectors"


if __name__ == "__main__":
    main()
