"""
Sentence Transformers' side of `embedding.py`, in a process and an environment of its own.

    python benchmarks/embedding_peer.py MODEL TEXTS_JSON VECTORS_NPY THREADS LENGTH

Encodes the texts once for every line on the standard input, and answers with the seconds that it took: wall clock and
CPU time. The vectors of the first time go to a file.
"""

import json
import sys
import time

import numpy as np
import torch
from sentence_transformers import SentenceTransformer


def main():
    """Load, then answer."""
    model_path, texts_path, vectors_path, threads, length = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with open(texts_path, encoding="utf-8") as file:
        texts = json.load(file)
    model = SentenceTransformer(model_path, device="cpu")
    model.max_seq_length = int(length)
    print("ready", flush=True)
    for round, _ in enumerate(sys.stdin):
        wall, cpu = time.perf_counter(), time.process_time()
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
        if round == 0:
            np.save(vectors_path, vectors)


if __name__ == "__main__":
    main()
