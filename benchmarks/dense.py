"""
What the dense index costs beyond FAISS itself, and what its automatic choices find.

    python benchmarks/dense.py --sizes 20000 100000 --output dense.json

1. Overhead: many queries at once, each with its 100 best passages, by FAISS alone (`index.search`), by `retrieve`, by
   `retrieve` and a look at every row, and by `Dataset.get_nearest_examples_batch`, alternating. Medians of the seconds
   and of the ratios to FAISS within a repetition, by the wall clock and by the process's CPU time, which a busy
   machine distorts less. What `retrieve` adds to the search is timed on its own, too (`gather`).
2. Recall of every automatic choice against exact search: as many vectors as the largest size, with the index that
   far more of them would get, reduced in proportion.

Vectors are unit vectors around random centres, passages are random words; both are made from a seed.
"""

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars

from hf_xlir.index import add_dense_index, retrieve


def main(argv=None):
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000], help="numbers of passages")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--num_queries", type=int, default=1_190)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--datasets_repetitions", type=int, default=1, help="of get_nearest_examples_batch, which is slow"
    )
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--string_factory", help="of the overhead; by default the automatic choice")
    parser.add_argument("--skip_recall", action="store_true")
    parser.add_argument("--output", help="a JSON file")
    args = parser.parse_args(argv)
    disable_progress_bars()
    faiss.omp_set_num_threads(args.num_threads)
    torch.set_num_threads(args.num_threads)

    report = {"arguments": vars(args), "overhead": [], "recall": []}
    # 1. Overhead
    for size in args.sizes:
        vectors, queries = clustered_vectors(size, args.num_queries, args.dim)
        passages = make_passages(size)
        add_dense_index(passages, vectors, string_factory=args.string_factory)
        row = {"passages": size, **overhead(passages, queries, args)}
        report["overhead"].append(row)
        print(json.dumps(row))
    # 2. Recall
    if not args.skip_recall:
        vectors, queries = clustered_vectors(max(args.sizes), min(args.num_queries, 200), args.dim)
        for row in recall_of_automatic_choices(vectors, queries):
            report["recall"].append(row)
            print(json.dumps(row))
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def clustered_vectors(num_vectors, num_queries, dim, seed=0):
    """
    Unit vectors, and queries like them: about 500 to a centre, spread along 24 directions that all centres share, and
    a little in every other one. The cells of an inverted file then cut through the clusters, as they do in embeddings.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, num_vectors // 500), dim), dtype=np.float32)
    directions = rng.standard_normal((min(24, dim), dim), dtype=np.float32) / np.sqrt(24)

    def draw(n):
        values = centres[rng.integers(len(centres), size=n)]
        values += rng.standard_normal((n, len(directions)), dtype=np.float32) @ directions
        values += 0.3 * rng.standard_normal(values.shape, dtype=np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return draw(num_vectors), draw(num_queries)


def make_passages(size, seed=0):
    """Passages of 100 random words, about 600 characters."""
    rng = np.random.default_rng(seed)
    words = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(5_000)])
    texts = [" ".join(words[rng.integers(len(words), size=100)]) for _ in range(size)]
    titles = [" ".join(words[rng.integers(len(words), size=2)]) for _ in range(size)]
    return Dataset.from_dict({"id": [f"p{i}" for i in range(size)], "title": titles, "text": texts})


def overhead(passages, queries, args):
    """Median seconds of each way, and ratios to FAISS alone."""
    index = passages.get_index("dense").faiss_index
    found = []

    def every_row():
        return [row["text"] for rows in retrieve(passages, "dense", queries, k=args.k)[2] for row in rows]

    ways = {
        "faiss": lambda: found.append(index.search(queries, args.k)),
        "retrieve": lambda: retrieve(passages, "dense", queries, k=args.k),
        "retrieve_every_row": every_row,
        "get_nearest_examples_batch": lambda: passages.get_nearest_examples_batch("dense", queries, k=args.k),
    }
    times = {name: [] for name in (*ways, "gather")}  # of each: seconds by the wall clock and of the CPU
    for repetition in range(-1, args.repetitions):  # the first one warms up
        for name, way in ways.items():
            if name == "get_nearest_examples_batch" and not 0 <= repetition < args.datasets_repetitions:
                continue
            times[name].append(timed(way)) if repetition >= 0 else way()
        answers = mock.Mock(return_value=found[-1])  # what `retrieve` adds: the same without the search
        with mock.patch.object(passages.get_index("dense"), "search_batch", answers):
            if repetition >= 0:
                times["gather"].append(timed(ways["retrieve"]))
    result = {}
    for name, pairs in times.items():
        pairs = np.array(pairs)
        ratios = pairs / np.array(times["faiss"])[: len(pairs)]
        result[f"{name}_s"] = round(float(np.median(pairs[:, 0])), 4)
        result[f"{name}_ratio"], result[f"{name}_cpu_ratio"] = np.median(ratios, axis=0).round(3).tolist()
    return result


def recall_of_automatic_choices(vectors, queries, k=10):
    """Yield recall at `k` of each kind of index that a number of vectors may get, with fewer vectors in proportion."""
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :k]
    passages = Dataset.from_dict({"id": [str(i) for i in range(len(vectors))]})
    cells = min(2 ** int(np.log2(4 * np.sqrt(len(vectors)))), 4096)  # the table of `add_dense_index`
    for factory in ("Flat", f"IVF{cells},Flat", f"IVF{cells},SQ8"):
        started = time.perf_counter()
        index = add_dense_index(passages, vectors, string_factory=factory).get_index("dense")
        built = time.perf_counter() - started
        rows = index.search_batch(queries, k).total_indices
        found = np.mean([len(set(ours) & set(best)) / k for ours, best in zip(rows, exact, strict=True)])
        yield {
            "vectors": len(vectors),
            "string_factory": factory,
            "n_probe": getattr(index.faiss_index, "nprobe", None),
            f"recall@{k}": round(float(found), 4),
            "build_s": round(built, 2),
        }


def timed(call):
    """Seconds of one call, by the wall clock and of the process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
