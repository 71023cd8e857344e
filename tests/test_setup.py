"""What `setup.py` declares is what the package imports, in versions that are tested."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.version import Version


ROOT = Path(__file__).parents[1]
SETUP = ast.parse((ROOT / "setup.py").read_text("utf-8"))
# The wheels that provide `faiss` are exclusive; the CPU's is the default
OF_MODULE = {"faiss": ["faiss-cpu"]}
# Modules that only an extra brings, imported where they are used: what lacks them names the extra
OF_EXTRA = {"MeCab": "japanese", "unidic_lite": "japanese", "matplotlib": "plot"}


def bounds(requirements):
    """Names of distributions, with their bounds."""
    return dict(re.match(r"([\w-]+)(.*)", requirement).groups() for requirement in ast.literal_eval(requirements))


def declared():
    """What `install_requires` has."""
    (value,) = [
        each.value for each in ast.walk(SETUP) if isinstance(each, ast.keyword) and each.arg == "install_requires"
    ]
    return bounds(value)


def extras():
    """What each extra has."""
    (value,) = [
        each.value for each in SETUP.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "EXTRAS"
    ]
    return {key.value: bounds(requirements) for key, requirements in zip(value.keys, value.values, strict=True)}


def imported(folder):
    """Top-level names of the modules from elsewhere that a folder's files import."""
    names = set().union(*(modules_of(ast.parse(path.read_text("utf-8"))) for path in folder.rglob("*.py")))
    return names - set(sys.stdlib_module_names) - {"hf_xlir"}


def modules_of(tree):
    """Top-level names of what is imported, wherever in a tree."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def is_import(statement):
    """Whether it is a plain import."""
    return isinstance(statement, ast.Import | ast.ImportFrom)


def normalized(name):
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("folder", ["hf_xlir"])
def test_what_is_imported_is_declared(folder):
    distributions, of_extras = packages_distributions(), extras()
    for module in sorted(imported(ROOT / folder)):
        of_extra = of_extras[OF_EXTRA[module]] if module in OF_EXTRA else {}
        names = {normalized(name) for name in {**declared(), **of_extra}}
        of_module = {normalized(name) for name in OF_MODULE.get(module, distributions.get(module, [module]))}
        assert of_module & names, f"`{module}` is imported, but `setup.py` has none of {sorted(of_module)}"


@pytest.mark.parametrize("folder", ["hf_xlir"])
def test_what_an_extra_brings_is_imported_where_it_is_used(folder):
    for path in (ROOT / folder).rglob("*.py"):
        at_the_top = ast.Module([each for each in ast.parse(path.read_text("utf-8")).body if is_import(each)], [])
        assert not modules_of(at_the_top) & set(OF_EXTRA), path.name


def test_every_requirement_has_a_lower_bound():
    needed = [declared(), *(extras()[name] for name in set(OF_EXTRA.values()))]
    for name, bound in (pair for requirements in needed for pair in requirements.items()):
        assert re.fullmatch(r">=\d[\w.]*", bound), f"{name}{bound}"


def test_lower_bounds_are_the_lowest_versions_tested():
    texts = [each.value for each in ast.walk(SETUP) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    bounded = dict(text.split(">=") for text in texts if re.fullmatch(r"[\w-]+>=[\w.]+", text))
    bounded.pop("faiss-gpu")  # instead of `faiss-cpu`
    lowest, newest = constraints("constraints-lowest.txt"), constraints("constraints.txt")
    assert {normalized(name): Version(bound) for name, bound in bounded.items()} == lowest
    assert all(newest[name] >= version for name, version in lowest.items())


def constraints(file):
    """Names of distributions, with the version of each that a file asks for."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {normalized(name): Version(version) for name, version in pairs}
