"""
Runs of `embed_passages` that are killed before each step that changes the disk, and the same call after each.

    python tests/index/killed_runs.py OUTPUT {token|dense}

A step is a flush to disk, a renaming or a removal. Prints what was found, as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from word_model import WordModel, WordProcessor, random_passages, word_families

from hf_xlir.index import DenseEmbeddings, TokenEmbeddings, embed_passages


def embed(folder, dense):
    return embed_passages(
        WordModel(dense), WordProcessor(dense), random_passages(50), folder, block_size=20, progress=False
    )


def kill_before(step):
    """Have this process killed before its `step`-th change of the disk."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace, Path.unlink = counted(os.fsync), counted(os.replace), counted(Path.unlink)


def killed(folder, dense, step):
    """Embed in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        kill_before(step)
        embed(folder, dense)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def equal(one, other):
    same = np.array_equal(one.values, other.values) and one.ids == other.ids
    return same and (isinstance(one, DenseEmbeddings) or np.array_equal(one.lengths, other.lengths))


def main():
    output, dense = Path(sys.argv[1]), sys.argv[2] == "dense"
    torch.set_num_threads(1)
    kind = DenseEmbeddings if dense else TokenEmbeddings
    step, found = 0, {"whole before": [], "unlike": [], "left over": [], "gone on with": []}
    expected = None
    while True:
        step += 1
        folder = output / str(step)
        was_killed = killed(folder, dense, step)
        if expected is None:
            expected = embed(output / "uninterrupted", dense)
        try:
            found["whole before"].append(step)
            if not equal(kind.load(folder), expected):
                found["unlike"].append(step)
        except (FileNotFoundError, ValueError):
            found["whole before"].pop()
        notes = [json.loads(path.read_text()) for path in folder.glob("unfinished-*.json")]
        found["gone on with"].append(max([note["blocks"] for note in notes], default=0))
        embed(folder, dense)
        if not equal(kind.load(folder, verify=True), expected):
            found["unlike"].append(step)
        names = sorted(path.name.split("-")[0] for path in folder.iterdir() if path.suffix != ".lock")
        of_tokens = [] if dense else ["lengths", "query_moments"]
        if names != sorted(["ids", "manifest.json", "values", *of_tokens]):
            found["left over"].append((step, names))
        if not was_killed:
            break
    sys.stdout.write(json.dumps({"steps": step, **found}))


if __name__ == "__main__":
    with word_families():
        main()
