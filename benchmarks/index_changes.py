"""
What a change of a late-interaction index costs, by the size of the index.

    python benchmarks/index_changes.py --sizes 100000 300000 1000000 --output index_changes.json

Builds an exact and a compressed index of one-token passages per size, then adds, updates and removes passages, 100 at
a time. Prints the median and the largest CPU time of a change, in milliseconds, and the CPU seconds and written
megabytes of a save after the changes. A change costs what the changed passages cost. In a compressed index that
includes their comparison with the centroids, whose number grows with the square root of the size.

Vectors are random unit vectors, made from a seed.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings


def main(argv=None):
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help="of the indexes")
    parser.add_argument("--changed", type=int, default=100, help="passages per change")
    parser.add_argument("--repetitions", type=int, default=11, help="changes of each kind")
    parser.add_argument("--dim", type=int, default=64, help="dimensions of a vector")
    parser.add_argument("--nbits", type=int, nargs="+", default=[0, 4], help="bits per dimension; 0 for exact vectors")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--output", help="a JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.num_threads)

    rows = []
    for nbits in args.nbits:
        for size in args.sizes:
            rows.append({"nbits": nbits, "passages": size, **costs(size, nbits, args)})
            print(json.dumps(rows[-1]), flush=True)
    report = {"arguments": vars(args), "rows": rows}
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def costs(size, nbits, args):
    """CPU milliseconds of changes of one index, and what saving them costs."""
    index = LateInteractionIndex.build(embeddings(args.dim, "p", range(size)), nbits or None)
    times = {"add": [], "update": [], "remove": []}
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        for repetition in range(args.repetitions + 1):
            seen = range(repetition * args.changed, (repetition + 1) * args.changed)
            added, others = embeddings(args.dim, "added", seen), embeddings(args.dim, "p", seen)
            gone = [f"p{size - 1 - number}" for number in seen]
            times["add"].append(milliseconds(index.add, added))
            times["update"].append(milliseconds(index.update, others))
            times["remove"].append(milliseconds(index.remove, gone))
        before = {file.stat().st_ino for file in Path(folder).iterdir()}
        save = milliseconds(index.save, folder)
        written = sum(file.stat().st_size for file in Path(folder).iterdir() if file.stat().st_ino not in before)
    result = {}
    for kind, values in times.items():  # without the first change, which also makes what later ones share
        result[f"{kind}_ms"] = round(float(np.median(values[1:])), 2)
        result[f"{kind}_most_ms"] = round(max(values[1:]), 2)
    return {**result, "save_s": round(save / 1000, 2), "written_mb": round(written / 1e6, 1)}


def embeddings(dim, prefix, numbers):
    """One-token passages."""
    values = np.random.default_rng(numbers[-1]).standard_normal((len(numbers), dim), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return TokenEmbeddings(values, np.ones(len(numbers), np.int64), [f"{prefix}{number}" for number in numbers])


def milliseconds(call, *arguments):
    """CPU time of one call."""
    started = time.process_time()
    call(*arguments)
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    main()
