"""
The reader teaches the retriever, in rounds (FiD-KD, https://huggingface.co/papers/2012.04584): no passage needs to be
known to answer a question, only the answers are.

    python examples/iterate_fid_kd.py --retriever RETRIEVER --reader google/mt5-base --rounds 2 \
        --train_questions train.jsonl --eval_questions dev.jsonl --passages psgs_w100.tsv.gz --n_context 100 \
        --reader_arguments "--max_steps 10000 --gradient_checkpointing" \
        --retriever_arguments "--max_steps 10000 --learning_rate 5e-5" --output_dir out

Each round is a folder, `OUTPUT_DIR/round_0` and so on, and keeps what each of its steps made:

1. `passages`: the passages' vectors by the retriever, and their index (`examples/index_passages.py`);
2. `train.jsonl`, `eval.jsonl`: the passages that it finds (`examples/retrieve_passages.py`), with `--answered_only`
   for training questions of which one says an answer, alone;
3. `reader`: trained on them, from the reader of the round before (`examples/train_reader.py`; a reader that learns few
   questions by heart has little to teach: see its `--substitute_answers`);
4. `answers`: its answers to the evaluation questions, and their exact match (`examples/evaluate_reader.py`);
5. `scores`: how much it looked at each passage of the training questions (the same script), or with
   `--reader_distillation perplexity` or `emdr2`, how likely each made the answer;
6. `retriever`: trained on these scores, from the retriever before (`examples/train_biencoder.py`, or
   `examples/train_colbert.py`).

A last folder has steps 1, 2 and 4 of the last retriever, with the last reader and the evaluation questions alone.
`OUTPUT_DIR/report.md` is a table of retrieval and answers by round. A run that was interrupted goes on with the step
that it was at when it is started again with the same arguments: an embedding from its last block, a training from its
last checkpoint. With others it is refused, by the first step that they would change; steps that have not begun may be
given others. So is a second run in a folder where one is at work.

`--launcher "accelerate launch --num_processes 8"` runs each step as a command of its own, on several processes.
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
from hf_xlir.training import READER_DISTILLATIONS, last_whole_checkpoint
from hf_xlir.utils.files import folder_lock, write_text
from support.recipes import check_files, recipe_parser


EXAMPLES = Path(__file__).parent


class Step(NamedTuple):
    """A script that a round runs."""

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
    FiDT5Config.from_pretrained(args.reader)  # says so if it is none
    is_colbert = AutoConfig.from_pretrained(args.retriever).model_type == "colbert_xlmr"
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
    """Read the questions, to find mistakes in them before passages are embedded."""
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
    """The steps of each round, the last of which only measures."""
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
    """The passages' vectors by a retriever, and their index."""
    given = ["--model", retriever, "--passages", args.passages, "--output_dir", folder / "passages"]
    return make_step(args, "index", "index_passages", folder / "passages", given, "index_arguments")


def retrieve(args, folder, split, retriever):
    """The passages that a retriever finds for the questions of a split."""
    questions = args.train_questions if split == "train" else args.eval_questions
    given = ["--model", retriever, "--questions", questions, "--passages", args.passages, "--k", *args.k]
    given += ["--index", folder / "passages", "--n_context", args.n_context, "--output", folder / f"{split}.jsonl"]
    given += ["--answered_only"] * (split == "train" and args.answered_only)
    return make_step(args, f"retrieve_{split}", "retrieve_passages", folder / f"{split}.jsonl", given)


def train_reader(args, folder, reader):
    """A reader trained on what was found for the training questions."""
    given = ["--model_name_or_path", reader, "--train_file", folder / "train.jsonl", "--n_context", args.n_context]
    given += ["--output_dir", folder / "reader", "--seed", args.seed]
    return make_step(args, "train_reader", "train_reader", folder / "reader", given, "reader_arguments")


def read(args, folder, name, reader, examples, *options):
    """What a reader makes of examples."""
    given = ["--model_name_or_path", reader, "--eval_file", examples, "--output_dir", folder / name, *options]
    given += ["--n_context", args.n_context]
    return make_step(args, name, "evaluate_reader", folder / name, given)


def train_retriever(args, folder, retriever, scored, is_colbert):
    """A retriever trained on a reader's scores."""
    given = ["--model_name_or_path", retriever, "--objective", "reader_distillation", "--seed", args.seed]
    given += ["--num_passages", args.n_context, "--output_dir", folder / "retriever"]
    given += ["--reader_distillation", args.reader_distillation]
    given += ["--reader_examples", scored] if is_colbert else ["--train_format", "reader", "--train_file", scored]
    script = "train_colbert" if is_colbert else "train_biencoder"
    return make_step(args, "train_retriever", script, folder / "retriever", given, "retriever_arguments")


def make_step(args, name, script, output, given, more=None):
    """A step with what the round gives it and, by the name of one of this script's arguments, what the user adds."""
    given = [str(each) for each in given]
    added = [] if more is None else shlex.split(getattr(args, more))
    if added and not added[0].startswith("--"):
        raise ValueError(f"`--{more}` begins with `{added[0]}`, which is no option of `{script}.py`.")
    taken = [option for option in options_of(added) if option in options_of(given)]
    if taken:
        raise ValueError(f"`--{more}` has `{taken[0]}`, which the rounds give to each `{script}.py`: leave it out.")
    return Step(output.parent, name, script, given + added + ["--use_cpu"] * args.use_cpu, output)


def check_arguments(steps):
    """Raise if a script does not take what the user adds, or end as it would; values are its own to judge."""
    for step in steps:
        script = load_script(step.script)
        if step.name == "index":
            script.parse_arguments(step.arguments)
        elif step.name.startswith("train_"):
            _, unknown = recipe_parser(*script.ARGUMENTS).parse_known_args(step.arguments)
            if unknown:
                raise ValueError(f"`{step.script}.py` does not take {' '.join(unknown)}: correct its arguments.")


def check_records(args, steps):
    """Raise if a step is done, or has got as far as a checkpoint to go on from, with other options."""
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
            f"`{args.output_dir}` has steps with other options than are given now.\n{first}{others}\nGive what was "
            "given to go on, or another `--output_dir`. To do the step again, remove what it made, "
            f"`{step.output}` and `{step.folder / step.name}.*.json`, and the same of the steps after it."
        )


def options_of(arguments):
    """The values of each option, as one text."""
    options = {}
    for each in arguments:
        if each.startswith("--"):
            option, is_joined, value = each.partition("=")
            options[option] = [value] if is_joined else []
        else:
            options[option].append(each)
    return {option: " ".join(values) or "given" for option, values in options.items()}


def run(args, step):
    """Run a step's script, unless this was done; files say with which arguments it was started, and that it was."""
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
        clear_device_cache(garbage_collection=True)  # of a step's models nothing is left to the next one
    found = {"arguments": step.arguments, "seconds": round(time.perf_counter() - started, 1)}
    write_text(step.record("done"), json.dumps(found, indent=1))
    step.record("started").unlink()


def load_script(name):
    """Another example as a module, under a name that its dataclasses can be found by."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


def metrics_of(folder):
    """What was found and answered in a round."""
    retrieval = json.loads((folder / "eval.jsonl.metrics.json").read_text(encoding="utf-8"))
    answers = json.loads((folder / "answers" / "eval_results.json").read_text(encoding="utf-8"))
    names = [name for name in ("exact_match", "f1") if name in answers]
    return {"round": folder.name.removeprefix("round_"), **retrieval, **{name: answers[name] for name in names}}


def write_table(path, rows):
    """A Markdown table, a line a round."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (value if isinstance(value, str) else f"{value:.4f}" for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    write_text(path, "\n".join(lines) + "\n")


def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retriever", required=True, help="A dual encoder or a ColBERT to begin with.")
    parser.add_argument("--reader", required=True, help="A T5, mT5 or umT5, or a reader, to begin with.")
    parser.add_argument("--train_questions", required=True, help="JSON of questions with answers.")
    parser.add_argument("--eval_questions", required=True, help="The same, to measure with.")
    parser.add_argument("--passages", required=True, help="TSV, JSON or parquet of passages.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of all rounds.")
    parser.add_argument("--rounds", type=int, default=1, help="How often the reader teaches the retriever.")
    parser.add_argument("--n_context", type=int, default=100, help="Passages that are read, and learnt from.")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 20, 100], help="Depths at which to measure retrieval.")
    parser.add_argument(
        "--reader_distillation", choices=READER_DISTILLATIONS, default="kl", help="How the reader teaches."
    )
    parser.add_argument("--keep_reader", action="store_true", help="The reader is trained already: leave it as it is.")
    parser.add_argument(
        "--answered_only", action="store_true", help="Learn from questions of which a passage found says an answer."
    )
    parser.add_argument("--index_arguments", default="", help="More arguments of index_passages.py, in one string.")
    parser.add_argument("--reader_arguments", default="", help="The same of train_reader.py.")
    parser.add_argument("--retriever_arguments", default="", help="The same of train_biencoder or train_colbert.")
    parser.add_argument("--launcher", help="What to start each step's script with, instead of running it here.")
    parser.add_argument("--seed", type=int, default=0, help="Of trainings.")
    parser.add_argument("--use_cpu", action="store_true", help="Leave GPUs alone.")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.n_context < 1:
        parser.error("`--rounds` and `--n_context` take positive integers.")
    return args


if __name__ == "__main__":
    main()
