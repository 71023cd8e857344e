"""Fixtures of the tests of conversion."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from hub_fixtures import hub, in_fresh_process, server  # noqa: F401


@pytest.fixture
def run_peer():
    """
    Runs a script of this folder by another library's interpreter, whose path is in an environment variable; the test
    is skipped where that is not set.
    """

    def run(variable, script, folder, **spec):
        python = os.environ.get(variable)
        if not python:
            pytest.skip(f"{variable} is not set: the interpreter of an environment with the other library")
        folder.mkdir(exist_ok=True)
        path = folder / "spec.json"
        path.write_text(json.dumps({**spec, "output": str(folder)}))
        environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python, str(Path(__file__).parent / script), str(path)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture
def embed():
    """One array a text, of a retriever's queries or documents: what counts of it."""

    @torch.no_grad()
    def embed(model, processor, texts, kind):
        output = model(**getattr(processor, f"process_{kind}")(texts))
        if output.embedding_mask is None:
            return [row.numpy() for row in output.embeddings]
        return [row[mask].numpy() for row, mask in zip(output.embeddings, output.embedding_mask, strict=True)]

    return embed
