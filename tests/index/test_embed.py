"""Embedding of passages and queries, with a tiny model whose vectors are known in advance."""

import json
import threading

import numpy as np
import pytest
import torch
from datasets import Dataset
from word_model import DIM, WordModel, WordProcessor, random_passages, word_id

from hf_xlir import BiEncoderProcessor, ColBERTXLMRProcessor
from hf_xlir.index import DenseEmbeddings, TokenEmbeddings, embed_passages, embed_queries


def expected_vectors(model, processor, row):
    """One passage alone, in the plainest way."""
    title = row.get("title")
    inputs = processor.process_documents([row["text"]], titles=[title] if title else None)
    with torch.no_grad():
        output = model(**inputs)
    return output.embeddings[0] if model.dense else output.embeddings[0][inputs["embedding_mask"][0]]


class TestTokenEmbeddings:
    @pytest.mark.parametrize("on_disk", [False, True])
    @pytest.mark.parametrize("max_tokens", [None, 70])
    def test_every_passage_as_if_it_were_alone(self, tmp_path, on_disk, max_tokens):
        model, processor = WordModel(), WordProcessor()
        passages = random_passages(100)  # more than one block
        embeddings = embed_passages(
            model,
            processor,
            passages,
            tmp_path / "out" if on_disk else None,
            batch_size=4,
            max_tokens_per_batch=max_tokens,
            block_size=64,
            progress=False,
        )
        assert isinstance(embeddings, TokenEmbeddings)
        assert embeddings.ids == passages["id"][:]
        assert embeddings.values.dtype == np.float32 and len(embeddings) == 100
        assert [len(texts) for texts, _ in processor.calls] == [64, 36]
        assert all(rows <= 4 for rows, _ in model.shapes)
        if max_tokens:
            assert max(rows * length for rows, length in model.shapes) <= max_tokens
        model.eval()
        for i, row in enumerate(passages):
            np.testing.assert_allclose(embeddings[i], expected_vectors(model, processor, row), atol=1e-6)

    def test_batches_are_sorted_by_length_and_trimmed(self):
        model = WordModel()
        lengths = [3, 20, 4, 19, 5, 18]
        passages = [{"id": str(i), "text": " ".join(["w1"] * n)} for i, n in enumerate(lengths)]
        embed_passages(model, WordProcessor(), passages, batch_size=2, progress=False)
        assert model.shapes == [(2, 20), (2, 18), (2, 4)]

    def test_list_and_dataset_give_the_same(self):
        passages = random_passages(10)
        results = [
            embed_passages(WordModel(), WordProcessor(), rows, progress=False)
            for rows in (passages, list(passages), passages.with_format("torch"))
        ]
        for result in results[1:]:
            assert np.array_equal(results[0].values, result.values) and results[0].ids == result.ids

    def test_titles_are_optional(self):
        processor = WordProcessor()
        embed_passages(WordModel(), processor, random_passages(3, titles=False), progress=False)
        embed_passages(WordModel(), processor, [{"id": "a", "text": "w1", "title": None}], progress=False)
        embed_passages(
            WordModel(),
            processor,
            [{"id": "a", "text": "w1", "title": "w2"}, {"id": "b", "text": "w1"}],
            progress=False,
        )
        assert [titles for _, titles in processor.calls] == [None, None, ["w2", ""]]

    @pytest.mark.parametrize("dtype", [None, "float16"])
    def test_stored_type(self, tmp_path, dtype):
        passages = random_passages(20)
        full = embed_passages(WordModel(), WordProcessor(), passages, stored_dtype="float32", progress=False)
        other = embed_passages(WordModel(), WordProcessor(), passages, tmp_path, stored_dtype=dtype, progress=False)
        assert other.values.dtype == (dtype or "float32")
        assert np.array_equal(other.values, full.values.astype(other.values.dtype))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_lower_precision(self, tiny_colbert, tiny_tokenizer, dtype):
        """What the model computes in; vectors have length 1 all the same."""
        texts = ["Where does the Nile flow?", "Helsinki is the capital of Finland; Seoul, of Korea!", "Finland"]
        processor = ColBERTXLMRProcessor(tiny_tokenizer, query_length=16, document_length=40)
        types, passages = [], [{"id": str(i), "text": text} for i, text in enumerate(texts)]
        hook = tiny_colbert.linear.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
        full = embed_passages(tiny_colbert, processor, passages, progress=False)
        low = embed_passages(tiny_colbert, processor, passages, dtype=dtype, progress=False)
        wide = embed_passages(tiny_colbert, processor, passages, dtype=dtype, stored_dtype="float32", progress=False)
        hook.remove()
        # passages, then a piece of one as a query
        assert types == [torch.float32] * 2 + [getattr(torch, dtype)] * 4
        assert full.values.dtype == wide.values.dtype == np.float32 and low.values.dtype == np.float16
        assert (full.values * wide.values).sum(axis=1).min() > 0.999
        assert not np.array_equal(full.values, wide.values)
        assert np.abs(np.linalg.norm(wide.values, axis=1) - 1).max() < 1e-6
        assert np.array_equal(low.values, wide.values.astype(np.float16))
        assert tiny_colbert.linear.weight.dtype == torch.float32
        queries = embed_queries(tiny_colbert, processor, texts, dtype=dtype)
        assert queries.embeddings.dtype == torch.float32
        assert (queries.embeddings[queries.mask].norm(dim=1) - 1).abs().max() < 1e-6

    def test_default_batches_fit_the_cache(self):
        model = WordModel()
        passages = [{"id": str(i), "text": " ".join(["w1"] * 40)} for i in range(60)]
        embed_passages(model, WordProcessor(), passages, progress=False)
        assert model.shapes == [(25, 40), (25, 40), (10, 40)]  # 1,024 tokens

    def test_a_text_longer_than_a_batch_is_encoded_alone(self):
        model = WordModel()
        passages = [{"id": str(i), "text": " ".join(["w1"] * 9)} for i in range(2)]
        embed_passages(model, WordProcessor(), passages, max_tokens_per_batch=5, progress=False)
        assert model.shapes == [(1, 9), (1, 9)]

    def test_the_next_block_is_tokenized_meanwhile(self):
        """And not the one behind it, so that memory does not grow."""
        model, processor, counts = WordModel(), WordProcessor(), []
        process_documents = processor.process_documents
        started = threading.Event()

        def tokenize(texts, titles=None):
            counts.append(len(model.shapes))
            if len(counts) == 2:
                started.set()
            return process_documents(texts, titles)

        forward = model.forward

        def encode(**inputs):
            assert started.wait(timeout=60)  # the second block is begun before the first one is encoded
            return forward(**inputs)

        processor.process_documents, model.forward = tokenize, encode
        embed_passages(model, processor, random_passages(30), batch_size=30, block_size=10, progress=False)
        assert len(counts) == 3 and counts[:2] == [0, 0] and counts[2] >= 1

    def test_training_modes_are_restored(self):
        model = WordModel().train()
        model.dropout.eval()
        embed_passages(model, WordProcessor(), random_passages(3), progress=False)
        assert model.training and not model.dropout.training

    def test_training_mode_is_restored_after_an_error(self):
        model = WordModel().train()
        model.table.weight.data[word_id("w9")] = float("nan")
        passages = [{"id": f"p{i}", "text": "w1 w9 w3" if i == 2 else "w1 w2"} for i in range(4)]
        with pytest.raises(ValueError, match="NaN or infinite values for the passage `p2`"):
            embed_passages(model, WordProcessor(), passages, progress=False)
        assert model.training and model.dropout.training


class TestOnDisk:
    def test_load_gives_what_was_returned_memory_mapped(self, tmp_path):
        written = embed_passages(WordModel(), WordProcessor(), random_passages(30), tmp_path / "e", progress=False)
        loaded = TokenEmbeddings.load(tmp_path / "e")
        for embeddings in (written, loaded):
            assert isinstance(embeddings.values, np.memmap)
        assert np.array_equal(written.values, loaded.values)
        assert np.array_equal(written.lengths, loaded.lengths) and written.ids == loaded.ids
        manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
        assert manifest["num_tokens"] == len(loaded.values) and manifest["num_passages"] == 30
        assert manifest["embedding_dim"] == DIM and manifest["version"] == 1

    def test_a_failure_leaves_the_old_contents(self, tmp_path):
        embed_passages(WordModel(), WordProcessor(), random_passages(5), tmp_path, progress=False)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        broken = [{"id": str(i), "text": "w1"} for i in range(40)] + [{"id": "last", "text": ",,"}]
        with pytest.raises(ValueError, match="`last` keeps no token"):
            embed_passages(WordModel(), WordProcessor(), broken, tmp_path, block_size=5, progress=False)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_writing_again_replaces_and_keeps_foreign_files(self, tmp_path):
        first = embed_passages(WordModel(), WordProcessor(), random_passages(5), tmp_path, progress=False)
        kept = first.values.copy()
        (tmp_path / "notes.txt").write_text("mine")
        embed_passages(WordModel(), WordProcessor(), random_passages(9, seed=1), tmp_path, progress=False)
        assert len(TokenEmbeddings.load(tmp_path)) == 9
        assert len(list(tmp_path.iterdir())) == 6  # four arrays, the manifest, the notes
        assert np.array_equal(first.values, kept)  # the old mapping stays readable

    def test_damaged_and_foreign_folders(self, tmp_path):
        folder = tmp_path / "e"
        with pytest.raises(FileNotFoundError, match="no folder"):
            TokenEmbeddings.load(folder)
        folder.mkdir()
        with pytest.raises(ValueError, match="has no manifest.json"):
            TokenEmbeddings.load(folder)
        embed_passages(WordModel(), WordProcessor(), random_passages(5), folder, progress=False)
        with pytest.raises(ValueError, match="holds `hf_xlir.token_embeddings`, expected `hf_xlir.dense_embeddings`"):
            DenseEmbeddings.load(folder)
        manifest_file = folder / "manifest.json"
        manifest = manifest_file.read_text()
        for text, message in [
            (manifest[:40], "not valid JSON"),
            ('{"a": 1}', "not a manifest of hf_xlir"),
            (manifest.replace('"version": 1', '"version": 2'), "upgrade hf_xlir"),
        ]:
            manifest_file.write_text(text)
            with pytest.raises(ValueError, match=message):
                TokenEmbeddings.load(folder)
        manifest_file.write_text(manifest)
        values = next(folder.glob("values-*.npy"))
        content = values.read_bytes()
        values.write_bytes(content[:-10])
        with pytest.raises(ValueError, match=f"has {len(content) - 10} bytes instead of {len(content)}"):
            TokenEmbeddings.load(folder)
        values.unlink()
        with pytest.raises(ValueError, match="is missing"):
            TokenEmbeddings.load(folder)


class TestDenseEmbeddings:
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_every_passage_as_if_it_were_alone(self, tmp_path, on_disk):
        model, processor = WordModel(dense=True), WordProcessor(dense=True)
        passages = random_passages(50)
        embeddings = embed_passages(
            model, processor, passages, tmp_path if on_disk else None, batch_size=2, progress=False
        )
        assert isinstance(embeddings, DenseEmbeddings)
        assert embeddings.values.shape == (50, DIM) and embeddings.ids == passages["id"][:]
        model.eval()
        for vector, row in zip(embeddings.values, passages, strict=True):
            np.testing.assert_allclose(vector, expected_vectors(model, processor, row), atol=1e-6)
        if on_disk:
            assert np.array_equal(DenseEmbeddings.load(tmp_path).values, embeddings.values)


class TestQueries:
    def test_token_vectors_are_padded_to_the_longest(self):
        model, processor = WordModel(), WordProcessor()
        texts = ["w1", "w2 , w3", "w1 w2 w3 w4 w5", "w9"]
        queries = embed_queries(model, processor, texts, batch_size=2)
        assert queries.embeddings.shape == (4, 5, DIM)
        assert queries.mask.tolist() == [
            [True, False, False, False, False],
            [True, False, True, False, False],
            [True] * 5,
            [True, False, False, False, False],
        ]
        model.eval()
        for i, text in enumerate(texts):
            with torch.no_grad():
                alone = model(**processor.process_queries([text])).embeddings[0]
            kept = queries.mask[i].nonzero().flatten()
            torch.testing.assert_close(queries.embeddings[i][kept], alone[kept])

    def test_dense(self):
        queries = embed_queries(WordModel(dense=True), WordProcessor(dense=True), ["w1", "w2 w3", "w4"], batch_size=2)
        assert queries.embeddings.shape == (3, DIM) and queries.mask is None

    def test_results_can_be_trained_on(self):
        queries = embed_queries(WordModel(), WordProcessor(), ["w1 w2"])
        torch.nn.Linear(DIM, 2)(queries.embeddings).sum().backward()

    def test_bad_input(self):
        model = WordModel()
        with pytest.raises(ValueError, match="`dtype` must be one of"):
            embed_queries(model, WordProcessor(), ["w1"], dtype=torch.bfloat16)
        for queries, message in [
            ("w1", "got one text"),
            ([], "is empty"),
            (["w1", " "], "Query 1 is empty: leave it out"),
            (["w1", "\u200b"], "Query 1 is empty"),
            (["w1"] * 100 + ["w1 \ud800"], "Query 100 is not valid Unicode: character 3"),
            (["w1", None], "Query 1 must be a string, got NoneType"),
        ]:
            with pytest.raises(ValueError, match=message):
                embed_queries(model, WordProcessor(), queries)
        for batch_size in (0, -1, 2.5, True, None):
            with pytest.raises(ValueError, match=f"`batch_size`.*{batch_size}"):
                embed_queries(model, WordProcessor(), ["w1"], batch_size=batch_size)
        assert model.shapes == []
        model = WordModel()
        model.table.weight.data[:] = float("inf")
        with pytest.raises(ValueError, match="NaN or infinite"):
            embed_queries(model, WordProcessor(), ["w1"])


class TestBadPassages:
    @pytest.mark.parametrize(
        ("passages", "message"),
        [
            ([], "`passages` is empty"),
            (Dataset.from_dict({"id": [], "text": []}), "`passages` is empty"),
            ("w1", "got str"),
            ([{"id": "a"}], r"row 0 lacks \['text'\]"),
            (Dataset.from_dict({"text": ["w1"]}), r"the dataset lacks \['id'\]"),
            ([{"id": "a", "text": "w1"}, {"id": "b", "text": " \n"}], "text of passage `b` in row 1 is empty"),
            ([{"id": "a", "text": "w1"}, {"id": "b", "text": None}], "`b` in row 1.*None"),
            ([{"id": 3, "text": "w1"}], "row 0 has the id 3"),
            ([{"id": "", "text": "w1"}], "row 0 has the id ''"),
            ([{"id": "a", "text": "w1"}, {"id": "a", "text": "w2"}], "Two passages have the id `a`"),
            ([{"id": "a", "text": "w1"}, {"id": "b", "text": ", ,"}], "`b` keeps no token"),
        ],
    )
    def test_before_anything_is_encoded(self, passages, message):
        model = WordModel()
        with pytest.raises(ValueError, match=message):
            embed_passages(model, WordProcessor(), passages, progress=False)
        assert model.shapes == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "int8"}, "`dtype` must be one of 'float32', 'bfloat16', 'float16', got 'int8'"),
            ({"stored_dtype": "bfloat16"}, "`stored_dtype` must be one of 'float32', 'float16', got 'bfloat16'"),
            ({"block_size": 0}, "`block_size`.*0"),
            ({"batch_size": 0}, "`batch_size`.*0"),
            ({"batch_size": None}, "`batch_size`.*None"),
            ({"batch_size": 2.5}, "`batch_size`.*2.5"),
            ({"max_tokens_per_batch": 0}, "`max_tokens_per_batch`.*0"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            embed_passages(WordModel(), WordProcessor(), random_passages(2), progress=False, **options)

    def test_a_value_too_large_for_float16(self):
        model = WordModel()
        model.table.weight.data[word_id("w5")] = 1e6
        passages = [{"id": "a", "text": "w1"}, {"id": "b", "text": "w5"}]
        with pytest.raises(ValueError, match=r"passage `b` \(as float16\)"):
            embed_passages(model, WordProcessor(), passages, stored_dtype="float16", progress=False)


class TestOtherProcessors:
    """Whatever does not belong together is found before a passage is read."""

    def test_of_another_family(self, tiny_colbert, tiny_tokenizer):
        processor = BiEncoderProcessor(tiny_tokenizer, query_length=16, document_length=40)
        message = "needs its own processor.*`BiEncoderProcessor`"
        with pytest.raises(ValueError, match=message):
            embed_passages(tiny_colbert, processor, passages=None)
        with pytest.raises(ValueError, match=message):
            embed_queries(tiny_colbert, processor, queries=None)

    @pytest.mark.parametrize(
        "settings", [{"query_expansion": "none"}, {"document_length": 39}, {"skip_punctuation": False}]
    )
    def test_with_other_settings(self, tiny_colbert, tiny_tokenizer, settings):
        """Which would give other vectors without a word."""
        processor = ColBERTXLMRProcessor(tiny_tokenizer, **{"query_length": 16, "document_length": 40, **settings})
        ((name, value),) = settings.items()
        for embed in (embed_passages, embed_queries):
            with pytest.raises(ValueError, match=f"The processor has {name}={value!r}, the model's configuration"):
                embed(tiny_colbert, processor, None)

    def test_of_no_retriever(self, tiny_colbert, tiny_tokenizer):
        for embed in (embed_passages, embed_queries):
            with pytest.raises(ValueError, match="`ColBERTXLMRModel` needs its own processor.*TokenizersBackend"):
                embed(tiny_colbert, tiny_tokenizer, None)
