"""Cards of dataset repositories that hold an index and its passages."""

from huggingface_hub import DatasetCard, DatasetCardData

from ..hub.card_parts import UNKNOWN, fenced, licence, listed, two_columns
from ..hub.citations import PAPERS
from .bm25 import INDEX_FORMAT as BM25
from .dense.index import INDEX_FORMAT as DENSE
from .late_interaction.folder import INDEX_FORMAT as LATE_INTERACTION


# What is said of each kind of index, and the papers that it stands on
KINDS = {
    LATE_INTERACTION: ("late interaction: vectors of single tokens", "late-interaction", ("colbert", "colbertv2")),
    DENSE: ("dense: one vector a passage", "dense-retrieval", ("dpr",)),
    BM25: ("BM25: words", "bm25", ()),
}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")

_LOAD = """from hf_xlir.index import load_index_from_hub

index, passages = load_index_from_hub("REPO_ID")
"""
_SEARCH = """
import hf_xlir  # makes the model known to the Auto classes
from hf_xlir.index import embed_queries
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("MODEL_ID"REVISION).eval()
processor = AutoProcessor.from_pretrained("MODEL_ID"REVISION)
query = embed_queries(model, processor, ["What is the capital of Finland?"])
index.attach(passages, "index")
scores, found = passages.get_nearest_examples("index", query.embeddings[0].numpy(), k=5)
print(found["text"])
"""
_SEARCH_WORDS = """
index.attach(passages, "index")
scores, found = passages.get_nearest_examples("index", "What is the capital of Finland?", k=5)
print(found["text"])
"""
_PASSAGES = """from datasets import load_dataset

passages = load_dataset("REPO_ID", split="train")
"""


def build_index_card(
    manifest,
    columns,
    repo_id,
    model_id=None,
    model_revision=None,
    language=None,
    license=None,
    source=None,
    license_name=None,
    license_link=None,
):
    r"""
    The card of an index and its passages.

    Args:
        manifest (`dict`):
            That of the index's folder.
        columns (`list[str]`):
            Of the passages.
        repo_id (`str`):
            Where both are.
        model_id, model_revision (`str`, *optional*):
            The model whose vectors the index holds, and its commit.
        language (`str` or `list[str]`, *optional*):
            Codes of the passages' languages.
        license (`str`, *optional*):
            The Hub's name of the passages' licence.
        source (`str`, *optional*):
            Where the passages come from, as Markdown.
        license_name, license_link (`str`, *optional*):
            Of a licence that the Hub has no name for, `license="other"`: a name of its own, and where it is.

    Returns:
        [`~huggingface_hub.DatasetCard`]
    """
    description, tag, papers = KINDS[manifest["format"]]
    languages = listed(language)
    count = manifest["num_passages"]
    data = DatasetCardData(
        language=languages or None,
        license=license,
        license_name=license_name,
        license_link=license_link,
        size_categories=[SIZES[min(max(len(str(count)) - 3, 0), len(SIZES) - 1)]],
        task_categories=["text-retrieval"],
        tags=["hf_xlir", "retrieval-index", tag],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "passages/*.parquet"}]}],
        **({} if model_id is None else {"base_model": model_id}),
    )
    facts = {
        "Passages": f"{count:,}, with {', '.join(f'`{name}`' for name in columns)}",
        "Index": description,
        **_sizes(manifest),
        "Model": UNKNOWN if model_id is None else f"`{model_id}`",
        "Model's revision": UNKNOWN if model_revision is None else f"`{model_revision}`",
        "Languages": ", ".join(languages) or UNKNOWN,
        "Source of the passages": source or UNKNOWN,
        "Licence": licence(license, license_name, license_link),
    }
    if manifest["format"] == BM25:
        del facts["Model"], facts["Model's revision"]
    sections = [
        f"# {repo_id.rpartition('/')[-1]}\n\nPassages, and an index of them for `hf_xlir`.\n\n{two_columns(facts)}",
        f"## Usage\n\n{_usage(manifest, repo_id, model_id, model_revision)}",
        "## Limitations\n\n"
        "- What is not among the passages is not found, and what they say is not checked.\n"
        "- Personal data and biases that the passages have are in here, too.",
    ]
    if papers:
        sections.append("## Citation\n\n" + fenced("bibtex", "\n\n".join(PAPERS[key].bibtex for key in papers)))
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _sizes(manifest):
    """What an index takes on the disk, without ids."""
    num_bytes = sum(entry["bytes"] for name, entry in manifest["files"].items() if name != "ids.json")
    rows = {"Bytes": f"{num_bytes:,}"}
    if "num_tokens" in manifest:
        bits = sorted({codec["nbits"] for codec in manifest["codecs"]})
        if any(segment["codec"] is None for segment in manifest["segments"]):
            bits.append("not compressed")
        rows["Tokens"] = f"{manifest['num_tokens']:,}"
        rows["Bytes a token"] = f"{num_bytes / max(manifest['num_tokens'], 1):.1f}"
        rows["Bits a dimension"] = ", ".join(map(str, bits))
    else:
        rows["Bytes a passage"] = f"{num_bytes / max(manifest['num_passages'], 1):.1f}"
    if "embedding_dim" in manifest:
        rows["Dimensions of a vector"] = str(manifest["embedding_dim"])
    return rows


def _usage(manifest, repo_id, model_id, model_revision):
    code = _LOAD
    if manifest["format"] == BM25:
        code += _SEARCH_WORDS
    elif model_id is not None:
        revision = "" if model_revision is None else f', revision="{model_revision}"'
        code += _SEARCH.replace("MODEL_ID", model_id).replace("REVISION", revision)
    parts = [fenced("python", code.replace("REPO_ID", repo_id))]
    if model_id is None and manifest["format"] != BM25:
        parts.append("To search it, encode questions with the model that made it, which is not stated here.")
    return "\n\n".join([*parts, "The passages alone:", fenced("python", _PASSAGES.replace("REPO_ID", repo_id))])


__all__ = ["build_index_card"]
