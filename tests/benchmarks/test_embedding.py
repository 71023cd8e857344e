"""The benchmark of embedding at its smallest, and its parts say what they should."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "embedding.py"


@pytest.fixture(scope="module")
def embedding():
    spec = importlib.util.spec_from_file_location("embedding_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_smoke_run(tmp_path, make_bare_encoder, tiny_tokenizer):
    make_bare_encoder("XLMRobertaModel").save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    # Stands in for Sentence Transformers: the same pooling, in plain Transformers
    (tmp_path / "sentence_transformers.py").write_text(
        """
import torch
from transformers import AutoModel, AutoTokenizer

class SentenceTransformer:
    def __init__(self, path, device):
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    def encode(self, texts, normalize_embeddings, show_progress_bar):
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt"
        )
        with torch.no_grad():
            states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1).numpy()
"""
    )
    arguments = ["--model", tmp_path / "model", "--peer_python", sys.executable, "--num_docstrings", "8"]
    arguments += ["--document_length", "32", "--threads", "1", "--rounds", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("8 texts of ")
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| Sentence Transformers",
        "| `embed_passages`, float32",
        "| `embed_passages`, bfloat16",
    ]
    assert lines[3].endswith(" | 1.00 | 1.00 | 1.00000 |") and lines[4].endswith(" | 1.00000 |")


@pytest.mark.slow
def test_texts_repeat_and_are_of_mixed_length(embedding):
    texts = embedding.read_texts(300, None, 0, seed=0)
    assert texts == embedding.read_texts(300, None, 0, seed=0) != embedding.read_texts(300, None, 0, seed=1)
    words = sorted(len(text.split()) for text in texts)
    assert len(set(texts)) == 300 and words[0] >= 5 and words[-1] > 10 * words[0]


def test_ratios_are_of_rounds(embedding, capsys):
    times = {"peer": [(4.0, 8.0), (2.0, 8.0), (9.0, 9.0)], "float32": [(2.0, 4.0), (2.0, 2.0), (3.0, 3.0)]}
    vectors = {"peer": np.eye(2, dtype=np.float32), "float32": np.array([[1, 0], [0, 0.9995]], dtype=np.float32)}
    embedding.report(times, vectors, num_texts=8)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| Sentence Transformers | 2 | 1.00 | 1.00 | 1.00000 |",
        "| `embed_passages`, float32 | 4 | 2.00 | 3.00 | 0.99950 |",
    ]
    with pytest.raises(AssertionError, match="float32 gives other vectors"):
        embedding.report(times, {**vectors, "float32": vectors["peer"] * np.float32(0.998)}, num_texts=8)
