"""Indexes, encoders and model families that are defined outside the package work in every part of a pipeline."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSeq2SeqLM

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    FiDT5Config,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
    QuestionAnsweringPipeline,
    RetrievalPipeline,
)
from hf_xlir.index import BM25Index, DenseIndex, LateInteractionIndex, SearchIndex, base, embed_passages
from hf_xlir.index.base import register_index
from hf_xlir.index.sharing import load_index_from_hub, push_index_to_hub
from hf_xlir.models import ModelFamily, auto, load_reader, register_family
from hf_xlir.pipeline import Retriever, model_part


class LetterIndex:
    """Scores a passage by how often it contains the query's last letter. It has no base class."""

    kind, queries = "letters", "text"
    search_options = ("weight",)

    def __init__(self, passages):
        self.ids, self.texts = [row["id"] for row in passages], [row["text"] for row in passages]

    def search_batch(self, queries, k, allowed_ids=None, weight=1.0):
        scores = np.array([[text.count(query[-1]) * weight for text in self.texts] for query in queries])
        if allowed_ids is not None:
            scores[:, [id not in set(allowed_ids) for id in self.ids]] = 0
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, rows, axis=1)
        return scores, np.where(scores > 0, rows, -1)


class SavedLetterIndex(LetterIndex):
    """The same index with a format."""

    format = "tests.letters"

    def save(self, folder):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"format": self.format}))
        (folder / "letters.json").write_text(json.dumps([self.ids, self.texts]))

    @classmethod
    def load(cls, folder):
        rows = zip(*json.loads((folder / "letters.json").read_text()), strict=True)
        return cls([{"id": id, "text": text} for id, text in rows])


class VectorIndex:
    """Exact search by inner products in numpy."""

    kind, queries = "mine", "vectors"

    def __init__(self, vectors, ids):
        self.vectors, self.ids = np.asarray(vectors), ids

    def search_batch(self, queries, k, allowed_ids=None):
        scores = np.asarray(queries) @ self.vectors.T
        if allowed_ids is not None:
            scores[:, [id not in set(allowed_ids) for id in self.ids]] = -np.inf
        rows = np.argsort(-scores, axis=1)[:, : min(k, np.isfinite(scores[0]).sum())]
        return np.take_along_axis(scores, rows, axis=1), rows


class LetterEncoder:
    """Counts letters: one vector per text, or one per character."""

    def __init__(self, per_token=False):
        self.per_token = per_token

    def encode_query(self, texts):
        rows = [np.eye(128, dtype="float32")[[ord(letter) % 128 for letter in text]] for text in texts]
        return rows if self.per_token else np.stack([row.sum(axis=0) for row in rows])

    def encode_document(self, texts):
        return self.encode_query([text if isinstance(text, str) else text["text"] for text in texts])


@pytest.fixture
def passages():
    texts = ["aaa", "bbbb", "aab", "ccccc"]
    return [{"id": name, "text": text} for name, text in zip("wxyz", texts, strict=True)]


@pytest.fixture
def registered(monkeypatch):
    for name, value in vars(base).items():
        if isinstance(value, dict) and "hf_xlir.bm25_index" in value:
            monkeypatch.setattr(base, name, dict(value))
    return register_index(SavedLetterIndex)


def ids(results):
    return [passage["id"] for passage in results]


class TestIndex:
    def test_searched_with_texts(self, passages):
        index = LetterIndex(passages)
        assert isinstance(index, SearchIndex) and Retriever(index).kind == "letters"
        search = RetrievalPipeline(index=index, passages=passages, device="cpu")
        assert search("a") == [{"id": "w", "text": "aaa", "score": 3}, {"id": "y", "text": "aab", "score": 2}]
        assert ids(search("a", allowed_ids=["x", "y"])) == ["y"] and search("q") == []
        assert search("b", weight=2.0)[0]["score"] == 8
        with pytest.raises(TypeError, match="preset"):
            search("b", preset="fast")
        assert "letters" in repr(search)

    def test_fused_with_others(self, passages, parts, world):
        letters = LetterIndex(world.passages)
        indexes = {"letters": letters, "bm25": parts.bm25, "colbert": parts.late}
        search = RetrievalPipeline(*parts.colbert, indexes, world.passages, device="cpu")
        [best, *_] = search(world.questions[0], k=5, explain=True)
        assert best["matches"] and len(search(world.questions, k=3)) == len(world.questions)

    def test_searched_with_vectors(self, passages, parts, world):
        encoder = LetterEncoder()
        index = VectorIndex(encoder.encode_document(passages), ids(passages))
        search = RetrievalPipeline(index=index, passages=passages, encoder=encoder, device="cpu")
        assert ids(search("ab", k=3)) == ["x", "w", "y"] and ids(search("a", allowed_ids=["y"])) == ["y"]
        ours = RetrievalPipeline(*parts.biencoder, parts.dense, world.passages, device="cpu")
        vectors = embed_passages(*parts.biencoder, world.passages, progress=False).values
        for given in ({"encoder": parts.biencoder}, dict(zip(("model", "processor"), parts.biencoder, strict=True))):
            mine = VectorIndex(vectors, world.passages["id"][:])
            found = RetrievalPipeline(index=mine, passages=world.passages, device="cpu", **given)(world.questions)
            assert [ids(of_one) for of_one in found] == [ids(of_one) for of_one in ours(world.questions)]

    def test_questions_are_answered(self, passages, reader):
        model, processor = reader
        search = {"index": LetterIndex(passages), "passages": passages, "device": "cpu"}
        answer = QuestionAnsweringPipeline(**search, reader=model, reader_processor=processor)("a?", weight=0.5)
        assert answer["passages"] == [] and answer["answer"]
        answer = QuestionAnsweringPipeline(**search, reader=model, reader_processor=processor)("Is it a", n_context=1)
        assert ids(answer["passages"]) == ["w"]

    def test_saved_and_loaded(self, passages, registered, tmp_path):
        search = RetrievalPipeline(index=registered(passages), passages=passages, device="cpu", k=1, weight=3.0)
        search.save_pretrained(tmp_path / "saved", license="mit")
        loaded = RetrievalPipeline.from_pretrained(tmp_path / "saved", device="cpu")
        assert loaded("a") == search("a") and loaded("a")[0]["score"] == 9
        card = ModelCard.load(tmp_path / "saved" / "README.md")
        assert "letters" in card.data.tags and "`letters`" in card.text and "Citation" not in card.text

    def test_on_the_hub(self, hub, world, registered):
        index = registered(world.passages)
        push_index_to_hub(index, world.passages, "tester/letters", license="mit")
        loaded, rows = load_index_from_hub("tester/letters")
        assert loaded.texts == index.texts and rows[:] == world.passages[:]
        assert "| Index | `letters` |" in hub.files("tester/letters", "datasets")["README.md"].decode()

    def test_what_cannot_be_saved(self, passages, tmp_path):
        encoder = LetterEncoder()
        dense = DenseIndex.build(encoder.encode_document(passages), ids=ids(passages))
        for arguments, message in (
            ({"index": LetterIndex(passages)}, "register_index"),
            ({"index": SavedLetterIndex(passages)}, "tests.letters"),
            ({"index": dense, "encoder": encoder}, "LetterEncoder"),
        ):
            search = RetrievalPipeline(passages=passages, device="cpu", **arguments)
            with pytest.raises(ValueError, match=message):
                search.save_pretrained(tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        "found, message",
        [
            (([[1.0, 0.5]], [[0, 4]]), "'letters'.*row 4 of 4"),
            (([[1.0], [1.0]], [[0], [1]]), r"\(1, width\).*\(2, 1\)"),
            (([[1.0]], [[0, 1]]), r"\(1, 1\) and \(1, 2\)"),
            (([[1.0]], [[0.0]]), "float64"),
            (([[1.0], [1.0, 2.0]], [[0], [0, 1]]), "'letters'"),
        ],
    )
    def test_results_that_do_not_fit(self, passages, found, message):
        index = LetterIndex(passages)
        index.search_batch = lambda queries, k, **options: found
        with pytest.raises(ValueError, match=message):
            RetrievalPipeline(index=index, passages=passages, device="cpu")("a")

    def test_what_is_not_an_index(self, passages):
        with pytest.raises(ValueError, match="search_batch"):
            RetrievalPipeline(index=SimpleNamespace(kind="a", queries="text"), passages=passages, device="cpu")
        with pytest.raises(ValueError, match="encode_query"):
            Retriever(VectorIndex(np.eye(4), ids(passages)), encoder=object())


class MyConfig(BiEncoderConfig):
    model_type = "my_retriever"


class MyModel(BiEncoderModel):
    config_class = MyConfig


class MyProcessor(BiEncoderProcessor):
    config_class = MyConfig


class TestFamily:
    def test_searches_is_saved_and_described(self, parts, world, tmp_path, monkeypatch):
        monkeypatch.setattr(auto, "FAMILIES", dict(auto.FAMILIES))
        monkeypatch.setattr(model_part, "FAMILIES", auto.FAMILIES)
        register_family(ModelFamily(MyConfig, MyModel, MyProcessor, vectors="vectors"))
        model, processor = parts.biencoder
        mine = MyModel(MyConfig(**{**model.config.to_dict(), "model_type": "my_retriever"})).eval()
        mine.load_state_dict(model.state_dict())
        search = RetrievalPipeline.build(
            (mine, MyProcessor.from_config(processor.tokenizer, mine.config)), world.passages, device="cpu"
        )
        expected = RetrievalPipeline.build(parts.biencoder, world.passages, device="cpu")(world.questions)
        assert search(world.questions) == expected
        search.save_pretrained(tmp_path)
        assert RetrievalPipeline.from_pretrained(tmp_path, device="cpu")(world.questions) == expected
        assert "`my_retriever`" in (tmp_path / "README.md").read_text()


class MyReaderConfig(FiDT5Config):
    model_type = "my_reader"


class MyReader(FiDT5ForConditionalGeneration):
    config_class = MyReaderConfig


class MyReaderProcessor(FiDT5Processor):
    config_class = MyReaderConfig


def test_a_family_of_readers(reader, world, parts, tmp_path, monkeypatch):
    for module in (auto, model_part):
        monkeypatch.setattr(module, "FAMILIES", auto.FAMILIES if module is model_part else dict(auto.FAMILIES))
    register_family(
        ModelFamily(MyReaderConfig, MyReader, MyReaderProcessor, auto_model=AutoModelForSeq2SeqLM, role="reader")
    )
    model, processor = reader
    mine = MyReader(MyReaderConfig(**{**model.config.to_dict(), "model_type": "my_reader"})).eval()
    mine.load_state_dict(model.state_dict())
    settings = {name: getattr(processor, name) for name in processor.settings}
    own = MyReaderProcessor(processor.tokenizer, **settings)
    search = {"index": parts.bm25, "passages": world.passages, "device": "cpu"}
    ask = QuestionAnsweringPipeline(**search, reader=mine, reader_processor=own)
    expected = QuestionAnsweringPipeline(**search, reader=model, reader_processor=processor)(world.questions)
    assert ask(world.questions) == expected
    ask.save_pretrained(tmp_path)
    assert QuestionAnsweringPipeline.from_pretrained(tmp_path, device="cpu")(world.questions) == expected
    assert [type(each) for each in load_reader(tmp_path / "reader")] == [MyReader, MyReaderProcessor]


class TestBuild:
    def test_without_passages(self):
        with pytest.raises(ValueError, match="empty"):
            RetrievalPipeline.build(LetterEncoder(), [])

    def test_with_an_encoder_from_outside(self, passages):
        for per_token, index_class in ((False, DenseIndex), (True, LateInteractionIndex)):
            search = RetrievalPipeline.build(LetterEncoder(per_token), passages, device="cpu", k=2)
            assert isinstance(search.model.retrievers["retriever"].index, index_class)
            assert ids(search("cc"))[0] == "z" and len(search(["a", "b"])) == 2

    @pytest.mark.parametrize("kind", ["colbert", "biencoder"])
    def test_with_ours(self, kind, parts, world, tmp_path):
        model, processor = getattr(parts, kind)
        built = RetrievalPipeline.build((model, processor), world.passages, device="cpu")
        given = RetrievalPipeline(
            model, processor, parts.late if kind == "colbert" else parts.dense, world.passages, device="cpu"
        )
        expected = [ids(of_one) for of_one in given(world.questions)]
        assert [ids(of_one) for of_one in built(world.questions)] == expected
        for each in (model, processor):
            each.save_pretrained(tmp_path / "model")
        loaded = RetrievalPipeline.build(str(tmp_path / "model"), world.passages.to_list(), device="cpu")
        assert [ids(of_one) for of_one in loaded(world.questions)] == expected
        loaded.save_pretrained(tmp_path / "system")
        again = RetrievalPipeline.from_pretrained(tmp_path / "system", device="cpu")
        assert [ids(of_one) for of_one in again(world.questions)] == expected

    def test_settings(self, parts, world):
        search = RetrievalPipeline.build(
            parts.colbert, world.passages, index_settings={"pooling_factor": 2}, embedding_settings={"batch_size": 4}
        )
        assert search.model.retrievers["retriever"].index.settings.pooling_factor == 2
        bm25 = BM25Index.build(world.passages, progress=False)
        assert torch.device(RetrievalPipeline(index=bm25, passages=world.passages, device="cpu").device).type == "cpu"
