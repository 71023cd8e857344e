"""
Embed passages with a retriever, and index them: what `examples/retrieve_passages.py --index` searches.

    python examples/index_passages.py --model out --passages psgs_w100.tsv.gz --output_dir index
    python examples/index_passages.py --model out --passages psgs_w100.tsv.gz --dtype bfloat16 \
        --factory IVF4096,PQ64 --output_dir index

`OUTPUT_DIR/embeddings` has the vectors, which all processes make together under `accelerate launch`, and
`OUTPUT_DIR/index` a `DenseIndex` or, of a ColBERT, a `LateInteractionIndex`. It is exact for few passages and
compressed for many, unless `--factory` or `--nbits` says what it is. An embedding that was interrupted goes on when it
is started again.
"""

import argparse
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModel, AutoProcessor

import hf_xlir  # noqa: F401 - registers the models
from hf_xlir.data import load_passages
from hf_xlir.index import LateInteractionIndex, add_dense_index, embed_passages, index_problem
from support.recipes import check_files


def main(argv=None):
    """Embed, index, save."""
    args = parse_arguments(argv)
    check_files(passages=args.passages)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 1. Model and data
    model, processor = AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model)
    is_colbert = model.config.model_type == "colbert_xlmr"
    with state.main_process_first():  # the others find its files in the cache
        passages = load_passages(args.passages)
    check_kind(args, model.config, is_colbert, len(passages))

    # 2. Vectors
    embeddings = embed_passages(
        model.to(state.device).eval(),
        processor,
        passages,
        args.output_dir / "embeddings",
        batch_size=args.batch_size,
        dtype=args.dtype,
    )
    if not state.is_main_process:
        return

    # 3. The index
    if is_colbert:
        index = LateInteractionIndex.build(embeddings, args.nbits or "auto", seed=args.seed)
    else:
        add_dense_index(passages, embeddings, "passages", args.factory, seed=args.seed)
        index = passages.get_index("passages")
    index.save(args.output_dir / "index")
    print(f"{len(passages)} passages are in {args.output_dir / 'index'}")


def check_kind(args, config, is_colbert, num_passages):
    """Raise, before passages are embedded, for an index that there cannot be."""
    wrong = "factory" if is_colbert else "nbits"
    if getattr(args, wrong) is not None:
        raise ValueError(f"`{wrong}` is not for a model of type {config.model_type!r}: leave it out.")
    if args.factory is not None:
        problem = index_problem(args.factory, config.embedding_dim or config.encoder_config.hidden_size, num_passages)
        if problem is not None:
            raise ValueError(f"{problem}. Give another `--factory`.")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub name of a retriever.")
    parser.add_argument("--passages", required=True, help="TSV, JSON or parquet of passages.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of the vectors and the index.")
    parser.add_argument("--factory", help="Of a dual encoder's: one of FAISS's descriptions of indexes.")
    parser.add_argument("--nbits", type=int, choices=(1, 2, 3, 4, 8), help="Of a ColBERT's: bits a dimension.")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="To compute in."
    )
    parser.add_argument("--batch_size", type=int, default=256, help="Passages that are encoded at once.")
    parser.add_argument("--seed", type=int, default=0, help="Of whatever is random.")
    parser.add_argument("--use_cpu", action="store_true", help="Leave GPUs alone.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
