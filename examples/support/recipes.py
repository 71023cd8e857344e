"""Arguments of a training script: those of a recipe, and what the command line changes."""

import difflib
import json
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_xlir.data import resolve_file

from .smoke import SMOKE_ARGUMENTS


SUFFIXES = (".yaml", ".yml")


@dataclass
class RecipeArguments:
    """
    What every training script takes beside its own arguments and those of its trainer.

    Args:
        global_batch_size (`int`, *optional*):
            Rows that one update learns from, over all processes and accumulated batches: what papers call the batch
            size. The size of a process's batch follows from it. `None` leaves that to `per_device_train_batch_size`.
        smoke (`bool`, *optional*, defaults to `False`):
            Whether to run in small: a few steps of a tiny model on built-in data, by the same code.
    """

    global_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of one update, over all processes and accumulated batches."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Run in small: a few steps of a tiny model on built-in data."}
    )


def parse_recipe(*types, argv=None, description=None):
    r"""
    Parse the arguments of a script, `script.py [recipe.yaml] [--argument value ...]`: those of the recipe, and behind
    them those of the command line, which win. Both are checked in the same way, before anything else happens.

    Args:
        types (`type`):
            Dataclasses, one of them derived from [`~transformers.TrainingArguments`]. [`RecipeArguments`] are added.
        argv (`list[str]`, *optional*):
            The arguments; those of the process by default.
        description (`str`, *optional*):
            What `--help` says first.

    Returns:
        `tuple`: An object of each type, and [`RecipeArguments`].

    Raises:
        SystemExit: With the reason on the standard error, if the recipe cannot be read, an argument is unknown or has
            no value that fits, or the batch cannot be shared equally. The names are in the message.

    Example:
    ```python
    >>> from hf_xlir import RetrieverTrainingArguments
    >>> from support.recipes import parse_recipe

    >>> arguments = ["--global_batch_size", "32", "--gradient_accumulation_steps", "4", "--use_cpu"]
    >>> training_args, recipe_args = parse_recipe(RetrieverTrainingArguments, argv=arguments)
    >>> training_args.per_device_train_batch_size, recipe_args.smoke
    (8, False)

    ```
    """
    parser, types = recipe_parser(*types, description=description), (*types, RecipeArguments)
    given = list(sys.argv[1:] if argv is None else argv)
    recipe = {}
    try:
        if given and given[0].endswith(SUFFIXES):
            recipe = read_recipe(given.pop(0), {each.name for of_type in types for each in fields(of_type)})
        # Of an argument that is there twice, the last one counts
        written = _as_options(recipe) + _launch_options()
        first = parser.parse_args([*written, *given])
        if first.smoke:
            written += _as_options(_smoke_arguments(first))
        parsed = parser.parse_args_into_dataclasses([*written, *given], look_for_args_file=False)
        names = {*recipe, *(option.split("=")[0].lstrip("-").replace("-", "_") for option in given)}
        (training_args,) = (each for each in parsed if isinstance(each, TrainingArguments))
        _share_batch(training_args, parsed[-1].global_batch_size, "per_device_train_batch_size" in names)
    except (ValueError, TypeError, FileNotFoundError) as error:
        parser.error(str(error))
    return parsed


def recipe_parser(*types, description=None):
    """The parser of [`parse_recipe`]: it knows names and kinds of arguments, and nothing of the machine."""
    return HfArgumentParser(
        (*types, RecipeArguments),
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [recipe.yaml] [--argument value ...]",
        formatter_class=_Help,
    )


def read_recipe(path, names):
    """
    Read a recipe: a YAML file of arguments and their values.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        names (`Iterable[str]`):
            The known arguments.

    Returns:
        `dict`: The value of each argument.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a recipe, or an argument is unknown or has no value.
    """
    try:
        recipe = yaml.safe_load(Path(resolve_file(path)).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` is not YAML: {error}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"`{path}` must have lines of `argument: value`, got {type(recipe).__name__}.")
    unknown = [str(name) for name in recipe if name not in names]
    if unknown:
        close = [match for name in unknown for match in difflib.get_close_matches(name, names, n=1)]
        hint = f" Did you mean {', '.join(f'`{name}`' for name in close)}?" if close else ""
        raise ValueError(f"`{path}` has unknown arguments: {', '.join(f'`{name}`' for name in unknown)}.{hint}")
    empty = [name for name, value in recipe.items() if value is None or value == []]
    if empty:
        raise ValueError(f"`{path}` has no value for {', '.join(f'`{name}`' for name in empty)}: leave it out.")
    return recipe


def check_given(**values):
    r"""
    Raise if an argument is missing that a script needs, and that neither recipe nor command line gave.

    Args:
        values:
            Values by the names of their arguments.

    Raises:
        ValueError: If one is `None`.
    """
    missing = [f"`{name}`" for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"Missing: {', '.join(missing)}. Give it on the command line or in the recipe.")


def check_files(**paths):
    r"""
    Raise if a file does not exist, before the first one, which may take an hour, is read.

    Args:
        paths (`str` or `os.PathLike`, *optional*):
            Paths or URLs by the names of their arguments; `None` is passed over.

    Raises:
        FileNotFoundError: If a local file does not exist.
    """
    for name, path in paths.items():
        if path is None:
            continue
        try:
            resolve_file(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"`{name}`: {error}") from None


class _Help(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of a description as they are."""


def _smoke_arguments(first):
    """What a smoke run changes. It has its own folder, so that a real run does not resume from its checkpoints."""
    return {
        **SMOKE_ARGUMENTS,
        "gradient_accumulation_steps": min(2, first.gradient_accumulation_steps),
        "output_dir": f"{first.output_dir or 'trainer_output'}_smoke",
    }


def _launch_options():
    """Processes that are launched together without GPUs each take themselves for the only one, unless told."""
    together = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return ["--use_cpu=true"] if together and not torch.accelerator.is_available() else []


def _as_options(arguments):
    """As on the command line, so that values are checked as there: YAML takes `1e-5` for a text."""
    options = []
    for name, value in arguments.items():
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        else:
            options.append(f"--{name}={json.dumps(value) if isinstance(value, dict | bool) else value}")
    return options


def _share_batch(training_args, global_batch_size, is_set):
    """Set the size of a process's batch so that those of all processes and accumulation steps make the whole."""
    if global_batch_size is None:
        return
    devices = training_args.world_size * max(1, training_args.n_gpu)
    parts = devices * training_args.gradient_accumulation_steps
    own = training_args.per_device_train_batch_size if is_set else global_batch_size // parts
    if own < 1 or own * parts != global_batch_size:
        each = f" batches of `per_device_train_batch_size`={own}" if is_set else ""
        raise ValueError(
            f"`global_batch_size`={global_batch_size} is not made of {devices} device(s) x "
            f"`gradient_accumulation_steps`={training_args.gradient_accumulation_steps}{each}: change one of them."
        )
    training_args.per_device_train_batch_size = own


__all__ = ["RecipeArguments", "check_files", "check_given", "parse_recipe", "read_recipe", "recipe_parser"]
