"""What a Trainer tells a model card, interruptions included. Uploads are tested with the Hub's server."""

import json
import re
from types import SimpleNamespace

import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from test_reader_trainer import make_trainer as make_reader_trainer
from transformers.integrations import CodeCarbonCallback
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

import hf_xlir
from hf_xlir import RetrieverTrainer
from hf_xlir.models.auto import FAMILIES
from hf_xlir.training import Listwise, training_facts
from hf_xlir.training.training_facts import TrainingRecord, hardware
from support.runs import metrics_by_language


QUESTIONS = Dataset.from_dict(
    {"id": ["1", "2"], "question": ["a", "b"], "passage_ids": [["x"], ["y"]], "lang": ["ko", "fi"]}
)
PASSAGES = Dataset.from_dict({"id": ["x", "y", "z"], "text": ["one", "two", "three"]})


def make_trainer(folder, callbacks=(), model=None, **arguments):
    made, processor = make_retriever("colbert", make_tokenizer())
    own = {"objective": "listwise", "max_steps": 4, "gradient_accumulation_steps": 2, **arguments}
    rows = make_rows()
    return RetrieverTrainer(
        model or made, make_arguments(folder, **own), processor, train_dataset=rows, callbacks=list(callbacks)
    )


def read(folder):
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def row(card, name):
    (value,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card.text, flags=re.MULTILINE)
    return value


class TestCard:
    def test_retriever(self, tmp_path):
        trainer = make_trainer(tmp_path / "my-colbert", in_batch_weight=0.5, score_scale=1.0)
        trainer.train()
        trainer.create_model_card(
            language="ko",
            license="mit",
            dataset_tags="user/data",
            dataset="World",
            evaluations={"Questions": {"recall@5": {"ko": 0.25}}},
        )
        card = read(tmp_path / "my-colbert")
        assert row(card, "Objective") == "`listwise`, `in_batch_weight=0.5`"
        assert row(card, "Steps") == "4 (4 epochs)"
        assert row(card, "Batch") == "16 rows per step: 8 per process x 1 process(es) x 2 accumulated"
        assert row(card, "Learning rate") == "0.05, constant, warm-up of 0 steps"
        assert row(card, "Optimizer") == "sgd, weight decay 0"
        assert row(card, "Precision") == "float32" and row(card, "Seed") == "42"
        assert row(card, "Hardware").endswith("1 process(es)")
        assert re.fullmatch(r"0 min \d\d s, evaluation and saving included", row(card, "Duration"))
        assert row(card, "Energy") == "not measured"
        assert f"hf_xlir {hf_xlir.__version__}, torch {torch.__version__}" in row(card, "Versions")
        assert row(card, "Training data") == "`user/data`, `World`" and row(card, "Made from") == "not stated"
        assert "Teacher" not in card.text and "Evaluation data" not in card.text
        assert card.data.datasets == ["user/data"] and card.data.license == "mit"
        assert card.data.eval_results[0].metric_value == 0.25 and "listwise" in card.data.tags
        assert 'from_pretrained("my-colbert")' in card.text and "trust_remote_code" not in card.text
        assert re.findall(r"eprint = {(.*)}", card.text) == ["2004.12832", "2112.01488"]

    def test_untrained_with_an_objective_from_outside(self, tmp_path):
        class Mine(Listwise):
            name, papers = "mine", ("2501.00001",)

        model, processor = make_retriever("colbert", make_tokenizer())
        trainer = RetrieverTrainer(
            model, make_arguments(tmp_path), processor, objective=Mine(), train_dataset=make_rows()
        )
        trainer.create_model_card(model_name="user/fresh")
        card = read(tmp_path)
        assert "trained is not stated" in card.text and 'from_pretrained("user/fresh")' in card.text
        assert "mine" in card.data.tags and "eprint = {2501.00001}" in card.text

    def test_teacher_and_origin(self, tmp_path):
        teacher, processor = make_retriever("colbert", make_tokenizer(), seed=1)
        student, _ = make_retriever("colbert", make_tokenizer())
        teacher.save_pretrained(tmp_path / "english")
        args = make_arguments(tmp_path / "out", objective="score_distillation", temperature=3.0)
        trainer = RetrieverTrainer(student, args, processor, teacher=teacher, train_dataset=make_rows())
        trainer.train()
        trainer.create_model_card()
        card = read(tmp_path / "out")
        assert row(card, "Objective") == "`score_distillation`, `temperature=3.0`"
        assert row(card, "Teacher") == "of type `colbert_xlmr`, not published"

        teacher.config._name_or_path = "user/english-colbert"
        student.config._name_or_path = "FacebookAI/xlm-roberta-base"
        trainer.create_model_card()
        card = read(tmp_path / "out")
        assert row(card, "Teacher") == "`user/english-colbert`"
        assert card.data.base_model == ["FacebookAI/xlm-roberta-base"]

        student.config._name_or_path = str(tmp_path / "english")  # a folder, not a repository
        trainer.create_model_card()
        card = read(tmp_path / "out")
        assert card.data.base_model is None and row(card, "Started from") == "the folder `english`"
        assert str(tmp_path) not in str(card)

    def test_last_evaluation(self, tmp_path):
        model, processor = make_retriever("colbert", make_tokenizer())
        trainer = RetrieverTrainer(
            model,
            make_arguments(tmp_path, objective="listwise", eval_strategy="steps", eval_steps=2, eval_k=3),
            processor,
            train_dataset=make_rows(),
            eval_dataset=QUESTIONS,
            eval_passages=PASSAGES,
            compute_metrics=metrics_by_language,
        )
        trainer.train()
        trainer.create_model_card()
        *_, last = [entry for entry in trainer.state.log_history if "eval_recall@1" in entry]
        shown = row(read(tmp_path), "Evaluation data of the training, at step 3")
        assert f"recall@1 {last['eval_recall@1']:.4g}, fi {last['eval_fi_recall@1']:.4g}" in shown
        assert f"mrr@10 {last['eval_mrr@10']:.4g}" in shown
        assert "runtime" not in shown and "per_second" not in shown
        assert read(tmp_path).data.eval_results is None  # the data have no name

    def test_evaluation_of_the_best_checkpoint(self, tmp_path):
        trainer = make_trainer(tmp_path)
        trainer.state.global_step = 6
        trainer.state.log_history = [
            {"step": 2, "eval_recall@5": 0.9, "eval_ko_recall@5": 0.8},
            {"step": 2, "eval_more": 1.0},
            {"step": 4, "eval_recall@5": 0.5, "eval_f1_soft": 0.25},
            {"step": 6, "loss": 1.0},
        ]
        trainer.create_model_card()
        assert row(read(tmp_path), "Evaluation data of the training, at step 4") == "recall@5 0.5; f1_soft 0.25"
        trainer.args.load_best_model_at_end, trainer.state.best_global_step = True, 2
        trainer.create_model_card()
        assert row(read(tmp_path), "Evaluation data of the training, at step 2") == "recall@5 0.9, ko 0.8; more 1"

    def test_reader(self, tmp_path):
        trainer = make_reader_trainer(tmp_path)
        trainer.train()
        trainer.create_model_card()
        card = read(tmp_path)
        assert row(card, "Objective") == "cross-entropy of the answers' tokens"
        assert row(card, "Passages per question") == "at most 2" and card.data.pipeline_tag == "question-answering"
        assert "AutoModelForSeq2SeqLM" in card.text

    def test_measured_energy(self, tmp_path):
        callback = object.__new__(CodeCarbonCallback)  # `codecarbon` is not installed
        callback.tracker = SimpleNamespace(
            start=lambda: None,
            stop=lambda: None,
            final_emissions_data=SimpleNamespace(energy_consumed=0.125, emissions=0.05),
        )
        trainer = make_trainer(tmp_path, [callback])
        trainer.train()
        trainer.create_model_card()
        card = read(tmp_path)
        assert row(card, "Energy").startswith("0.125 kWh, 0.05 kg CO2 eq. (codecarbon")
        emissions = card.data.to_dict()["co2_eq_emissions"]
        assert emissions["emissions"] == 50.0 and emissions["source"] == "codecarbon"
        assert emissions["hardware_used"] == hardware(torch.device("cpu"))
        callback.tracker = SimpleNamespace(start=lambda: None, stop=lambda: None)  # did not stop
        trainer.create_model_card()
        assert row(read(tmp_path), "Energy") == "not measured"


class TestRecord:
    def test_runs_add_up(self, tmp_path, monkeypatch):
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(training_facts, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        args, state = make_arguments(tmp_path), SimpleNamespace(global_step=0)
        record = TrainingRecord()
        record.load_state(None)
        assert record.runs == []
        record.on_train_begin(args, state, None)
        clock.now, state.global_step = 160.0, 5
        record.on_step_end(args, state, None)
        record.save_state(tmp_path)  # then the run is killed
        own = {"processes": 1, "hardware": hardware(torch.device("cpu"))}
        first = {"first_step": 0, "last_step": 5, "seconds": 60.0, **own}
        assert record.runs == [first] == json.loads((tmp_path / "training_record.json").read_text())

        clock.now = 10.0
        again = TrainingRecord()
        again.load_state(tmp_path)
        again.on_train_begin(args, state, None)
        clock.now, state.global_step = 3700.0, 9
        again.on_step_end(args, state, None)
        again.on_train_end(args, state, None)
        clock.now = 9999.0
        assert again.runs == [first, {"first_step": 5, "last_step": 9, "seconds": 3690.0, **own}]

        trainer = make_trainer(tmp_path / "out")
        trainer.remove_callback(TrainingRecord)
        trainer.add_callback(again)
        trainer.state.global_step = 9
        trainer.create_model_card()
        duration = "1 h 02 min 30 s, evaluation and saving included, in 2 runs"
        assert row(read(tmp_path / "out"), "Duration") == duration
        again.load_state(tmp_path / "nothing")  # a checkpoint of another trainer
        again.on_train_begin(args, SimpleNamespace(global_step=5), None)
        trainer.create_model_card()
        assert row(read(tmp_path / "out"), "Duration") == "not recorded"  # no step yet
        again.on_step_end(args, SimpleNamespace(global_step=6), None)
        trainer.create_model_card()
        assert row(read(tmp_path / "out"), "Duration").endswith("from step 5 on; earlier steps were not timed")

    def test_saved_in_checkpoints(self, tmp_path):
        trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
        trainer.train()
        again = make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=4)
        again.train(resume_from_checkpoint=True)
        (record,) = [each for each in again.callback_handler.callbacks if isinstance(each, TrainingRecord)]
        assert [(run["first_step"], run["last_step"]) for run in record.runs] == [(0, 2), (2, 4)]
        again.train()  # from the start
        assert [(run["first_step"], run["last_step"]) for run in record.runs] == [(0, 4)]


class TestSaving:
    def test_code_is_saved_only_for_publishing(self, tmp_path, own_hub_export):
        make_trainer(tmp_path / "own").save_model()
        assert not list((tmp_path / "own").glob("*.py"))
        trainer = make_trainer(tmp_path / "shared")
        trainer._publishing = True
        trainer.save_model()
        names = {path.name for path in (tmp_path / "shared").glob("*.py")}
        assert {"modeling_colbert_xlmr.py", "processing_colbert_xlmr.py"} <= names
        # only for this folder
        assert all(
            each._auto_class is None
            for family in FAMILIES.values()
            for each in (family.config, family.model, family.processor)
        )
        trainer.create_model_card()
        assert "trust_remote_code=True" in read(tmp_path / "shared").text


def test_hardware():
    name = hardware(torch.device("cpu"))
    assert name.endswith(f", {torch.get_num_threads()} thread(s)") and len(name) > 14
    assert hardware(torch.device("mps")) == "mps"
