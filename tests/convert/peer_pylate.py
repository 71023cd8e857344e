"""
Run by PyLate's interpreter: load a model, write it and its embeddings of texts, and rank the documents.

    python peer_pylate.py spec.json

`spec.json` has `model` (a folder), `arguments` of `pylate.models.ColBERT`, `queries`, `documents`, and `output`, a
folder; perhaps `save`, a folder for the model, `skiplist_words`, and `k`, how many documents to rank.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from pylate import models, rank


def main(path):
    spec = json.loads(Path(path).read_text())
    output = Path(spec["output"])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = models.ColBERT(spec["model"], device="cpu", **spec.get("arguments", {}))
    if "save" in spec:
        model.save(spec["save"], create_model_card=False)
    embeddings = {}
    for name in ("queries", "documents"):
        is_query = name == "queries"
        embeddings[name] = model.encode(spec[name], is_query=is_query, batch_size=8, show_progress_bar=False)
        np.savez(output / f"{name}.npz", *embeddings[name])
    if "k" in spec:
        ids = list(range(len(spec["documents"])))
        rankings = [
            rank.rerank([ids], [query], [embeddings["documents"]])[0][: spec["k"]] for query in embeddings["queries"]
        ]
        (output / "rankings.json").write_text(json.dumps(rankings))


if __name__ == "__main__":
    main(sys.argv[1])
