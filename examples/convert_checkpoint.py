"""
Convert a checkpoint of another library, or one of this package for another library; embeddings stay the same.

    python examples/convert_checkpoint.py --input lightonai/GTE-ModernColBERT-v1 --output_dir gte-moderncolbert
    python examples/convert_checkpoint.py --input DrDecr.dnn --tokenizer FacebookAI/xlm-roberta-base \
        --output_dir drdecr
    python examples/convert_checkpoint.py --input facebook/dpr-question_encoder-single-nq-base \
        --document_encoder facebook/dpr-ctx_encoder-single-nq-base --output_dir dpr
    python examples/convert_checkpoint.py --input nq_reader_base --tokenizer google-t5/t5-base --output_dir reader
    python examples/convert_checkpoint.py --input my-colbert --to pylate --output_dir my-colbert-pylate

In: ColBERT and PLAID folders (`artifact.metadata`), `.dnn` and `.model` files of PrimeQA's DR.DECR, PyLate and
sentence-transformers folders, DPR's two encoders or its `.cp` files, FiD's readers and retrievers, BGE-M3's head for
one vector a token. Out, with `--to`: this package's folder, PyLate's, sentence-transformers', or the encoder alone.

Nothing in a checkpoint is run, and nothing is made up: a weight that is missing, or a setting that has no counterpart,
ends the script before anything is written.
"""

import argparse
from pathlib import Path

from hf_xlir.convert import FORMATS, TARGETS, convert_checkpoint


def main(argv=None):
    """Convert, and say what was found and written."""
    args = parse_arguments(argv)

    # 1. Read, convert, write
    conversion = convert_checkpoint(
        args.input,
        args.output_dir,
        format=None if args.format == "auto" else args.format,
        to=args.to,
        tokenizer=args.tokenizer,
        document_encoder=args.document_encoder,
        query_length=args.query_length,
        document_length=args.document_length,
        revision=args.revision,
        token=args.token,
    )

    # 2. What there is now
    model = conversion.model
    print(f"{args.input} is {conversion.format}: {type(model).__name__}, {model.num_parameters():,} parameters.")
    for name in conversion.processor.settings:
        print(f"  {name}: {getattr(conversion.processor, name)!r}")
    for note in conversion.notes:
        print(f"Note: {note}")
    print(f"Wrote {args.output_dir} for {args.to}.")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="Folder, file or Hub name of the checkpoint.")
    parser.add_argument("--output_dir", type=Path, required=True, help="A new folder.")
    parser.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="What the input is.")
    parser.add_argument("--to", choices=TARGETS, default="hf_xlir", help="Who shall load what is written.")
    parser.add_argument(
        "--tokenizer",
        help="Folder or Hub name of the tokenizer and, for a file, of the encoder's configuration.",
    )
    parser.add_argument("--document_encoder", help="Folder or Hub name of the other one of DPR's two encoders.")
    parser.add_argument("--query_length", type=int, help="Most token ids of a query.")
    parser.add_argument("--document_length", type=int, help="Most token ids of a document.")
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub repository given as --input.")
    parser.add_argument("--token", help="For private repositories; that of `hf auth login` by default.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
