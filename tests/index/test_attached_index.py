"""An index through a dataset whose rows stay what they are while the index changes."""

import copy
import pickle

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from test_changing_index import part_of, renamed
from test_tokens import made_up, queries_like

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings, retrieve


def dataset_of(ids):
    return Dataset.from_dict({"id": list(ids), "text": [f"text of {id}" for id in ids]})


@pytest.fixture(params=[None, 4])
def attached(request):
    index, dataset = LateInteractionIndex.build(made_up(), request.param), dataset_of(made_up().ids)
    assert index.attach(dataset, "colbert") is index
    return index, dataset


def best(index, query, allowed=None):
    return [index.ids[row] for row in index.search(query, 5, allowed_ids=allowed, preset="exact").indices]


def test_changes_are_seen_by_the_rows_that_there_are(attached):
    index, dataset = attached
    query = queries_like(made_up())[0][0]
    first = best(index, query)
    index.remove([first[0], "p0" if first[0] != "p0" else "p1"])
    index.add(renamed(made_up(20, seed=2), "x"))
    own = set(index.ids) & set(dataset["id"])
    expected = best(index, query, own)
    scores, examples = dataset.get_nearest_examples("colbert", query, 5, preset="exact")
    assert examples["id"] == expected and first[0] not in expected
    assert examples["text"] == [f"text of {id}" for id in expected]
    found = dataset.get_nearest_examples_batch("colbert", query[None], 5, preset="exact")
    assert found.total_examples[0]["id"] == expected
    np.testing.assert_allclose(found.total_scores[0], scores, atol=1e-6)
    retrieved = retrieve(dataset, "colbert", query[None], k=100, preset="exact")
    assert sorted(retrieved[1][0]) == sorted(own)


def test_updated_vectors_are_searched(attached):
    index, dataset = attached
    query = queries_like(made_up())[0][0]
    last = index.ids[index.search(query, 60, preset="exact").indices[-1]]
    index.remove(["p0" if last != "p0" else "p1"])
    index.update(TokenEmbeddings(query.numpy(), np.array([len(query)]), [last]))
    assert dataset.get_nearest_examples("colbert", query, 1, preset="exact").examples["id"] == [last]


def test_allowed_ids(attached):
    index, dataset = attached
    query = queries_like(made_up())[0][0]
    index.remove(["p7"])
    index.add(renamed(made_up(3, seed=2), "x"))
    _, examples = dataset.get_nearest_examples("colbert", query, 5, allowed_ids=["p7", "p8", "p9"])  # one is removed
    assert sorted(examples["id"]) == ["p8", "p9"]
    retrieved = retrieve(dataset, "colbert", query[None], k=9, filter=lambda row: row["id"] in ("p7", "p50"))
    assert retrieved[1] == [["p50"]]
    for allowed in (["unknown"], ["xp0"]):  # neither is a row
        with pytest.raises(ValueError, match="1 ids are not"):
            dataset.get_nearest_examples("colbert", query, 5, allowed_ids=allowed)
    with pytest.raises(ValueError, match="got one string"):
        dataset.get_nearest_examples("colbert", query, 5, allowed_ids="p1")


def test_a_dataset_that_grows_with_the_index(attached):
    index, dataset = attached
    query, more = queries_like(made_up())[0][0], renamed(made_up(20, seed=2), "x")
    index.add(more)
    dataset.drop_index("colbert")
    dataset = concatenate_datasets([dataset, dataset_of(more.ids)]).filter(lambda row: row["id"] != "p3")
    with pytest.raises(ValueError, match="The dataset has 79 rows, but 80 passages were embedded"):
        index.attach(dataset, "colbert")
    index.remove(["p3"])
    index.attach(dataset, "colbert")
    _, examples = dataset.get_nearest_examples("colbert", query, 5, preset="exact")
    assert examples["id"] == best(index, query)


def test_copies_of_the_dataset(attached):
    index, dataset = attached
    query = queries_like(made_up())[0][0]
    assert copy.deepcopy(dataset).get_index("colbert") is dataset.get_index("colbert")
    other = pickle.loads(pickle.dumps(dataset))
    index.remove([best(index, query)[0]])
    ids = [each.get_nearest_examples("colbert", query, 5, preset="exact").examples["id"] for each in (dataset, other)]
    assert ids[0] == best(index, query) and ids[1][1:] == ids[0][:4]


def test_the_dataset_without_ids():
    index, dataset = LateInteractionIndex.build(made_up()), dataset_of(made_up().ids).remove_columns("id")
    index.attach(dataset, "colbert")
    query = queries_like(made_up())[0][0]
    index.remove(["p5"])
    _, examples = dataset.get_nearest_examples("colbert", query, 5)
    assert examples["text"] == [f"text of {id}" for id in best(index, query)]
    assert len(dataset.get_index("colbert")) == 60 and dataset.get_index("colbert").ids == made_up().ids


def test_everything_removed(attached):
    index, dataset = attached
    index.remove(index.ids)
    scores, examples = dataset.get_nearest_examples("colbert", queries_like(made_up())[0][0], 5)
    assert len(scores) == len(examples["id"]) == 0
    index.add(part_of(made_up(), [4]))
    assert dataset.get_nearest_examples("colbert", made_up()[4], 5).examples["id"] == ["p4"]
