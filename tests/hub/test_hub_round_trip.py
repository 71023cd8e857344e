"""From a Trainer to the Hub and back: fresh processes with empty caches, which reach only the test server."""

import json
import time

import pytest
import torch
from card_rules import faults_of_card
from datasets import Dataset
from fid_tiny import make_backbone, make_reader
from fid_tiny import make_tokenizer as make_reader_tokenizer
from hub_api import TOKEN
from hub_server import Fault
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import FiDT5Processor, QuestionAnsweringPipeline, RetrieverTrainer
from hf_xlir.index import LateInteractionIndex, add_dense_index, embed_passages, push_index_to_hub


REPO = "tester/my-colbert"
TEXTS = ["red green", "blue"]
PASSAGES = Dataset.from_dict(
    {"id": ["1", "2", "3"], "title": ["red", "", "sea"], "text": ["green blue", "rain", "blue blue red"]}
)

ENCODE = f"""
import torch

torch.set_num_threads(1)
with torch.no_grad():
    ANSWER["queries"] = model(**processor.process_queries({TEXTS})).embeddings.tolist()
    ANSWER["documents"] = model(**processor.process_documents({TEXTS})).embeddings.tolist()
ANSWER["modules"] = [type(each).__module__.split(".")[0] for each in (model, processor)]
"""


def make_trainer(folder, seed=0, **arguments):
    model, processor = make_retriever("colbert", make_tokenizer(), seed=seed)
    own = {"objective": "listwise", "hub_model_id": REPO, "max_steps": 2, **arguments}
    return RetrieverTrainer(model, make_arguments(folder, **own), processor, train_dataset=make_rows())


@torch.no_grad()
def expected(trainer):
    model, processor = trainer.model.eval(), trainer.processing_class
    return (
        model(**processor.process_queries(TEXTS)).embeddings,
        model(**processor.process_documents(TEXTS)).embeddings,
    )


def check_embeddings(answer, trainer):
    for found, own in zip((answer["queries"], answer["documents"]), expected(trainer), strict=True):
        assert torch.allclose(torch.tensor(found), own, atol=1e-6)


class TestModels:
    @pytest.mark.slow
    def test_round_trip(self, hub, in_fresh_process, tmp_path, own_hub_export):
        trainer = make_trainer(tmp_path / "out")
        trainer.train()
        (tmp_path / "out" / "checkpoint-2").mkdir()
        (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").write_bytes(b"large")
        with hub.failing(Fault("PUT", "/lfs/", "drop"), Fault("POST", "/commit/", "status")):
            commit = trainer.push_to_hub(
                language=["ko", "fi"],
                license="apache-2.0",
                dataset_tags="tester/data",
                evaluations={"XQuAD-R": {"recall@5": {"ko": 50.0}}},
            )
        repository = hub.repository(REPO)
        assert list(repository.commits)[1:] == [commit.oid]  # one commit
        files = hub.files(REPO)
        assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= set(
            files
        )
        assert {"modeling_colbert_xlmr.py", "processing_colbert_xlmr.py", "configuration_colbert_xlmr.py"} <= set(
            files
        )
        assert not [path for path in files if path.startswith("checkpoint") or path.endswith((".pt", ".bin", ".pkl"))]
        card = files["README.md"].decode()
        assert faults_of_card(card, "model") == ([], [])
        assert ModelCard(card).data.eval_results[0].metric_value == 50.0
        assert "| Steps | 2 (1 epochs) |" in card and f'from_pretrained("{REPO}")' in card

        loading = f"""
model = AutoModel.from_pretrained({REPO!r}).eval()
processor = AutoProcessor.from_pretrained({REPO!r})
"""
        begin = "import hf_xlir\nfrom transformers import AutoModel, AutoProcessor\n"
        answer = in_fresh_process(begin + loading + ENCODE)
        assert answer["modules"] == ["hf_xlir"] * 2
        check_embeddings(answer, trainer)

        # Without the package, the code in the repository gives the same vectors, if it is trusted
        untrusted = f"""
from transformers import AutoModel, AutoProcessor

for auto in (AutoModel, AutoProcessor):
    try:
        auto.from_pretrained({REPO!r})
    except ValueError as error:
        ANSWER[auto.__name__] = str(error)
"""
        trusted = loading.replace(f"({REPO!r})", f"({REPO!r}, revision={commit.oid!r}, trust_remote_code=True)")
        answer = in_fresh_process(untrusted + trusted + ENCODE, package=False, token=None)
        assert "trust_remote_code" in answer["AutoModel"] and "trust_remote_code" in answer["AutoProcessor"]
        assert answer["modules"] == ["transformers_modules"] * 2
        check_embeddings(answer, trainer)

    @pytest.mark.slow
    def test_revisions_and_rights(self, hub, in_fresh_process, tmp_path, own_hub_export):
        first, second = make_trainer(tmp_path / "1"), make_trainer(tmp_path / "2", seed=1)
        first.push_to_hub(private=True)
        second.push_to_hub(revision="better")
        assert hub.repository(REPO).private and set(hub.repository(REPO).branches) == {"main", "better"}
        begin = "from hf_xlir.models.auto import load_retriever\nfrom transformers import AutoModel, AutoProcessor\n"
        for revision, trainer in (("main", first), ("better", second)):
            loading = f"""
model = AutoModel.from_pretrained({REPO!r}, revision={revision!r}).eval()
processor = AutoProcessor.from_pretrained({REPO!r}, revision={revision!r})
"""
            check_embeddings(in_fresh_process(begin + loading + ENCODE), trainer)
        refused = f"""
from hf_xlir.index import load_index_from_hub
from huggingface_hub.errors import RepositoryNotFoundError

for name, load in (("auto", AutoModel.from_pretrained), ("own", load_retriever), ("index", load_index_from_hub)):
    try:
        load({REPO!r})
    except Exception as error:
        cause = error if isinstance(error, RepositoryNotFoundError) else error.__cause__
        ANSWER[name] = [type(error).__name__, type(cause).__name__, str(error)]
"""
        answer = in_fresh_process(begin + refused, token=None)
        for name in ("auto", "own"):  # an error of Transformers, caused by that of the Hub
            kind, cause, message = answer[name]
            assert (kind, cause) == ("OSError", "RepositoryNotFoundError") and "private repository" in message
        kind, cause, message = answer["index"]
        assert kind == cause == "RepositoryNotFoundError" and "private or gated repo" in message

    @pytest.mark.slow
    def test_pushed_while_training(self, hub, in_fresh_process, tmp_path, own_hub_export):
        """The last checkpoint's upload has a model, its processor and a card, without any further call."""
        saving = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 1, "hub_token": TOKEN}
        trainer = make_trainer(tmp_path, hub_private_repo=True, hub_always_push=True, **saving)
        trainer.create_model_card(language="ko", license="mit", evaluations={"Old": {"recall@5": {"ko": 1.0}}})
        trainer.train()
        repository, files = hub.repository(REPO), hub.files(REPO)
        assert repository.private and len(repository.commits) == 3  # the creation and two checkpoints
        assert {"config.json", "model.safetensors", "modeling_colbert_xlmr.py", "processing_text.py"} <= set(files)
        assert "auto_map" in json.loads(files["config.json"])
        assert not [path for path in files if path.startswith("checkpoint")]
        assert all(TOKEN.encode() not in content for content in files.values())
        card = files["README.md"].decode()
        assert faults_of_card(card, "model") == ([], [])
        assert "| Steps | 2 (1 epochs) |" in card and "license: mit" in card and "trust_remote_code=True" in card
        assert "Old" not in card  # its results were for other weights
        answer = in_fresh_process(
            f"""
import hf_xlir
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({REPO!r}).eval()
processor = AutoProcessor.from_pretrained({REPO!r})
"""
            + ENCODE
        )
        check_embeddings(answer, trainer)
        trainer.push_to_hub(commit_message="All of it")
        assert "README.md" in hub.files(REPO) and "training_args.bin" not in hub.files(REPO)

    @pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
    def test_failed_uploads_while_training(self, hub, tmp_path, own_hub_export, caplog, monkeypatch, strategy):
        """Training continues unchanged, the failure is logged, and the next upload contains everything."""
        monkeypatch.setattr(logging.get_logger("hf_xlir"), "propagate", True)
        saving = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True}
        undisturbed = make_trainer(tmp_path / "1", hub_model_id="tester/other", hub_strategy=strategy, **saving)
        undisturbed.train()
        assert "failed" not in caplog.text
        trainer = make_trainer(tmp_path / "2", hub_strategy=strategy, **saving)
        with hub.failing(Fault("POST", "/commit/", "status", times=100, status=403)):
            trainer.train()
        for step in (1, 2):
            logged, until = f"step {step} to `{REPO}` failed", time.monotonic() + 60
            while logged not in caplog.text and time.monotonic() < until:
                time.sleep(0.01)  # the thread of the upload logs it, perhaps after training ended
            assert logged in caplog.text
        assert sorted(hub.files(REPO)) == [".gitattributes"] and trainer.state.global_step == 2
        pairs = zip(trainer.model.parameters(), undisturbed.model.parameters(), strict=True)
        assert all(torch.equal(own, other) for own, other in pairs)
        trainer.push_to_hub()
        assert "model.safetensors" in hub.files(REPO)

    def test_user_card_stays_while_training(self, hub, tmp_path, own_hub_export):
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nMine.")
        trainer = make_trainer(tmp_path, push_to_hub=True, save_strategy="steps", save_steps=2)
        trainer.train()
        assert hub.files(REPO)["README.md"].endswith(b"Mine.")

    def test_in_the_background(self, hub, tmp_path, own_hub_export):
        future = make_trainer(tmp_path).push_to_hub(blocking=False)
        oid = future.result().oid
        assert hub.repository(REPO).branches["main"] == oid and "README.md" in hub.files(REPO)

    def test_refused(self, hub, tmp_path, own_hub_export):
        trainer = make_trainer(tmp_path)
        with pytest.raises(ValueError, match="license"):
            trainer.push_to_hub(license="my own")
        assert not hub.repositories
        with pytest.raises(ValueError, match="license"):  # a well-formed name: the Hub decides
            trainer.push_to_hub(license="newer-1.0")
        assert sorted(hub.files(REPO)) == [".gitattributes"]
        with pytest.raises(HfHubHTTPError, match="401"):
            make_trainer(tmp_path / "other", hub_model_id="tester/other").push_to_hub(token="hf_wrong")


def usage_of(*cards):
    """Runs the first block of Python of each card as printed; the answer has the output."""
    codes = [str(card).split("```python\n")[1].split("```")[0] for card in cards]
    return f"""
import contextlib, io

ANSWER["printed"] = []
for code in {codes!r}:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {{}})
    ANSWER["printed"].append(printed.getvalue())
"""


class TestUsageAsPrinted:
    """Cards of repositories, in fresh processes with empty caches."""

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["colbert", "biencoder"])
    def test_index_and_model(self, hub, in_fresh_process, tmp_path, kind, own_hub_export):
        model, processor = make_retriever(kind, make_tokenizer())
        args = make_arguments(tmp_path, objective="in_batch_nce", hub_model_id=REPO)
        commit = RetrieverTrainer(model, args, processor, train_dataset=make_rows()).push_to_hub()
        vectors = embed_passages(model.eval(), processor, PASSAGES, progress=False)
        if kind == "colbert":
            index = LateInteractionIndex.build(vectors)
        else:
            index = add_dense_index(PASSAGES.select(range(len(PASSAGES))), vectors, "dense").get_index("dense")
        push_index_to_hub(index, PASSAGES, "tester/index", model_id=REPO, model_revision=commit.oid, license="mit")
        card = hub.files("tester/index", "datasets")["README.md"].decode()
        assert faults_of_card(card, "dataset") == ([], [])
        found, scores = in_fresh_process(usage_of(card, hub.files(REPO)["README.md"].decode()))["printed"]
        texts = [line.split(" ", 1)[1] for line in found.splitlines()]
        assert sorted(texts) == sorted(PASSAGES["text"]) and "tensor([[" in scores


class TestSystems:
    @pytest.mark.slow
    def test_answers_from_a_repository(self, hub, in_fresh_process):
        """Published here, asked in another process: everything comes from the repository."""
        passages = PASSAGES
        model, processor = make_retriever("colbert", make_tokenizer())
        tokenizer = make_reader_tokenizer()
        reader = make_reader(make_backbone(seed=2, vocab_size=len(tokenizer)))
        ask = QuestionAnsweringPipeline(
            model,
            processor,
            LateInteractionIndex.build(embed_passages(model, processor, passages, progress=False)),
            passages,
            reader=reader,
            reader_processor=FiDT5Processor(tokenizer, answer_maxlength=8),
        )
        questions = ["blue sea", "rain"]
        expected = ask(questions, n_context=2)
        results = {"Own questions": {"exact_match": {"fi": 12.5, "ko": 0.0, "mean": 6.25}}}
        commit = ask.push_to_hub("tester/answers", language=["fi", "ko"], license="mit", evaluations=results)
        card = ModelCard.load("tester/answers")  # as huggingface_hub reads it
        assert faults_of_card(str(card), "model") == ([], [])
        found = {each.dataset_config: (each.metric_type, each.metric_value) for each in card.data.eval_results}
        assert found == {
            language: ("exact_match", value) for language, value in results["Own questions"]["exact_match"].items()
        }
        assert in_fresh_process(usage_of(card))["printed"] == [ask("red?", n_context=5)["answer"] + "\n"]
        answer = in_fresh_process(
            f"""
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except ConnectionRefusedError as error:
    ANSWER["elsewhere"] = str(error)

import hf_xlir
from transformers import pipeline

for name, revision in (("main", None), ("commit", {commit.oid!r})):
    ask = pipeline("xlir-question-answering", model="tester/answers", revision=revision)
    ANSWER[name] = ask({questions}, n_context=2)
"""
        )
        assert "the network is cut" in answer["elsewhere"]
        for found in (answer["main"], answer["commit"]):
            for one, own in zip(found, expected, strict=True):
                assert one["answer"] == own["answer"] and one["score"] == pytest.approx(own["score"], rel=1e-4)
                assert [each["id"] for each in one["passages"]] == [each["id"] for each in own["passages"]]


def test_passages_pushed_by_datasets(hub, in_fresh_process):
    passages = Dataset.from_dict({"id": ["1"], "title": ["Helsinki"], "text": ["Helsinki is a capital."]})
    passages.push_to_hub("tester/passages")
    answer = in_fresh_process(
        "from datasets import load_dataset\nANSWER['rows'] = load_dataset('tester/passages', split='train')[:]\n"
    )
    assert answer["rows"] == passages[:]
