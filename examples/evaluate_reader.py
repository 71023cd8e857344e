"""
Answer questions with a reader, and write the answers, exact match and F1, and the reader's scores of passages.

    python examples/evaluate_reader.py --model_name_or_path out --eval_file test.json --output_dir results
    python examples/evaluate_reader.py --model_name_or_path out --eval_file train.jsonl \
        --write_crossattention_scores --output_dir scores

The files are those of `examples/train_reader.py`. `results/predictions.jsonl` has one line per question, in the order
of the file. `results/eval_results.json` has the metrics, also per language if rows have a `lang`; questions without
known answers do not count. `scores/dataset_wscores.jsonl` is the file again, with the reader's cross-attention as the
`score` of each passage; `examples/train_biencoder.py --train_format reader` trains a retriever on it.
`--write_likelihood_scores` writes the answer's log-likelihood given each passage alone instead, for
`--reader_distillation perplexity` or `emdr2` of that script.

The whole file is checked before the first answer, and memory does not grow with the file. On several processes:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/evaluate_reader.py ...

An interrupted run resumes when it is started again. Only one run at a time can use an output folder.
"""

import argparse

import torch
from accelerate import PartialState

from hf_xlir.evaluation import evaluate_reader
from hf_xlir.models import load_reader
from hf_xlir.utils import process_group
from support.recipes import check_files


@process_group()
def main(argv=None):
    """Load, answer, report."""
    # 1. Arguments and process
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
    parser.add_argument("--model_name_or_path", required=True, help="Folder or Hub id of a reader.")
    parser.add_argument("--eval_file", required=True, help="Questions with passages, as JSON lines or a JSON array.")
    parser.add_argument("--output_dir", required=True, help="Folder for the results.")
    written = parser.add_mutually_exclusive_group()
    for name, kind in (("crossattention", "attention"), ("likelihood", "likelihood")):
        text = f"Write the file again, with scores of the passages by {kind}."
        written.add_argument(f"--write_{name}_scores", dest="scores", action="store_const", const=kind, help=text)
    parser.add_argument("--text_maxlength", type=int, help="Most tokens per passage (default: the reader's).")
    parser.add_argument("--answer_maxlength", type=int, help="Most tokens per answer (default: the reader's).")
    parser.add_argument("--n_context", type=int, help="Passages per question (default: the reader's).")
    parser.add_argument("--batch_size", type=int, default=8, help="Questions per batch.")
    parser.add_argument("--num_beams", type=int, default=1, help="Number of beams for generation.")
    parser.add_argument(
        "--static_cache", action="store_true", help="Use a static cache, with which a GPU compiles decoding."
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="Type of the weights.")
    parser.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="Whether a bad row ends the script or is left out.",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="Start again, and delete earlier results in the folder."
    )
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    args = parser.parse_args(argv)
    if min(args.batch_size, args.num_beams) < 1:
        parser.error("`--batch_size` and `--num_beams` take positive integers.")
    return args


if __name__ == "__main__":
    main()
