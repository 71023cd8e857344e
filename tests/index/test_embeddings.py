"""Embeddings in memory and on disk: their parts, slices, and folders."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.index import DenseEmbeddings, TokenEmbeddings
from hf_xlir.index import embeddings as embeddings_module
from hf_xlir.index.embeddings import TOKEN_FORMAT, first_duplicate, load_tokens, save_tokens
from hf_xlir.utils import storage
from hf_xlir.utils.storage import MANIFEST


def make_tokens(lengths=(2, 1, 3), dim=2, dtype="float32"):
    values = np.arange(sum(lengths) * dim, dtype=dtype).reshape(-1, dim)
    return TokenEmbeddings(values, np.array(lengths), [f"p{i}" for i in range(len(lengths))])


class TestTokenEmbeddings:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    def test_each_passage_owns_its_rows(self, lengths):
        embeddings, row = make_tokens(lengths), 0
        assert len(embeddings) == len(lengths) and embeddings.embedding_dim == 2
        for position, length in enumerate(lengths):
            own = [[2 * i, 2 * i + 1] for i in range(row, row + length)]
            assert embeddings[position].tolist() == own
            row += length
        assert embeddings.offsets[-1] == row

    def test_offsets_of_more_tokens_than_an_int32_counts(self):
        lengths = np.full(3, 2**30, dtype=np.int32)
        values = np.lib.stride_tricks.as_strided(np.zeros(2, np.float32), shape=(3 * 2**30, 2), strides=(0, 4))
        embeddings = TokenEmbeddings(values, lengths, ["a", "b", "c"])
        assert embeddings.offsets.tolist() == [0, 2**30, 2**31, 3 * 2**30]

    def test_from_padded(self):
        vectors = torch.arange(12.0).view(2, 3, 2)
        mask = torch.tensor([[True, False, True], [False, True, False]])
        embeddings = TokenEmbeddings.from_padded(vectors, mask, ["a", "b"])
        assert embeddings.values.tolist() == [[0, 1], [4, 5], [8, 9]]
        assert embeddings.lengths.tolist() == [2, 1] and embeddings.offsets.tolist() == [0, 2, 3]
        with pytest.raises(ValueError, match="boolean mask"):
            TokenEmbeddings.from_padded(vectors, mask.long(), ["a", "b"])

    @pytest.mark.parametrize(
        ("values", "lengths", "ids", "message"),
        [
            (np.zeros(3), [3], ["a"], "floating-point array of shape"),
            (np.zeros((3, 2), dtype=int), [3], ["a"], "floating-point array of shape"),
            ([[0.0, 1.0]], [1], ["a"], r"floating-point array of shape \(.*\), got list"),
            (torch.zeros(3, 2), [3], ["a"], r"floating-point array of shape \(.*\), got Tensor"),
            (np.zeros((3, 2)), [1.5, 1.5], ["a", "b"], "one integer per passage.*float64"),
            (np.zeros((3, 2)), [3], ["a", "b"], "2 ids for 1 passages"),
            (np.zeros((3, 2)), [1, 2], ["a", "a"], "`a` appears twice"),
            (np.zeros((3, 2)), [3, 0], ["a", "b"], "`b` keeps no token"),
            (np.zeros((3, 2)), [1, 1], ["a", "b"], "sum to 2, but `values` has 3 rows"),
        ],
    )
    def test_parts_that_do_not_fit(self, values, lengths, ids, message):
        with pytest.raises(ValueError, match=message):
            TokenEmbeddings(values, np.array(lengths), ids)

    def test_lengths_that_are_no_array(self):
        with pytest.raises(ValueError, match="`lengths`.*list"):
            TokenEmbeddings(np.zeros((3, 2)), [3], ["a"])

    @pytest.mark.parametrize("dtype", ["uint8", "uint64", "int32"])
    def test_lengths_of_any_integers(self, dtype):
        embeddings = TokenEmbeddings(np.zeros((300, 2)), np.array([200, 100], dtype=dtype), ["a", "b"])
        assert embeddings.lengths.dtype == np.int64 and embeddings.offsets.tolist() == [0, 200, 300]

    def test_positions_out_of_range(self):
        embeddings = TokenEmbeddings(np.zeros((1, 2)), np.array([1]), ["a"])
        for position in (1, -1):
            with pytest.raises(IndexError):
                embeddings[position]

    @pytest.mark.parametrize(
        "dtype, stored", [("float16", "float16"), ("bfloat16", "float32"), ("float64", "float32")]
    )
    def test_from_padded_keeps_what_numpy_can_hold(self, dtype, stored):
        vectors = torch.tensor([[[0.25, 2.0], [3.0, 4.0]]], dtype=getattr(torch, dtype), requires_grad=True)
        embeddings = TokenEmbeddings.from_padded(vectors, torch.tensor([[True, False]]), iter(["a"]))
        assert embeddings.values.dtype == stored and embeddings.ids == ["a"]
        assert embeddings.values.tolist() == vectors[0, :1].tolist()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_save_and_load(self, tmp_path, dtype):
        embeddings = make_tokens(dtype=dtype)
        embeddings.save(tmp_path)
        loaded = TokenEmbeddings.load(tmp_path)
        assert isinstance(loaded.values, np.memmap) and loaded.values.dtype == dtype
        assert np.array_equal(loaded.values, embeddings.values)
        assert loaded.lengths.tolist() == [2, 1, 3] and loaded.ids == ["p0", "p1", "p2"]

    def test_a_manifest_says_what_is_there(self, tmp_path):
        save_tokens(make_tokens(), tmp_path, "own_format", nbits=None)
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        assert manifest["format"] == "own_format" and manifest["nbits"] is None
        assert (manifest["num_passages"], manifest["num_tokens"], manifest["embedding_dim"]) == (3, 6, 2)
        assert len(load_tokens(tmp_path, "own_format")) == 3
        with pytest.raises(ValueError, match=f"holds `own_format`, expected `{TOKEN_FORMAT}`"):
            TokenEmbeddings.load(tmp_path)

    def test_loaded_values_may_be_changed_without_changing_the_file(self, tmp_path):
        make_tokens().save(tmp_path)
        loaded = TokenEmbeddings.load(tmp_path)
        loaded.values[:] = 7
        assert loaded[1].tolist() == [[7, 7]] and TokenEmbeddings.load(tmp_path)[1].tolist() == [[4, 5]]


class TestDenseEmbeddings:
    def test_save_and_load(self, tmp_path):
        embeddings = DenseEmbeddings(np.arange(6, dtype=np.float32).reshape(3, 2), ["a", "ü", "c"])
        embeddings.save(tmp_path)
        loaded = DenseEmbeddings.load(tmp_path)
        assert isinstance(loaded.values, np.memmap) and len(loaded) == 3 and loaded.embedding_dim == 2
        assert np.array_equal(loaded.values, embeddings.values) and loaded.ids == ["a", "ü", "c"]

    @pytest.mark.parametrize(
        ("values", "ids", "message"),
        [
            (
                np.zeros(3),
                ["a"],
                r"floating-point array of shape \(number of passages, embedding_dim\), got float64 \(3,\)",
            ),
            (np.zeros((1, 2), dtype=int), ["a"], "floating-point"),
            (np.zeros((2, 2)), ["a"], "1 ids for 2 passages"),
            (np.zeros((2, 2)), ["a", "a"], "`a` appears twice"),
        ],
    )
    def test_parts_that_do_not_fit(self, values, ids, message):
        with pytest.raises(ValueError, match=message):
            DenseEmbeddings(values, ids)


def test_ids_of_any_number_and_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings_module, "IDS_PER_WRITE", 2)
    for n in range(6):
        ids = ['a"', "ü,", "]\n", "\u2028", "5"][:n]
        DenseEmbeddings(np.zeros((n, 2), np.float32), ids).save(tmp_path)
        assert DenseEmbeddings.load(tmp_path).ids == ids


@pytest.mark.parametrize("kind", [TokenEmbeddings, DenseEmbeddings])
def test_verified_on_demand(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(storage, "ALWAYS_VERIFIED", 0)
    kind(np.ones((1, 2), np.float32), *([np.array([1])] if kind is TokenEmbeddings else []), ["a"]).save(tmp_path)
    assert len(kind.load(tmp_path, verify=True)) == 1
    (values,) = tmp_path.glob("values-*.npy")
    content = values.read_bytes()
    values.write_bytes(content[:-1] + b"\x00")
    assert len(kind.load(tmp_path)) == 1
    with pytest.raises(ValueError, match="has other contents than were written"):
        kind.load(tmp_path, verify=True)


def test_strings_with_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(embeddings_module, "hash", len, raising=False)
    assert first_duplicate(["ab", "cd", "e"]) is None and first_duplicate(["ab", "cd", "ab"]) == "ab"


@given(st.lists(st.sampled_from("abcd"), max_size=6))
def test_first_duplicate(ids):
    expected = next((id for position, id in enumerate(ids) if id in ids[:position]), None)
    assert first_duplicate(ids) == expected
