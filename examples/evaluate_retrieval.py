"""
Measure a retriever on a benchmark, per language, beside BM25 and the fusion of both.

    python examples/evaluate_retrieval.py --benchmark xquad-r --data_dir DATA --model_name_or_path out \
        --output_dir results
    python examples/evaluate_retrieval.py --benchmark mini-world --output_dir results
    python examples/evaluate_retrieval.py --benchmark xor-retrieve --passages psgs_w100.tsv.gz \
        --model_name_or_path out --output_dir results
    python examples/evaluate_retrieval.py --benchmark BEIR_FOLDER --ranking_file run.trec --systems \
        --output_dir results

The benchmark is `xquad-r` (XQuAD's questions in any language on its paragraphs in any language), `xor-retrieve`, `nq`
(both with `--passages`), `mini-world` (built in), or a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv. Data
are downloaded, or read from `--data_dir`. The model is a retriever of this package, or an encoder whose token vectors
are pooled, such as all-MiniLM-L6-v2. It searches exactly. Under `accelerate launch` all processes share the model's
work, and the first one does the rest. BM25 counts words, or pairs of characters if the passages are in a language
without spaces, such as Chinese, Japanese or Thai.

`OUTPUT_DIR` gets `results.md`, for a model card, `results.json`, charts by language and by number of passages, and in
`rankings` the ranking of each system, which `--ranking_file` reads. For `xor-retrieve` it also gets R@2kt and R@5kt by
their official definition, and the `predictions` of each system as the task takes them.
"""

import argparse
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoConfig

from hf_xlir.evaluation import (
    RANKING_FORMATS,
    check_ranking_ids,
    drop_own_ids,
    evaluate_systems,
    fuse_rankings,
    load_benchmark,
    load_ranking,
    parse_measures,
    passage_tokenizer,
    plot_by_language,
    plot_recall_curve,
    rank_by_bm25,
    require_matplotlib,
    save_ranking,
    write_xor_retrieve_predictions,
    xor_retrieve_metrics,
    xor_retrieve_predictions,
)
from hf_xlir.index import BM25_TOKENIZERS, FUSION_METHODS, bm25_tokenizer_for, check_fusion
from hf_xlir.models import FAMILIES, load_retriever
from hf_xlir.training import rank_passages_together
from hf_xlir.utils import process_group
from support.recipes import check_files


@process_group()
def main(argv=None):
    """Load, rank, measure, report."""
    # 1. Arguments, and checks that need no data
    args = parse_arguments(argv)
    check_files(passages=args.passages, **{f"ranking_file {name}": path for name, path in args.ranking_file.items()})
    if not args.no_plots:
        require_matplotlib()
    if args.benchmark == "xor-retrieve" and args.split != "test":
        passage_tokenizer(args.tokenize)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 2. The benchmark
    options = ("data_dir", "split", "languages", "passage_language", "passages", "on_error")
    with state.main_process_first():  # the others then read from its cache
        benchmark = load_benchmark(args.benchmark, **{name: getattr(args, name) for name in options})

    hidden = benchmark.answers is None and benchmark.relevance is None
    if not hidden:
        parse_measures(args.measures, benchmark.relevance is not None, benchmark.answers is not None)
    check_ranking_ids(args.ranking_file, args.ranking_format, "`--ranking_file` has the name")
    given = {name: load_ranking(path) for name, path in args.ranking_file.items()}
    if args.ranking_format != "jsonl":  # jsonl takes any id
        for part in ("questions", "passages"):
            check_ranking_ids(getattr(benchmark, part)["id"][:], args.ranking_format, f"`{part}` has the id")

    # 3. Rankings: all processes share the model's work, and one does the rest
    systems, notes = {}, []
    if "model" in args.systems:
        model, processor = load_model(args)
        systems["model"] = rank_passages_together(
            model.to(state.device),
            processor,
            benchmark.questions,
            benchmark.passages,
            args.k,
            batch_size=args.batch_size,
            progress=state.is_main_process,
        )
        notes.append(f"`model` is `{name_of(args.model_name_or_path)}`.")
    if not state.is_main_process:
        return
    if {"bm25", "fusion"} & set(args.systems):
        tokenize = bm25_tokenizer_for(benchmark.passages) if args.bm25_tokenize == "auto" else args.bm25_tokenize
        notes += ["`bm25` counts pairs of characters as words."] if tokenize == "bigrams" else []
        systems["bm25"] = rank_by_bm25(benchmark.questions, benchmark.passages, args.k, tokenize=tokenize)
    if "fusion" in args.systems:
        systems["fusion"] = fuse_rankings(
            [systems["model"], systems["bm25"]], args.fusion_method, args.fusion_weights, args.k
        )
    systems |= given
    if benchmark.without_own_id:
        systems = {name: drop_own_ids(ranked) for name, ranked in systems.items()}
    for name, ranked in systems.items():
        if args.ranking_format != "jsonl" and not any(ranked.rankings.values()):
            continue  # the other formats have no line for a question for which nothing was found
        save_ranking(args.output_dir / "rankings" / f"{name}.{args.ranking_format}", ranked, args.ranking_format, name)

    # 4. The task's own predictions and measures
    official = {}
    for name, ranked in systems.items() if args.benchmark == "xor-retrieve" else ():
        predictions = xor_retrieve_predictions(ranked, benchmark.questions, benchmark.passages)
        write_xor_retrieve_predictions(args.output_dir / "predictions" / f"{name}.json", predictions)
        if benchmark.answers is not None:
            official[name], note = official_measures(predictions, benchmark.questions, args.tokenize)
            notes += [note] if note and note not in notes else []
    if hidden:
        print(f"The answers of this split are hidden: rankings and predictions are in {args.output_dir}.")
        return

    # 5. Measures by language, and whether systems differ from BM25 by more than chance
    baseline = "bm25" if "bm25" in systems and len(systems) > 1 else None
    report = evaluate_systems(benchmark, systems, args.measures, baseline=baseline, seed=args.seed)
    for name, values in official.items():
        report.systems[name] = values | report.systems[name]
    report.notes += notes

    # 6. The report
    report.save(args.output_dir)
    if not args.no_plots:
        plot_by_language(report, args.output_dir / f"by_language.{args.plot_format}")
        plot_recall_curve(report, args.output_dir / f"recall_curve.{args.plot_format}")
    print(report.to_markdown())
    print(f"Rankings, results and charts are in {args.output_dir}.")


def load_model(args):
    """A saved retriever, or a bare encoder as a dual encoder with pooling and cosine."""
    settings = {"query_length": args.query_length, "document_length": args.document_length}
    if AutoConfig.from_pretrained(args.model_name_or_path).model_type in FAMILIES:
        return load_retriever(args.model_name_or_path, **settings)
    # An English encoder needs many pieces for a question in another script
    settings = {**settings, "query_length": args.query_length or 128, "pooling": args.pooling, "normalize": True}
    return load_retriever(args.model_name_or_path, "biencoder", **settings)


def official_measures(predictions, questions, tokenize):
    """R@2kt and R@5kt from 0 to 1, as other measures are, and a note if they are approximate."""
    result = xor_retrieve_metrics(predictions, questions, tokenize=tokenize)
    note = result.pop("tokenizer", None)
    suffix = f" ({tokenize}, approximation)" if note else ""
    values = {
        f"{name.replace('recall', 'R')}{suffix}": {language: value / 100 for language, value in of_measure.items()}
        for name, of_measure in result.items()
    }
    return values, note and f"R@2kt and R@5kt: tokenized by {note}."


def name_of(model):
    """A model's Hub id, or the last part of its folder's path: results are for others to read."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def named_file(given):
    """The name and the path in NAME=FILE; a file alone has the first part of its own name."""
    if "=" in given and not Path(given).is_file():
        return tuple(given.split("=", 1))
    return Path(given).name.partition(".")[0], given


def parse_arguments(argv):
    """The command line, checked before work starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="xquad-r, xor-retrieve, nq, mini-world or a folder.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for results, rankings and charts.")
    parser.add_argument("--model_name_or_path", help="Folder or Hub id of a retriever or an encoder.")
    parser.add_argument(
        "--systems", nargs="*", choices=("model", "bm25", "fusion"), help="Systems to measure (default: all)."
    )
    parser.add_argument("--ranking_file", nargs="+", default=[], help="Rankings of other systems: FILE or NAME=FILE.")

    parser.add_argument("--data_dir", help="Folder of the benchmark's files (default: download them).")
    parser.add_argument("--split", help="Split of the questions.")
    parser.add_argument("--languages", nargs="+", help="Languages of the questions (default: all).")
    parser.add_argument("--passage_language", help="Language of XQuAD's paragraphs (default: English).")
    parser.add_argument("--passages", help="Passages of xor-retrieve and nq, as TSV, JSON or parquet.")
    parser.add_argument(
        "--on_error", choices=("raise", "skip"), help="Whether a bad row ends the script or is left out."
    )

    parser.add_argument("--k", type=int, default=100, help="Passages per question.")
    parser.add_argument("--batch_size", type=int, default=64, help="Texts per batch.")
    parser.add_argument("--query_length", type=int, help="Tokens per question (default: the model's, or 128).")
    parser.add_argument("--document_length", type=int, help="Tokens per passage (default: the model's).")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean", help="Pooling of a bare encoder.")
    parser.add_argument(
        "--bm25_tokenize",
        choices=("auto", *BM25_TOKENIZERS),
        default="auto",
        help="How BM25 splits texts (auto: by the passages' script).",
    )
    parser.add_argument(
        "--fusion_method", choices=FUSION_METHODS, default="reciprocal_rank", help="How rankings are fused."
    )
    parser.add_argument("--fusion_weights", type=float, nargs=2, help="Weights of model and BM25 (default: equal).")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")

    parser.add_argument(
        "--measures", nargs="+", help="Such as R@5 RR@10 nDCG@10 MAP Answer@20; the first is compared with BM25."
    )
    parser.add_argument(
        "--tokenize", choices=("treebank",), help="Approximate tokenizer for R@2kt, which needs no NLTK data."
    )
    parser.add_argument("--ranking_format", choices=RANKING_FORMATS, default="jsonl", help="Format of the rankings.")
    parser.add_argument("--plot_format", choices=("png", "svg"), default="png", help="Format of the charts.")
    parser.add_argument("--no_plots", action="store_true", help="Draw no charts; matplotlib is then not needed.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the significance tests.")
    args = parser.parse_args(argv)

    with_model = args.model_name_or_path is not None
    if args.systems is None:
        args.systems = ["model", "bm25", "fusion"] if with_model else ["bm25"]
    if {"model", "fusion"} & set(args.systems) and not with_model:
        parser.error("the systems model and fusion need --model_name_or_path")
    if "fusion" in args.systems:
        args.systems.append("model")
    files = [named_file(given) for given in args.ranking_file]
    args.ranking_file = dict(files)
    if len(args.ranking_file) < len(files) or set(args.ranking_file) & {"model", "bm25", "fusion", ""}:
        parser.error("--ranking_file needs NAME=FILE where names are equal, or one of model, bm25 and fusion")
    if any(Path(name).name != name for name in args.ranking_file):
        parser.error(f"--ranking_file: names are those of files, without a folder, got {list(args.ranking_file)}")
    if not args.systems and not files:
        parser.error("nothing to evaluate: give --systems or --ranking_file")
    if args.k < 1:
        parser.error(f"--k must be a positive integer, got {args.k}")
    try:
        option = "--measures"
        parse_measures(args.measures)
        option = "--fusion_weights"
        check_fusion(2, args.fusion_method, args.fusion_weights)
    except ValueError as error:
        parser.error(f"{option}: {error}")
    return args


if __name__ == "__main__":
    main()
