"""
Convert a checkpoint of another library for this package, or the other way round. Embeddings stay the same.

    python examples/convert_checkpoint.py --model_name_or_path lightonai/GTE-ModernColBERT-v1 \
        --output_dir gte-moderncolbert
    python examples/convert_checkpoint.py --model_name_or_path DrDecr.dnn --tokenizer FacebookAI/xlm-roberta-base \
        --output_dir drdecr
    python examples/convert_checkpoint.py --model_name_or_path facebook/dpr-question_encoder-single-nq-base \
        --document_encoder facebook/dpr-ctx_encoder-single-nq-base --output_dir dpr
    python examples/convert_checkpoint.py --model_name_or_path nq_reader_base --tokenizer google-t5/t5-base \
        --output_dir reader
    python examples/convert_checkpoint.py --model_name_or_path my-colbert --to pylate --output_dir my-colbert-pylate

It reads ColBERT and PLAID folders (`artifact.metadata`), `.dnn` and `.model` files of PrimeQA's DR.DECR, PyLate and
sentence-transformers folders, DPR's two encoders or its `.cp` files, FiD's readers and retrievers, and BGE-M3's
multi-vector head. It writes a folder for this package or, with `--to`, for PyLate, sentence-transformers or plain
transformers (the encoder alone).

No code in a checkpoint is run. A missing weight, or a setting without a counterpart, ends the script before anything
is written.
"""

import argparse
from pathlib import Path

from hf_xlir.convert import FORMATS, TARGETS, convert_checkpoint


def main(argv=None):
    """Convert, and print what was read and written."""
    args = parse_arguments(argv)

    # 1. Read, convert, write
    conversion = convert_checkpoint(
        args.model_name_or_path,
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

    # 2. Report
    model = conversion.model
    print(
        f"{args.model_name_or_path} is {conversion.format}: {type(model).__name__}, "
        f"{model.num_parameters():,} parameters."
    )
    for name in conversion.processor.settings:
        print(f"  {name}: {getattr(conversion.processor, name)!r}")
    for note in conversion.notes:
        print(f"Note: {note}")
    print(f"Wrote {args.output_dir} for {args.to}.")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Folder, file or Hub id of the checkpoint.")
    parser.add_argument("--output_dir", type=Path, required=True, help="A new folder.")
    parser.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="Format of the checkpoint.")
    parser.add_argument("--to", choices=TARGETS, default="hf_xlir", help="Library that will load the result.")
    parser.add_argument(
        "--tokenizer",
        help="Folder or Hub id of the tokenizer and, for a single file, of the encoder's configuration.",
    )
    parser.add_argument("--document_encoder", help="Folder or Hub id of DPR's encoder of passages.")
    parser.add_argument("--query_length", type=int, help="Most tokens per query.")
    parser.add_argument("--document_length", type=int, help="Most tokens per document.")
    parser.add_argument("--revision", help="Branch, tag or commit of the Hub repository.")
    parser.add_argument("--token", help="Token for private repositories (default: that of `hf auth login`).")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
