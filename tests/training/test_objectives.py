"""Objectives: settings, columns, teachers, scores against plain loops, and objectives from outside the package."""

from dataclasses import dataclass, fields

import pytest
import torch
from transformers import HfArgumentParser
from two_processes import make_arguments, make_retriever, make_rows, make_tokenizer

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.models import FAMILIES, ModelFamily, register_family
from hf_xlir.models.late_interaction import maxsim_scores
from hf_xlir.models.modeling_retriever import RetrieverOutput
from hf_xlir.training import (
    OBJECTIVES,
    EmbeddingDistillation,
    InBatchNCE,
    Listwise,
    MarginMSE,
    Objective,
    ReaderDistillation,
    ScoreDistillation,
    TokenDistillation,
    register_objective,
)
from hf_xlir.training import objectives as objectives_module
from hf_xlir.training.objectives import batch_scores, make_objective, pair_scores, score_margin


class Hinge(Objective):
    """An objective as a user writes it: the positive above the first negative by a margin."""

    name, columns = "hinge", ("query", "positive", "negatives")

    @dataclass(frozen=True)
    class Settings:
        gap: float = 1.0
        score_scale: float = 1.0

    def __call__(self, outputs, batch):
        queries = outputs["queries"].embeddings
        documents = outputs["documents"].embeddings.unflatten(0, (len(queries), -1))
        scores = torch.einsum("qd,qnd->qn", queries, documents) * self.settings.score_scale
        self.margin = (scores[:, 0] - scores[:, 1]).mean().detach()
        return {"hinge": (self.settings.gap - scores[:, 0] + scores[:, 1]).clamp(min=0).mean()}


@pytest.fixture
def registered():
    yield register_objective(Hinge)
    del OBJECTIVES["hinge"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    def make(rows=None, objective=None, teacher=False, name="in_batch_nce", **arguments):
        model, processor = make_retriever("biencoder", tokenizer)
        teacher = make_retriever("biencoder", tokenizer, seed=1)[0] if teacher else None
        arguments |= {"objective": name, "max_steps": 20, "optim": "adamw_torch", "learning_rate": 5e-3}
        arguments = make_arguments(tmp_path, **arguments)
        rows = make_rows() if rows is None else rows
        return RetrieverTrainer(model, arguments, processor, teacher=teacher, objective=objective, train_dataset=rows)

    return make


def loss_by_hand(trainer, rows):
    """[`Hinge`] with a gap of 2, one row after another."""
    model, processor, terms = trainer.model.eval(), trainer.processing_class, []
    for row in rows:
        documents = [row["positive"], row["negatives"][0]]
        titles, texts = zip(*[(each["title"], each["text"]) for each in documents], strict=True)
        query = model(**processor.process_queries([row["query"]]))
        scores = processor.score(query, model(**processor.process_documents(texts, titles=titles)))[0]
        terms.append(max(0.0, 2 - (scores[0] - scores[1]).item()))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("way", ["object", "class", "name", "argument"])
def test_an_objective_from_outside_trains(make_trainer, registered, way):
    rows = make_rows()
    if way == "argument":
        trainer = make_trainer(rows, name="hinge", objective_settings={"gap": 2.0})
    else:
        trainer = make_trainer(rows, {"object": Hinge(gap=2.0), "class": Hinge, "name": "hinge"}[way])
    before = trainer.evaluate(rows)["eval_loss"]
    if trainer.objective.settings.gap == 2:
        assert before == pytest.approx(loss_by_hand(trainer, rows), abs=1e-5)
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.6 * before
    assert all("margin" in entry for entry in trainer.state.log_history if "loss" in entry)
    assert trainer.objective_facts()["Objective"].startswith("`hinge`")


def test_registered_settings_may_be_flat_where_the_name_is_known(registered, tmp_path):
    assert make_arguments(tmp_path, objective="hinge", score_scale=3.0).given_settings() == {"score_scale": 3.0}


@pytest.mark.parametrize("objective", [Hinge(), Listwise()])
def test_rows_without_declared_columns_are_refused(make_trainer, objective):
    rows = make_rows()
    with pytest.raises(ValueError, match=r"`train_dataset` lacks \['negatives'\]"):
        make_trainer(rows.remove_columns("negatives"), objective)
    with pytest.raises(ValueError, match=r"lacks \['negatives'\]"):
        make_trainer([{**row, "negatives": []} for row in rows], objective)
    alone = [{"query": row["query"], "documents": [row["positive"]]} for row in rows]
    with pytest.raises(ValueError, match=r"lacks \['negatives'\]"):
        make_trainer(alone, objective)
    later = [{**row, "negatives": row["negatives"] if place < 8 else []} for place, row in enumerate(rows)]
    with pytest.raises(ValueError, match="at least one negative"):
        make_trainer(later, objective).train()


def test_an_objective_from_outside_gets_what_its_teacher_says(make_trainer):
    class Follow(Objective):
        name, needs_teacher = "follow", True

        def __call__(self, outputs, batch):
            assert set(outputs) == {"queries", "documents", "teacher_queries", "teacher_documents"}
            difference = outputs["queries"].embeddings - outputs["teacher_queries"].embeddings
            return {"follow": difference.square().mean()}

    with pytest.raises(ValueError, match="needs a `teacher`"):
        make_trainer(objective=Follow())
    trainer = make_trainer(objective=Follow(), teacher=True)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]


def test_a_family_from_outside_teaches_and_learns(make_trainer, tokenizer):
    class ForeignConfig(BiEncoderConfig):
        model_type = "foreign"

    class ForeignModel(BiEncoderModel):
        config_class = ForeignConfig

    class ForeignProcessor(BiEncoderProcessor):
        config_class = ForeignConfig

    register_family(ModelFamily(ForeignConfig, ForeignModel, ForeignProcessor, vectors="vectors"))
    try:
        model, processor = make_retriever("biencoder", tokenizer)
        outside = ForeignModel(ForeignConfig(**{**model.config.to_dict(), "model_type": "foreign"}))
        outside.load_state_dict(model.state_dict())
        own = ForeignProcessor.from_config(processor.tokenizer, outside.config)
        args, rows = make_trainer().args, make_rows()
        trainer = RetrieverTrainer(outside, args, own, objective=Hinge(), train_dataset=rows)
        expected = make_trainer(rows, Hinge())
        assert trainer.evaluate(rows)["eval_loss"] == expected.evaluate(rows)["eval_loss"]
        teach = ScoreDistillation(teacher_documents=True)
        RetrieverTrainer(
            model, args, processor, teacher=outside, teacher_processor=own, objective=teach, train_dataset=rows
        )
        narrow, narrow_processor = make_retriever("biencoder", tokenizer, embedding_dim=4)
        with pytest.raises(ValueError, match=r"\('vectors', 4\)"):
            RetrieverTrainer(
                narrow,
                args,
                narrow_processor,
                teacher=outside,
                teacher_processor=own,
                objective=teach,
                train_dataset=rows,
            )
    finally:
        del FAMILIES["foreign"]


def test_terms_are_scalars_by_name(make_trainer):
    class Broken(Objective):
        name = "broken"

        def __call__(self, outputs, batch):
            return {"rows": outputs["queries"].embeddings.sum(dim=1)}

    with pytest.raises(ValueError, match=r"`Broken` must return scalars by name.*\(8,\)"):
        make_trainer(objective=Broken()).train()


def test_what_cannot_be_registered_or_used():
    class Other(Objective):
        name = "listwise"

    for wrong, message in ((Other, "choose another"), (Objective, "name"), (Hinge(), "subclass"), (dict, "subclass")):
        with pytest.raises(ValueError, match=message):
            register_objective(wrong)
    with pytest.raises(ValueError, match="must be one of.*got 'no such'"):
        make_objective("no such", {})
    with pytest.raises(ValueError, match="got int"):
        make_objective(3, {})
    with pytest.raises(ValueError, match="score_scale"):
        make_objective(Listwise(), {"score_scale": 2.0})


def test_scores_need_no_arguments():
    queries, documents = RetrieverOutput(torch.eye(2)), RetrieverOutput(torch.eye(2)[[0, 1, 1, 0]])
    objective = Listwise(score_scale=2.0)
    (loss,) = objective({"queries": queries, "documents": documents}, {}).values()
    assert loss.item() == pytest.approx(torch.log1p(torch.tensor(-2.0).exp()).item())
    assert objective.margin.item() == 2 and repr(objective) == "Listwise(score_scale=2.0)"


# Columns with and without a teacher; whether the model and a teacher encode documents
@pytest.mark.parametrize(
    ("objective", "columns", "stored", "needs_teacher", "documents", "teacher_documents"),
    [
        (InBatchNCE(), "query positive", "", False, True, False),
        (Listwise(in_batch_weight=0.5), "query positive negatives", "", False, True, False),
        (ReaderDistillation(), "query positive reader_scores", "", False, True, False),
        (ScoreDistillation(), "query positive negatives", "teacher_scores", False, True, True),
        (ScoreDistillation(distill_in_batch=True), "query positive", "teacher_scores", True, True, True),
        (ScoreDistillation(teacher_documents=True), "query positive negatives", "teacher_scores", True, False, True),
        (MarginMSE(), "query positive negatives", "teacher_scores", False, True, True),
        (MarginMSE(teacher_documents=True), "query positive negatives", "teacher_scores", True, False, True),
        (TokenDistillation(query_weight=0.99), "query positive", "", True, True, True),
        (TokenDistillation(query_weight=1.0), "query", "", True, False, False),
        (EmbeddingDistillation(), "query", "teacher_embedding", False, False, False),
    ],
)
def test_what_objectives_declare(objective, columns, stored, needs_teacher, documents, teacher_documents):
    assert (" ".join(objective.columns), " ".join(objective.stored_columns)) == (columns, stored)
    assert objective.needs_teacher is needs_teacher
    assert (objective.encodes_documents, objective.teacher_encodes_documents) == (documents, teacher_documents)
    assert OBJECTIVES[objective.name] is type(objective) and objective.papers


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_settings_by_name_as_dictionary_or_option(tmp_path, objective):
    scored = "score_scale" in {each.name for each in fields(OBJECTIVES[objective].Settings)}
    given = {"score_scale": 2.0} if scored else {"distance": "mse"}
    options = [f"--{name}={value}" for name, value in given.items()]
    (parsed,) = HfArgumentParser(RetrieverTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--use_cpu", "--objective", objective, *options]
    )
    for arguments in (
        make_arguments(tmp_path, objective=objective, **given),
        make_arguments(tmp_path, objective=objective, objective_settings=given),
        make_arguments(tmp_path, objective=objective, objective_settings=str(given).replace("'", '"')),
        parsed,
    ):
        assert arguments.given_settings() == given
        again = RetrieverTrainingArguments(**{**arguments.to_dict(), "output_dir": str(tmp_path)})
        assert (again.objective, again.given_settings()) == (objective, given)


def test_switches_need_no_value_on_the_command_line(tmp_path):
    (arguments,) = HfArgumentParser(RetrieverTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--use_cpu", "--objective", "score_distillation", "--distill_in_batch"]
    )
    assert arguments.given_settings() == {"distill_in_batch": True}


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        ("listwise", {"temperature": 1.0}, "no setting `temperature`.*`score_scale`, `in_batch_weight`"),
        ("listwise", {"distill_in_batch": False}, "no setting `distill_in_batch`"),
        ("token_distillation", {"score_scale": 2.0}, "`query_weight`, `distance`"),
        ("in_batch", {}, "`objective` must be one of.*got 'in_batch'"),
        ("token_distillation", {"distance": "cosine"}, "`distance`.*got 'cosine'"),
        ("embedding_distillation", {"distance": "l1"}, "`distance`.*got 'l1'"),
        ("embedding_distillation", {"contrast_scale": 0.0}, "`contrast_scale`.*got 0"),
        ("reader_distillation", {"reader_distillation": "pdist"}, "`reader_distillation`.*got 'pdist'"),
        ("reader_distillation", {"teacher_score_scale": 0.0}, "`teacher_score_scale`.*got 0"),
        ("listwise", {"in_batch_weight": -1.0}, "`in_batch_weight`.*got -1"),
        ("token_distillation", {"query_weight": 1.5}, "`query_weight`.*got 1.5"),
        ("score_distillation", {"temperature": 0.0}, "`temperature`.*got 0"),
        ("margin_mse", {"score_scale": -1.0}, "`score_scale`.*got -1"),
        ("listwise", {"score_scale": 2.0, "objective_settings": {"score_scale": 3.0}}, "given twice: 2.0, and 3.0"),
        ("listwise", {"objective_settings": "[2.0]"}, r"dictionary, got \[2.0\]"),
    ],
)
def test_mistakes_in_settings(tmp_path, objective, settings, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(tmp_path, objective=objective, **settings)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def outputs(num_queries, num_documents, tokens):
    """Random embeddings that require a gradient, of tokens or of texts."""
    if not tokens:
        vectors = normal(num_queries, 5), normal(num_documents, 5, seed=1)
        return [RetrieverOutput(embeddings.requires_grad_()) for embeddings in vectors]
    vectors = normal(num_queries, 4, 5), normal(num_documents, 7, 5, seed=1)
    masks = torch.ones(num_queries, 4, dtype=torch.bool), torch.ones(num_documents, 7, dtype=torch.bool)
    masks[0][1, 2:] = masks[1][0, 1:5] = masks[1][2, :3] = False
    return [
        RetrieverOutput(embeddings.requires_grad_(), mask) for embeddings, mask in zip(vectors, masks, strict=True)
    ]


def score_of(queries, documents, i, j):
    if queries.embedding_mask is None:
        return queries.embeddings[i] @ documents.embeddings[j]
    tokens = documents.embeddings[j][documents.embedding_mask[j]]
    return sum(max(tokens @ token) for token in queries.embeddings[i][queries.embedding_mask[i]])


@pytest.mark.parametrize("tokens", [False, True])
def test_scores_of_all_pairs(tokens):
    queries, documents = outputs(3, 4, tokens)
    expected = [[score_of(queries, documents, i, j).item() for j in range(4)] for i in range(3)]
    torch.testing.assert_close(batch_scores(queries, documents), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [False, True])
def test_scores_of_own_documents(tokens):
    queries, documents = outputs(2, 6, tokens)
    expected = [[score_of(queries, documents, i, 3 * i + j).item() for j in range(3)] for i in range(2)]
    torch.testing.assert_close(pair_scores(queries, documents), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [False, True])
def test_different_numbers_of_documents(tokens):
    queries, documents = outputs(3, 6, tokens)
    present = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    scores = pair_scores(queries, documents, present)
    places = {(0, 0): 0, (0, 2): 1, (1, 0): 2, (1, 1): 3, (1, 2): 4, (2, 1): 5}
    for (i, j), document in places.items():
        assert scores[i, j].item() == pytest.approx(score_of(queries, documents, i, document).item(), abs=1e-12)
    scores[~present].sum().backward()
    assert (documents.embeddings.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("score", "num_documents"), [(batch_scores, 4), (pair_scores, 6)])
def test_scores_of_half_precision_are_not_rounded(dtype, tokens, score, num_documents):
    half = [
        RetrieverOutput(each.embeddings.to(dtype), each.embedding_mask) for each in outputs(2, num_documents, tokens)
    ]
    exact = [RetrieverOutput(each.embeddings.double(), each.embedding_mask) for each in half]
    scores = score(*half)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), score(*exact), rtol=0, atol=1e-5)


@pytest.mark.parametrize("most", [1, 60, 28 * 3, 28 * 9, 10_000])
def test_blocks_give_the_same_scores_and_gradients(monkeypatch, most):
    sizes = []

    def spy(queries, documents, *masks):
        sizes.append(len(queries) * queries.shape[1] * len(documents) * documents.shape[1])
        return maxsim_scores(queries, documents, *masks)

    monkeypatch.setattr(objectives_module, "maxsim_scores", spy)
    monkeypatch.setattr(objectives_module, "MAX_SIMILARITIES", most)
    weights = normal(5, 8, seed=2)
    gradients = []
    for score in (
        batch_scores,
        lambda q, d: maxsim_scores(q.embeddings, d.embeddings, q.embedding_mask, d.embedding_mask),
    ):
        queries, documents = outputs(5, 8, tokens=True)
        scores = score(queries, documents)
        (scores * weights).sum().backward()
        gradients.append((scores.detach(), queries.embeddings.grad, documents.embeddings.grad))
    for in_blocks, at_once in zip(*gradients, strict=True):
        torch.testing.assert_close(in_blocks, at_once, rtol=0, atol=1e-12)
    assert max(sizes) <= max(most, 28)  # a query and a document have 28 similarities
    assert (len(sizes) == 1) == (most == 10_000)


def test_margin_to_the_best_negative():
    scores = torch.tensor([[1.0, 5.0, 2.0], [9.0, 7.0, 3.0], [4.0, 4.5, 8.0]])
    positives = torch.tensor([0, 1, 2])
    assert score_margin(scores, positives).item() == pytest.approx(((1 - 5) + (7 - 9) + (8 - 4.5)) / 3)
    left_out = torch.zeros(3, 3, dtype=torch.bool)
    left_out[0, 1] = left_out[1, 0] = left_out[1, 2] = True  # nothing is left for the second
    assert score_margin(scores, positives, left_out).item() == pytest.approx(((1 - 2) + (8 - 4.5)) / 2)
    assert score_margin(scores[:1, :1], positives[:1]).item() == 0
    assert scores[0].tolist() == [1, 5, 2]
