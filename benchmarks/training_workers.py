"""
One side of `training.py`, in a process of its own: takes the first steps of a training and writes when each one ended.

    python benchmarks/training_workers.py SIDE SETTINGS.json RESULT.json
    python benchmarks/training_workers.py versions

It also runs where the peers are installed and this package is not, so each side imports what it needs itself.
"""

import json
import string
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer, TrainerCallback


PACKAGES = ("torch", "transformers", "sentence-transformers", "pylate")
SCALE = 20.0  # of cosines, as MultipleNegativesRankingLoss has it
QUERY_MARKER, DOCUMENT_MARKER = "[Q] ", "[D] "  # PyLate's


class Clock(TrainerCallback):
    """When each step ended, in seconds by the wall clock and of this process's CPU time, and its loss if asked for."""

    def __init__(self, settings):
        self.settings, self.wall, self.cpu, self.losses = settings, [], [], []

    def on_step_end(self, *args, **kwargs):
        """Take note of the time."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def run(self, trainer, model):
        """Train, with the clock as a callback of the trainer."""
        if self.settings["check"]:
            _leave_out_dropout(model)
            step = trainer.training_step

            def training_step(*args, **kwargs):
                loss = step(*args, **kwargs)
                self.losses.append(loss.item())
                return loss

            trainer.training_step = training_step
        trainer.add_callback(self)
        trainer.train()


def train_ours(settings, rows, clock):
    """`RetrieverTrainer`."""
    from datasets import Dataset

    from hf_xlir import (
        BiEncoderModel,
        BiEncoderProcessor,
        ColBERTXLMRModel,
        ColBERTXLMRProcessor,
        RetrieverTrainer,
        RetrieverTrainingArguments,
    )

    folder = settings["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = {name: settings[name] for name in ("query_length", "document_length")}
    if settings["task"] == "listwise":
        markers = tokenizer.convert_tokens_to_ids([QUERY_MARKER, DOCUMENT_MARKER])
        fields = dict(zip(("query_marker_id", "document_marker_id"), markers, strict=True), query_expansion="mask")
        model = ColBERTXLMRModel.from_pretrained(folder, **lengths, **fields)
        model.linear.weight.data.copy_(_projection(settings))
        processor, objective = ColBERTXLMRProcessor.from_config(tokenizer, model.config), {"objective": "listwise"}
    else:
        model = BiEncoderModel.from_pretrained(folder, pooling="mean", normalize=True, **lengths)
        processor = BiEncoderProcessor.from_config(tokenizer, model.config)
        objective = {"objective": "in_batch_nce", "score_scale": SCALE}
        rows = [{name: row[name] for name in ("query", "positive")} for row in rows]
    args = RetrieverTrainingArguments(
        **_trainer_arguments(settings), **objective, train_sampling_strategy="sequential"
    )
    trainer = RetrieverTrainer(model, args, processor, train_dataset=Dataset.from_list(rows))
    clock.run(trainer, model)


def train_bare(settings, rows, clock):
    """The same mathematics as a loop in PyTorch, without any checks, logs or progress."""
    tokenizer = AutoTokenizer.from_pretrained(settings["folder"])
    encoder = AutoModel.from_pretrained(settings["folder"], add_pooling_layer=False)
    parameters = list(encoder.parameters())
    if settings["task"] == "listwise":
        weight = torch.nn.Parameter(_projection(settings))
        parameters.append(weight)
        loss_of = _bare_listwise(settings, tokenizer, encoder, weight)
    else:
        loss_of = _bare_nce(settings, tokenizer, encoder)
    encoder.train()
    if settings["check"]:
        _leave_out_dropout(encoder)
    optimizer = torch.optim.AdamW(parameters, lr=settings["learning_rate"], weight_decay=0.0, fused=True)
    for start in range(0, settings["steps"] * settings["batch_size"], settings["batch_size"]):
        loss = loss_of(rows[start : start + settings["batch_size"]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.on_step_end()
        if settings["check"]:
            clock.losses.append(loss.item())


def _bare_listwise(settings, tokenizer, encoder, weight):
    markers = tokenizer.convert_tokens_to_ids([QUERY_MARKER, DOCUMENT_MARKER])
    skipped = torch.tensor(tokenizer.convert_tokens_to_ids(_punctuation(tokenizer)))

    def embed(texts, marker, length, padding):
        encoded = tokenizer(texts, truncation=True, max_length=length - 1, padding=padding, return_tensors="pt")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        ids = torch.cat([ids[:, :1], torch.full_like(ids[:, :1], marker), ids[:, 1:]], dim=1)
        mask = torch.cat([mask[:, :1], mask], dim=1)
        if padding == "max_length":
            ids = ids.masked_fill(mask == 0, tokenizer.mask_token_id)
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return F.normalize(states @ weight.T, dim=-1), ids, mask

    def loss_of(rows):
        documents = [text for row in rows for text in (row["positive"], *row["negatives"])]
        queries, _, _ = embed([row["query"] for row in rows], markers[0], settings["query_length"], "max_length")
        documents, ids, mask = embed(documents, markers[1], settings["document_length"], True)
        counts = mask.bool() & ~torch.isin(ids, skipped)
        similarities = queries[:, None] @ documents.unflatten(0, (len(rows), -1)).transpose(-1, -2)
        similarities = similarities.masked_fill(~counts.unflatten(0, (len(rows), -1))[:, :, None], -torch.inf)
        scores = similarities.max(dim=-1).values.sum(dim=-1)  # (rows, documents of each)
        return F.cross_entropy(scores, torch.zeros(len(rows), dtype=torch.long))

    return loss_of


def _bare_nce(settings, tokenizer, encoder):
    def embed(texts, length):
        encoded = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        states = encoder(**encoded).last_hidden_state
        weights = encoded["attention_mask"][..., None].to(states.dtype)
        return F.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    def loss_of(rows):
        queries = embed([row["query"] for row in rows], settings["query_length"])
        documents = embed([row["positive"] for row in rows], settings["document_length"])
        return F.cross_entropy(queries @ documents.T * SCALE, torch.arange(len(rows)))

    return loss_of


def train_pylate(settings, rows, clock):
    """
    PyLate with its loss `Distillation`: with `normalize_scores=False` and a teacher that is sure of the positive it is
    listwise cross-entropy over each query's own documents. (`Contrastive` compares all documents of the batch.)
    """
    from datasets import Dataset
    from pylate.losses import Distillation
    from pylate.models import ColBERT
    from pylate.utils import ColBERTCollator

    model = ColBERT(
        settings["folder"],
        embedding_size=len(_projection(settings)),
        query_prefix=QUERY_MARKER,
        document_prefix=DOCUMENT_MARKER,
        query_length=settings["query_length"],
        document_length=settings["document_length"],
        skiplist_words=_punctuation(AutoTokenizer.from_pretrained(settings["folder"])),
        device="cpu",
    )
    model[1].linear.weight.data.copy_(_projection(settings))
    sure = [0.0] + [-100.0] * len(rows[0]["negatives"])
    data = Dataset.from_list(
        [{"query": row["query"], "documents": [row["positive"], *row["negatives"]], "scores": sure} for row in rows]
    )
    loss = Distillation(model, normalize_scores=False)
    _train_sentence_transformer(settings, model, loss, data, clock, data_collator=ColBERTCollator(model.tokenize))


def train_sentence_transformers(settings, rows, clock):
    """Sentence Transformers with MultipleNegativesRankingLoss."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer

    encoder = Transformer(settings["folder"], max_seq_length=settings["document_length"])
    model = SentenceTransformer(modules=[encoder, Pooling(settings["hidden_size"], "mean")], device="cpu")
    data = Dataset.from_list([{"anchor": row["query"], "positive": row["positive"]} for row in rows])
    _train_sentence_transformer(settings, model, MultipleNegativesRankingLoss(model, scale=SCALE), data, clock)


def _train_sentence_transformer(settings, model, loss, data, clock, **kwargs):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    def in_order(dataset, batch_size, drop_last, **kwargs):
        return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last, **kwargs)

    args = SentenceTransformerTrainingArguments(**_trainer_arguments(settings), batch_sampler=in_order)
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=loss, **kwargs)
    clock.run(trainer, model)


def _trainer_arguments(settings):
    """What all three trainers take; the rest is their defaults: fused AdamW, gradients clipped at norm 1."""
    return {
        "output_dir": str(Path(settings["folder"], "out")),
        "per_device_train_batch_size": settings["batch_size"],
        "max_steps": settings["steps"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def _projection(settings):
    return torch.load(Path(settings["folder"], "projection.pt"), weights_only=True)


def _punctuation(tokenizer):
    """The pieces that are one punctuation mark, which documents are not scored by."""
    pieces = [space + mark for space in ("", "\u2581") for mark in string.punctuation]
    return [piece for piece in pieces if piece in tokenizer.get_vocab()]


def _leave_out_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


SIDES = {
    "ours": train_ours,
    "bare": train_bare,
    "pylate": train_pylate,
    "sentence-transformers": train_sentence_transformers,
}


def main():
    """Run the side that the command line names, or print the versions of the libraries."""
    if sys.argv[1] == "versions":
        print(json.dumps(_versions()))
        return
    side, settings_path, result_path = sys.argv[1:]
    settings = json.loads(Path(settings_path).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    rows = json.loads(Path(settings["folder"], "rows.json").read_text(encoding="utf-8"))
    clock = Clock(settings)
    SIDES[side](settings, rows, clock)
    result = {"wall": clock.wall, "cpu": clock.cpu, "losses": clock.losses}
    Path(result_path).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
