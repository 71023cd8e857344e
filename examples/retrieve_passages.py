"""
Find passages for questions with a retriever, and write them as a reader's examples.

    python examples/retrieve_passages.py --model out --questions train.jsonl --passages psgs_w100.tsv.gz \
        --n_context 100 --output train_examples.jsonl

Passages are ranked by exact search, shared by all processes under `accelerate launch`. The file is one for
`examples/train_reader.py` and `examples/evaluate_reader.py`: questions keep their `answers`, `lang` and `passage_ids`,
and passages have a `retriever_score`. What is found is printed, and written beside the file as `FILE.metrics.json`.
"""

import argparse
import json
from pathlib import Path

from accelerate import PartialState
from transformers import AutoModel, AutoProcessor

import hf_xlir  # noqa: F401 - registers the models
from hf_xlir.data import load_passages, load_questions
from hf_xlir.data.ranked_examples import write_ranked_examples
from hf_xlir.data.writing import write_text
from hf_xlir.evaluation import answer_recall_at_k, success_at_k
from hf_xlir.training.recipes import check_files
from hf_xlir.training.shared_ranking import rank_passages_together


def main(argv=None):
    """Rank, write, measure."""
    args = parse_arguments(argv)
    check_files(questions=args.questions, passages=args.passages)
    state = PartialState(cpu=args.use_cpu)

    # 1. Data and model
    with state.main_process_first():  # the others find its files in the cache
        questions, passages = load_questions(args.questions), load_passages(args.passages)
    model = AutoModel.from_pretrained(args.model).to(state.device).eval()
    processor = AutoProcessor.from_pretrained(args.model)

    # 2. A ranking of passages for each question
    depth = max(args.n_context, *args.k)
    progress = state.is_main_process
    ranked = rank_passages_together(
        model, processor, questions, passages, depth, batch_size=args.batch_size, progress=progress
    )
    if not state.is_main_process:
        return

    # 3. Metrics, then the examples: what has its name is whole, and was measured
    metrics = measure(questions, passages, ranked.rankings, args.k)
    write_text(f"{args.output}.metrics.json", json.dumps(metrics, indent=1))
    write_ranked_examples(args.output, questions, passages, ranked.rankings, args.n_context, ranked.scores)
    for name, value in metrics.items():
        print(f"{name}: {value:.4f}")


def measure(questions, passages, rankings, cutoffs):
    """How many questions have, among the first passages, one that is known to answer them, or one with an answer."""
    metrics = {}
    if "passage_ids" in questions.column_names:
        relevance = {row["id"]: row["passage_ids"] for row in questions if row["passage_ids"]}
        metrics |= {f"success@{k}": success_at_k(rankings, relevance, k) for k in cutoffs}
    judged = [row for row in questions if row["answers"]]
    if judged:
        row_of_id = {id: row for row, id in enumerate(passages["id"])}
        found = [[row_of_id[id] for id in rankings[row["id"]][: max(cutoffs)]] for row in judged]
        texts = [passages[rows]["text"] if rows else [] for rows in found]
        recall = answer_recall_at_k(texts, [row["answers"] for row in judged], list(cutoffs))
        metrics |= {f"answer_recall@{k}": value for k, value in recall.items()}
    return metrics


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub name of a retriever.")
    parser.add_argument("--questions", required=True, help="JSON of questions.")
    parser.add_argument("--passages", required=True, help="TSV, JSON or parquet of passages.")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines to write.")
    parser.add_argument("--n_context", type=int, default=100, help="Passages a question.")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 20, 100], help="Depths at which to measure.")
    parser.add_argument("--batch_size", type=int, default=64, help="Texts that are encoded at once.")
    parser.add_argument("--use_cpu", action="store_true", help="Leave GPUs alone.")
    args = parser.parse_args(argv)
    if min(args.n_context, *args.k) < 1:
        parser.error("`--n_context` and `--k` take positive integers.")
    return args


if __name__ == "__main__":
    main()
