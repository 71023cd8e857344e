"""
Fine-tune an encoder, with the layers of a retriever of this package or any other: to classify texts, or to rerank.

Text classification, and a cross-encoder that scores pairs of question and passage; and in small, to see them run:

    python examples/finetune_encoder.py --model_name_or_path outputs/drdecr/kd_xor \
        --train_file train.jsonl --eval_file test.jsonl --output_dir out
    python examples/finetune_encoder.py --task reranking --model_name_or_path FacebookAI/xlm-roberta-base \
        --train_file hard_negatives.jsonl --output_dir reranker
    python examples/finetune_encoder.py --task reranking --smoke --output_dir out

Files for classification are CSV, or JSON lines, with the columns `text`, perhaps `text_pair`, and `label`. Those for
reranking are rows as `examples/mine_hard_negatives.py` writes them: the positive has to score above its negatives.

A reranker's scores are a teacher's, for `examples/distill_student.py`. This writes the rows again, with
`teacher_scores` of their documents; with `--use_teacher_query` they are those for the rows' English queries:

    python examples/finetune_encoder.py --task reranking --model_name_or_path reranker \
        --score_file hard_negatives.jsonl --scored_file scored_rows.jsonl --output_dir reranker
    python examples/distill_student.py --model_name_or_path student --objective margin_mse \
        --rows scored_rows.jsonl --output_dir distilled

On several processes, with a file of `examples/accelerate_configs`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/finetune_encoder.py ...

An interrupted run resumes from its last complete checkpoint when it is started again.
"""

import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_xlir.data import load_training_rows
from hf_xlir.models import RetrieverConfig, load_retriever
from hf_xlir.training import WholeCheckpointsMixin, listwise_cross_entropy_loss
from hf_xlir.utils import process_group, replacing
from support.recipes import check_files, check_given, parse_recipe
from support.runs import train_and_save
from support.smoke import prepare_smoke


@dataclass
class ModelArguments:
    """What to fine-tune."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An encoder; of a dual encoder with two towers, the queries' one is taken."}
    )
    max_length: int = field(default=256, metadata={"help": "Most token ids of a text, or of a pair."})


@dataclass
class DataArguments:
    """What to train on, and what to score."""

    task: Literal["classification", "reranking"] = field(default="classification", metadata={"help": "What to learn."})
    train_file: str | None = field(default=None, metadata={"help": "Labelled texts, or rows; none to score only."})
    eval_file: str | None = field(default=None, metadata={"help": "The same, for the accuracy."})
    score_file: str | None = field(default=None, metadata={"help": "Rows that a reranker scores in the end."})
    scored_file: str | None = field(default=None, metadata={"help": "Where they are written with `teacher_scores`."})
    use_teacher_query: bool = field(
        default=False, metadata={"help": "Read the rows' `teacher_query`, in English, instead of `query`."}
    )
    num_negatives: int | None = field(
        default=None, metadata={"help": "Use only this many negatives per row, the first ones."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for Arrow files."})


class EncoderTrainer(WholeCheckpointsMixin, Trainer):
    """The Trainer, with checkpoints that are whole."""

    # Losses are means over their batch, so that gradient accumulation has to average, too
    loss_is_scaled_for_ga = False


class RerankingTrainer(EncoderTrainer):
    """Each row's positive has to score above the row's negatives."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The cross-entropy of rows of pairs; with `return_outputs` their scores, `(rows, pairs of a row)`."""
        labels = inputs.pop("labels")
        scores = model(**inputs).logits.view(len(labels), -1)
        loss = listwise_cross_entropy_loss(scores)
        return (loss, {"logits": scores}) if return_outputs else loss


@process_group()
def main(argv=None):
    """Run all steps."""
    # 1. Arguments, checked before work starts
    model_args, data_args, training_args, recipe_args = parse_recipe(
        ModelArguments, DataArguments, TrainingArguments, argv=argv, description=__doc__
    )
    if recipe_args.smoke:
        use_smoke_data(prepare_smoke(training_args), model_args, data_args, training_args.output_dir)
    check_given(model_name_or_path=model_args.model_name_or_path)
    check_data(data_args)
    training_args.remove_unused_columns = False
    set_seed(training_args.seed)

    # 2. Tokenizer, data and model
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    with training_args.main_process_first(desc="reading the data"):
        if data_args.task == "classification":
            data, labels = load_texts(data_args, tokenizer, model_args.max_length)
            collator, trainer_class = DataCollatorWithPadding(tokenizer), EncoderTrainer
        else:
            data, labels = load_rows(data_args), {"num_labels": 1}
            collator = partial(collate_rows, tokenizer, model_args.max_length, data_args.use_teacher_query)
            trainer_class = RerankingTrainer
    model = load_classifier(model_args.model_name_or_path, **labels)

    # 3. Training, then evaluation
    trainer = trainer_class(
        model,
        training_args,
        data_collator=collator,
        train_dataset=data.get("train_file"),
        eval_dataset=data.get("eval_file"),
        processing_class=tokenizer,
        compute_metrics=compute_accuracy,
    )
    if data_args.train_file is not None:
        train_and_save(trainer)

    # 4. Scores
    if data_args.score_file is not None:
        write_scores(trainer, data["score_file"], Path(data_args.scored_file))


def use_smoke_data(paths, model_args, data_args, output_dir):
    """Replace model and data by tiny ones."""
    model_args.model_name_or_path, data_args.cache_dir = paths["encoder"], paths["cache"]
    if data_args.task == "classification":
        data_args.train_file = data_args.eval_file = paths["texts"]
    else:
        data_args.train_file = data_args.eval_file = data_args.score_file = paths["rows"]
        data_args.scored_file, data_args.num_negatives = str(Path(output_dir, "scored_rows.jsonl")), None


def check_data(data_args):
    """Raise unless the files are there and go together."""
    if data_args.train_file is None and data_args.score_file is None:
        raise ValueError("There is nothing to do: give `train_file`, `score_file` or both.")
    if (data_args.score_file is None) != (data_args.scored_file is None):
        raise ValueError("`score_file` and `scored_file` go together: what to score, and where to write it.")
    if data_args.eval_file is not None and data_args.train_file is None:
        raise ValueError("`eval_file` is for a model in training: give `train_file`, too.")
    for_rows = [name for name in ("score_file", "use_teacher_query", "num_negatives") if getattr(data_args, name)]
    if data_args.task == "classification" and for_rows:
        raise ValueError(f"`{for_rows[0]}` needs `task=reranking`.")
    check_files(**{name: getattr(data_args, name) for name in ("train_file", "eval_file", "score_file")})


def load_texts(data_args, tokenizer, max_length):
    """Tokenized texts by the argument that names their file, and the labels as the model's configuration has them."""
    data, names = {}, None
    for argument in ("train_file", "eval_file"):
        file = getattr(data_args, argument)
        if file is None:
            continue
        if file.removesuffix(".gz").endswith(".csv"):
            texts = Dataset.from_csv(file, cache_dir=data_args.cache_dir, keep_default_na=False)  # "NA" is a text
        else:
            texts = Dataset.from_json(file, cache_dir=data_args.cache_dir)
        for column in ("text", "label"):
            if column not in texts.column_names or not {None, ""}.isdisjoint(texts[column]):
                raise ValueError(f"`{argument}` needs the column `{column}` in all rows; it has {texts.column_names}.")
        if names is None:
            names = [str(label) for label in sorted(set(texts["label"]))]
        unknown = sorted({str(label) for label in texts["label"]} - set(names))
        if unknown:
            raise ValueError(f"`{argument}` has labels that `train_file` does not have: {unknown[:5]}.")
        data[argument] = texts.map(
            tokenize,
            batched=True,
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length, "labels": ClassLabel(names=names)},
            remove_columns=texts.column_names,
        )
    label2id = {name: place for place, name in enumerate(names)}
    return data, {"num_labels": len(names), "label2id": label2id, "id2label": dict(enumerate(names))}


def tokenize(rows, tokenizer, max_length, labels):
    """Token ids of texts or pairs of texts, unpadded: a batch is padded to the longest of its own."""
    encoded = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=max_length)
    return {**encoded, "labels": labels.str2int([str(label) for label in rows["label"]])}


def load_rows(data_args):
    """Rows of a query and its documents by the argument that names their file."""
    data = {}
    for argument in ("train_file", "eval_file", "score_file"):
        file = getattr(data_args, argument)
        if file is None:
            continue
        rows = load_training_rows(file, data_args.num_negatives, cache_dir=data_args.cache_dir)
        if not rows[0]["negatives"]:
            raise ValueError(f"The rows of `{argument}` have no `negatives`: mine some first.")
        if data_args.use_teacher_query and "teacher_query" not in rows.column_names:
            raise ValueError(f"The rows of `{argument}` have no `teacher_query`: leave `use_teacher_query` out.")
        data[argument] = rows
    return data


def collate_rows(tokenizer, max_length, use_teacher_query, rows):
    """A batch of pairs, those of a row one after another, and for each row the place of its positive."""
    queries, documents = [], []
    for row in rows:
        of_row = [row["positive"], *row["negatives"]]
        documents += [f"{each['title']} {each['text']}".strip() for each in of_row]
        queries += [row["teacher_query" if use_teacher_query else "query"]] * len(of_row)
    pairs = tokenizer(queries, documents, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return {**pairs, "labels": torch.zeros(len(rows), dtype=torch.long)}


def load_classifier(path, **labels):
    """A new head on an encoder: a retriever's, or what `AutoModelForSequenceClassification` loads."""
    config = AutoConfig.from_pretrained(path)
    if not isinstance(config, RetrieverConfig):
        return AutoModelForSequenceClassification.from_pretrained(path, **labels)
    encoder = load_retriever(path)[0].encoder
    config = copy.deepcopy(encoder.config)
    config.update(labels)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.get_default_dtype())
    missing = model.base_model.load_state_dict(encoder.state_dict(), strict=False).missing_keys
    if any(not name.startswith("pooler.") for name in missing):  # a retriever has no pooler
        raise ValueError(f"`{path}` has no weights for {missing}.")
    return model


def compute_accuracy(prediction):
    """How often the highest logit is that of the label."""
    predicted = np.argmax(prediction.predictions, axis=-1)
    return {"accuracy": float(np.mean(predicted == prediction.label_ids))}


def write_scores(trainer, rows, path):
    """Write rows with their documents' scores, beside and then renamed: what is there is whole."""
    scores = trainer.predict(rows).predictions  # (rows, documents of a row)
    if len(scores) != len(rows):
        raise ValueError("`dataloader_drop_last` leaves out rows that are to be scored: leave it out.")
    if trainer.is_world_process_zero():
        kept = [name for name in rows.column_names if name != "teacher_scores"]
        scored = rows.select_columns(kept).add_column("teacher_scores", scores.tolist())
        with replacing(path) as draft:
            scored.to_json(draft, force_ascii=False)
        print(f"{len(scored)} rows with scores of {scores.shape[1]} documents each are in {path}.")


if __name__ == "__main__":
    main()
