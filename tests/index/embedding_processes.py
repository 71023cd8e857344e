"""
Embedding in two processes that fail at different blocks, and then are started again.

Two CPU processes write `OUTPUT/0.pt` and `OUTPUT/1.pt`: what each one has loaded.
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import PartialState
from word_model import WordModel, WordProcessor, random_passages, word_families

from hf_xlir.index import embed_passages
from hf_xlir.utils import process_group


class Interrupted(Exception):
    """What an error of the outside would be."""


def embed(folder, dense=False, fail_at=None, num_passages=50):
    """Embed; `fail_at` is the batch that fails."""
    model = WordModel(dense)

    def fail(*_):
        if len(model.shapes) == fail_at:
            raise Interrupted

    model.register_forward_pre_hook(fail)
    return embed_passages(
        model, WordProcessor(dense), random_passages(num_passages), folder, block_size=10, progress=False
    )


def parts(embeddings):
    lengths = getattr(embeddings, "lengths", None)
    return {
        "values": torch.from_numpy(embeddings.values.copy()),
        "lengths": None if lengths is None else torch.from_numpy(lengths.copy()),
        "ids": embeddings.ids,
    }


@process_group()
def main():
    output, found = Path(sys.argv[1]), {}
    torch.set_num_threads(1)
    found["dense"] = parts(embed(output / "dense", dense=True))  # sets up the processes
    state = PartialState()
    with suppress(Interrupted):
        embed(output / "token", fail_at=1 + state.process_index)
    state.wait_for_everyone()  # the other process has written its share, too
    found["written"] = len(list((output / "token").glob("values-*.npy")))
    state.wait_for_everyone()
    found["token"] = parts(embed(output / "token"))
    found["one block"] = parts(embed(output / "one block", num_passages=5))
    torch.save(found, output / f"{state.process_index}.pt")


if __name__ == "__main__":
    with word_families():
        main()
