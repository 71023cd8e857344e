"""Two distributions of FAISS, or none."""

import json
import os
import subprocess
import sys

import pytest

from hf_xlir.index.dense.faiss_index import check_distributions, import_faiss


VISITOR = """
import json, sys
import hf_xlir
facts = {"before": [name for name in ("faiss", "hf_xlir.index") if name in sys.modules]}
try:
    import hf_xlir.index
except ImportError as error:
    facts["error"] = str(error)
facts["after"] = "faiss" in sys.modules
print(json.dumps(facts))
"""


def visit(folder, *distributions):
    """What happens on importing the package and its indexes with further distributions installed."""
    for name in distributions:
        metadata = folder / f"{name.replace('-', '_')}-1.15.1.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")
    path = os.pathsep.join([str(folder), *sys.path])
    process = subprocess.run(
        [sys.executable, "-c", VISITOR], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_two_are_refused_on_import_of_the_indexes(tmp_path):
    facts = visit(tmp_path, "faiss-cpu", "faiss-gpu")
    assert facts["before"] == []  # the models need no index
    for part in ("`faiss-cpu` and `faiss-gpu` are installed together", "pip uninstall -y faiss-cpu faiss-gpu"):
        assert part in facts["error"]
    assert "pip install faiss-gpu" in facts["error"] and "pip install faiss-cpu" in facts["error"]
    assert facts["after"] is False


def test_one_is_not_imported_before_it_is_used(tmp_path):
    assert visit(tmp_path) == {"before": [], "after": False}


@pytest.mark.parametrize("name", ["faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"])
def test_any_distribution_for_gpus_beside_the_other(tmp_path, monkeypatch, name):
    import importlib.metadata

    def distribution(asked):
        if asked not in ("faiss-cpu", name):
            raise importlib.metadata.PackageNotFoundError(asked)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(ImportError, match=f"`pip install {name}` for a machine with an NVIDIA GPU"):
        check_distributions()


def test_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="Dense indexes need FAISS: `pip install faiss-cpu`"):
        import_faiss()
