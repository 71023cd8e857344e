"""Upload of a whole system to the Hub."""

import tempfile
import warnings
from pathlib import Path

from huggingface_hub import HfApi

from ..data.hub_upload import files_of, push_files
from ..data.writing import write_text
from .system_folder import PARTS


CARD = """\
---
library_name: hf_xlir
pipeline_tag: {pipeline_tag}
tags:
- {task}
---

# {title}

{description}

```python
import hf_xlir  # registers the task
from transformers import pipeline

ask = pipeline("{task}", model="{repo_id}")
{usage}
```

## Limitations

- What is not among the passages is not found, and what they say is not checked: it may be false or biased.
{limitation}- How well it does, for which languages it was made, and what licences its parts have is not stated.
"""
DESCRIPTIONS = {
    "xlir-retrieval": (
        "text-ranking",
        "Ranks {num_passages:,} passages for questions, by {kinds}.",
        'print(ask("{question}", k=3))',
    ),
    "xlir-question-answering": (
        "question-answering",
        "Answers questions from {num_passages:,} passages, which it finds by {kinds}, with a FiD reader.",
        'print(ask("{question}", n_context=5)["answer"])',
    ),
}
WRITES = "- It always writes an answer, also where no passage has one: check it against the passages.\n"
KINDS = {"late_interaction": "late interaction of tokens", "dense": "one vector a text", "bm25": "BM25"}


def push_system(pipeline, repo_id, private, token, revision, commit_message, card):
    """See [`RetrievalPipeline.push_to_hub`]."""
    api = HfApi(token=token, library_name="hf_xlir")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        if card is None and not api.file_exists(repo_id, "README.md", revision=revision):
            card = system_card(pipeline, repo_id)
        if card is not None:
            write_text(Path(folder, "README.md"), card)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the passages
            return push_files(
                files_of(folder),
                repo_id,
                replaced=[f"{part}{end}" for part in PARTS for end in "/-"],  # of a system that was there before
                token=token,
                revision=revision,
                commit_message=commit_message,
            )


def system_card(pipeline, repo_id):
    """A short model card: what the system is, and usage that runs."""
    system = pipeline.model
    pipeline_tag, description, usage = DESCRIPTIONS[pipeline.default_task]
    kinds = " and ".join(dict.fromkeys(KINDS[each.kind] for each in system.retrievers.values()))
    title = " ".join((system.passages[0].get("title") or system.passages[0]["id"]).split())
    return CARD.format(
        pipeline_tag=pipeline_tag,
        task=pipeline.default_task,
        title=repo_id.rpartition("/")[2],
        description=description.format(num_passages=len(system.passages), kinds=kinds),
        repo_id=repo_id,
        usage=usage.format(question=f"{title}?".replace("\\", "").replace('"', "")),
        limitation=WRITES if pipeline.with_reader else "",
    )


__all__ = ["push_system", "system_card"]
