"""
Find passages for questions with a retriever, and write them as examples for a reader.

    python examples/retrieve_passages.py --model_name_or_path out --questions train.jsonl --passages psgs_w100.tsv.gz \
        --n_context 100 --output_file train_examples.jsonl
    python examples/retrieve_passages.py --model_name_or_path out --questions train.jsonl --passages psgs_w100.tsv.gz \
        --index index --output_file train_examples.jsonl

The script embeds the passages and searches them exactly, or searches the index that `examples/index_passages.py` built
with the same model (`--index`). Under `accelerate launch` all processes share the work. `examples/train_reader.py` and
`examples/evaluate_reader.py` read the file: questions keep their `answers`, `lang` and `passage_ids`, and passages get
a `retriever_score`. Recall is printed, and written to `FILE.metrics.json`. `--answered_only` leaves out questions
whose passages contain no answer: from those, a reader can only memorize.
"""

import argparse
import json
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoModel, AutoProcessor

import hf_xlir  # noqa: F401 - registers the models
from hf_xlir.data import load_passages, load_questions, write_ranked_examples
from hf_xlir.evaluation import RankedPassages, answer_recall_at_k, has_answer, success_at_k
from hf_xlir.index import embed_queries, load_index, retrieve
from hf_xlir.pipeline import Retriever
from hf_xlir.training import rank_passages_together
from hf_xlir.utils import process_group, write_text
from support.recipes import check_files


QUESTIONS_PER_BLOCK = 1024


@process_group()
def main(argv=None):
    """Rank, write, measure."""
    args = parse_arguments(argv)
    check_files(questions=args.questions, passages=args.passages)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 1. Data and model
    with state.main_process_first():  # the others then read from its cache
        questions, passages = load_questions(args.questions), load_passages(args.passages)
    model = AutoModel.from_pretrained(args.model_name_or_path).to(state.device).eval()
    processor = AutoProcessor.from_pretrained(args.model_name_or_path)

    # 2. A ranking of passages for each question
    depth = max(args.n_context, *args.k)
    if args.index is None:
        progress = state.is_main_process
        ranked = rank_passages_together(
            model, processor, questions, passages, depth, batch_size=args.batch_size, progress=progress
        )
    else:
        ranked = search_index(args, state, model, processor, questions, passages, depth)
    if not state.is_main_process:
        return

    # 3. Metrics, then the examples: a file of examples always has its metrics
    metrics = measure(questions, passages, ranked.rankings, args.k)
    write_text(f"{args.output_file}.metrics.json", json.dumps(metrics, indent=1))
    if args.answered_only:
        questions = leave_unanswered_out(questions, passages, ranked.rankings, args.n_context)
    write_ranked_examples(args.output_file, questions, passages, ranked.rankings, args.n_context, ranked.scores)
    for name, value in metrics.items():
        print(f"{name}: {value:.4f}")


def search_index(args, state, model, processor, questions, passages, depth):
    """Search an index; each process takes its share of the questions."""
    index = load_index(args.index / "index")
    Retriever(index, model, processor)  # raises if the model gives other vectors than the index holds
    index.attach(passages, "passages")
    start, stop = (len(questions) * (state.process_index + each) // state.num_processes for each in (0, 1))
    found = []
    for first in range(start, stop, QUESTIONS_PER_BLOCK):
        block = questions[first : min(stop, first + QUESTIONS_PER_BLOCK)]
        queries = embed_queries(model, processor, block["question"], batch_size=args.batch_size)
        options = {} if queries.mask is None else {"query_mask": queries.mask}
        scores, ids, _ = retrieve(passages, "passages", queries.embeddings, depth, **options)
        found += zip(block["id"], ids, scores.tolist(), strict=True)
    found = gather_object(found)
    return RankedPassages({id: ids for id, ids, _ in found}, {id: scores for id, _, scores in found})


def measure(questions, passages, rankings, cutoffs):
    """Share of the questions with a gold passage, and with an answer, in the first k passages."""
    metrics = {}
    if "passage_ids" in questions.column_names:
        relevance = {row["id"]: row["passage_ids"] for row in questions if row["passage_ids"]}
        metrics |= {f"success@{k}": success_at_k(rankings, relevance, k) for k in cutoffs}
    judged = [row for row in questions if row["answers"]]
    if judged:
        row_of_id = {id: row for row, id in enumerate(passages["id"])}
        found = dict.fromkeys(cutoffs, 0.0)
        for first in range(0, len(judged), QUESTIONS_PER_BLOCK):  # limits the texts in memory
            block = judged[first : first + QUESTIONS_PER_BLOCK]
            rows = [[row_of_id[id] for id in rankings[row["id"]][: max(cutoffs)]] for row in block]
            texts = [passages[of_one]["text"] if of_one else [] for of_one in rows]
            recall = answer_recall_at_k(texts, [row["answers"] for row in block], list(cutoffs))
            for k in cutoffs:
                found[k] += recall[k] * len(block)
        metrics |= {f"answer_recall@{k}": value / len(judged) for k, value in found.items()}
    return metrics


def leave_unanswered_out(questions, passages, rankings, n_context):
    """The questions with an answer in one of their first passages."""
    row_of_id = {id: row for row, id in enumerate(passages["id"])}
    kept = []
    for number, row in enumerate(questions):
        rows = [row_of_id[id] for id in rankings[row["id"]][:n_context]]
        if rows and row["answers"] and any(has_answer(text, row["answers"]) for text in passages[rows]["text"]):
            kept.append(number)
    if not kept:
        raise ValueError(
            f"None of {len(questions)} questions has an answer in its {n_context} passages, so `--answered_only` "
            "leaves nothing. Check `answers`, or raise `--n_context`."
        )
    print(f"{len(kept)} of {len(questions)} questions have an answer in their passages.")
    return questions.select(kept)


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Folder or Hub id of a retriever.")
    parser.add_argument("--questions", required=True, help="Questions as JSON.")
    parser.add_argument("--passages", required=True, help="Passages as TSV, JSON or parquet.")
    parser.add_argument("--output_file", type=Path, required=True, help="JSON lines file to write.")
    parser.add_argument("--index", type=Path, help="Folder that index_passages.py wrote with the same model.")
    parser.add_argument("--n_context", type=int, default=100, help="Passages per question.")
    parser.add_argument(
        "--answered_only", action="store_true", help="Leave out questions without an answer in their passages."
    )
    parser.add_argument("--k", type=int, nargs="+", default=[1, 20, 100], help="Depths at which to measure recall.")
    parser.add_argument("--batch_size", type=int, default=64, help="Texts per batch.")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    args = parser.parse_args(argv)
    if min(args.n_context, *args.k) < 1:
        parser.error("`--n_context` and `--k` take positive integers.")
    return args


if __name__ == "__main__":
    main()
