"""
Embed passages with a retriever, and index them: what `examples/retrieve_passages.py --index` searches.

    python examples/index_passages.py --model_name_or_path out --passages psgs_w100.tsv.gz --output_dir index
    python examples/index_passages.py --model_name_or_path out --passages psgs_w100.tsv.gz --dtype bfloat16 \
        --factory IVF4096,PQ64 --output_dir index

`OUTPUT_DIR/embeddings` has the vectors; under `accelerate launch` all processes compute them. `OUTPUT_DIR/index` has a
`DenseIndex` or, for a ColBERT, a `LateInteractionIndex`: exact for few passages and compressed for many, unless
`--factory` or `--nbits` decides. An interrupted run resumes when it is started again.
"""

import argparse
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModel, AutoProcessor

from hf_xlir.data import load_passages
from hf_xlir.index import LateInteractionIndex, add_dense_index, embed_passages, index_problem
from hf_xlir.models import family_of
from hf_xlir.utils import process_group
from support.recipes import check_files


@process_group()
def main(argv=None):
    """Embed, index, save."""
    args = parse_arguments(argv)
    check_files(passages=args.passages)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())

    # 1. Model and data
    model = AutoModel.from_pretrained(args.model_name_or_path)
    processor = AutoProcessor.from_pretrained(args.model_name_or_path)
    is_colbert = family_of(model).vectors == "token_vectors"
    with state.main_process_first():  # the others then read from its cache
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
    """Raise, before passages are embedded, if the index cannot be built."""
    wrong = "factory" if is_colbert else "nbits"
    if getattr(args, wrong) is not None:
        raise ValueError(f"`{wrong}` does not apply to a model of type {config.model_type!r}: leave it out.")
    if args.factory is not None:
        problem = index_problem(args.factory, config.embedding_dim or config.encoder_config.hidden_size, num_passages)
        if problem is not None:
            raise ValueError(f"{problem}. Give another `--factory`.")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Folder or Hub id of a retriever.")
    parser.add_argument("--passages", required=True, help="Passages as TSV, JSON or parquet.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for vectors and index.")
    parser.add_argument("--factory", help="FAISS factory string of the index (dual encoder).")
    parser.add_argument(
        "--nbits", type=int, choices=(1, 2, 3, 4, 8), help="Bits per dimension of the index (ColBERT)."
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="Type of the weights."
    )
    parser.add_argument("--batch_size", type=int, default=256, help="Passages per batch.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything random.")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
