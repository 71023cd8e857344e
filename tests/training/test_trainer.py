"""The trainer: every objective against the losses applied by hand to the model's outputs, and what training does."""

import pytest
import torch
from datasets import IterableDataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, TrainingArguments
from two_processes import (
    WORDS,
    logged_losses,
    make_arguments,
    make_bert_tokenizer,
    make_reader_rows,
    make_retriever,
    make_rows,
    make_tokenizer,
    train,
)

from hf_xlir import RetrieverTrainer, RetrieverTrainingArguments
from hf_xlir.evaluation import rank_passages, recall_at_k
from hf_xlir.index import embed_passages
from hf_xlir.training import losses


FAMILIES = ("colbert", "biencoder")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    """A function that makes a student, its trainer and, unless `teacher=False`, a teacher."""

    def make(family, objective, rows=None, teacher=True, dropout=0.0, settings=(), **arguments):
        model, processor = make_retriever(family, tokenizer, dropout=dropout, **dict(settings))
        teacher = make_retriever(family, tokenizer, seed=1, **dict(settings))[0] if teacher else None
        return RetrieverTrainer(
            model,
            make_arguments(tmp_path / "out", objective=objective, **arguments),
            processor,
            teacher=teacher,
            train_dataset=make_rows() if rows is None else rows,
        )

    return make


class ByHand:
    """A batch's outputs by student and teacher, each text's negatives behind it, and scores in a plain loop."""

    def __init__(self, trainer, rows):
        self.processor = trainer.processing_class
        documents = [document for row in rows for document in (row["positive"], *row["negatives"])]
        self.texts = [(document["title"], document["text"]) for document in documents]
        self.nway = len(documents) // len(rows)
        models = {"student": trainer.model.eval(), "teacher": trainer.teacher}
        titles, texts = zip(*self.texts, strict=True)
        self.outputs = {}
        for name, model in models.items():
            if model is not None:
                queries = [row["query" if name == "student" else "teacher_query"] for row in rows]
                self.outputs[name, "queries"] = model(**self.processor.process_queries(queries))
                self.outputs[name, "documents"] = model(**self.processor.process_documents(texts, titles=titles))

    def scores(self, queries="student", documents="student"):
        return self.processor.score(self.outputs[queries, "queries"], self.outputs[documents, "documents"])

    def own(self, scores):
        return torch.stack([row[i * self.nway : (i + 1) * self.nway] for i, row in enumerate(scores)])


def loss_of(trainer, rows):
    trainer.model.eval()
    return trainer.compute_loss(trainer.model, trainer.data_collator(list(rows)))


def assert_same(loss, expected):
    assert loss.requires_grad
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_batch_nce_by_hand_without_copies_of_the_positive(make_trainer, family):
    trainer, rows = make_trainer(family, "in_batch_nce", teacher=False, score_scale=0.5), make_rows(4)
    hand = ByHand(trainer, rows)
    terms = []
    for query, scores in enumerate(hand.scores() * 0.5):
        positive = query * 3
        kept = [i for i, text in enumerate(hand.texts) if i == positive or text != hand.texts[positive]]
        assert len(kept) == (11 if query in (0, 2) else 12)
        terms.append(torch.logsumexp(scores[kept], dim=0) - scores[positive])
    assert_same(loss_of(trainer, rows), sum(terms) / 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_listwise_by_hand(make_trainer, family):
    trainer, rows = make_trainer(family, "listwise", teacher=False, score_scale=0.5), make_rows(4)
    hand = ByHand(trainer, rows)
    assert_same(loss_of(trainer, rows), losses.listwise_cross_entropy_loss(hand.own(hand.scores()) * 0.5))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("teacher_documents", [False, True])
def test_score_distillation_by_hand(make_trainer, family, in_batch, teacher_documents):
    arguments = {"distill_in_batch": in_batch, "teacher_documents": teacher_documents}
    scales = {"score_scale": 0.5, "teacher_score_scale": 0.25, "temperature": 1.5}
    trainer, rows = make_trainer(family, "score_distillation", **arguments, **scales), make_rows(4)
    hand = ByHand(trainer, rows)
    student = hand.scores("student", "teacher" if teacher_documents else "student")
    teacher = hand.scores("teacher", "teacher")
    if not in_batch:
        student, teacher = hand.own(student), hand.own(teacher)
    expected = losses.score_distillation_loss(student * 0.5, teacher * 0.25, temperature=1.5)
    assert_same(loss_of(trainer, rows), expected)


@pytest.mark.parametrize("teacher_documents", [False, True])
def test_stored_scores_take_the_place_of_the_teachers(make_trainer, teacher_documents):
    rows = make_rows(4).add_column("teacher_scores", [[3.0, 1.0, 0.5]] * 4)
    trainer = make_trainer(
        "colbert", "score_distillation", rows, teacher=teacher_documents, teacher_documents=teacher_documents
    )
    hand = ByHand(trainer, rows)
    student = hand.own(hand.scores("student", "teacher" if teacher_documents else "student"))
    expected = losses.score_distillation_loss(student, torch.tensor([[3.0, 1.0, 0.5]] * 4), temperature=2.0)
    assert_same(loss_of(trainer, rows), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_listwise_with_in_batch_term_is_the_sum_of_both(make_trainer, family):
    rows, arguments = make_rows(4), {"teacher": False, "score_scale": 0.5}
    listwise, nce = (make_trainer(family, objective, **arguments) for objective in ("listwise", "in_batch_nce"))
    both = make_trainer(family, "listwise", in_batch_weight=0.25, **arguments)
    assert_same(loss_of(both, rows), loss_of(listwise, rows) + 0.25 * loss_of(nce, rows))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("teacher_documents", [False, True])
def test_margin_mse_by_hand(make_trainer, family, teacher_documents):
    scales = {"score_scale": 0.5, "teacher_score_scale": 0.25}
    trainer, rows = make_trainer(family, "margin_mse", teacher_documents=teacher_documents, **scales), make_rows(4)
    hand = ByHand(trainer, rows)
    student = hand.own(hand.scores("student", "teacher" if teacher_documents else "student")) * 0.5
    teacher = hand.own(hand.scores("teacher", "teacher")) * 0.25
    margins = [scores[:, :1] - scores[:, 1:] for scores in (student, teacher)]
    assert_same(loss_of(trainer, rows), ((margins[0] - margins[1]) ** 2).mean())


def test_margin_mse_of_stored_scores(make_trainer):
    rows = make_rows(4).add_column("teacher_scores", [[3.0, 1.0, 0.5]] * 4)
    trainer = make_trainer("biencoder", "margin_mse", rows, teacher=False)
    hand = ByHand(trainer, rows)
    student = hand.own(hand.scores())
    expected = (student[:, :1] - student[:, 1:] - torch.tensor([[2.0, 2.5]])).square().mean()
    assert_same(loss_of(trainer, rows), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_reader_distillation_by_hand(make_trainer, family):
    rows = make_reader_rows(6)
    scales = {"score_scale": 0.5, "teacher_score_scale": 0.25}
    trainer = make_trainer(family, "reader_distillation", rows, teacher=False, **scales)
    processor, model, terms = trainer.processing_class, trainer.model.eval(), []
    numbers = set()
    for row in rows:
        read = [i for i, score in enumerate(row["reader_scores"]) if score > -torch.inf]
        titles, texts = zip(*[(row["documents"][i]["title"], row["documents"][i]["text"]) for i in read], strict=True)
        documents = model(**processor.process_documents(texts, titles=titles))
        scores = processor.score(model(**processor.process_queries([row["query"]])), documents) * 0.5
        if family == "biencoder":
            scores = scores / 4  # the square root of 16 dimensions
        reader = (torch.tensor([[row["reader_scores"][i] for i in read]]) * 0.25).softmax(dim=1)
        terms.append((reader * (reader.log() - scores.log_softmax(dim=1))).sum())
        numbers.add((len(read), len(row["documents"])))
    assert len(numbers) > 2 and any(read < given for read, given in numbers)
    assert_same(loss_of(trainer, rows), sum(terms) / 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likelihood_of_answers_by_hand(make_trainer, family):
    """EMDR2: each passage's likelihood of the answer, weighted by the retriever."""
    rows = make_reader_rows(4).map(lambda row: {"reader_scores": [-abs(score) for score in row["reader_scores"]]})
    arguments = {"teacher": False, "score_scale": 0.5, "reader_distillation": "emdr2"}
    trainer = make_trainer(family, "reader_distillation", rows, **arguments)
    processor, model, terms = trainer.processing_class, trainer.model.eval(), []
    for row in rows:
        titles, texts = zip(*[(each["title"], each["text"]) for each in row["documents"]], strict=True)
        documents = model(**processor.process_documents(texts, titles=titles))
        scores = processor.score(model(**processor.process_queries([row["query"]])), documents) * 0.5
        if family == "biencoder":
            scores = scores / 4  # the square root of 16 dimensions
        likelihoods = torch.tensor([row["reader_scores"]])
        weights = scores.masked_fill(likelihoods == -torch.inf, -torch.inf).softmax(dim=1)
        terms.append(-(weights * likelihoods.exp()).sum().log())
    assert_same(loss_of(trainer, rows), sum(terms) / 4)


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_token_distillation_by_hand(make_trainer, distance):
    trainer = make_trainer("colbert", "token_distillation", query_weight=0.3, distance=distance)
    rows = make_rows(4)
    hand = ByHand(trainer, rows)
    kinds = [(who, kind) for kind in ("queries", "documents") for who in ("student", "teacher")]
    expected = losses.token_distillation_loss(
        *(hand.outputs[key].embeddings for key in kinds),
        *(hand.outputs[key].embedding_mask for key in kinds),
        query_weight=0.3,
        distance=distance,
    )
    assert_same(loss_of(trainer, rows), expected)


def make_bert_teacher_trainer(tokenizer, tmp_path, rows, **arguments):
    """A trainer of an XLM-R student whose teacher is a BERT with WordPieces."""
    student, processor = make_retriever("colbert", tokenizer)
    settings = {"model_type": "bert", "query_expansion": "mask", "document_length": 30, "query_length": 20}
    teacher, teacher_processor = make_retriever("colbert", make_bert_tokenizer(), seed=1, **settings)
    arguments = make_arguments(tmp_path, objective="token_distillation", **arguments)
    return RetrieverTrainer(
        student, arguments, processor, teacher=teacher, teacher_processor=teacher_processor, train_dataset=rows
    )


def test_token_distillation_from_another_encoder_and_tokenizer_by_hand(tokenizer, tmp_path):
    rows = make_rows(4)
    trainer = make_bert_teacher_trainer(tokenizer, tmp_path, rows, query_weight=0.3)
    assert trainer.teacher.encoder.config.model_type == "bert"
    batch = trainer.data_collator(list(rows))
    models = {"": trainer.model.eval(), "teacher_": trainer.teacher}
    outputs = {
        (who, kind): model(**batch[f"{who}{kind}"])
        for who, model in models.items()
        for kind in ("queries", "documents")
    }
    lengths = [outputs[who, "documents"].embeddings.shape[1] for who in models]
    assert lengths[0] != lengths[1]
    kinds = [(who, kind) for kind in ("queries", "documents") for who in models]
    expected = losses.token_distillation_loss(
        *(outputs[key].embeddings for key in kinds),
        *(outputs[key].embedding_mask for key in kinds),
        query_weight=0.3,
        align_documents=True,
    )
    assert_same(loss_of(trainer, rows), expected)


def test_student_learns_tokens_of_another_encoder_and_tokenizer(tokenizer, tmp_path):
    arguments = {"max_steps": 40, "optim": "adamw_torch", "learning_rate": 5e-3}
    trainer = make_bert_teacher_trainer(tokenizer, tmp_path, make_rows(), **arguments)
    before = trainer.evaluate(make_rows())["eval_loss"]
    trainer.train()
    assert trainer.evaluate(make_rows())["eval_loss"] < 0.6 * before


def test_documents_of_one_vocabulary_correspond_by_position(tokenizer, tmp_path):
    def is_aligned(teacher_tokenizer, **settings):
        student, processor = make_retriever("colbert", tokenizer)
        teacher, teacher_processor = make_retriever("colbert", teacher_tokenizer, seed=1, **settings)
        arguments = make_arguments(tmp_path, objective="token_distillation")
        return RetrieverTrainer(
            student, arguments, processor, teacher=teacher, teacher_processor=teacher_processor
        ).objective.align_documents

    assert not is_aligned(tokenizer) and not is_aligned(make_tokenizer())
    assert is_aligned(make_bert_tokenizer())
    assert is_aligned(tokenizer, document_length=30)  # a document may be cut at another place


def test_stored_sentence_vectors_take_the_place_of_the_teachers(make_trainer):
    rows = make_rows(4)
    live = make_trainer("biencoder", "embedding_distillation", distance="cosine", contrast_scale=20.0)
    teacher_queries = live.processing_class.process_queries(rows["teacher_query"])
    vectors = live.teacher(**teacher_queries).embeddings.tolist()
    stored = rows.add_column("teacher_embedding", vectors)
    trainer = make_trainer(
        "biencoder", "embedding_distillation", stored, teacher=False, distance="cosine", contrast_scale=20.0
    )
    assert_same(loss_of(trainer, stored), loss_of(live, rows))


@pytest.mark.parametrize("contrast_scale", [None, 20.0])
def test_embedding_distillation_by_hand_without_copies_of_the_own_sentence(make_trainer, contrast_scale):
    trainer = make_trainer("biencoder", "embedding_distillation", distance="cosine", contrast_scale=contrast_scale)
    rows = make_rows(4)
    hand = ByHand(trainer, rows)
    student, teacher = (hand.outputs[who, "queries"].embeddings for who in ("student", "teacher"))
    cosines = torch.nn.functional.cosine_similarity(student[:, None], teacher[None], dim=2)
    expected = 1 - cosines.diagonal().mean()
    if contrast_scale:
        cosines = cosines.clone() * contrast_scale
        own = cosines.diagonal().clone()
        cosines[0, 2] = cosines[2, 0] = -torch.inf  # these rows have one English sentence
        expected = expected + (cosines.logsumexp(dim=1) - own).mean()
    assert_same(loss_of(trainer, rows.remove_columns(["positive", "negatives"])), expected)


OBJECTIVES = [
    ("colbert", {"objective": "in_batch_nce"}),
    ("biencoder", {"objective": "in_batch_nce"}),
    ("colbert", {"objective": "listwise"}),
    ("biencoder", {"objective": "listwise"}),
    ("colbert", {"objective": "listwise", "in_batch_weight": 1.0}),
    ("colbert", {"objective": "margin_mse"}),
    ("biencoder", {"objective": "in_batch_nce", "gradient_cache_chunk_size": 5}),
    ("colbert", {"objective": "score_distillation"}),
    ("biencoder", {"objective": "score_distillation", "distill_in_batch": True}),
    ("colbert", {"objective": "score_distillation", "distill_in_batch": True, "teacher_documents": True}),
    ("colbert", {"objective": "token_distillation"}),
    ("biencoder", {"objective": "embedding_distillation", "contrast_scale": 20.0}),
]


@pytest.mark.parametrize(("family", "arguments"), OBJECTIVES)
def test_training_lowers_the_loss_and_leaves_the_teacher(make_trainer, family, arguments):
    trainer = make_trainer(family, max_steps=40, optim="adamw_torch", learning_rate=5e-3, **arguments)
    teacher = {name: weights.clone() for name, weights in trainer.teacher.state_dict().items()}
    before = trainer.evaluate(make_rows())["eval_loss"]
    trainer.train()
    assert trainer.evaluate(make_rows())["eval_loss"] < 0.6 * before
    assert not trainer.teacher.training
    assert all(weights.grad is None for weights in trainer.teacher.parameters())
    for name, weights in trainer.teacher.state_dict().items():
        assert torch.equal(weights, teacher[name])


def test_accumulated_gradients_are_the_average(make_trainer):
    trainer = make_trainer(
        "colbert",
        "in_batch_nce",
        teacher=False,
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    rows, before = make_rows(), dict(trainer.model.named_parameters())
    batch_losses = [loss_of(trainer, rows.select(range(start, start + 4))) for start in (0, 4)]
    gradients = torch.autograd.grad(sum(batch_losses) / 2, list(before.values()))
    expected = [
        weights.detach() - 0.05 * gradient for weights, gradient in zip(before.values(), gradients, strict=True)
    ]
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([sum(batch_losses).item() / 2], abs=1e-4)
    for weights, wanted in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.detach(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["listwise", "token_distillation"])
def test_accumulated_batches_of_different_sizes_are_one_batch(make_trainer, objective):
    # 4 + 4 + 2 rows at the end of an epoch; and batches differ in their number of tokens
    rows, weights, logged = make_rows(10), [], []
    for batch_size, steps in ((10, 1), (4, 3)):
        trainer = make_trainer(
            "colbert",
            objective,
            rows,
            max_steps=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
        logged.append(logged_losses(trainer))
    assert logged[1] == pytest.approx(logged[0], abs=1e-5)
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-6)


def test_evaluation_is_the_mean_over_rows(make_trainer):
    trainer = make_trainer("biencoder", "listwise", teacher=False, per_device_eval_batch_size=4)
    rows = make_rows(10)
    metrics = trainer.evaluate(rows)
    by_row = [loss_of(trainer, rows.select([i])).item() for i in range(10)]
    assert metrics["eval_loss"] == pytest.approx(sum(by_row) / 10, abs=1e-5)


def test_streamed_rows_train_like_those_of_a_list(tmp_path):
    batches, streamed = train("colbert nce", tmp_path), train("colbert nce", tmp_path, streamed=True)
    assert streamed["losses"] == batches["losses"]
    assert all(torch.equal(weights, streamed["weights"][name]) for name, weights in batches["weights"].items())
    assert isinstance(make_rows().to_iterable_dataset(), IterableDataset)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_has_the_student_and_its_processor(make_trainer, tmp_path, family):
    trainer = make_trainer(family, "score_distillation", save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert set(load_file(checkpoint / "model.safetensors")) == set(trainer.model.state_dict())
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    assert type(model) is type(trainer.model) and type(processor) is type(trainer.processing_class)
    for name in processor.settings:
        assert getattr(processor, name) == getattr(trainer.processing_class, name)
    queries = ["north river", "green"]
    torch.testing.assert_close(
        model(**processor.process_queries(queries)).embeddings,
        trainer.model.eval()(**trainer.processing_class.process_queries(queries)).embeddings,
    )


def test_resumed_training_equals_an_uninterrupted_one(make_trainer, tmp_path):
    run = {"dropout": 0.1, "optim": "adamw_torch", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run["train_sampling_strategy"] = "random"
    whole = make_trainer("colbert", "score_distillation", **run)
    whole.train()
    resumed = make_trainer("colbert", "score_distillation", **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    for weights, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(weights, expected)


def test_processor_settings_are_written_to_the_configuration(tokenizer, tmp_path):
    model, _ = make_retriever("colbert", tokenizer)
    _, processor = make_retriever("colbert", tokenizer)
    assert model.config.query_marker_id is None
    RetrieverTrainer(model, make_arguments(tmp_path, objective="in_batch_nce"), processor, train_dataset=make_rows())
    pieces = len(tokenizer)
    assert (model.config.query_marker_id, model.config.document_marker_id) == (pieces - 3, pieces - 2)  # then <mask>


def test_student_of_queries_alone_learns_to_search_the_teachers_index(tokenizer, tmp_path):
    other_word = dict(zip(WORDS, WORDS[1:] + WORDS[:1], strict=True))

    def translated(row):
        words = row["positive"]["text"].split()[:4]
        return {"teacher_query": " ".join(words), "query": " ".join(other_word[word] for word in words)}

    rows = make_rows(24, num_negatives=0, seed=5).map(translated).remove_columns("negatives")
    english = rows.select_columns(["teacher_query", "positive"]).rename_column("teacher_query", "query")
    passages = [{"id": str(i), **passage} for i, passage in enumerate(rows["positive"])]
    (teacher, processor), (student, _) = (make_retriever("colbert", tokenizer, seed=seed) for seed in (1, 0))
    optimizer = {"optim": "adamw_torch", "learning_rate": 1e-2, "per_device_train_batch_size": 24}

    arguments = make_arguments(tmp_path, objective="in_batch_nce", max_steps=60, **optimizer)
    RetrieverTrainer(teacher, arguments, processor, train_dataset=english).train()
    index = embed_passages(teacher, processor, passages, progress=False)

    def found(model, column):
        questions = [{"id": str(i), "question": row[column]} for i, row in enumerate(rows)]
        rankings, _ = rank_passages(model, processor, questions, index, progress=False)
        return recall_at_k(rankings, {id: [id] for id in rankings}, k=1)

    student.load_state_dict(teacher.state_dict())
    assert found(teacher, "teacher_query") > 0.85 and found(student, "query") < 0.25
    encoded = []
    student.register_forward_pre_hook(lambda *call: encoded.append(call[2]["input_ids"]), with_kwargs=True)
    arguments = make_arguments(
        tmp_path,
        objective="score_distillation",
        teacher_documents=True,
        distill_in_batch=True,
        max_steps=150,
        **optimizer,
    )
    RetrieverTrainer(student, arguments, processor, teacher=teacher, train_dataset=rows).train()
    assert len(encoded) == 150 and all((ids[:, 1] == processor.query_marker_id).all() for ids in encoded)
    assert found(student, "query") > 0.75


def test_arguments_defaults(tmp_path):
    arguments = make_arguments(tmp_path, objective="in_batch_nce")
    assert arguments.remove_unused_columns is False and arguments.accelerator_config.dispatch_batches is False


def test_unused_parameters_are_looked_for_where_only_queries_are_encoded(make_trainer):
    """Two forward passes before the gradient are what DistributedDataParallel cannot look through."""
    assert make_trainer("colbert", "in_batch_nce").args.ddp_find_unused_parameters is False
    queries_alone = {"objective": "score_distillation", "teacher_documents": True}
    assert make_trainer("colbert", **queries_alone).args.ddp_find_unused_parameters is True
    assert (
        make_trainer("colbert", ddp_find_unused_parameters=False, **queries_alone).args.ddp_find_unused_parameters
        is False
    )
    with pytest.raises(ValueError, match="ddp_find_unused_parameters"):
        make_trainer("colbert", "in_batch_nce", ddp_find_unused_parameters=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_k": -1}, "eval_k.*got -1"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
    ],
)
def test_errors_about_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrieverTrainingArguments(str(tmp_path), use_cpu=True, **arguments)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("colbert", {"objective": "token_distillation"}, "TokenDistillation.* needs a `teacher`"),
        ("biencoder", {"objective": "embedding_distillation"}, r"lacks \['teacher_embedding'\].*Or give a `teacher`"),
        (
            "colbert",
            {"objective": "score_distillation", "distill_in_batch": True},
            "distill_in_batch=True.* needs a",
        ),
        (
            "colbert",
            {"objective": "score_distillation", "teacher_documents": True},
            "teacher_documents=True.* needs",
        ),
        ("colbert", {"objective": "margin_mse"}, r"`train_dataset` lacks \['teacher_scores'\].*give a `teac"),
        ("colbert", {"objective": "score_distillation"}, r"`train_dataset` lacks \['teacher_scores'\].*give a `teac"),
    ],
)
def test_errors_about_a_missing_teacher(make_trainer, family, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(family, teacher=False, **arguments)


@pytest.mark.parametrize(
    ("objective", "dropped", "message"),
    [
        ("in_batch_nce", ["positive"], r"lacks \['positive'\], which `objective=InBatch.* it has"),
        ("listwise", ["negatives"], r"lacks \['negatives'\]"),
        ("reader_distillation", [], r"lacks \['reader_scores'\]"),
        ("score_distillation", ["query", "negatives"], r"lacks \['query', 'negatives'\]"),
    ],
)
def test_errors_about_columns(make_trainer, objective, dropped, message):
    rows = make_rows().remove_columns(dropped)
    with pytest.raises(ValueError, match=f"`train_dataset` {message}"):
        make_trainer("colbert", objective, rows)
    with pytest.raises(ValueError, match=f"`train_dataset` {message}"):
        make_trainer("colbert", objective, rows.to_iterable_dataset())
    with pytest.raises(ValueError, match=f"`train_dataset` {message}"):
        make_trainer("colbert", objective, list(rows))


def test_columns_that_an_objective_does_not_need(make_trainer):
    make_trainer("colbert", "in_batch_nce", make_rows().remove_columns(["negatives", "teacher_query"]), teacher=False)
    make_trainer("biencoder", "embedding_distillation", make_rows().select_columns(["query", "teacher_query"]))
    make_trainer("colbert", "score_distillation", make_rows().remove_columns("negatives"), distill_in_batch=True)
    make_trainer("colbert", "listwise", make_rows().rename_column("negatives", "negative"))
    documents = make_rows().map(lambda row: {"documents": [row["positive"], *row["negatives"]]})
    make_trainer("colbert", "listwise", documents.remove_columns(["positive", "negatives"]))


def test_errors_about_the_kind_of_model(tokenizer, tmp_path):
    def make(objective, family, teacher_family=None, **settings):
        student, processor = make_retriever(family, tokenizer)
        teacher, teacher_processor = make_retriever(teacher_family or family, tokenizer, seed=1, **settings)
        arguments = make_arguments(tmp_path, objective=objective)
        RetrieverTrainer(student, arguments, processor, teacher=teacher, teacher_processor=teacher_processor)

    with pytest.raises(
        ValueError, match="TokenDistillation.* needs a model that returns 'token_vectors', got 'biencoder'"
    ):
        make("token_distillation", "biencoder")
    with pytest.raises(
        ValueError, match="EmbeddingDistillation.* needs a model that returns 'vectors', got 'colbert_x"
    ):
        make("embedding_distillation", "colbert")
    with pytest.raises(ValueError, match=r"got \('token_vectors', 8\) for a teacher with \('token_vectors', 4\)"):
        make("token_distillation", "colbert", embedding_dim=4)
    with pytest.raises(ValueError, match=r"got \('vectors', 16\) for a teacher with \('token_vectors', 8\)"):
        make("embedding_distillation", "biencoder", "colbert")


def test_errors_about_processors(tokenizer, tmp_path):
    arguments = make_arguments(tmp_path, objective="score_distillation", teacher_documents=True)
    (colbert, colbert_processor), (biencoder, biencoder_processor) = (
        make_retriever(family, tokenizer) for family in FAMILIES
    )

    def make(model=colbert, processor=colbert_processor, args=arguments, **kwargs):
        return RetrieverTrainer(model, args, processor, train_dataset=make_rows(), **kwargs)

    def other(family="colbert", **settings):
        return make_retriever(family, tokenizer, seed=1, **settings)

    config = colbert.config.to_dict()
    for kwargs, message in (
        ({"processor": tokenizer}, "`ColBERTXLMRModel` needs its own processor"),
        ({"processor": None}, "`ColBERTXLMRModel` needs its own processor"),
        ({"processor": biencoder_processor}, "`ColBERTXLMRModel` needs its own processor"),
        ({"model": biencoder}, "`BiEncoderModel` needs its own processor"),
        ({"processor": other(query_length=16)[1]}, "query_length=16, the model's configuration query_length=12"),
        ({"processor": other(query_marker_id=7)[1], "model": other(query_marker_id=8)[0]}, "query_marker_id=7"),
        ({"args": TrainingArguments(str(tmp_path))}, "`args` must be `RetrieverTrainingArguments`, got TrainingArg"),
        ({"teacher": other(document_length=30)[0]}, "document_length=24, the model's configuration document_le"),
        ({"teacher": other()[0], "teacher_processor": biencoder_processor}, "needs its own processor"),
        ({"teacher": colbert}, "one object"),
        ({"teacher": other(embedding_dim=4)[0]}, r"got \('token_vectors', 8\).*'token_vectors', 4\)"),
        (
            {"teacher": biencoder, "teacher_processor": biencoder_processor},
            r"got \('token_vectors', 8\) for a teacher with \('vectors', 16\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(**kwargs)
    assert colbert.config.to_dict() == config  # nothing was written before the checks


def test_error_about_a_small_vocabulary(tokenizer, tmp_path):
    model, _ = make_retriever("colbert", tokenizer)
    large = make_tokenizer()
    large.add_tokens(["extra"])
    _, processor = make_retriever("colbert", large, query_marker_id=5, document_marker_id=6)
    with pytest.raises(ValueError, match=f"{len(large)} pieces.* {len(tokenizer)}"):
        RetrieverTrainer(model, make_arguments(tmp_path), processor, train_dataset=make_rows())


def test_errors_about_rows(make_trainer):
    trainer = make_trainer("colbert", "score_distillation", per_device_train_batch_size=4)
    with pytest.raises(ValueError, match=r"negatives, got \[1, 2\]"):
        trainer.data_collator([make_rows(1, num_negatives=1)[0], make_rows(1)[0]])
    with pytest.raises(ValueError, match="at least one negative"):
        loss_of(trainer, make_rows(4, num_negatives=0))
    trainer.teacher = None
    with pytest.raises(ValueError, match="`teacher`, or rows with `teacher_scores`"):
        loss_of(trainer, make_rows(4))
