"""
Mine hard negatives with BM25, with a retriever or from any ranking, and write them as rows for `RetrieverTrainer`.

On the built-in mini world, with BM25, in seconds:

    python examples/mine_hard_negatives.py --output_file hard_negatives.jsonl

With a trained retriever, on several processes, and from a ranking (ColBERT's TSV or a TREC run):

    accelerate launch examples/mine_hard_negatives.py --source model --model_name_or_path out/checkpoint-1000 \
        --questions questions.jsonl --passages psgs_w100.tsv.gz --output_file hard_negatives.jsonl
    python examples/mine_hard_negatives.py --source ranking --ranking run.trec \
        --questions questions.jsonl --passages psgs_w100.tsv.gz --output_file hard_negatives.jsonl

`load_training_rows("hard_negatives.jsonl")` then loads them. A question needs `passage_ids`, the first of which is its
positive, and `answers` unless `--keep_answers` is given.
"""

import argparse
from pathlib import Path

from accelerate import PartialState
from transformers import AutoModel, AutoProcessor

import hf_xlir  # noqa: F401 - registers the models
from hf_xlir.data import load_mini_world, load_passages, load_questions
from hf_xlir.evaluation import load_ranking, rank_by_bm25
from hf_xlir.training import mine_hard_negatives, rank_passages_together
from hf_xlir.utils import process_group, replacing


@process_group()
def main(argv=None):
    """Rank, choose, write."""
    args = parse_arguments(argv)
    state = PartialState(cpu=args.use_cpu)

    # 1. Data
    with state.main_process_first():  # the others then read from its cache
        questions, passages = load_data(args)
    if args.max_questions is not None:
        questions = questions.select(range(min(args.max_questions, len(questions))))
    state.print(f"{len(questions)} questions, {len(passages)} passages")

    # 2. A ranking of passages for each question
    progress = state.is_main_process
    if args.source == "model":
        model = AutoModel.from_pretrained(args.model_name_or_path).to(state.device)
        processor = AutoProcessor.from_pretrained(args.model_name_or_path)
        k, batch_size = args.depth[1], args.batch_size
        rankings = rank_passages_together(
            model, processor, questions, passages, k, batch_size=batch_size, progress=progress
        )
    if not state.is_main_process:  # the rest takes one process
        return
    if args.source == "bm25":
        rankings = rank_by_bm25(questions, passages, args.depth[1])
    elif args.source == "ranking":
        rankings = load_ranking(args.ranking)

    # 3. The negatives
    rows = mine_hard_negatives(
        questions,
        passages,
        rankings,
        num_negatives=args.num_negatives,
        depth=tuple(args.depth),
        absolute_margin=args.absolute_margin,
        relative_margin=args.relative_margin,
        sampling=args.sampling,
        exclude_answers=not args.keep_answers,
        seed=args.seed,
    )

    # 4. The file, which appears when it is complete
    with replacing(args.output_file) as draft:
        rows.to_json(draft, force_ascii=False)
    print(f"{len(rows)} rows with {args.num_negatives} negative(s) each are in {args.output_file}. The first one:")
    print(f"query: {rows[0]['query']}")
    for name, document in [("positive", rows[0]["positive"]), *[("negative", each) for each in rows[0]["negatives"]]]:
        print(f"{name}: {document['title']}: {document['text'][:80]}")


def load_data(args):
    """Questions and passages, from files or from the mini world."""
    if args.questions is None:
        world = load_mini_world(args.languages)
        return world.questions["train"], world.passages
    questions = load_questions(args.questions)
    if args.languages is not None:
        questions = questions.filter(lambda lang: lang in args.languages, input_columns="lang")
    return questions, load_passages(args.passages)


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", type=Path, required=True, help="JSON lines file to write.")
    parser.add_argument(
        "--source", choices=("bm25", "model", "ranking"), default="bm25", help="Where rankings come from."
    )
    parser.add_argument("--model_name_or_path", help="Folder or Hub id of a retriever, for `--source model`.")
    parser.add_argument("--ranking", help="Ranking file, for `--source ranking`.")
    parser.add_argument("--questions", help="Questions as JSON (default: the mini world's training questions).")
    parser.add_argument("--passages", help="Passages of `--questions` as TSV, JSON or parquet.")
    parser.add_argument("--languages", nargs="+", help="Languages of the questions (default: all).")
    parser.add_argument(
        "--max_questions", type=int, help="Use only this many questions, the first ones (default: all)."
    )
    parser.add_argument("--num_negatives", type=int, default=1, help="Negatives per question.")
    parser.add_argument(
        "--depth", type=int, nargs=2, default=(0, 100), help="Ranks to choose from: the first, from 0, and the end."
    )
    parser.add_argument("--absolute_margin", type=float, help="Least difference to the score of the positive.")
    parser.add_argument("--relative_margin", type=float, help="The same, as a share of that score.")
    parser.add_argument(
        "--sampling", choices=("top", "random"), default="top", help="How to choose among these ranks."
    )
    parser.add_argument("--keep_answers", action="store_true", help="Allow negatives that contain an answer.")
    parser.add_argument("--batch_size", type=int, default=64, help="Texts per batch.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything random.")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    args = parser.parse_args(argv)
    for name, source in (("model_name_or_path", "model"), ("ranking", "ranking")):
        if (getattr(args, name) is not None) != (args.source == source):
            parser.error(f"`--{name}` and `--source {source}` go together.")
    if (args.questions is None) != (args.passages is None):
        parser.error("`--questions` and `--passages` go together.")
    return args


if __name__ == "__main__":
    main()
