"""
Run by sentence-transformers' interpreter: make or load a model, write it and its embeddings of texts.

    python peer_sentence_transformers.py spec.json

`spec.json` has `model` (a folder), `queries`, `documents`, and `output`, a folder; perhaps `modules`, a list of pairs
of a class and its arguments that follow the transformer of `model`, `max_seq_length`, `arguments` of
`SentenceTransformer`, and `save`, a folder for the model.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, models


def main(path):
    spec = json.loads(Path(path).read_text())
    torch.manual_seed(0)
    torch.set_num_threads(1)
    arguments = {"device": "cpu", **spec.get("arguments", {})}
    if "modules" in spec:
        parts = [models.Transformer(spec["model"], max_seq_length=spec["max_seq_length"])]
        for kind, options in spec["modules"]:
            if "activation_function" in options:
                options["activation_function"] = getattr(torch.nn, options["activation_function"])()
            parts.append(getattr(models, kind)(**options))
        for part in parts[1:]:  # LayerNorm starts as ones and zeros
            for weight in part.parameters():
                torch.nn.init.normal_(weight, std=0.3)
        model = SentenceTransformer(modules=parts, **arguments)
    else:
        model = SentenceTransformer(spec["model"], **arguments)
    if "save" in spec:
        model.save(spec["save"], create_model_card=False)
    for name, encode in (("queries", model.encode_query), ("documents", model.encode_document)):
        vectors = encode(spec[name], batch_size=3, show_progress_bar=False)
        np.save(Path(spec["output"]) / f"{name}.npy", vectors)


if __name__ == "__main__":
    main(sys.argv[1])
