"""Saved folders that carry their code, loaded in a fresh interpreter where `hf_xlir` does not exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

import hf_xlir.models
from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor, FiDT5Processor, register_for_hub_export


TEXTS = ["The Nile flows north, to the sea.", "Seoul"]
PASSAGES = [[{"title": "Seoul", "text": "Seoul is the capital."}, {"text": "It rained."}], [{"text": "It rained."}]]
RETRIEVER_FILES = {
    "configuration_retriever.py",
    "modeling_retriever.py",
    "processing_retriever.py",
    "processing_text.py",
}
EXPORTED = {
    "colbert_xlmr": RETRIEVER_FILES
    | {
        "configuration_colbert_xlmr.py",
        "modeling_colbert_xlmr.py",
        "processing_colbert_xlmr.py",
        "late_interaction.py",
        "transformers_private.py",
    },
    "biencoder": RETRIEVER_FILES | {"configuration_biencoder.py", "modeling_biencoder.py", "processing_biencoder.py"},
    "fid_t5": {
        "configuration_fid_t5.py",
        "modeling_fid_t5.py",
        "processing_fid_t5.py",
        "processing_text.py",
        "fid_attention.py",
        "fid_encoder.py",
        "transformers_private.py",
    },
}

# Run by an interpreter of its own. What it computes must be what `outputs_of` below computes.
VISITOR = '''
import json, sys


class NoPackage:
    """An editable install puts the package on every interpreter's path, so it is refused by name."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_xlir":
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NoPackage())
try:
    import hf_xlir
except ModuleNotFoundError:
    pass
else:
    sys.exit("hf_xlir can be imported, so nothing would be proven")

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

torch.set_num_threads(1)
root = Path(sys.argv[1])
given = json.loads((root / "given.json").read_text(encoding="utf-8"))
facts = {}
for source, target in (("exported", "again"), ("again", "and_again")):
    for model_type in ("colbert_xlmr", "biencoder", "fid_t5"):
        folder = root / source / model_type
        auto = AutoModelForSeq2SeqLM if model_type == "fid_t5" else AutoModel
        model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        with torch.no_grad():
            if model_type == "fid_t5":
                inputs = processor(given["texts"], passages=given["passages"], answers=["rain", "capital"])
                out = model(**inputs, output_reader_scores=True)
                outputs = [out.logits, out.reader_scores]
                del inputs["labels"]
                outputs.append(model.generate(**inputs, max_new_tokens=5))
            else:
                queries = model(**processor.process_queries(given["texts"]))
                documents = model(**processor.process_documents(given["texts"], titles=["Nile", ""]))
                outputs = [queries.embeddings, documents.embeddings, processor.score(queries, documents)]
        torch.save(outputs, root / f"{source}_{model_type}.pt")
        facts[f"{source}_{model_type}"] = {
            "classes": [type(each).__module__.split(".")[0] for each in (model, model.config, processor)],
            "info": {name: sorted(value) for name, value in info.items()},
        }
        model.save_pretrained(root / target / model_type)
        processor.save_pretrained(root / target / model_type)
for auto in (AutoModel, AutoProcessor):
    try:
        auto.from_pretrained(root / "exported" / "colbert_xlmr", trust_remote_code=False)
    except ValueError as error:
        facts[f"untrusted_{auto.__name__}"] = str(error)
facts["imported"] = [name for name in sys.modules if name.partition(".")[0] == "hf_xlir"]
(root / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
'''


@torch.no_grad()
def outputs_of(model_type, model, processor):
    if model_type == "fid_t5":
        inputs = processor(TEXTS, passages=PASSAGES, answers=["rain", "capital"])
        out = model(**inputs, output_reader_scores=True)
        del inputs["labels"]
        return [out.logits, out.reader_scores, model.generate(**inputs, max_new_tokens=5)]
    queries = model(**processor.process_queries(TEXTS))
    documents = model(**processor.process_documents(TEXTS, titles=["Nile", ""]))
    return [queries.embeddings, documents.embeddings, processor.score(queries, documents)]


@pytest.fixture(scope="module")
def families(make_colbert, make_biencoder, tiny_tokenizer):
    """A model and a processor of each family, with settings that are not the defaults."""
    colbert = make_colbert(query_expansion="mask")
    biencoder = make_biencoder(share_encoders=False, embedding_dim=8, pooling="last4_mean", normalize=True)
    reader, reader_tokenizer = make_backbone(vocab_size=len(make_tokenizer())), make_tokenizer()
    return {
        "colbert_xlmr": (colbert, ColBERTXLMRProcessor.from_config(tiny_tokenizer, colbert.config)),
        "biencoder": (biencoder, BiEncoderProcessor.from_config(tiny_tokenizer, biencoder.config)),
        "fid_t5": (make_reader(reader), FiDT5Processor(reader_tokenizer, text_maxlength=60, passage_eos=True)),
    }


@pytest.fixture
def exported(tmp_path, families, own_hub_export):
    """The folder that holds an exported folder of each family."""
    register_for_hub_export()
    for model_type, (model, processor) in families.items():
        model.save_pretrained(tmp_path / "exported" / model_type)
        processor.save_pretrained(tmp_path / "exported" / model_type)
    return tmp_path


def code_in(folder):
    return {path.name for path in folder.glob("*.py")}


def test_in_a_fresh_interpreter_without_the_package(exported, families):
    given = {"texts": TEXTS, "passages": PASSAGES}
    (exported / "given.json").write_text(json.dumps(given), encoding="utf-8")
    (exported / "visitor.py").write_text(VISITOR, encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HOME": str(exported / "hf_home"),
        "HF_MODULES_CACHE": str(exported / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    # -I: neither PYTHONPATH nor the folder of the script nor the current one is searched
    visit = subprocess.run(
        [sys.executable, "-I", str(exported / "visitor.py"), str(exported)],
        cwd=exported,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert visit.returncode == 0, visit.stdout + visit.stderr
    facts = json.loads((exported / "facts.json").read_text(encoding="utf-8"))
    assert facts["imported"] == []
    for auto in ("AutoModel", "AutoProcessor"):
        assert "trust_remote_code" in facts[f"untrusted_{auto}"]

    for model_type, (model, processor) in families.items():
        expected = outputs_of(model_type, model, processor)
        for source in ("exported", "again"):
            fact = facts[f"{source}_{model_type}"]
            assert fact["classes"] == ["transformers_modules"] * 3
            assert not any(fact["info"].values())
            found = torch.load(exported / f"{source}_{model_type}.pt")
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == other.dtype and one.shape == other.shape
                finite = other.isfinite()  # an absent passage scores -inf
                assert torch.equal(one.isfinite(), finite)
                assert (one - other)[finite].abs().max() <= 1e-6
            # what was loaded there was saved with its code again
            again = exported / ("again" if source == "exported" else "and_again") / model_type
            assert code_in(again) == EXPORTED[model_type]


def test_what_is_exported(exported):
    package = Path(hf_xlir.models.__file__).parent
    for model_type, files in EXPORTED.items():
        folder = exported / "exported" / model_type
        assert code_in(folder) == files
        for name in files:
            assert (folder / name).read_bytes() == (package / name).read_bytes(), name
        config = json.loads((folder / "config.json").read_text())
        auto_model = "AutoModelForSeq2SeqLM" if model_type == "fid_t5" else "AutoModel"
        assert set(config["auto_map"]) == {"AutoConfig", auto_model}
        processor_config = json.loads((folder / "processor_config.json").read_text())
        assert set(processor_config["auto_map"]) == {"AutoProcessor"}


def test_an_installed_package_needs_no_trust(exported, families):
    for model_type, (model, processor) in families.items():
        folder = exported / "exported" / model_type
        auto = AutoModelForSeq2SeqLM if model_type == "fid_t5" else AutoModel
        assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
        assert type(auto.from_pretrained(folder)) is type(model)
        assert type(AutoProcessor.from_pretrained(folder)) is type(processor)


def test_nothing_is_exported_unasked(tmp_path, families, own_hub_export):
    for model_type, (model, processor) in families.items():
        model.save_pretrained(tmp_path / model_type)
        processor.save_pretrained(tmp_path / model_type)
        assert code_in(tmp_path / model_type) == set()
