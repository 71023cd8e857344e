"""
Train a dual encoder: from DPR's examples, from hard negatives (mined before, or with the model before each epoch), or
from a reader's scores.

With a recipe, with arguments of your own (`--help` lists them), or as a quick test on tiny data:

    python examples/train_biencoder.py examples/recipes/dpr_nq.yaml --train_file nq-train.json --output_dir out
    python examples/train_biencoder.py --model_name_or_path out --train_format rows \
        --train_file hard_negatives.jsonl --num_negatives 1 --output_dir out2
    python examples/train_biencoder.py --model_name_or_path out --train_format questions \
        --train_file questions.jsonl --train_passages passages.tsv --output_dir out2
    python examples/train_biencoder.py examples/recipes/fid_kd_retriever.yaml --train_file scores.json --output_dir out
    python examples/train_biencoder.py examples/recipes/dpr_nq.yaml --smoke --output_dir out

`examples/mine_hard_negatives.py` writes the rows with hard negatives, from the same questions. On several processes,
with one of the files in `examples/accelerate_configs`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_biencoder.py ...

An interrupted run resumes from its last complete checkpoint when it is started again. The model and its processor
are saved to `--output_dir`, with the metrics if `--eval_questions` and `--eval_passages` are given.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from transformers import set_seed

from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.data import (
    load_natural_questions,
    load_passages,
    load_questions,
    load_reader_examples,
    load_training_rows,
)
from hf_xlir.models import load_retriever
from hf_xlir.training import HardNegativeRefresh, dpr_rows, reader_rows
from hf_xlir.utils import process_group
from support.recipes import check_files, check_given, parse_recipe
from support.runs import EvaluationArguments, train_and_save
from support.smoke import prepare_smoke


@dataclass
class ModelArguments:
    """The model to train. Settings that are left out keep the value of the model, or the default of a new one."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A dual encoder, or an encoder such as XLM-R."}
    )
    embedding_dim: int | None = field(default=None, metadata={"help": "Size of a vector after a projection."})
    share_encoders: bool | None = field(default=None, metadata={"help": "One tower for queries and documents."})
    pooling: Literal["cls", "mean", "last4_mean"] | None = field(
        default=None, metadata={"help": "What a text's vector is made of."}
    )
    normalize: bool | None = field(default=None, metadata={"help": "Vectors of length 1."})
    query_length: int | None = field(default=None, metadata={"help": "Most tokens per query."})
    document_length: int | None = field(default=None, metadata={"help": "Most tokens per document."})


@dataclass
class DataArguments:
    """The training data."""

    train_file: str | None = field(default=None, metadata={"help": "The examples."})
    train_format: Literal["dpr", "rows", "questions", "reader"] = field(
        default="dpr",
        metadata={
            "help": "DPR's JSON; rows of mine_hard_negatives.py; questions with `passage_ids`, for which the model "
            "mines hard negatives before an epoch; or a reader's examples with its scores."
        },
    )
    train_passages: str | None = field(default=None, metadata={"help": "Where those are mined."})
    refresh_epochs: int = field(default=1, metadata={"help": "Epochs until they are mined again."})
    num_negatives: int | None = field(
        default=None,
        metadata={"help": "A question: drawn from DPR's or mined (1 by default), or a row's first ones (all)."},
    )
    num_passages: int | None = field(
        default=None, metadata={"help": "Use only this many of a reader's passages, the first ones."}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether a bad row ends the script or is left out."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for Arrow files."})


ARGUMENTS = (ModelArguments, DataArguments, EvaluationArguments, RetrieverTrainingArguments)


@process_group()
def main(argv=None):
    """Run all steps."""
    # 1. Arguments, checked before work starts
    model_args, data_args, eval_args, training_args, recipe_args = parse_recipe(
        *ARGUMENTS, argv=argv, description=__doc__
    )
    check_objective(data_args, training_args.objective)
    if recipe_args.smoke:
        paths = prepare_smoke(training_args)
        use_smoke_data(paths, model_args, data_args)
        eval_args.eval_questions, eval_args.eval_passages = paths["questions"], paths["passages"]
    check_given(model_name_or_path=model_args.model_name_or_path, train_file=data_args.train_file)
    if data_args.train_format == "questions":
        check_given(train_passages=data_args.train_passages)
    check_files(train_file=data_args.train_file, train_passages=data_args.train_passages, **asdict(eval_args))
    set_seed(training_args.seed)

    # 2. Model and processor
    settings = asdict(model_args)
    model, processor = load_retriever(settings.pop("model_name_or_path"), "biencoder", **settings)

    # 3. Data, read by one process of each machine first
    with training_args.main_process_first(desc="reading the data"):
        rows, callbacks = load_rows(data_args, training_args.seed)
        evaluation = eval_args.load(data_args.cache_dir)

    # 4. Training, then evaluation
    train_and_save(
        RetrieverTrainer(model, training_args, processor, train_dataset=rows, callbacks=callbacks, **evaluation)
    )


def use_smoke_data(paths, model_args, data_args):
    """Replace model and data by tiny ones."""
    files = {"dpr": "dpr", "rows": "rows", "questions": "questions", "reader": "reader_examples"}
    model_args.model_name_or_path, data_args.cache_dir = paths["encoder"], paths["cache"]
    data_args.train_file = paths[files[data_args.train_format]]
    data_args.train_passages = paths["passages"] if data_args.train_format == "questions" else None


def check_objective(data_args, objective):
    """Raise unless the examples are what the objective learns from."""
    if objective not in ("in_batch_nce", "listwise", "reader_distillation"):
        raise ValueError(
            f"`objective` must be in_batch_nce, listwise or reader_distillation here, got {objective!r}: "
            "`distill_student.py` learns from a teacher."
        )
    if (objective == "reader_distillation") != (data_args.train_format == "reader"):
        raise ValueError(f"`objective={objective!r}` does not learn from `train_format={data_args.train_format!r}`.")
    if data_args.num_negatives is not None and data_args.train_format == "reader":
        raise ValueError("`num_negatives` is not for a reader's examples: `num_passages` limits their passages.")
    if data_args.num_passages is not None and data_args.train_format != "reader":
        raise ValueError("`num_passages` is for a reader's examples: `num_negatives` limits the other ones' passages.")
    if data_args.train_passages is not None and data_args.train_format != "questions":
        raise ValueError(f"`train_passages` needs `train_format='questions'`, got {data_args.train_format!r}.")


def load_rows(data_args, seed):
    """The training rows of a file, and the trainer's callbacks that they need."""
    file, options = data_args.train_file, {"on_error": data_args.on_error, "cache_dir": data_args.cache_dir}
    if data_args.train_format == "rows":
        return load_training_rows(file, data_args.num_negatives, **options), []
    if data_args.train_format == "questions":
        questions = load_questions(file, **options)
        negatives = HardNegativeRefresh(
            questions,
            load_passages(data_args.train_passages, **options),
            every=data_args.refresh_epochs,
            num_negatives=data_args.num_negatives or 1,
            exclude_answers=any(questions["answers"]),
            seed=seed,
        )
        return negatives.rows, [negatives]
    if data_args.train_format == "dpr":
        examples = load_natural_questions("dpr", "train", file, **options)
        rows = dpr_rows(examples, data_args.num_negatives or 1, seed)
    else:
        rows = reader_rows(load_reader_examples(file, **options), data_args.num_passages)
    return rows, [rows]


if __name__ == "__main__":
    main()
