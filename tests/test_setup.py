"""What `setup.py` declares is what the package imports."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SETUP = ast.parse((ROOT / "setup.py").read_text("utf-8"))
# The wheels that provide `faiss` are exclusive; the CPU's is the default
OF_MODULE = {"faiss": ["faiss-cpu"]}


def declared():
    """Names of the distributions in `install_requires`, with their bounds."""
    (value,) = [
        each.value for each in ast.walk(SETUP) if isinstance(each, ast.keyword) and each.arg == "install_requires"
    ]
    return dict(re.match(r"([\w-]+)(.*)", requirement).groups() for requirement in ast.literal_eval(value))


def imported(folder):
    """Top-level names of the modules from elsewhere that a folder's files import."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"hf_xlir"}


def normalized(name):
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("folder", ["hf_xlir"])
def test_what_is_imported_is_declared(folder):
    names, distributions = {normalized(name) for name in declared()}, packages_distributions()
    for module in sorted(imported(ROOT / folder)):
        of_module = {normalized(name) for name in OF_MODULE.get(module, distributions.get(module, [module]))}
        assert of_module & names, f"`{module}` is imported, but `install_requires` has none of {sorted(of_module)}"


def test_every_requirement_has_a_lower_bound():
    for name, bound in declared().items():
        assert re.fullmatch(r">=\d[\w.]*", bound), f"{name}{bound}"
