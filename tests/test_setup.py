"""`setup.py` declares everything that the package imports, in versions that are tested."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.version import Version


ROOT = Path(__file__).parents[1]
SETUP = ast.parse((ROOT / "setup.py").read_text("utf-8"))
# Only one wheel that provides `faiss` can be installed; the CPU's is the default
OF_MODULE = {"faiss": ["faiss-cpu"]}
# Modules from extras are imported where they are used, and an error names the extra
OF_EXTRA = {"MeCab": "japanese", "unidic_lite": "japanese", "matplotlib": "plot"}


def bounds(requirements):
    """`{distribution: bounds}`"""
    return dict(re.match(r"([\w-]+)(.*)", requirement).groups() for requirement in ast.literal_eval(requirements))


def declared():
    """The requirements in `install_requires`."""
    (value,) = [
        each.value for each in ast.walk(SETUP) if isinstance(each, ast.keyword) and each.arg == "install_requires"
    ]
    return bounds(value)


def extras():
    """The requirements of each extra."""
    (value,) = [
        each.value for each in SETUP.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "EXTRAS"
    ]
    return {key.value: bounds(requirements) for key, requirements in zip(value.keys, value.values, strict=True)}


def imported(folder):
    """Top-level names of third-party modules that the files of a folder import."""
    names = set().union(*(modules_of(ast.parse(path.read_text("utf-8"))) for path in folder.rglob("*.py")))
    return names - set(sys.stdlib_module_names) - {"hf_xlir"}


def modules_of(tree):
    """Top-level names of all imports in a tree."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def is_import(statement):
    """Whether a statement is an import."""
    return isinstance(statement, ast.Import | ast.ImportFrom)


def normalized(name):
    return name.lower().replace("_", "-")


def test_imports_are_declared():
    distributions, of_extras = packages_distributions(), extras()
    for module in sorted(imported(ROOT / "hf_xlir")):
        of_extra = of_extras[OF_EXTRA[module]] if module in OF_EXTRA else {}
        names = {normalized(name) for name in {**declared(), **of_extra}}
        of_module = {normalized(name) for name in OF_MODULE.get(module, distributions.get(module, [module]))}
        assert of_module & names, f"`{module}` is imported, but `setup.py` has none of {sorted(of_module)}"


def test_modules_of_extras_are_imported_where_they_are_used():
    for path in (ROOT / "hf_xlir").rglob("*.py"):
        at_the_top = ast.Module([each for each in ast.parse(path.read_text("utf-8")).body if is_import(each)], [])
        assert not modules_of(at_the_top) & set(OF_EXTRA), path.name


def test_lower_bounds_are_the_lowest_versions_tested():
    lowest = constraints("constraints-lowest.txt")
    assert {name: Version(own[">="]) for name, own in all_bounds().items()} == lowest


def test_upper_bounds_end_at_the_newest_versions_tested():
    """A bound is the minor or major release after the newest one; dated versions have none."""
    newest = constraints("constraints.txt")
    for name, own in all_bounds().items():
        version = newest[name]
        if version.major >= 2000:
            assert "<" not in own, name
            continue
        following = {Version(f"{version.major}.{version.minor + 1}"), Version(f"{version.major + 1}")}
        allowed = following if name != "torch" else {Version("2.15")}  # 2.14 has no CPU build; it was tested by hand
        assert Version(own["<"]) in allowed, name


def all_bounds():
    """The bounds of all requirements, `{name: {operator: version}}`."""
    texts = [each.value for each in ast.walk(SETUP) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    bounded = [re.fullmatch(r"([\w-]+)(>=[\w.]+)(,<[\w.]+)?", text) for text in texts]
    found = {
        normalized(match[1]): dict(re.findall(r"(>=|<)([\w.]+)", "".join(filter(None, match.groups()[1:]))))
        for match in filter(None, bounded)
    }
    del found["faiss-gpu"]  # the other wheel of the same library
    return found


def constraints(file):
    """`{distribution: version}` of a constraints file."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {normalized(name): Version(version) for name, version in pairs}
