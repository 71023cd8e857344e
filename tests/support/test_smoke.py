"""Every file of a smoke run is what its loader reads."""

import pytest
from transformers import TrainingArguments

from hf_xlir.data import (
    load_natural_questions,
    load_parallel,
    load_passages,
    load_queries,
    load_questions,
    load_reader_examples,
    load_training_rows,
    load_triples,
)
from hf_xlir.models.auto import load_retriever
from support.smoke import prepare_smoke


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return prepare_smoke(TrainingArguments(str(tmp_path_factory.mktemp("out")), use_cpu=True))


def test_triples_in_each_form(paths):
    cache = {"cache_dir": paths["cache"]}
    rows = load_training_rows(paths["rows"], **cache)
    triples, english = (load_triples(paths[name], **cache) for name in ("triples", "teacher_triples"))
    ids = load_triples(paths["nway"], paths["queries"], paths["passages"], **cache)
    dpr = load_natural_questions("dpr", "train", paths["dpr"], **cache)
    reader = load_reader_examples(paths["reader_examples"], **cache)
    assert len(rows) == len(triples) == len(english) == len(ids) == len(dpr) == len(reader) == 48
    assert triples["query"][:] == rows["query"][:] == ids["query"][:] == dpr["question"][:] == reader["question"][:]
    assert english["query"][:] == rows["teacher_query"][:] and english["positive"][:] == triples["positive"][:]
    assert set(rows["lang"]) == {"fi", "ko"} and load_queries(paths["queries"], **cache)["id"][:] == rows["id"][:]
    for row, triple, by_id, of_dpr, of_reader in zip(rows, triples, ids, dpr, reader, strict=True):
        texts = [passage["text"] for passage in [row["positive"], *row["negatives"]]]
        assert len(set(texts)) == 3 and row["positive"]["title"]
        assert [triple["positive"], triple["negative"]] == texts[:2]
        assert [passage["text"] for passage in [by_id["positive"], *by_id["negatives"]]] == texts
        assert [passage["text"] for passage in of_dpr["positive_ctxs"] + of_dpr["hard_negative_ctxs"]] == texts
        assert [passage["text"] for passage in of_reader["ctxs"]] == texts
        assert [passage["score"] for passage in of_reader["ctxs"]] == by_id["teacher_scores"]
        assert any(answer in texts[0] for answer in of_dpr["answers"])
        assert (of_reader["answers"], of_reader["lang"]) == (of_dpr["answers"], row["lang"])
    assert len({score for scores in ids["teacher_scores"] for score in scores}) > 3


def test_the_rest(paths):
    cache = {"cache_dir": paths["cache"]}
    passages, questions = load_passages(paths["passages"], **cache), load_questions(paths["questions"], **cache)
    assert {id for ids in questions["passage_ids"] for id in ids} <= set(passages["id"])
    assert len(questions) == 16 and set(questions["lang"]) == {"en", "fi", "ko"} and 96 <= len(passages) <= 200
    assert len(load_parallel(paths["source"], paths["target"], **cache)) == 48
    for family, embedding_dim in (("colbert_xlmr", 128), ("biencoder", 32)):
        model, processor = load_retriever(paths["encoder"], family, document_length=256)
        output = model(**processor.process_documents(["the " * 300]))
        assert output.embeddings.shape[-1] == embedding_dim


def test_files_stay_as_they_are(paths, tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    (tmp_path / "smoke_unfinished").mkdir()
    (tmp_path / "smoke_unfinished" / "half").touch()
    again = prepare_smoke(args)
    assert set(again) == set(paths)
    for name in set(paths) - {"cache", "encoder", "backbone"}:
        assert open(again[name], "rb").read() == open(paths[name], "rb").read()
    for name in ("encoder", "backbone"):
        weights = [open(f"{each[name]}/model.safetensors", "rb").read() for each in (paths, again)]
        assert weights[0] == weights[1]
    open(again["source"], "w").close()
    assert prepare_smoke(args) == again and open(again["source"]).read() == ""
