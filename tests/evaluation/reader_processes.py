"""The script of each of two processes that answer one file together, and a tiny reader."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState


sys.path[:0] = [str(Path(__file__).parents[1] / "models")]

from fid_tiny import make_backbone, make_reader, make_tokenizer  # noqa: E402

from hf_xlir import FiDT5Processor  # noqa: E402
from hf_xlir.evaluation import reader_runs  # noqa: E402


def make_model():
    """A reader and its processor, the same in all processes."""
    tokenizer = make_tokenizer()
    model = make_reader(make_backbone(vocab_size=len(tokenizer)))
    return model, FiDT5Processor(tokenizer, answer_maxlength=5, n_context=2)


def main(folder):
    """Answer `examples.jsonl` in blocks of two, into folder `two`; save the results and the blocks that were read."""
    state = PartialState(cpu=True)
    reader_runs.QUESTIONS_PER_BLOCK = 2
    write_part, parts = reader_runs._write_part, []
    reader_runs._write_part = lambda *args: parts.append(args[0].name) or write_part(*args)
    results = reader_runs.evaluate_reader(
        *make_model(), folder / "examples.jsonl", folder / "two", scores="attention", batch_size=2, progress=False
    )
    torch.save((results, parts), folder / f"{state.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
