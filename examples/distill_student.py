"""
Distil a retriever: a student that reads many languages learns from a teacher, in the two stages of DR.DECR.

1. Parallel text: the student's vectors of a sentence become those of the teacher for its English translation; token by
   token for a ColBERT, of the whole sentence for a dual encoder.
2. Relevance scores: the student ranks documents for a question as the teacher does for the English question; a live
   teacher, or scores that were stored, by a cross-encoder of `examples/finetune_encoder.py` for instance.

With a recipe, with arguments of your own (`--help` lists them), or as a quick test on tiny data:

    python examples/distill_student.py examples/recipes/drdecr_kd_parallel.yaml \
        --source_file other.tsv --target_file english.tsv
    python examples/distill_student.py examples/recipes/drdecr_kd_xor.yaml \
        --triples xor.tsv --teacher_triples xor_english.tsv
    python examples/distill_student.py --model_name_or_path FacebookAI/xlm-roberta-base --model_type biencoder \
        --objective margin_mse --rows scored_rows.jsonl --output_dir out
    python examples/distill_student.py examples/recipes/drdecr_kd_xor.yaml --smoke --output_dir out

On several processes, with a file of `examples/accelerate_configs`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/distill_student.py ...

An interrupted run resumes from its last complete checkpoint when it is started again. The student and its
processor are saved to `--output_dir`, with the metrics if `--eval_questions` and `--eval_passages` are given.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from datasets import concatenate_datasets
from transformers import set_seed

from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.data import load_parallel, load_training_rows, load_triples
from hf_xlir.models import load_retriever
from hf_xlir.utils import process_group
from support.recipes import check_files, check_given, parse_recipe
from support.runs import EvaluationArguments, train_and_save
from support.smoke import prepare_smoke


ON_PARALLEL_TEXT = ("token_distillation", "embedding_distillation")
ON_SCORES = ("score_distillation", "margin_mse")

Family = Literal["colbert_xlmr", "biencoder"]
Pooling = Literal["cls", "mean", "last4_mean"]


@dataclass
class ModelArguments:
    """The student. Settings that are left out keep the model's value, or a new model's default."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A retriever, or an encoder such as XLM-R."}
    )
    model_type: Family | None = field(default=None, metadata={"help": "What to make of a bare encoder."})
    embedding_dim: int | None = field(default=None, metadata={"help": "Size of a vector."})
    pooling: Pooling | None = field(default=None, metadata={"help": "What a dual encoder's vectors are made of."})
    normalize: bool | None = field(default=None, metadata={"help": "Whether a dual encoder's have length 1."})
    query_length: int | None = field(default=None, metadata={"help": "Tokens per query."})
    document_length: int | None = field(default=None, metadata={"help": "Most tokens per document."})


@dataclass
class TeacherArguments:
    """The teacher, likewise. Stored scores need none."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "A retriever, or an encoder such as XLM-R."}
    )
    teacher_model_type: Family | None = field(default=None, metadata={"help": "What to make of a bare encoder."})
    teacher_pooling: Pooling | None = field(default=None, metadata={"help": "As `pooling`, such as mean."})
    teacher_normalize: bool | None = field(default=None, metadata={"help": "As `normalize`."})
    teacher_query_length: int | None = field(default=None, metadata={"help": "As `query_length`."})
    teacher_document_length: int | None = field(default=None, metadata={"help": "As `document_length`."})


@dataclass
class DataArguments:
    """What to learn from: parallel text, triples, or rows."""

    source_file: str | None = field(default=None, metadata={"help": "Parallel text: sentences in any language."})
    target_file: str | None = field(
        default=None, metadata={"help": "Their translations; left out if `source_file` has both."}
    )
    include_targets: bool = field(
        default=False, metadata={"help": "The student of sentence vectors learns those of the translations, too."}
    )
    triples: str | None = field(default=None, metadata={"help": "Triples of texts, with questions in any language."})
    teacher_triples: str | None = field(default=None, metadata={"help": "The same triples with English questions."})
    quoting: Literal["raw", "csv"] = field(default="raw", metadata={"help": "What quotes mean in triples."})
    rows: str | None = field(
        default=None, metadata={"help": "JSON of rows, with `teacher_query` or `teacher_scores` for instance."}
    )
    num_negatives: int | None = field(
        default=None, metadata={"help": "Use only this many negatives per row, the first ones."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for Arrow files."})


@process_group()
def main(argv=None):
    """Run all steps."""
    # 1. Arguments, checked before work starts
    model_args, teacher_args, data_args, eval_args, training_args, recipe_args = parse_recipe(
        ModelArguments,
        TeacherArguments,
        DataArguments,
        EvaluationArguments,
        RetrieverTrainingArguments,
        argv=argv,
        description=__doc__,
    )
    if training_args.objective not in ON_PARALLEL_TEXT + ON_SCORES:
        names = ", ".join(ON_PARALLEL_TEXT + ON_SCORES)
        raise ValueError(f"`objective` must be one of {names} here, got {training_args.objective!r}.")
    if recipe_args.smoke:
        paths = prepare_smoke(training_args)
        use_smoke_data(paths, model_args, teacher_args, data_args, training_args.objective)
        eval_args.eval_questions, eval_args.eval_passages = paths["questions"], paths["passages"]
    check_given(model_name_or_path=model_args.model_name_or_path)
    check_data(data_args, training_args.objective)
    check_files(
        source_file=data_args.source_file,
        target_file=data_args.target_file,
        triples=data_args.triples,
        teacher_triples=data_args.teacher_triples,
        rows=data_args.rows,
        **asdict(eval_args),
    )
    set_seed(training_args.seed)

    # 2. Student and teacher
    settings = asdict(model_args)
    student, processor = load_retriever(settings.pop("model_name_or_path"), **settings)
    teacher, teacher_processor = load_teacher(teacher_args)

    # 3. Data, read by one process of each machine first
    with training_args.main_process_first(desc="reading the data"):
        rows = load_rows(data_args, with_documents=training_args.objective != "embedding_distillation")
        evaluation = eval_args.load(data_args.cache_dir)

    # 4. Training, then evaluation
    trainer = RetrieverTrainer(
        student,
        training_args,
        processing_class=processor,
        teacher=teacher,
        teacher_processor=teacher_processor,
        train_dataset=rows,
        **evaluation,
    )
    train_and_save(trainer)


def use_smoke_data(paths, model_args, teacher_args, data_args, objective):
    """Replace models and data by tiny ones."""
    model_args.model_name_or_path = teacher_args.teacher_name_or_path = paths["encoder"]
    dense = objective == "embedding_distillation"
    model_args.model_type = model_args.model_type or ("biencoder" if dense else "colbert_xlmr")
    teacher_args.teacher_model_type = model_args.model_type
    data_args.cache_dir = paths["cache"]
    if data_args.rows is not None:
        data_args.rows, data_args.num_negatives = paths["rows"], None
    elif objective in ON_PARALLEL_TEXT:
        data_args.source_file, data_args.target_file = paths["source"], paths["target"]
    else:
        data_args.triples, data_args.teacher_triples = paths["triples"], paths["teacher_triples"]


def check_data(data_args, objective):
    """Raise unless there is one kind of data, and it is what the objective learns from."""
    given = [name for name in ("source_file", "triples", "rows") if getattr(data_args, name) is not None]
    wanted = ["source_file", "rows"] if objective in ON_PARALLEL_TEXT else ["triples", "rows"]
    if len(given) != 1 or given[0] not in wanted:
        raise ValueError(f"`objective={objective!r}` needs one of {wanted}, got {given}.")
    for name, needed in (
        ("target_file", "source_file"),
        ("include_targets", "source_file"),
        ("teacher_triples", "triples"),
        ("num_negatives", "rows"),
    ):
        if getattr(data_args, name) and needed not in given:
            raise ValueError(f"`{name}` needs `{needed}`, got `{given[0]}`.")
    if data_args.include_targets and objective != "embedding_distillation":
        raise ValueError("`include_targets` is for sentence vectors: with tokens, documents are the translations.")


def load_teacher(args):
    """The teacher and its processor, or two times `None` where there is none."""
    settings = {name.removeprefix("teacher_"): value for name, value in asdict(args).items()}
    path = settings.pop("name_or_path")
    return (None, None) if path is None else load_retriever(path, **settings)


def load_rows(data_args, with_documents):
    """The training rows. Columns that are there are used again, so that nothing is copied."""
    if data_args.rows is not None:
        return load_training_rows(data_args.rows, data_args.num_negatives, cache_dir=data_args.cache_dir)
    if data_args.triples is not None:
        options = {"quoting": data_args.quoting, "cache_dir": data_args.cache_dir}
        triples = load_triples(data_args.triples, **options)
        if data_args.teacher_triples is None:
            return triples
        english = load_triples(data_args.teacher_triples, **options)
        if len(english) != len(triples) or any(
            english[row][name] != triples[row][name] for row in (0, -1) for name in ("positive", "negative")
        ):
            raise ValueError(
                f"`{data_args.triples}` and `{data_args.teacher_triples}` are not the same triples: a line of one has "
                "other passages than that line of the other."
            )
        return concatenate_datasets([triples, only(english, query="teacher_query")], axis=1)

    pairs = load_parallel(data_args.source_file, data_args.target_file, cache_dir=data_args.cache_dir)
    rows = pairs.rename_columns({"source": "query", "target": "teacher_query"})
    if with_documents:
        return concatenate_datasets([rows, only(pairs, target="positive")], axis=1)
    if data_args.include_targets:
        targets = concatenate_datasets([only(pairs, target="query"), only(pairs, target="teacher_query")], axis=1)
        return concatenate_datasets([rows, targets])
    return rows


def only(dataset, **names):
    """Columns of a dataset, under new names."""
    return dataset.select_columns(list(names)).rename_columns(names)


if __name__ == "__main__":
    main()
