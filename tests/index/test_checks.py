"""What indexes accept as queries, `k` and datasets."""

import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_xlir.index.checks import check_dim, check_ids_match, check_k, check_queries, to_float_tensor


NAN, INF = float("nan"), float("inf")
QUERY = [[1.0, 2.0], [3.0, 4.0]]


class TestK:
    def test_integers(self):
        assert check_k(3) == check_k(np.int64(3)) == 3 and type(check_k(np.int32(3))) is int

    @pytest.mark.parametrize("k", [0, -1, 2.0, True, None, "3", np.float32(2)])
    def test_others(self, k):
        with pytest.raises(ValueError, match="`k` must be a positive integer"):
            check_k(k)


class TestQueries:
    @pytest.mark.parametrize("make", [list, np.array, torch.tensor, lambda rows: torch.tensor(rows).bfloat16()])
    def test_kinds_of_one_query(self, make):
        for query in (make(QUERY), make([QUERY])):
            embeddings, mask = check_queries(query, None, 2, single=True)
            assert embeddings.dtype == torch.float32 and embeddings.tolist() == [QUERY]
            assert mask.tolist() == [[True, True]]

    def test_arrays_that_torch_has_no_tensors_of(self):
        reversed_ones = np.array([row[::-1] for row in QUERY[::-1]])[::-1, ::-1]
        read_only = np.array(QUERY, dtype=np.float32)
        read_only.flags.writeable = False
        for query in (reversed_ones, np.array(QUERY, dtype=">f4"), read_only):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert check_queries(query, None, 2, single=True)[0].tolist() == [QUERY]

    def test_a_gradient_ends_here(self):
        embeddings, _ = check_queries(torch.tensor([QUERY], requires_grad=True), None, 2, single=False)
        assert not embeddings.requires_grad

    def test_masks(self):
        for mask in ([True, False], np.array([True, False]), torch.tensor([[True, False]])):
            assert check_queries(QUERY, mask, 2, single=True)[1].tolist() == [[True, False]]
        _, mask = check_queries([QUERY] * 2, torch.tensor([[True, False], [True, True]]), 2, single=False)
        assert mask.tolist() == [[True, False], [True, True]]

    def test_what_is_masked_may_be_anything(self):
        broken = [[1.0, 2.0], [NAN, INF]]
        assert check_queries(broken, [True, False], 2, single=True)[1].tolist() == [[True, False]]
        with pytest.raises(ValueError, match="NaN or infinite"):
            check_queries(broken, [False, True], 2, single=True)

    @pytest.mark.parametrize(
        ("embeddings", "mask", "single", "message"),
        [
            ([1.0, 2.0], None, True, r"\(query_length, embedding_dim\).*got \(2,\)"),
            (QUERY, None, False, r"\(num_queries, query_length, embedding_dim\).*got \(2, 2\)"),
            ([QUERY, QUERY], None, True, r"got \(2, 2, 2\).*`search_batch`"),
            (np.zeros((0, 2)), None, True, r"got \(0, 2\)"),
            (np.zeros((0, 3, 2)), None, False, r"got \(0, 3, 2\)"),
            ([[1.0, 2.0, 3.0]], None, True, "have 3 dimensions, the index has 2: encode queries with the model"),
            (QUERY, [1, 0], True, r"`query_mask` must be boolean .* got torch.int64 of shape \(1, 2\)"),
            (QUERY, [True], True, r"got torch.bool of shape \(1, 1\) for queries of shape \(2, 2\)"),
            ([QUERY, QUERY], torch.tensor([[True, True], [False, False]]), False, "Query 1 keeps no token"),
            ([[1.0, INF]], None, True, "NaN or infinite"),
            ([[1.0], [1.0, 2.0]], None, True, "must be one array or tensor of numbers"),
            ("Who?", None, True, "must be one array or tensor of numbers"),
        ],
    )
    def test_mistakes(self, embeddings, mask, single, message):
        with pytest.raises(ValueError, match=message):
            check_queries(embeddings, mask, 2, single)

    def test_numbers(self):
        assert to_float_tensor([[1, 2]]).dtype == torch.float32
        check_dim(torch.zeros(3, 2), 2)
        with pytest.raises(ValueError, match="have 2 dimensions, the index has 3"):
            check_dim(torch.zeros(3, 2), 3)


class TestDatasets:
    def test_rows_in_their_order(self):
        check_ids_match(Dataset.from_dict({"id": ["a", "b"], "vector": [[0.0], [1.0]]}), ["a", "b"])
        check_ids_match(Dataset.from_dict({"text": ["x", "y"]}), ["a", "b"])  # without ids only the number counts

    def test_mistakes(self):
        dataset = Dataset.from_dict({"id": ["a", "b"]})
        for wrong, ids, message in (
            ([{"id": "a"}], ["a"], "attaches to a `datasets.Dataset`, got list"),
            (dataset, ["a"], "has 2 rows, but 1 passages were embedded"),
            (dataset, ["b", "a"], "Row 0 of the dataset is the passage `a`, but `b` was embedded there"),
        ):
            with pytest.raises(ValueError, match=message):
                check_ids_match(wrong, ids)

    def test_a_row_beyond_the_first_block_is_named(self):
        ids = [str(i) for i in range(20_005)]
        dataset = Dataset.from_dict({"id": [*ids[:-2], "x", ids[-1]]}).with_format("torch")
        check_ids_match(Dataset.from_dict({"id": ids}), ids)
        with pytest.raises(ValueError, match="Row 20003 of the dataset is the passage `x`, but `20003` was embedded"):
            check_ids_match(dataset, ids)
