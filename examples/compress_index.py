"""
How small can a dense index be? Sizes and recall of indexes by FAISS factory strings, over all passages and over those
that a filter keeps, so that one can be chosen; then the chosen one is saved.

    python examples/compress_index.py --model MODEL --questions dev.jsonl --passages psgs_w100.tsv.gz \
        --n_subquantizers 32 64 --output_dir out
    python examples/compress_index.py --model MODEL --questions dev.jsonl --passages psgs_w100.tsv.gz \
        --train_questions train.jsonl --keep 1 0.5 --drop_titles "^List of" --factories SQ8 RaBitQ \
        --choose SQ8 --output_dir out

Questions have `passage_ids`, and found is what is among them (DPR's top-k accuracy); or they have `answers`, and found
is a passage that holds one. `--keep` keeps shares of the passages, by a classifier of passages' vectors that learns
from the `passage_ids` of `--train_questions`. Vectors are made once, in `OUTPUT_DIR/embeddings`, or taken from
`--embeddings`.

What FAISS cannot make or train of the passages, such as cells or codes that are more than them, is listed before any
passage is embedded.

Fewer dimensions are the model's: `examples/train_biencoder.py --embedding_dim 128` trains a projection with LayerNorm.
`--beside OUT_768` puts the rows of another model's report in front, of the same questions at the same depths.

All processes embed under `accelerate launch`, and what was interrupted goes on when it is started again. `OUTPUT_DIR`
gets `report.md` and `report.json`, the classifier (`filter.safetensors`), and with `--choose` the index and the
passages of the last share of `--keep`: `index`, to be loaded with `DenseIndex.load`, and `passages.jsonl`.
"""

import argparse
import json
import os
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
from hf_xlir.utils.files import write_text
from support.index_sizes import IndexSize, compare_index_sizes, part_of, size_table


def main(argv=None):
    """Embed, filter, compare, save."""
    args = parse_arguments(argv)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 1. Data and model; what cannot work is said before passages are embedded
    with state.main_process_first():  # the others find its files in the cache
        questions, passages = load_questions(args.questions), load_passages(args.passages)
        needed = needed_passages(args.train_questions)
    quality, beside = quality_of(questions, passages), other_reports(args)
    rows = fitting_rows(passages, args.min_words, args.max_words, args.drop_titles)
    if not len(rows):
        raise ValueError("No passage is left: loosen `--min_words`, `--max_words` or `--drop_titles`.")
    if needed is not None:
        check_needed(needed, passages.select(rows)["id"])
    model, processor = AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model)
    check_indexes(args, model.config, len(rows))

    # 2. Vectors, and which passages to keep
    model = model.to(state.device).eval()
    embeddings = load_embeddings(args, model, processor, passages)
    if not state.is_main_process:  # what is left takes one process
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
        unfinished = args.output_dir / "passages.jsonl.unfinished"
        chosen.to_json(unfinished, force_ascii=False)
        os.replace(unfinished, args.output_dir / "passages.jsonl")
        print(f"{args.choose} over {len(chosen)} passages is in {args.output_dir / 'index'}")


def other_reports(args):
    """The rows of other models' reports, which have to be of the same depths."""
    rows = []
    for folder in args.beside:
        for row in json.loads((folder / "report.json").read_text(encoding="utf-8")):
            row["quality"] = {int(depth): value for depth, value in row["quality"].items()}
            if list(row["quality"]) != args.k:
                raise ValueError(f"`{folder}` has a report at depths {list(row['quality'])}, not `--k` {args.k}.")
            rows.append(IndexSize(**row))
    return rows


def needed_passages(path):
    """Ids of the passages that training questions needed, of which a filter learns."""
    if path is None:
        return None
    train = load_questions(path)
    if "passage_ids" not in train.column_names:
        raise ValueError(f"`{path}` has no `passage_ids`, from which the filter could learn.")
    return {id for ids in train["passage_ids"] for id in ids}


def check_needed(needed, ids):
    """Raise unless a filter has passages of both kinds to learn from."""
    number = sum(id in needed for id in ids)
    if number in (0, len(ids)):
        raise ValueError(
            f"A filter learns from passages of both kinds, got {number} that `--train_questions` needed and "
            f"{len(ids) - number} others. Give other questions, or leave the filter out."
        )


def check_indexes(args, config, num_passages):
    """Raise unless FAISS can make, and train on the passages that are kept, all indexes of the model's vectors."""
    if config.model_type != "biencoder":
        raise ValueError(
            f"`{args.model}` is a model of type {config.model_type!r}: these are indexes of one vector a passage, "
            "which dual encoders have. `LateInteractionIndex.build` compresses those of a ColBERT."
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
            + "Leave these out, or keep more passages: they have to be as many as an index has cells (`IVF...`), and "
            "as a byte or a code of other size has values (256, or 16 in `PQ64x4`)."
        )


def load_embeddings(args, model, processor, passages):
    """The passages' vectors, from a folder or by the model."""
    if args.embeddings is None:
        return embed_passages(model, processor, passages, args.output_dir / "embeddings")
    embeddings = DenseEmbeddings.load(args.embeddings)
    if embeddings.ids != passages["id"][:]:
        raise ValueError(f"`{args.embeddings}` has other passages than `{args.passages}`, or another order of them.")
    return embeddings


def kept_passages(args, fitting, rows, needed):
    """Rows of passages by what the report calls them: shares of those that fit, best-scored first."""
    if needed is None:
        return {"all": rows}
    filter = PassageFilter.fit(fitting, needed & set(fitting.ids), args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    filter.save(args.output_dir / "filter.safetensors")
    scores = filter.scores(fitting)
    return {f"{100 * share:g}% kept": rows[best_share(scores, share)] for share in args.keep}


def quality_of(questions, passages):
    """What the report measures: gold passages where they are known, answers otherwise."""
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
    """The command line; mistakes in it end the script before work starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub name of a dual encoder.")
    parser.add_argument("--questions", required=True, help="JSON of questions with `passage_ids` or `answers`.")
    parser.add_argument("--passages", required=True, help="TSV, JSON or parquet of passages.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of what is written.")
    parser.add_argument("--embeddings", help="Folder of the passages' vectors, by `embed_passages`.")
    parser.add_argument(
        "--factories",
        nargs="+",
        default=["Flat", "SQfp16", "SQ8", "RaBitQ"],
        help="FAISS's descriptions of indexes, such as IVF1024,SQ8 or OPQ64,PQ64.",
    )
    parser.add_argument(
        "--n_subquantizers",
        type=int,
        nargs="+",
        default=[],
        help="Adds PQ indexes: bytes a passage.",
    )
    parser.add_argument("--n_probe", type=int, help="Cells that a search of an IVF index looks at.")
    parser.add_argument("--train_questions", help="Questions with `passage_ids`, of which a filter learns.")
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0], help="Shares of passages that it keeps.")
    parser.add_argument("--min_words", type=int, default=0, help="Drop passages of fewer words.")
    parser.add_argument("--max_words", type=int, help="Drop passages of more words.")
    parser.add_argument("--drop_titles", help="Drop passages in whose titles this regular expression is found.")
    parser.add_argument("--k", type=int, nargs="+", default=[20, 100], help="Depths of what counts as found.")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="Folders with other models' reports.")
    parser.add_argument("--choose", help="The index to save: one of FAISS's descriptions.")
    parser.add_argument("--seed", type=int, default=0, help="Of whatever is random.")
    parser.add_argument("--use_cpu", action="store_true", help="Leave GPUs alone.")
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
