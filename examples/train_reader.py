"""
Train a reader: Fusion-in-Decoder from any T5, mT5 or umT5, or from a reader that was trained before.

With a recipe, with arguments of your own (`--help` lists them), or as a quick test on tiny data:

    python examples/train_reader.py examples/recipes/fid_reader_base.yaml \
        --train_file train.json --eval_file dev.json --output_dir out
    python examples/train_reader.py --model_name_or_path google/mt5-base --n_context 20 \
        --train_file train.jsonl --max_steps 10000 --gradient_checkpointing --output_dir out
    python examples/train_reader.py examples/recipes/fid_reader_base.yaml --smoke --output_dir out

Files are those of the FiD repository, one JSON array or JSON lines: objects with `question`, `ctxs` (passages with
`text` and perhaps `title`, best first), `answers`, and perhaps `target` and `lang`. The reader learns to write the
`target`, or else one of the `answers`, another one each epoch; with `--substitute_answers 0.8` mostly another
question's, which then stands in the passages instead: it has to read, and cannot learn by heart.

A question may have fewer passages than `n_context`, or none, and is then read alone. Rows with neither `target` nor
`answers`, a passage without text or broken JSON end the script by their lines before anything is written, or are left
out with `--on_error skip`.

On several processes, with a file of `examples/accelerate_configs`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_reader.py ...

With `--eval_file` and `--eval_strategy` the reader answers its questions during training, and with
`--load_best_model_at_end` the checkpoint with the best exact match is the one that is kept and saved in the end. A run
that was interrupted goes on from its last whole checkpoint when it is started again. The model and its processor are
saved to `--output_dir`, with the metrics; `examples/evaluate_reader.py` reads them from there.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from transformers import set_seed

from hf_xlir.data import load_reader_examples
from hf_xlir.models import load_reader
from hf_xlir.training import ReaderTrainer, ReaderTrainingArguments, answer_rows
from hf_xlir.utils import process_group
from support.answer_substitution import AnswerSubstitution
from support.recipes import check_files, check_given, parse_recipe
from support.runs import train_and_save
from support.smoke import prepare_smoke


@dataclass
class ModelArguments:
    """The model to train. Settings that are left out keep the reader's value, or a new reader's default."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "A T5, mT5 or umT5, or a reader."})
    text_maxlength: int | None = field(default=None, metadata={"help": "Most token ids of question and passage."})
    answer_maxlength: int | None = field(default=None, metadata={"help": "Most token ids of an answer."})
    n_context: int | None = field(default=None, metadata={"help": "Most passages of a question, the first so many."})
    passage_eos: bool | None = field(default=None, metadata={"help": "Whether `</s>` ends each passage."})


@dataclass
class DataArguments:
    """The training data."""

    train_file: str | None = field(default=None, metadata={"help": "Questions with passages and answers."})
    eval_file: str | None = field(default=None, metadata={"help": "The same, to be answered during training."})
    substitute_answers: float = field(
        default=0.0,
        metadata={"help": "Share of training questions whose answer is exchanged, in the passages, too, each epoch."},
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether a bad row ends the script or is left out."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for Arrow files."})


ARGUMENTS = (ModelArguments, DataArguments, ReaderTrainingArguments)


@process_group()
def main(argv=None):
    """Run all steps."""
    # 1. Arguments, checked before work starts
    model_args, data_args, training_args, recipe_args = parse_recipe(*ARGUMENTS, argv=argv, description=__doc__)
    if recipe_args.smoke:
        use_smoke_data(prepare_smoke(training_args), model_args, data_args)
    check_given(model_name_or_path=model_args.model_name_or_path, train_file=data_args.train_file)
    if training_args.eval_strategy != "no":
        check_given(eval_file=data_args.eval_file)
    check_files(train_file=data_args.train_file, eval_file=data_args.eval_file)
    set_seed(training_args.seed)

    # 2. Model and processor
    settings = asdict(model_args)
    model, processor = load_reader(settings.pop("model_name_or_path"), **settings)

    # 3. Data, read by one process of each machine first
    options = {"require_answers": True, "on_error": data_args.on_error, "cache_dir": data_args.cache_dir}
    with training_args.main_process_first(desc="reading the data"):
        records = load_reader_examples(data_args.train_file, **options)
        augment = AnswerSubstitution(records, data_args.substitute_answers) if data_args.substitute_answers else None
        rows = answer_rows(records, training_args.seed, augment)
        questions = None if data_args.eval_file is None else load_reader_examples(data_args.eval_file, **options)

    # 4. Training, then evaluation
    train_and_save(
        ReaderTrainer(model, training_args, processor, train_dataset=rows, eval_dataset=questions, callbacks=[rows])
    )


def use_smoke_data(paths, model_args, data_args):
    """Replace model and data by tiny ones."""
    model_args.model_name_or_path, data_args.cache_dir = paths["backbone"], paths["cache"]
    data_args.train_file = data_args.eval_file = paths["reader_examples"]


if __name__ == "__main__":
    main()
