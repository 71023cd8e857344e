"""The command line of the quickstart, checked before any work starts."""

import argparse
import math
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from hf_xlir.data import MINI_WORLD_LANGUAGES
from hf_xlir.models import FAMILIES


def parse_arguments(description):
    """The arguments. A mistake in them ends the script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/quickstart", help="folder of models, index and tables")
    parser.add_argument("--languages", nargs="+", help="languages of the questions beside English (default: all)")
    parser.add_argument("--question", help="question to ask at the end (default: the capital of Botswana, in Korean)")
    parser.add_argument("--num_sentences", type=int, default=2, help="number of sentences that the reader reads")
    parser.add_argument("--learning_rate", type=float, help="default: 1e-3 from scratch, 2e-5 with a backbone")
    parser.add_argument("--steps_factor", type=float, default=1.0, help="multiplies all numbers of training steps")
    parser.add_argument("--document_length", type=int, help="tokens per passage (default: 128, or 224 for real data)")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random")
    real = parser.add_argument_group("real data and pretrained weights, which take longer")
    real.add_argument("--data_dir", help="folder of real data (default: the built-in mini world)")
    real.add_argument("--teacher", help="English sentence encoder with mean pooling (folder or Hub id)")
    real.add_argument("--tokenizer", help="tokenizer of the student of --teacher (default: a new one)")
    real.add_argument("--backbone", help="pretrained multilingual encoder (folder or Hub id; default: from scratch)")
    real.add_argument("--reader", help="pretrained T5 or mT5 (folder or Hub id; default: from scratch)")
    args = parser.parse_args()

    if args.languages is not None:
        args.languages = list(dict.fromkeys(["en", *args.languages]))  # the teacher's language
    try:
        _check(args)
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output_dir cannot be made: {error}")
    except ValueError as error:
        parser.error(str(error))
    if args.learning_rate is None:
        args.learning_rate = 1e-3 if args.backbone is None else 2e-5
    if args.document_length is None:
        args.document_length = 128 if args.data_dir is None else 224
    return args


def _check(args):
    """Raise for an option that cannot be used, or that contradicts another."""
    if args.question is not None and not args.question.strip():
        raise ValueError("--question is empty: ask something")
    if args.languages == ["en"]:
        raise ValueError("--languages needs one beside English: there is nothing to distil into otherwise")
    if args.data_dir is None and not set(args.languages or []) <= set(MINI_WORLD_LANGUAGES):
        unknown = ", ".join(sorted(set(args.languages) - set(MINI_WORLD_LANGUAGES)))
        raise ValueError(f"--languages: the mini world has {' '.join(MINI_WORLD_LANGUAGES)}, not {unknown}")
    for language in (args.languages or ["en"]) if args.data_dir is not None else []:
        if not Path(args.data_dir, "xquad", f"xquad.{language}.json").is_file():
            raise ValueError(f"--data_dir {args.data_dir} has no xquad/xquad.{language}.json")
    if args.teacher is not None and args.data_dir is None:
        raise ValueError("--teacher needs real data: give --data_dir, too")
    if args.teacher is not None and args.backbone is not None:
        raise ValueError("--teacher trains a small student from scratch: leave --backbone out")
    if args.tokenizer is not None and args.teacher is None:
        raise ValueError("--tokenizer belongs to the student of --teacher: give --teacher, too")
    for name in ("steps_factor", "learning_rate"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} must be a positive number, got {value}")
    for name, least, most in (("document_length", 16, 504), ("num_sentences", 1, 100), ("seed", 0, 2**32 - 1)):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name} must be from {least} to {most}, got {value}")
    for option in ("tokenizer", "backbone", "teacher", "reader"):
        source = getattr(args, option)
        if source is not None:
            try:
                _check_source(option, source)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"--{option} must be a folder or a Hub id that can be loaded, got {source}: {error}"
                ) from error


def _check_source(option, source):
    """Raise unless there is a tokenizer and, for all but `--tokenizer`, a T5 to read or a bare encoder."""
    AutoTokenizer.from_pretrained(source)
    if option == "tokenizer":
        return
    kind = AutoConfig.from_pretrained(source).model_type
    role = FAMILIES[kind].role if kind in FAMILIES else "reader" if kind in ("t5", "mt5", "umt5") else None
    if role != ("reader" if option == "reader" else None):
        wanted = "a T5, mT5 or umT5" if option == "reader" else "a bare encoder such as XLM-R or BERT"
        raise ValueError(f"it holds a {kind} model; give {wanted}.")
    if Path(source).is_dir() and not [*Path(source).glob("*.safetensors*"), *Path(source).glob("*.bin*")]:
        raise ValueError("it has no weights, neither model.safetensors nor pytorch_model.bin.")
