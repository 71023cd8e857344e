"""
Overwrites a saved system, killed before each step that changes the disk.

    python tests/pipeline/killed_saves.py FOLDER

A step is a flush to disk, a renaming, a new folder or a removal. Prints what was found, as JSON.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from datasets import disable_progress_bars

from hf_xlir import RetrievalPipeline
from hf_xlir.index import BM25Index


def system(name):
    passages = [{"id": f"{name}{place}", "text": f"The Nile, {name}."} for place in range(3)]
    return RetrievalPipeline(index=BM25Index.build(passages, progress=False), passages=passages, device="cpu")


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

    os.fsync, os.replace, os.mkdir = counted(os.fsync), counted(os.replace), counted(os.mkdir)
    os.unlink, os.rmdir, shutil.rmtree = counted(os.unlink), counted(os.rmdir), counted(shutil.rmtree)


def killed(pipe, folder, step):
    """Save in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        kill_before(step)
        pipe.save_pretrained(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def found_in(folder):
    results = RetrievalPipeline.from_pretrained(folder, device="cpu")("Nile")
    return "".join(passage["id"] for passage in results)


def main():
    output, old, new = Path(sys.argv[1]), system("old"), system("new")
    disable_progress_bars()
    found, step, was_killed = [], 0, True
    while was_killed:
        step += 1
        folder = output / str(step)
        old.save_pretrained(folder)
        was_killed = killed(new, folder, step)
        found.append(found_in(folder))
        new.save_pretrained(folder)
        assert found_in(folder) == "new0new1new2"
    sys.stdout.write(json.dumps({"steps": step, "found": found}))


if __name__ == "__main__":
    main()
