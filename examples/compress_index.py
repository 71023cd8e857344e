"""
How small can a dense index be? This script measures size and recall of FAISS indexes, over all passages and over those
that a filter keeps, and saves the index that you choose.

    python examples/compress_index.py --model_name_or_path MODEL --questions dev.jsonl --passages psgs_w100.tsv.gz \
        --n_subquantizers 32 64 --output_dir out
    python examples/compress_index.py --model_name_or_path MODEL --questions dev.jsonl --passages psgs_w100.tsv.gz \
        --train_questions train.jsonl --keep 1 0.5 --drop_titles "^List of" --factories SQ8 RaBitQ \
        --choose SQ8 --output_dir out

A question with `passage_ids` counts as found if one of them is in the top k (DPR's top-k accuracy); a question with
`answers`, if a passage in the top k contains one. `--keep` keeps shares of the passages: a classifier of passage
vectors learns from the `passage_ids` of `--train_questions` which ones to keep. Passages are embedded once, into
`OUTPUT_DIR/embeddings`, or their vectors are read from `--embeddings`.

Indexes that FAISS cannot build or train on so few passages are reported before any passage is embedded.

To compare vectors with fewer dimensions, train a projection (`examples/train_biencoder.py --embedding_dim 128`), and
show the report of another model above this one with `--beside OUT_768`. Both need the same questions and `--k`.

Under `accelerate launch` all processes embed. An interrupted run resumes when it is started again. `OUTPUT_DIR` gets
`report.md`, `report.json`, the classifier (`filter.safetensors`) and, with `--choose`, the index (`index`, for
`DenseIndex.load`) and the passages (`passages.jsonl`) of the last share of `--keep`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoModel, AutoProcessor

import hf_xlir  # noqa: F401 - registers the models
from hf_xlir.data import load_passages, load_questions
from hf_xlir.evaluation import answer_recall_at_k, success_at_k
from hf_xlir.index import (
    DenseEmbeddings,
    PassageFilter,
    add_dense_index,
    best_share,
    embed_passages,
    embed_queries,
    fitting_rows,
    index_problem,
)
from hf_xlir.utils import process_group, replacing, write_text
from support.index_sizes import IndexSize, compare_index_sizes, part_of, size_table


@process_group()
def main(argv=None):
    """Embed, filter, compare, save."""
    args = parse_arguments(argv)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 1. Data and model, checked before passages are embedded
    with state.main_process_first():  # the others then read from its cache
        questions, passages = load_questions(args.questions), load_passages(args.passages)
        needed = needed_passages(args.train_questions)
    quality, beside = quality_of(questions, passages), other_reports(args)
    rows = fitting_rows(passages, args.min_words, args.max_words, args.drop_titles)
    if not len(rows):
        raise ValueError("No passage is left: loosen `--min_words`, `--max_words` or `--drop_titles`.")
    if needed is not None:
        check_needed(needed, passages.select(rows)["id"])
    model = AutoModel.from_pretrained(args.model_name_or_path)
    processor = AutoProcessor.from_pretrained(args.model_name_or_path)
    check_indexes(args, model.config, len(rows))

    # 2. Vectors, and the passages to keep
    model = model.to(state.device).eval()
    embeddings = load_embeddings(args, model, processor, passages)
    if not state.is_main_process:  # the rest takes one process
        return
    queries = embed_queries(model, processor, questions["question"]).embeddings
    subsets = kept_passages(args, part_of(embeddings, rows), rows, needed)

    # 3. The report
    report = compare_index_sizes(
        *(embeddings, queries, quality),
        factories=args.factories,
        subsets=subsets,
        k=tuple(args.k),
        n_probe=args.n_probe,
        seed=args.seed,
    )
    print(size_table(beside + report))
    write_text(args.output_dir / "report.md", size_table(beside + report) + "\n")
    write_text(args.output_dir / "report.json", json.dumps([row._asdict() for row in report], indent=1))

    # 4. The chosen index, and its passages
    if args.choose:
        kept = list(subsets.values())[-1]
        chosen = passages.select(kept)
        add_dense_index(chosen, part_of(embeddings, kept), string_factory=args.choose, seed=args.seed)
        chosen.get_index("dense").save(args.output_dir / "index")
        chosen.drop_index("dense")
        with replacing(args.output_dir / "passages.jsonl") as draft:
            chosen.to_json(draft, force_ascii=False)
        print(f"{args.choose} over {len(chosen)} passages is in {args.output_dir / 'index'}")


def other_reports(args):
    """The rows of other models' reports, which must have the same depths."""
    rows = []
    for folder in args.beside:
        for row in json.loads((folder / "report.json").read_text(encoding="utf-8")):
            row["quality"] = {int(depth): value for depth, value in row["quality"].items()}
            if list(row["quality"]) != args.k:
                raise ValueError(f"`{folder}` has a report at depths {list(row['quality'])}, not `--k` {args.k}.")
            rows.append(IndexSize(**row))
    return rows


def needed_passages(path):
    """Ids of the passages that answer training questions; a filter learns from them."""
    if path is None:
        return None
    train = load_questions(path)
    if "passage_ids" not in train.column_names:
        raise ValueError(
            f"`{path}` has no `passage_ids`. The filter learns from them: add them, or leave `--train_questions` out."
        )
    return {id for ids in train["passage_ids"] for id in ids}


def check_needed(needed, ids):
    """Raise unless the filter has both kinds of passages to learn from."""
    number = sum(id in needed for id in ids)
    if number in (0, len(ids)):
        raise ValueError(
            f"A filter needs passages that answer `--train_questions` and passages that do not, got {number} and "
            f"{len(ids) - number}. Give other questions, or leave the filter out."
        )


def check_indexes(args, config, num_passages):
    """Raise unless FAISS can build and train every index on the passages that are kept."""
    if config.model_type != "biencoder":
        raise ValueError(
            f"`{args.model_name_or_path}` is a model of type {config.model_type!r}, but this script needs a dual "
            "encoder, with one vector per passage. Use `LateInteractionIndex.build` for a ColBERT."
        )
    dim = config.embedding_dim or config.encoder_config.hidden_size
    numbers = [len(best_share(np.zeros(num_passages), share)) for share in args.keep]
    wanted = [(factory, number) for number in numbers for factory in args.factories]
    wanted += [(args.choose, numbers[-1])] * (args.choose is not None)
    problems = [index_problem(factory, dim, number) for factory, number in wanted]
    problems = [each for each in dict.fromkeys(problems) if each is not None]
    if problems:
        raise ValueError(
            "\n".join([*problems, ""])
            + "Leave these out, or keep more passages: at least as many as an index has cells (`IVF...`), and as a "
            "code has values (256 for a byte, 16 in `PQ64x4`)."
        )


def load_embeddings(args, model, processor, passages):
    """The passages' vectors, read from a folder or computed."""
    if args.embeddings is None:
        return embed_passages(model, processor, passages, args.output_dir / "embeddings")
    embeddings = DenseEmbeddings.load(args.embeddings)
    if embeddings.ids != passages["id"][:]:
        raise ValueError(
            f"`{args.embeddings}` has other passages than `{args.passages}`, or the same in another order."
        )
    return embeddings


def kept_passages(args, fitting, rows, needed):
    """The rows of the passages to compare, `{name in the report: rows}`."""
    if needed is None:
        return {"all": rows}
    filter = PassageFilter.fit(fitting, needed & set(fitting.ids), args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    filter.save(args.output_dir / "filter.safetensors")
    scores = filter.scores(fitting)
    return {f"{100 * share:g}% kept": rows[best_share(scores, share)] for share in args.keep}


def quality_of(questions, passages):
    """The measure of the report: gold passages if they are known, otherwise answers."""
    if "passage_ids" in questions.column_names:
        relevance = {row["id"]: row["passage_ids"] for row in questions if row["passage_ids"]}

        def gold(rankings, k):
            return success_at_k(dict(zip(questions["id"], rankings, strict=True)), relevance, k)

        return gold
    answers, row_of_id = questions["answers"][:], {id: row for row, id in enumerate(passages["id"])}
    if not all(answers):
        raise ValueError("Questions need `passage_ids`, or all of them `answers`, to measure what is found.")

    def answered(rankings, k):
        found = [passages[[row_of_id[id] for id in ids[:k]]]["text"] for ids in rankings]
        return answer_recall_at_k(found, answers, k)

    return answered


def parse_arguments(argv):
    """The command line, checked before work starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Folder or Hub id of a dual encoder.")
    parser.add_argument("--questions", required=True, help="JSON of questions with `passage_ids` or `answers`.")
    parser.add_argument("--passages", required=True, help="Passages as TSV, JSON or parquet.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for report, vectors and index.")
    parser.add_argument("--embeddings", help="Folder of passage vectors that `embed_passages` wrote.")
    parser.add_argument(
        "--factories",
        nargs="+",
        default=["Flat", "SQfp16", "SQ8", "RaBitQ"],
        help="FAISS factory strings, such as IVF1024,SQ8 or OPQ64,PQ64.",
    )
    parser.add_argument(
        "--n_subquantizers",
        type=int,
        nargs="+",
        default=[],
        help="Bytes per passage of additional PQ indexes.",
    )
    parser.add_argument("--n_probe", type=int, help="Number of cells that a search of an IVF index visits.")
    parser.add_argument("--train_questions", help="Questions with `passage_ids`, from which the filter learns.")
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[1.0], help="Shares of the passages that the filter keeps."
    )
    parser.add_argument("--min_words", type=int, default=0, help="Drop passages with fewer words.")
    parser.add_argument("--max_words", type=int, help="Drop passages with more words.")
    parser.add_argument("--drop_titles", help="Drop passages whose title matches this regular expression.")
    parser.add_argument("--k", type=int, nargs="+", default=[20, 100], help="Depths at which to measure recall.")
    parser.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        default=[],
        help="Output folders of other models, to show their reports, too.",
    )
    parser.add_argument("--choose", help="FAISS factory string of the index to save.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything random.")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    args = parser.parse_args(argv)
    args.factories += [f"PQ{number}" for number in args.n_subquantizers]
    if (args.keep != [1.0]) != (args.train_questions is not None):
        parser.error("`--keep` below 1 and `--train_questions` go together.")
    if not all(0 < share <= 1 for share in args.keep):
        parser.error(f"`--keep` takes shares above 0 and up to 1, got {args.keep}.")
    if min(args.k) < 1 or (args.n_probe is not None and args.n_probe < 1):
        parser.error(f"`--k` and `--n_probe` take positive integers, got {args.k} and {args.n_probe}.")
    for folder in args.beside:
        if not (folder / "report.json").is_file():
            parser.error(f"`--beside`: `{folder}` has no `report.json`.")
    for name in ("questions", "passages", "train_questions"):
        path = getattr(args, name)
        if path is not None and "://" not in path and not Path(path).is_file():
            parser.error(f"`--{name}`: there is no file `{path}`.")
    return args


if __name__ == "__main__":
    main()
