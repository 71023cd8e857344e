"""
Train a ColBERT from triples: of texts, of ids, or n-way with the scores of a teacher.

With a recipe, with arguments of your own (`--help` lists them), or as a quick test on tiny data:

    python examples/train_colbert.py examples/recipes/drdecr_nq.yaml --triples triples.tsv --output_dir out
    python examples/train_colbert.py --model_name_or_path FacebookAI/xlm-roberta-base --objective margin_mse \
        --triples examples.json --queries queries.tsv --passages collection.tsv --output_dir out
    python examples/train_colbert.py examples/recipes/drdecr_nq.yaml --smoke --output_dir out

On several processes, with a file of `examples/accelerate_configs`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_colbert.py ...

An interrupted run resumes from its last complete checkpoint when it is started again. The model and its processor
are saved to `--output_dir`, with the metrics if `--eval_questions` and `--eval_passages` are given.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from transformers import set_seed

from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.data import load_reader_examples, load_triples
from hf_xlir.models import load_retriever
from hf_xlir.training import reader_rows
from hf_xlir.utils import process_group
from support.recipes import check_files, check_given, parse_recipe
from support.runs import EvaluationArguments, train_and_save
from support.smoke import prepare_smoke


OBJECTIVES = ("listwise", "in_batch_nce", "margin_mse", "score_distillation", "reader_distillation")
WITH_SCORES = ("margin_mse", "score_distillation")


@dataclass
class ModelArguments:
    """The model to train. Settings that are left out keep the value of the model, or the default of a new one."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "A ColBERT, or an encoder such as XLM-R."})
    embedding_dim: int | None = field(default=None, metadata={"help": "Size of a token's vector."})
    query_length: int | None = field(default=None, metadata={"help": "Tokens per query."})
    document_length: int | None = field(default=None, metadata={"help": "Most tokens per document."})
    query_expansion: Literal["pad", "mask", "none"] | None = field(
        default=None, metadata={"help": "How a short query is filled up."}
    )


@dataclass
class DataArguments:
    """The training data."""

    triples: str | None = field(default=None, metadata={"help": "Triples of texts, or of ids."})
    queries: str | None = field(default=None, metadata={"help": "Where the ids of queries are looked up."})
    passages: str | None = field(default=None, metadata={"help": "Where the ids of passages are looked up."})
    num_negatives: int | None = field(
        default=None, metadata={"help": "Use only this many negatives, the first ones (with ids)."}
    )
    reader_examples: str | None = field(
        default=None, metadata={"help": "Instead of triples, for reader_distillation: a reader's scored examples."}
    )
    num_passages: int | None = field(
        default=None, metadata={"help": "Use only this many of a reader's passages, the first ones."}
    )
    quoting: Literal["raw", "csv"] = field(default="raw", metadata={"help": "What quotes mean in triples of texts."})
    streaming: bool = field(default=False, metadata={"help": "Read during training, and write no Arrow file."})
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
    if training_args.objective not in OBJECTIVES:
        raise ValueError(f"`objective` must be one of {', '.join(OBJECTIVES)} here, got {training_args.objective!r}.")
    if recipe_args.smoke:
        ids = training_args.objective in WITH_SCORES or data_args.queries or data_args.num_negatives
        use_smoke_data(prepare_smoke(training_args), model_args, data_args, eval_args, ids)
    from_reader = training_args.objective == "reader_distillation"
    source = "reader_examples" if from_reader else "triples"
    check_given(model_name_or_path=model_args.model_name_or_path, **{source: getattr(data_args, source)})
    check_files(
        triples=data_args.triples,
        reader_examples=data_args.reader_examples,
        queries=data_args.queries,
        passages=data_args.passages,
        **asdict(eval_args),
    )
    set_seed(training_args.seed)

    # 2. Model and processor
    settings = asdict(model_args)
    model, processor = load_retriever(settings.pop("model_name_or_path"), "colbert_xlmr", **settings)

    # 3. Data, read by one process of each machine first
    with training_args.main_process_first(desc="reading the data"):
        rows, callbacks = load_rows(data_args, from_reader)
        evaluation = eval_args.load(data_args.cache_dir)

    # 4. Training, then evaluation
    train_and_save(
        RetrieverTrainer(model, training_args, processor, train_dataset=rows, callbacks=callbacks, **evaluation)
    )


def load_rows(data_args, from_reader):
    """The training rows of a file, and the trainer's callbacks that they need."""
    options = {"on_error": data_args.on_error, "cache_dir": data_args.cache_dir}
    if from_reader:
        rows = reader_rows(load_reader_examples(data_args.reader_examples, **options), data_args.num_passages)
        return rows, [rows]
    triples = load_triples(
        data_args.triples,
        data_args.queries,
        data_args.passages,
        num_negatives=data_args.num_negatives,
        streaming=data_args.streaming,
        quoting=data_args.quoting,
        **options,
    )
    return triples, []


def use_smoke_data(paths, model_args, data_args, eval_args, ids):
    """Replace model and data by tiny ones."""
    model_args.model_name_or_path = paths["encoder"]
    data_args.triples, data_args.cache_dir = paths["nway" if ids else "triples"], paths["cache"]
    data_args.num_negatives = None
    data_args.reader_examples = paths["reader_examples"]
    if ids:
        data_args.queries, data_args.passages = paths["queries"], paths["passages"]
    eval_args.eval_questions, eval_args.eval_passages = paths["questions"], paths["passages"]


if __name__ == "__main__":
    main()
