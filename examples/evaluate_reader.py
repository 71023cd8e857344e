"""
Answer a file's questions with a reader: exact match and F1, the answers, and how much it looked at each passage.

    python examples/evaluate_reader.py --model_name_or_path out --eval_file test.json --output_dir results
    python examples/evaluate_reader.py --model_name_or_path out --eval_file train.jsonl \
        --write_crossattention_scores --output_dir scores

Files are those of `examples/train_reader.py`. `results/predictions.jsonl` has a line a question, in the order of the
file, and `results/eval_results.json` the metrics, also by language where rows have a `lang`; questions without answers
are answered, and do not count. `scores/dataset_wscores.jsonl` is the file again with the reader's `score` of each
passage, in the place of any other: a retriever learns from it in `examples/train_biencoder.py --train_format reader`.
`--write_likelihood_scores` writes the answer's log-likelihood given each passage alone instead, which that script
learns from with `--reader_distillation perplexity` or `emdr2`.

The whole file is checked first: a row that cannot be read costs no answers. Memory does not grow with the file. On
several processes, which share it:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/evaluate_reader.py ...

A run that was interrupted goes on when it is started again, and a second one at the same time is refused; results get
their names when they are whole.
"""

import argparse

import torch
from accelerate import PartialState

from hf_xlir.evaluation import evaluate_reader
from hf_xlir.models.auto import load_reader
from support.recipes import check_files


def main(argv=None):
    """Load, answer, report."""
    # 1. Arguments, and the process
    args = parse_arguments(argv)
    check_files(eval_file=args.eval_file)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 2. Model and processor
    names = ("text_maxlength", "answer_maxlength", "n_context")
    settings = {name: getattr(args, name) for name in names}
    model, processor = load_reader(args.model_name_or_path, args.dtype, **settings)

    # 3. Answers, metrics and scores
    results = evaluate_reader(
        model.to(state.device),
        processor,
        args.eval_file,
        args.output_dir,
        scores=args.scores,
        batch_size=args.batch_size,
        on_error=args.on_error,
        overwrite=args.overwrite,
        num_beams=args.num_beams,
        **({"cache_implementation": "static"} if args.static_cache else {}),
    )
    if state.is_main_process:
        for name, value in results.items():
            print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Folder or Hub name of a reader.")
    parser.add_argument("--eval_file", required=True, help="JSON lines, or a JSON array, of questions with passages.")
    parser.add_argument("--output_dir", required=True, help="Folder of the results.")
    written = parser.add_mutually_exclusive_group()
    for name, kind in (("crossattention", "attention"), ("likelihood", "likelihood")):
        text = f"Write the file again, with passages' scores by {kind}."
        written.add_argument(f"--write_{name}_scores", dest="scores", action="store_const", const=kind, help=text)
    parser.add_argument("--text_maxlength", type=int, help="Most token ids of a passage; the reader's by default.")
    parser.add_argument("--answer_maxlength", type=int, help="Most token ids of an answer; the reader's by default.")
    parser.add_argument("--n_context", type=int, help="Passages that are read; the reader's by default.")
    parser.add_argument("--batch_size", type=int, default=8, help="Questions that are read at a time.")
    parser.add_argument("--num_beams", type=int, default=1, help="Beams of the search for an answer.")
    parser.add_argument("--static_cache", action="store_true", help="Which a GPU decodes with compiled steps.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights.")
    parser.add_argument("--on_error", choices=("raise", "skip"), default="raise", help="What a bad row is.")
    parser.add_argument("--overwrite", action="store_true", help="Begin anew, and drop what is in the folder.")
    parser.add_argument("--use_cpu", action="store_true", help="Leave GPUs alone.")
    args = parser.parse_args(argv)
    if min(args.batch_size, args.num_beams) < 1:
        parser.error("`--batch_size` and `--num_beams` take positive integers.")
    return args


if __name__ == "__main__":
    main()
