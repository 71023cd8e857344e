"""Checkpoints that are converted from the Hub: a revision, a private repository, a tokenizer elsewhere."""

import runpy
from pathlib import Path

import pytest
import torch
from hub_api import TOKEN
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from hf_xlir import ColBERTXLMRProcessor
from hf_xlir.convert import convert_checkpoint
from hf_xlir.models.auto import load_retriever


REPO = "tester/other-colbert"
SCRIPT = Path(__file__).parents[2] / "examples" / "convert_checkpoint.py"


@pytest.fixture
def published(hub, make_colbert, tiny_tokenizer, tmp_path):
    """Two revisions of a private repository, as PyLate would have them, and their models; no token is at hand."""
    models = {}
    for seed, revision in enumerate(("main", "better")):
        models[revision] = model = make_colbert(seed, query_expansion="mask")
        for part in (model, ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config)):
            part.save_pretrained(tmp_path / revision)
        convert_checkpoint(tmp_path / revision, tmp_path / f"{revision}-pylate", to="pylate")
    api = HfApi(token=TOKEN)
    api.create_repo(REPO, private=True)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "main-pylate")
    api.create_branch(REPO, branch="better")
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "better-pylate", revision="better")
    return models


@pytest.fixture
def without_token(monkeypatch):
    monkeypatch.delenv("HF_TOKEN")


def weight(folder):
    return load_retriever(folder)[0].linear.weight


def test_a_revision_of_a_private_repository(published, without_token, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        convert_checkpoint(REPO, tmp_path / "refused")
    for revision, model in ((None, "main"), ("better", "better")):
        folder = tmp_path / f"from-{model}"
        assert convert_checkpoint(REPO, folder, revision=revision, token=TOKEN).format == "pylate"
        assert torch.equal(weight(folder), published[model].linear.weight)
    assert not torch.equal(weight(tmp_path / "from-main"), weight(tmp_path / "from-better"))
    with pytest.raises(RevisionNotFoundError):
        convert_checkpoint(REPO, tmp_path / "refused", revision="nowhere", token=TOKEN)
    with pytest.raises(ValueError, match="`revision`.*main-pylate` is on the disk"):
        convert_checkpoint(tmp_path / "main-pylate", tmp_path / "refused", revision="main")
    assert not (tmp_path / "refused").exists()


def test_a_tokenizer_elsewhere(hub, published, without_token, tiny_tokenizer, tmp_path):
    api = HfApi(token=TOKEN)
    api.create_repo("tester/vocabulary", private=True)
    tiny_tokenizer.save_pretrained(tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / "model.safetensors").write_bytes(b"large")
    api.upload_folder(repo_id="tester/vocabulary", folder_path=tmp_path / "vocabulary")
    source = tmp_path / "main-pylate"
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RepositoryNotFoundError):
        convert_checkpoint(source, tmp_path / "refused", tokenizer="tester/vocabulary")
    # Its markers are not in that vocabulary: the tokenizer was read, and is what is refused
    with pytest.raises(ValueError, match="not a piece of its tokenizer"):
        convert_checkpoint(source, tmp_path / "refused", tokenizer="tester/vocabulary", token=TOKEN)
    assert hub.count("GET", r"vocabulary/resolve/.*/tokenizer.json")
    assert not hub.count("GET", r"vocabulary/resolve/.*/model.safetensors")
    for absent in ("no/such/folder", str(tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            convert_checkpoint(source, tmp_path / "refused", tokenizer=absent)


def test_both_encoders_of_dpr(hub, without_token, encoder_sizes, tiny_bert_tokenizer, tmp_path):
    from transformers import DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    api, config = HfApi(token=TOKEN), DPRConfig(**encoder_sizes)
    for model_class, name in ((DPRQuestionEncoder, "q"), (DPRContextEncoder, "c")):
        for part in (model_class(config), tiny_bert_tokenizer):
            part.save_pretrained(tmp_path / name)
        api.create_repo(f"tester/{name}", private=True)
        api.upload_folder(repo_id=f"tester/{name}", folder_path=tmp_path / name)
    given = {"document_encoder": "tester/c", "revision": hub.repository("tester/q").branches["main"]}
    with pytest.raises(RepositoryNotFoundError):
        convert_checkpoint(tmp_path / "q", tmp_path / "refused", document_encoder="tester/c")
    assert convert_checkpoint("tester/q", tmp_path / "ours", token=TOKEN, **given).format == "dpr"


def test_the_script(published, without_token, tmp_path, capsys):
    given = [
        "--model_name_or_path",
        REPO,
        "--revision",
        "better",
        "--token",
        TOKEN,
        "--output_dir",
        str(tmp_path / "ours"),
    ]
    runpy.run_path(str(SCRIPT))["main"](given)
    assert TOKEN not in capsys.readouterr().out
    assert torch.equal(weight(tmp_path / "ours"), published["better"].linear.weight)
