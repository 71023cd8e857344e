"""What the arguments say about the objective: which texts are encoded, by whom, and what follows from it."""

import pytest

from hf_xlir import RetrieverTrainingArguments
from hf_xlir.training.training_args import OBJECTIVES


def make(tmp_path, objective, **fields):
    return RetrieverTrainingArguments(str(tmp_path), objective=objective, use_cpu=True, report_to="none", **fields)


def test_reader_distillation_is_checked(tmp_path):
    assert make(tmp_path, "reader_distillation", reader_distillation="emdr2").reader_distillation == "emdr2"
    with pytest.raises(ValueError, match="`reader_distillation` must be one of .*, got 'pdist'"):
        make(tmp_path, "reader_distillation", reader_distillation="pdist")
    with pytest.raises(ValueError, match='`reader_distillation=emdr2` needs `objective="reader_distillation"`'):
        make(tmp_path, "listwise", reader_distillation="emdr2")


# Whether the model in training encodes documents, whether a teacher would, and whether documents have no part at all
@pytest.mark.parametrize(
    ("objective", "fields", "documents", "teacher", "queries_alone"),
    [
        ("in_batch_nce", {}, True, False, False),
        ("listwise", {"in_batch_weight": 0.5}, True, False, False),
        ("reader_distillation", {}, True, False, False),
        ("score_distillation", {}, True, True, False),
        ("score_distillation", {"distill_in_batch": True}, True, True, False),
        ("score_distillation", {"teacher_documents": True}, False, True, False),
        ("margin_mse", {}, True, True, False),
        ("margin_mse", {"teacher_documents": True}, False, True, False),
        ("token_distillation", {}, True, True, False),
        ("token_distillation", {"query_weight": 0.99}, True, True, False),
        ("token_distillation", {"query_weight": 1.0}, False, False, True),
        ("embedding_distillation", {}, False, False, True),
        # of no meaning here, and so without effect
        ("in_batch_nce", {"query_weight": 1.0}, True, False, False),
    ],
)
def test_which_texts_are_encoded(tmp_path, objective, fields, documents, teacher, queries_alone):
    arguments = make(tmp_path, objective, **fields)
    assert arguments.encodes_documents is documents
    assert arguments.teacher_may_encode_documents is teacher
    assert arguments.distils_queries_alone is queries_alone
    # Two forward passes before the gradient are what DistributedDataParallel cannot look through
    assert arguments.ddp_find_unused_parameters is not documents


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_defaults_that_work(tmp_path, objective):
    arguments = make(tmp_path, objective)
    assert (arguments.objective, arguments.distance, arguments.temperature) == (objective, "mse", 2.0)
    assert arguments.accelerator_config.dispatch_batches is False and arguments.remove_unused_columns is False


def test_distances(tmp_path):
    assert make(tmp_path, "token_distillation", distance="l1").distance == "l1"
    assert make(tmp_path, "embedding_distillation", distance="cosine").distance == "cosine"
    assert make(tmp_path, "in_batch_nce", distance="cosine").distance == "cosine"  # has none


@pytest.mark.parametrize("find", [False, True])
def test_unused_parameters_may_be_looked_for_where_queries_are_encoded_alone(tmp_path, find):
    arguments = make(tmp_path, "embedding_distillation", ddp_find_unused_parameters=find)
    assert arguments.ddp_find_unused_parameters is find


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_weight": -0.1}, "`query_weight` must be from 0 to 1, got -0.1"),
        ({"teacher_score_scale": 0.0}, "`teacher_score_scale` must be positive, got 0.0"),
        ({"in_batch_weight": 0.5}, '`in_batch_weight=0.5` needs `objective="listwise"`, got .score_dis'),
        ({"eval_k": -1}, "`eval_k` must be at least 1, got -1"),
    ],
)
def test_mistakes(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, "score_distillation", **fields)


def test_they_are_written_and_read(tmp_path):
    arguments = make(tmp_path, "score_distillation", temperature=3.0, teacher_documents=True)
    again = RetrieverTrainingArguments(**{**arguments.to_dict(), "output_dir": str(tmp_path)})
    for name in ("objective", "temperature", "teacher_documents", "encodes_documents", "ddp_find_unused_parameters"):
        assert getattr(again, name) == getattr(arguments, name)
