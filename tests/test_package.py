"""The package as a whole: direction of imports, cost of an import, public names, examples in docstrings."""

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import datasets
import pytest
import torch

import hf_xlir


PACKAGE = Path(hf_xlir.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERED = [path for path in MODULES if path != PACKAGE / "__init__.py"]  # which imports from every folder
ROOT = PACKAGE.parent

# Each folder imports only itself and the folders before it, except for the forbidden pairs
FOLDERS = ("models", "utils", "convert", "hub", "data", "index", "evaluation", "training", "pipeline")
FORBIDDEN = {("utils", "models"), ("hub", "convert"), ("data", "convert"), ("data", "hub"), ("pipeline", "training")}
CONTRACT = [
    *("ColBERTXLMRConfig", "ColBERTXLMRModel", "ColBERTXLMRProcessor"),
    *("BiEncoderConfig", "BiEncoderModel", "BiEncoderProcessor"),
    *("FiDT5Config", "FiDT5ForConditionalGeneration", "FiDT5Processor"),
    *("RetrieverTrainingArguments", "RetrieverTrainer"),
    *("RetrievalPipeline", "QuestionAnsweringPipeline"),
]


def id_of(path):
    return path.relative_to(PACKAGE).as_posix()


def imports_of(source, module, is_package=False):
    """
    Absolute names of everything that a module imports, function-level imports included: `{name: line}`.

    `from .models import auto` counts as `hf_xlir.models.auto`. The values of a dictionary `_LAZY` are modules that are
    imported at first use; any other import by a computed name counts as `?`.
    """
    parents = module.split(".")[: None if is_package else -1]

    def absolute(name, level):
        return ".".join([*parents[: len(parents) - (level - 1)], *filter(None, [name])]) if level else name

    found = {}
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{absolute(node.module, node.level)}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Assign) and [getattr(each, "id", "") for each in node.targets] == ["_LAZY"]:
            targets = [value.value for value in node.value.values]
            names = [absolute(each.lstrip("."), len(each) - len(each.lstrip("."))) for each in targets]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_exports":
            names = [] if ast.unparse(node.args[1]) == "_LAZY" else ["?"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            if module != "hf_xlir.utils.lazy":  # it imports the values of `_LAZY`
                names = [node.args[0].value if isinstance(node.args[0], ast.Constant) else "?"]
        found.update({name: node.lineno for name in names})
    return found


def wrong_directions(source, module, is_package=False):
    """The imports of a module that go against the order of the folders."""
    folder, wrong = module.split(".")[1], []
    above = FOLDERS[: FOLDERS.index(folder) + 1]
    for name, line in imports_of(source, module, is_package).items():
        parts = name.split(".")
        if parts[0] == "?":
            wrong.append(f"line {line}: an import by a computed name")
        elif parts[0] == "hf_xlir":
            target = parts[1] if len(parts) > 2 else None
            if target not in above or (folder, target) in FORBIDDEN:
                wrong.append(f"line {line}: {name}")
    return wrong


def circles_in(sources):
    """The modules on a circle of imports, or none. `sources` is `{module: (text, is_package)}`."""
    graph = {}
    for module, (text, is_package) in sources.items():
        targets = set()
        for name in imports_of(text, module, is_package):
            parts = name.split(".")
            known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            targets.add(next((each for each in known if each in sources), None))
        graph[module] = targets - {None, module}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def wrong_in_models(source, siblings):
    """Lines in a file of `hf_xlir/models` that Hub code export cannot follow."""
    tree, wrong = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            flat = node.level == 1 and node.module in siblings and all(alias.name != "*" for alias in node.names)
            if not flat:
                wrong.append(f"line {node.lineno}: only `from .sibling import name` is followed")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.split(".")[0] == "hf_xlir" for name in names):
                wrong.append(f"line {node.lineno}: an exported file cannot import `hf_xlir`")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # transformers finds imports by a regular expression, which also matches in strings
            if re.search(r"^\s*(import\s+\S+|from\s+\S+\s+import\b)", node.value, flags=re.MULTILINE):
                wrong.append(f"line {node.lineno}: a line of a string begins with an import")
    return wrong


def exports_of(folder):
    package = importlib.import_module(f"hf_xlir.{folder}")
    return {name: getattr(package, name) for name in getattr(package, "__all__", [])}


def own_docstring(value):
    """The docstring of a function or class, but not one that a dataclass or named tuple makes of its fields."""
    text = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return "" if text is None or text.startswith(f"{value.__name__}(") else text


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class TestImports:
    @pytest.mark.parametrize("path", LAYERED, ids=id_of)
    def test_direction(self, path):
        assert name_of(path).split(".")[1] in FOLDERS, "give a new folder its place in `FOLDERS`"
        assert wrong_directions(path.read_text("utf-8"), name_of(path), path.name == "__init__.py") == []

    @pytest.mark.parametrize(
        "source, module, num_wrong",
        [
            ("from ..models.auto import FAMILIES", "hf_xlir.data.x", 0),
            ("from .xquad import load_xquad\nimport torch", "hf_xlir.data.x", 0),
            ("from ..index.dense import retrieve", "hf_xlir.data.x", 1),
            ("from ..index import dense", "hf_xlir.data.x", 1),
            ("from .. import index", "hf_xlir.data.x", 1),
            ("from hf_xlir import ColBERTXLMRModel", "hf_xlir.evaluation.x", 1),
            ("import hf_xlir", "hf_xlir.evaluation.x", 1),
            ("import hf_xlir.training.losses as losses, torch", "hf_xlir.evaluation.x", 1),
            ("def f():\n    from ..training.losses import align_tokens", "hf_xlir.evaluation.x", 1),
            ("import importlib\nimportlib.import_module('hf_xlir.pipeline.system')", "hf_xlir.training.x", 1),
            ("from .training.losses import align_tokens\nfrom .index import retrieve", "hf_xlir.pipeline", 1),
            ("import importlib\nimportlib.import_module(name)", "hf_xlir.training.x", 1),
            ("_LAZY = {'a': '.runner', 'b': '..index.dense'}", "hf_xlir.index", 0),
            ("_LAZY = {'a': '.runner', 'b': '..training.losses'}", "hf_xlir.index", 1),
            ("lazy_exports(__name__, {'a': '..training.losses'})", "hf_xlir.index", 1),
            ("from ..convert import convert_checkpoint", "hf_xlir.index.x", 0),
            ("from ..convert import convert_checkpoint", "hf_xlir.hub.x", 1),
            ("from ...models.auto import FAMILIES", "hf_xlir.index.dense.x", 0),
            ("from ...training.losses import align_tokens", "hf_xlir.index.dense.x", 1),
        ],
    )
    def test_direction_of_planted_imports(self, source, module, num_wrong):
        assert len(wrong_directions(source, module, is_package=module == "hf_xlir.index")) == num_wrong

    def test_circles(self):
        sources = {name_of(path): (path.read_text("utf-8"), path.name == "__init__.py") for path in LAYERED}
        assert circles_in(sources) == []

    def test_planted_circle(self):
        sources = {
            "hf_xlir.data.a": ("from .b import x\nfrom .c import z", False),
            "hf_xlir.data.b": ("def f():\n    from .c import y", False),
            "hf_xlir.data.c": ("import torch", False),
        }
        assert circles_in(sources) == []
        sources["hf_xlir.data.c"] = ("def g():\n    from . import a", False)
        assert set(circles_in(sources)) == {"hf_xlir.data.a", "hf_xlir.data.c"}

    def test_of_models_can_be_exported(self):
        files = sorted((PACKAGE / "models").glob("*.py"))
        siblings = {path.stem for path in files}
        assert len(files) > 10
        for path in files:
            assert wrong_in_models(path.read_text("utf-8"), siblings) == [], path.name

    @pytest.mark.parametrize(
        "source",
        [
            "from . import sibling",
            "from ..models.sibling import name",
            "from .sibling import *",
            "from .package.module import name",
            "from .stranger import name",
            "from hf_xlir.models.sibling import name",
            "import hf_xlir",
            'def f():\n    """\n    Text.\n\n    from .sibling import name\n    """',
            'x = """\nimport torch\n"""',
        ],
    )
    def test_the_check_of_models_itself(self, source):
        assert len(wrong_in_models(source, {"sibling"})) == 1
        good = 'from .sibling import name\n"""\n>>> import torch\nwords from hf_xlir import none"""\nimport torch'
        assert wrong_in_models(good, {"sibling"}) == []

    def test_models_is_one_flat_folder(self):
        """Export copies all files into one folder, where names that differ only in case would collide."""
        files = list((PACKAGE / "models").rglob("*.py"))
        assert {path.parent for path in files} == {PACKAGE / "models"}
        assert len({path.name.lower() for path in files}) == len(files)


class TestSource:
    @pytest.mark.parametrize("path", MODULES, ids=id_of)
    def test_the_library_does_not_print(self, path):
        printing = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert printing == []

    def test_only_auto_registers_with_the_auto_classes(self):
        registering = {
            name_of(path)
            for path in MODULES
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("register", "register_for_auto_class")
        }
        assert registering == {"hf_xlir.models.auto", "hf_xlir.pipeline"}


# It replaces the sizes from which FAISS indexes are approximate
DEEP_IMPORTS = {("benchmarks/dense.py", "index.dense")}


class TestPublicNames:
    def test_contract(self):
        assert set(CONTRACT) <= set(hf_xlir.__all__) <= set(dir(hf_xlir))
        assert all(isinstance(getattr(hf_xlir, name), type) for name in CONTRACT)
        with pytest.raises(AttributeError, match="has no attribute 'ColbertModel'"):
            hf_xlir.ColbertModel  # noqa: B018

    @pytest.mark.parametrize("path", MODULES, ids=id_of)
    def test_what_a_module_names_is_there(self, path):
        module = importlib.import_module(name_of(path))
        names = getattr(module, "__all__", [])
        assert [name for name in names if not hasattr(module, name)] == []
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_exports_have_docstrings(self, folder):
        assert [
            name for name, value in exports_of(folder).items() if callable(value) and not own_docstring(value)
        ] == []

    def test_users_import_from_first_level_folders(self):
        files = [path for name in ("examples", "benchmarks") for path in (ROOT / name).rglob("*.py")]
        imported = {
            (path.relative_to(ROOT).as_posix(), name)
            for path in [ROOT / "README.md", *files]
            for name in re.findall(r"^(?:>>> )?\s*(?:from|import) hf_xlir\.?([\w.]*)", path.read_text("utf-8"), re.M)
        }
        assert {pair for pair in imported if pair[1] not in ("", *FOLDERS)} <= DEEP_IMPORTS

    def test_version(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", hf_xlir.__version__)


# Imported before the timer starts: the classes of transformers that ours derive from or are registered with
IMPORT_TIMER = """
import json, sys, time

import torch, transformers
from transformers import (
    CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, BatchFeature,
    PreTrainedConfig, PreTrainedModel, ProcessorMixin, T5Config, T5ForConditionalGeneration,
)

before = set(sys.modules)
start = time.process_time()
import hf_xlir
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def measure_import():
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_TIMER], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


class TestImportCost:
    def test_of_the_package(self):
        """Less than 0.3 s of CPU beyond torch and transformers; about 0.03 s are used."""
        measured = measure_import()
        assert measured["seconds"] < 0.3

        # No datasets, faiss, peft, accelerate or pandas
        imported = measured["modules"]
        allowed = {"hf_xlir", "transformers", *sys.stdlib_module_names}
        assert [name for name in imported if name.partition(".")[0] not in allowed] == []
        layers = {name.split(".")[1] for name in imported if name.startswith("hf_xlir.")}
        assert layers == {"models", "pipeline", "utils"}


class _FencedParser(doctest.DocTestParser):
    """Drops the fence after an example, which is not part of its output."""

    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^\s*```\s*$", "", string, flags=re.MULTILINE), name)


NUM_EXAMPLES = 105  # exported functions and classes whose docstring has an example
WITH_EXAMPLES = [path for path in MODULES if ">>>" in path.read_text("utf-8")]


class TestExamples:
    @pytest.mark.parametrize("path", WITH_EXAMPLES, ids=id_of)
    def test_of_docstrings(self, path, tmp_path, monkeypatch, own_hub_export):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        torch.manual_seed(0)
        module = importlib.import_module(name_of(path))
        tests = doctest.DocTestFinder(parser=_FencedParser(), exclude_empty=True).find(module)
        assert sum(len(test.examples) for test in tests) >= path.read_text("utf-8").count(">>>") > 0
        report = []
        runner = doctest.DocTestRunner()
        for test in tests:
            runner.run(test, out=report.append)
        assert runner.failures == 0, "".join(report)

    def test_number_of_examples(self):
        """Exported names keep their examples, and most examples run: one that is always skipped may be wrong."""
        exported = {name: value for folder in FOLDERS for name, value in exports_of(folder).items()}
        with_example = {name for name, value in exported.items() if callable(value) and ">>>" in own_docstring(value)}
        assert len(with_example) >= NUM_EXAMPLES
        skipped = {id_of(path) for path in WITH_EXAMPLES if "+SKIP" in path.read_text("utf-8")}
        assert len(skipped) < len(WITH_EXAMPLES) / 2
