"""Encoders of this package and of other libraries: `hf_xlir/index/encoders.py`."""

import json

import numpy as np
import pytest
import torch
from word_model import DIM, WordModel, WordProcessor, random_passages

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.convert import convert_checkpoint
from hf_xlir.index import DenseEmbeddings, Encoder, TokenEmbeddings, embed_passages, embed_queries, load_encoder
from hf_xlir.index.encoders import as_encoder


TEXTS = ["w1 w2", "w3 , w4 w5", "w9"]


class Foreign:
    """An encoder of another library, over the vectors of this one, in some other form."""

    def __init__(self, dense, form):
        self.own, self.form, self.calls = Encoder(WordModel(dense), WordProcessor(dense)), form, []

    def encode_query(self, texts):
        return self.form(self.own.encode_query(texts))

    def encode_document(self, texts):
        self.calls.append(texts)
        return self.form(self.own.encode_document(texts))


class ForeignModule(torch.nn.Module):
    """An encoder of another library with weights: the length of a text, scaled."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.prompts, self._calls = torch.nn.Parameter(torch.full((DIM,), scale)), {"query": ""}, []

    def encode_query(self, texts):
        return torch.stack([torch.full((DIM,), float(len(text))) for text in texts]) * self.scale.detach()

    def encode_document(self, texts):
        self._calls.append(len(texts))
        return self.encode_query(texts)


def arrays(vectors):
    return vectors


def tensors(vectors):
    return torch.tensor(vectors) if isinstance(vectors, np.ndarray) else [torch.tensor(each) for each in vectors]


def bfloat16(vectors):
    found = tensors(vectors)
    return [each.bfloat16() for each in found] if isinstance(found, list) else found.bfloat16()


def rows(vectors):
    return list(tensors(vectors))


def nested(vectors):
    return [each.tolist() for each in vectors]


class TestOwn:
    @pytest.mark.parametrize("dense", [False, True])
    def test_vectors_of_both_sides(self, dense):
        model, processor = WordModel(dense).train(), WordProcessor(dense)
        encoder = Encoder(model, processor)
        assert encoder.vectors == ("vectors" if dense else "token_vectors") and encoder.embedding_dim == DIM
        passages = [{"id": str(place), "text": text} for place, text in enumerate(TEXTS)]
        expected = embed_passages(model, processor, passages, progress=False)
        documents, queries = encoder.encode_document(TEXTS), encoder.encode_query(TEXTS)
        for place in range(len(TEXTS)):
            wanted = expected.values[place] if dense else expected[place]
            assert documents[place].shape == wanted.shape
            np.testing.assert_allclose(documents[place], wanted, atol=1e-6)
            np.testing.assert_allclose(queries[place], wanted, atol=1e-6)  # this model has no markers
        assert model.training

    def test_records_with_titles(self):
        encoder = Encoder(WordModel(dense=True), WordProcessor(dense=True))
        titled = encoder.encode_document([{"title": "w1", "text": "w2"}, {"text": "w2"}])
        np.testing.assert_allclose(titled, encoder.encode_document(["w1 w2", "w2"]), atol=1e-6)
        with pytest.raises(ValueError, match="Document 1.*NoneType"):
            encoder.encode_document(["w1", {"title": "w1"}])

    @pytest.mark.parametrize(
        "texts, what", [("w1", "one text"), ([], "empty"), (["w1", ""], "1"), ([None], "NoneType")]
    )
    def test_bad_texts(self, texts, what):
        encoder = Encoder(WordModel(), WordProcessor())
        for encode in (encoder.encode_query, encoder.encode_document):
            with pytest.raises(ValueError, match=what):
                encode(texts)

    def test_another_processor(self, tiny_colbert, tiny_tokenizer):
        with pytest.raises(ValueError, match="BiEncoderProcessor"):
            Encoder(tiny_colbert, BiEncoderProcessor(tiny_tokenizer))


class TestAsEncoder:
    def test_forms(self):
        model, processor = WordModel(), WordProcessor()
        encoder = as_encoder((model, processor))
        assert encoder.model is model and as_encoder(encoder) is encoder
        assert as_encoder(model, processor).processor is processor
        foreign = Foreign(True, arrays)
        assert as_encoder(foreign) is foreign

    @pytest.mark.parametrize("value, what", [(WordModel(), "processor"), (None, "NoneType"), ((1, 2, 3), "tuple")])
    def test_something_else(self, value, what):
        with pytest.raises(ValueError, match=what):
            as_encoder(value)


class TestBothForms:
    @pytest.mark.parametrize("dense", [False, True])
    def test_same_result(self, dense, tmp_path):
        model, processor, passages = WordModel(dense), WordProcessor(dense), random_passages(12)
        encoder = Encoder(model, processor)
        expected = embed_passages(model, processor, passages, tmp_path / "0", progress=False)
        for number, (inputs, options) in enumerate(
            [
                ((encoder, passages, tmp_path / "1"), {}),
                (((model, processor), passages), {"output_dir": tmp_path / "2"}),
                ((encoder,), {"passages": passages, "output_dir": tmp_path / "3"}),
                ((model,), {"processor": processor, "passages": passages, "output_dir": tmp_path / "4"}),
            ],
            start=1,
        ):
            found = embed_passages(*inputs, **options, progress=False)
            assert np.array_equal(found.values, expected.values) and found.ids == expected.ids
            assert (tmp_path / str(number) / "manifest.json").exists()
        queries = embed_queries(model, processor, TEXTS).embeddings
        assert torch.equal(embed_queries(encoder, TEXTS).embeddings, queries)
        assert torch.equal(embed_queries((model, processor), queries=TEXTS).embeddings, queries)

    def test_too_many_and_twice(self):
        encoder = Encoder(WordModel(), WordProcessor())
        with pytest.raises(TypeError, match="at most 2"):
            embed_passages(encoder, random_passages(1), None, None)
        with pytest.raises(TypeError, match="`queries`"):
            embed_queries(encoder, TEXTS, queries=TEXTS)


class TestForeign:
    @pytest.mark.parametrize("on_disk", [False, True])
    @pytest.mark.parametrize("form", [arrays, tensors, bfloat16, rows, nested])
    @pytest.mark.parametrize("dense", [False, True])
    def test_every_form_of_vectors(self, dense, form, on_disk, tmp_path):
        foreign, passages = Foreign(dense, form), random_passages(12)
        expected = embed_passages(foreign.own, passages, progress=False)
        found = embed_passages(foreign, passages, tmp_path / "out" if on_disk else None, block_size=5, progress=False)
        assert type(found) is (DenseEmbeddings if dense else TokenEmbeddings) and found.ids == expected.ids
        tolerance = 2e-2 if form is bfloat16 else 1e-6
        np.testing.assert_allclose(found.values, expected.values, atol=tolerance, rtol=tolerance)
        assert [len(texts) for texts in foreign.calls] == [5, 5, 2]
        first = passages[0]
        assert foreign.calls[0][0] == f"{first['title']} {first['text']}".strip()
        if not dense:
            assert np.array_equal(found.lengths, expected.lengths)
            np.testing.assert_allclose(found.query_moments, expected.query_moments, atol=tolerance, rtol=tolerance)

        queries, wanted = embed_queries(foreign, TEXTS), foreign.own.encode_query(TEXTS)
        assert queries.embeddings.dtype == torch.float32
        for place, vectors in enumerate(wanted):
            kept = queries.embeddings[place] if dense else queries.embeddings[place][queries.mask[place]]
            np.testing.assert_allclose(kept, vectors, atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize(
        "broken, what",
        [
            (lambda vectors: vectors[:-1], "3 texts"),
            (lambda vectors: np.full_like(vectors, np.nan), "NaN"),
            (lambda vectors: "vectors", "str"),
            (lambda vectors: [vectors[0], vectors[1], vectors[2][:2]], "embedding_dim"),
            (lambda vectors: [vectors[:1], vectors[:0], vectors[:1]], "no vector"),
            (lambda vectors: np.full(vectors.shape, "x"), "numbers"),
        ],
    )
    def test_what_does_not_fit(self, broken, what):
        foreign = Foreign(True, broken)
        with pytest.raises(ValueError, match=what):
            embed_passages(foreign, [{"id": text, "text": text} for text in TEXTS], progress=False)
        with pytest.raises(ValueError, match=what):
            embed_queries(foreign, TEXTS)

    def test_computed_type(self):
        with pytest.raises(ValueError, match="bfloat16"):
            embed_queries(Foreign(True, arrays), TEXTS, dtype="bfloat16")


class TestResumeOfForeign:
    def embed(self, encoder, folder, **options):
        return embed_passages(encoder, random_passages(12), folder, block_size=5, progress=False, **options)

    def interrupt(self, encoder, folder):
        """An error after the first block, which leaves the folder as a kill does."""
        encode, calls = encoder.encode_document, []

        def fail(texts):
            calls.append(texts)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return encode(texts)

        encoder.encode_document = fail
        with pytest.raises(KeyboardInterrupt):
            self.embed(encoder, folder)
        del encoder.encode_document

    def test_known_weights(self, tmp_path):
        encoder = ForeignModule()
        self.interrupt(encoder, tmp_path)
        again = ForeignModule()
        self.embed(again, tmp_path)
        assert again._calls == [5, 2]  # the first block was there
        self.embed(again, tmp_path)
        assert again._calls == [5, 2]  # all of it was
        expected = self.embed(ForeignModule(), tmp_path / "undisturbed")
        assert np.array_equal(DenseEmbeddings.load(tmp_path, verify=True).values, expected.values)

    @pytest.mark.parametrize("change", ["weights", "attribute"])
    def test_other_weights_or_settings(self, tmp_path, change):
        self.interrupt(ForeignModule(), tmp_path)
        other = ForeignModule(2.0 if change == "weights" else 1.0)
        other.prompts = {"query": "" if change == "weights" else "query: "}
        with pytest.raises(ValueError, match="`model`"):
            self.embed(other, tmp_path)
        self.embed(other, tmp_path, resume=False)
        assert other._calls == [5, 5, 2]

    def test_unknown_weights(self, tmp_path):
        encoder = Foreign(True, arrays)
        self.interrupt(encoder, tmp_path)
        for _ in range(2):  # every call starts again: old vectors could be of other weights
            encoder.calls.clear()
            self.embed(encoder, tmp_path)
            assert [len(texts) for texts in encoder.calls] == [5, 5, 2]
        names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if path.suffix != ".lock")
        assert names == ["ids", "manifest.json", "values"]

    def test_a_fingerprint_of_its_own(self, tmp_path):
        encoder = Foreign(True, arrays)
        encoder.fingerprint = "weights of Monday"
        self.interrupt(encoder, tmp_path)
        encoder.calls.clear()
        self.embed(encoder, tmp_path)
        assert [len(texts) for texts in encoder.calls] == [5, 2]


class TestLoad:
    @pytest.fixture
    def folder(self, tiny_biencoder, tiny_tokenizer, tmp_path):
        tiny_biencoder.save_pretrained(tmp_path)
        BiEncoderProcessor.from_config(tiny_tokenizer, tiny_biencoder.config).save_pretrained(tmp_path)
        return tmp_path

    def test_a_retriever(self, folder):
        encoder = load_encoder(folder)
        assert encoder.vectors == "vectors" and not encoder.model.training
        assert encoder.embedding_dim == embed_queries(str(folder), ["Finland"]).embeddings.shape[1]

    def test_settings(self, folder):
        assert load_encoder(folder, query_length=7).processor.query_length == 7

    def test_converted_on_the_way(self, tiny_colbert, tiny_tokenizer, tmp_path):
        processor = ColBERTXLMRProcessor.from_config(tiny_tokenizer, tiny_colbert.config)
        tiny_colbert.save_pretrained(tmp_path / "own")
        processor.save_pretrained(tmp_path / "own")
        convert_checkpoint(tmp_path / "own", tmp_path / "pylate", to="pylate")
        encoder = load_encoder(tmp_path / "pylate")
        assert encoder.vectors == "token_vectors"
        text = ["Where does the Nile flow?"]
        expected = Encoder(tiny_colbert, processor).encode_document(text)
        np.testing.assert_allclose(encoder.encode_document(text)[0], expected[0], atol=1e-6)

    def test_something_else(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_encoder(tmp_path / "nothing")
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(ValueError, match="bert"):
            load_encoder(tmp_path)
