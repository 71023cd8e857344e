"""Fixtures of the tests of scripts: the training scripts as modules."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def load_script():
    """Loads a script as a module, once, under a name that its dataclasses can be found by."""

    def load(name):
        if f"example_{name}" not in sys.modules:
            spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
            sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[f"example_{name}"]

    return load


@pytest.fixture(scope="session")
def script_of():
    """The name of a recipe's script, from the command that its first lines give."""

    def find(recipe):
        text = recipe.read_text(encoding="utf-8")
        return re.search(rf"python examples/(\w+)\.py examples/recipes/{recipe.name}\b", text)[1]

    return find
