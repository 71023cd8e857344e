"""
Train a retriever from a reader, in rounds (FiD-KD, https://huggingface.co/papers/2012.04584). Questions need answers,
but no passages that are known to contain them.

    python examples/iterate_fid_kd.py --retriever RETRIEVER --reader google/mt5-base --rounds 2 \
        --train_questions train.jsonl --eval_questions dev.jsonl --passages psgs_w100.tsv.gz --n_context 100 \
        --reader_arguments "--max_steps 10000 --gradient_checkpointing" \
        --retriever_arguments "--max_steps 10000 --learning_rate 5e-5" --output_dir out

Each round has a folder, `OUTPUT_DIR/round_0` and so on, with the outputs of its steps:

1. `passages`: the passages' vectors by the retriever, and their index (`examples/index_passages.py`);
2. `train.jsonl`, `eval.jsonl`: the passages that it finds (`examples/retrieve_passages.py`); `--answered_only` keeps
   only training questions with an answer in their passages;
3. `reader`: the reader of the round before, trained on them (`examples/train_reader.py`; with few questions it
   memorizes them and has little to teach: see `--substitute_answers` there);
4. `answers`: its answers to the evaluation questions, and their exact match (`examples/evaluate_reader.py`);
5. `scores`: its cross-attention to each passage of the training questions (the same script) or, with
   `--reader_distillation perplexity` or `emdr2`, the likelihood of the answer given each passage;
6. `retriever`: trained on these scores, from the retriever before (`examples/train_biencoder.py`, or
   `examples/train_colbert.py`).

A last folder has steps 1, 2 and 4 of the last retriever, on the evaluation questions. `OUTPUT_DIR/report.md` is a
table of retrieval and answers per round. An interrupted run resumes when it is started again with the same arguments:
an embedding from its last block, a training from its last checkpoint. Other arguments are refused if they would change
a step that has begun. Only one run at a time can use an output folder.

`--launcher "accelerate launch --num_processes 8"` runs each step as its own command, on several processes.
"""

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from accelerate.utils.memory import clear_device_cache
from transformers import AutoConfig

from hf_xlir import FiDT5Config
from hf_xlir.data import load_questions
from hf_xlir.models import family_of
from hf_xlir.training import READER_DISTILLATIONS, last_whole_checkpoint
from hf_xlir.utils import folder_lock, write_text
from support.recipes import check_files, recipe_parser


EXAMPLES = Path(__file__).parent


class Step(NamedTuple):
    """One script run of a round."""

    folder: Path  # of the round
    name: str
    script: str
    arguments: list[str]
    output: Path

    def record(self, state):
        """The file that says with which arguments the step was "started", or is "done"."""
        return self.folder / f"{self.name}.{state}.json"


def main(argv=None):
    """Run all rounds."""
    args = parse_arguments(argv)
    check_files(train_questions=args.train_questions, eval_questions=args.eval_questions, passages=args.passages)
    check_questions(args)
    FiDT5Config.from_pretrained(args.reader)  # raises if it is not a reader
    is_colbert = family_of(AutoConfig.from_pretrained(args.retriever)).vectors == "token_vectors"
    rounds = plan(args, is_colbert)
    check_arguments(rounds[0])
    check_records(args, [step for steps in rounds for step in steps])
    with folder_lock(args.output_dir, "rounds.lock"):
        rows = []
        for steps in rounds:
            for step in steps:
                run(args, step)
            rows.append(metrics_of(steps[0].folder))
            write_table(args.output_dir / "report.md", rows)
    print((args.output_dir / "report.md").read_text(encoding="utf-8"))


def check_questions(args):
    """Read the questions, so that mistakes are found before passages are embedded."""
    load_questions(args.eval_questions)
    questions = load_questions(args.train_questions)
    without = [id for id, answers in zip(questions["id"], questions["answers"], strict=True) if not answers]
    may_be = args.keep_reader or (args.answered_only and len(without) < len(questions))
    if without and not may_be:
        raise ValueError(
            f"{len(without)} of {len(questions)} questions in `{args.train_questions}` have no `answers`, from which "
            f"the reader could learn, such as {without[:3]}: leave them out."
        )


def plan(args, is_colbert):
    """The steps of each round; the last round only measures."""
    retriever, reader, rounds = args.retriever, args.reader, []
    for number in range(args.rounds + 1):
        folder = args.output_dir / f"round_{number}"
        is_last = number == args.rounds
        steps = [index(args, folder, retriever), retrieve(args, folder, "eval", retriever)]
        if not is_last:
            steps.append(retrieve(args, folder, "train", retriever))
            if not args.keep_reader:
                steps.append(train_reader(args, folder, reader))
                reader = steps[-1].output
        steps.append(read(args, folder, "answers", reader, folder / "eval.jsonl"))
        if not is_last:
            kind = "crossattention" if args.reader_distillation == "kl" else "likelihood"
            steps.append(read(args, folder, "scores", reader, folder / "train.jsonl", f"--write_{kind}_scores"))
            scored = steps[-1].output / "dataset_wscores.jsonl"
            steps.append(train_retriever(args, folder, retriever, scored, is_colbert))
            retriever = steps[-1].output
        rounds.append(steps)
    return rounds


def index(args, folder, retriever):
    """Embed and index the passages."""
    given = ["--model_name_or_path", retriever, "--passages", args.passages, "--output_dir", folder / "passages"]
    return make_step(args, "index", "index_passages", folder / "passages", given, "index_arguments")


def retrieve(args, folder, split, retriever):
    """Find passages for the questions of a split."""
    questions = args.train_questions if split == "train" else args.eval_questions
    given = ["--model_name_or_path", retriever, "--questions", questions, "--passages", args.passages, "--k", *args.k]
    given += [
        "--index",
        folder / "passages",
        "--n_context",
        args.n_context,
        "--output_file",
        folder / f"{split}.jsonl",
    ]
    given += ["--answered_only"] * (split == "train" and args.answered_only)
    return make_step(args, f"retrieve_{split}", "retrieve_passages", folder / f"{split}.jsonl", given)


def train_reader(args, folder, reader):
    """Train a reader on the passages of the training questions."""
    given = ["--model_name_or_path", reader, "--train_file", folder / "train.jsonl", "--n_context", args.n_context]
    given += ["--output_dir", folder / "reader", "--seed", args.seed]
    return make_step(args, "train_reader", "train_reader", folder / "reader", given, "reader_arguments")


def read(args, folder, name, reader, examples, *options):
    """Answer or score the questions of a file with a reader."""
    given = ["--model_name_or_path", reader, "--eval_file", examples, "--output_dir", folder / name, *options]
    given += ["--n_context", args.n_context]
    return make_step(args, name, "evaluate_reader", folder / name, given)


def train_retriever(args, folder, retriever, scored, is_colbert):
    """Train a retriever on a reader's scores."""
    given = ["--model_name_or_path", retriever, "--objective", "reader_distillation", "--seed", args.seed]
    given += ["--num_passages", args.n_context, "--output_dir", folder / "retriever"]
    given += ["--reader_distillation", args.reader_distillation]
    given += ["--reader_examples", scored] if is_colbert else ["--train_format", "reader", "--train_file", scored]
    script = "train_colbert" if is_colbert else "train_biencoder"
    return make_step(args, "train_retriever", script, folder / "retriever", given, "retriever_arguments")


def make_step(args, name, script, output, given, more=None):
    """A step with the arguments of the round and those that the user adds by the option `more`."""
    given = [str(each) for each in given]
    added = [] if more is None else shlex.split(getattr(args, more))
    if added and not added[0].startswith("--"):
        raise ValueError(f"`--{more}` begins with `{added[0]}`, which is not an option of `{script}.py`.")
    taken = [option for option in options_of(added) if option in options_of(given)]
    if taken:
        raise ValueError(f"`--{more}` has `{taken[0]}`, which this script sets for `{script}.py`: leave it out.")
    return Step(output.parent, name, script, given + added + ["--use_cpu"] * args.use_cpu, output)


def check_arguments(steps):
    """Raise if a script does not take the arguments that the user adds."""
    for step in steps:
        script = load_script(step.script)
        if step.name == "index":
            script.parse_arguments(step.arguments)
        elif step.name.startswith("train_"):
            _, unknown = recipe_parser(*script.ARGUMENTS).parse_known_args(step.arguments)
            if unknown:
                raise ValueError(f"`{step.script}.py` does not take {' '.join(unknown)}: correct its arguments.")


def check_records(args, steps):
    """Raise if a step is done, or has a checkpoint to resume from, with other options."""
    found = []
    for step in steps:
        is_done = step.record("done").exists()
        record = step.record("done" if is_done else "started")
        if not record.exists() or not (is_done or last_whole_checkpoint(step.output)):
            continue
        before = options_of(json.loads(record.read_text(encoding="utf-8"))["arguments"])
        now = options_of(step.arguments)
        differing = [
            f"`{option}` was {before.get(option, 'not given')}, is {now.get(option, 'not given')}"
            for option in before | now
            if before.get(option) != now.get(option)
        ]
        if differing:
            state = "finished" if is_done else "unfinished"
            found.append((step, f"{step.folder.name}, {step.name} ({state}): {'; '.join(differing)}"))
    if found:
        step, first = found[0]
        others = f"\nand {len(found) - 1} more steps" if len(found) > 1 else ""
        raise ValueError(
            f"`{args.output_dir}` has steps with other options than given now.\n{first}{others}\nGive the same "
            "options to resume, or another `--output_dir`. To repeat the step, remove its output "
            f"`{step.output}` and `{step.folder / step.name}.*.json`, and those of the steps after it."
        )


def options_of(arguments):
    """The values of each option, as one string."""
    options = {}
    for each in arguments:
        if each.startswith("--"):
            option, is_joined, value = each.partition("=")
            options[option] = [value] if is_joined else []
        else:
            options[option].append(each)
    return {option: " ".join(values) or "given" for option, values in options.items()}


def run(args, step):
    """Run the script of a step unless it is done, and record its arguments when it starts and ends."""
    if step.record("done").exists():
        return
    print(f"{step.folder.name}: {step.name}", flush=True)
    write_text(step.record("started"), json.dumps({"arguments": step.arguments}, indent=1))
    started = time.perf_counter()
    if args.launcher:
        script = str(EXAMPLES / f"{step.script}.py")
        subprocess.run([*shlex.split(args.launcher), script, *step.arguments], check=True)
    else:
        load_script(step.script).main(step.arguments)
        clear_device_cache(garbage_collection=True)  # frees the models of this step
    found = {"arguments": step.arguments, "seconds": round(time.perf_counter() - started, 1)}
    write_text(step.record("done"), json.dumps(found, indent=1))
    step.record("started").unlink()


def load_script(name):
    """Another script as a module; its dataclasses need the module in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


def metrics_of(folder):
    """The metrics of a round."""
    retrieval = json.loads((folder / "eval.jsonl.metrics.json").read_text(encoding="utf-8"))
    answers = json.loads((folder / "answers" / "eval_results.json").read_text(encoding="utf-8"))
    names = [name for name in ("exact_match", "f1") if name in answers]
    return {"round": folder.name.removeprefix("round_"), **retrieval, **{name: answers[name] for name in names}}


def write_table(path, rows):
    """A Markdown table with one line per round."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (value if isinstance(value, str) else f"{value:.4f}" for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    write_text(path, "\n".join(lines) + "\n")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retriever", required=True, help="Folder or Hub id of the first dual encoder or ColBERT.")
    parser.add_argument(
        "--reader", required=True, help="Folder or Hub id of the first reader, or of a T5, mT5 or umT5."
    )
    parser.add_argument("--train_questions", required=True, help="Training questions with answers, as JSON.")
    parser.add_argument("--eval_questions", required=True, help="Evaluation questions, as JSON.")
    parser.add_argument("--passages", required=True, help="Passages as TSV, JSON or parquet.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for all rounds.")
    parser.add_argument("--rounds", type=int, default=1, help="Number of rounds.")
    parser.add_argument("--n_context", type=int, default=100, help="Passages per question.")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 20, 100], help="Depths at which to measure recall.")
    parser.add_argument(
        "--reader_distillation",
        choices=READER_DISTILLATIONS,
        default="kl",
        help="How the retriever learns from the reader.",
    )
    parser.add_argument("--keep_reader", action="store_true", help="Do not train the reader.")
    parser.add_argument(
        "--answered_only", action="store_true", help="Train only on questions with an answer in their passages."
    )
    parser.add_argument("--index_arguments", default="", help="Arguments to add for index_passages.py, as one string.")
    parser.add_argument("--reader_arguments", default="", help="Arguments to add for train_reader.py.")
    parser.add_argument(
        "--retriever_arguments", default="", help="Arguments to add for train_biencoder.py or train_colbert.py."
    )
    parser.add_argument(
        "--launcher", help="Command that starts the script of each step (default: run it in this process)."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the trainings.")
    parser.add_argument("--use_cpu", action="store_true", help="Do not use a GPU.")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.n_context < 1:
        parser.error("`--rounds` and `--n_context` take positive integers.")
    return args


if __name__ == "__main__":
    main()
