"""Every loss against plain Python loops in float64, which follow the definitions word for word."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xlir.training.losses import (
    align_tokens,
    count_distilled_tokens,
    embedding_distillation_loss,
    in_batch_nce_loss,
    listwise_cross_entropy_loss,
    margin_mse_loss,
    reader_distillation_loss,
    score_distillation_loss,
    token_distillation_loss,
)


INF = float("inf")


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax_of(row):
    peak = max(row)
    weights = [math.exp(x - peak) for x in row]
    return [w / sum(weights) for w in weights]


def kl_of(target_row, row):
    return sum(p * math.log(p / q) for p, q in zip(softmax_of(target_row), softmax_of(row), strict=True) if p > 0)


def cosine_distance(first, second):
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    norms = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return 1 - dot / norms if norms > 0 else 1.0


def greedy_partners(student, teacher, student_mask=None, teacher_mask=None, digits=11):
    """The definition: one pair at a time, the smallest distance first, then teacher row, then student row."""
    student_rows = [i for i in range(len(student)) if student_mask is None or student_mask[i]]
    teacher_rows = [j for j in range(len(teacher)) if teacher_mask is None or teacher_mask[j]]
    distances = {
        (round(cosine_distance(student[i], teacher[j]), digits), j, i) for i in student_rows for j in teacher_rows
    }
    partners = [-1] * len(student)
    while distances:
        _, j, i = min(distances)
        partners[i] = j
        distances = {pair for pair in distances if pair[1] != j and pair[2] != i}
    return partners


class TestInBatchNCE:
    def test_equals_loop(self):
        scores, positives = normal(4, 9), [3, 0, 8, 3]
        expected = sum(-math.log(softmax_of(row.tolist())[p]) for row, p in zip(scores, positives, strict=True)) / 4
        assert in_batch_nce_loss(scores, torch.tensor(positives)).item() == pytest.approx(expected, abs=1e-12)

    def test_masked_document_leaves_the_softmax_of_that_query_only(self):
        scores = normal(3, 5)
        mask = torch.zeros(3, 5, dtype=torch.bool)
        mask[1, 4] = mask[1, 0] = True
        positives = [0, 1, 4]
        expected = 0.0
        for i, p in enumerate(positives):
            kept = [j for j in range(5) if not mask[i, j]]
            expected -= math.log(softmax_of([scores[i, j].item() for j in kept])[kept.index(p)]) / 3
        assert in_batch_nce_loss(scores, torch.tensor(positives), mask).item() == pytest.approx(expected, abs=1e-12)

    def test_gradient(self):
        scores = normal(3, 5).requires_grad_()
        mask = torch.zeros(3, 5, dtype=torch.bool)
        mask[0, 4] = True
        assert torch.autograd.gradcheck(lambda s: in_batch_nce_loss(s, torch.tensor([0, 1, 2]), mask), scores)
        in_batch_nce_loss(scores, torch.tensor([0, 1, 2]), mask).backward()
        assert scores.grad[0, 4] == 0

    def test_half_precision_is_reduced_in_float32(self):
        scores = torch.tensor([[40.0, 32.0]], dtype=torch.bfloat16)
        loss = in_batch_nce_loss(scores, torch.tensor([0]))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-3)

    @pytest.mark.parametrize(
        ("scores", "positives", "mask", "message"),
        [
            (torch.zeros(3), [0, 0, 0], None, "num_queries, num_documents"),
            (torch.zeros(2, 0), [0, 0], None, "num_documents.*got"),
            (torch.zeros(2, 3, dtype=torch.long), [0, 0], None, "floating-point"),
            (torch.zeros(2, 3), [0], None, "positive_indices.*2 in all"),
            (torch.zeros(2, 3), [0.0, 1.0], None, "dtype torch.float32"),
            (torch.zeros(2, 3), [0, 3], None, r"\[0, 3\)"),
            (torch.zeros(2, 3), [0, -1], None, r"\[0, 3\)"),
            (torch.zeros(2, 3), [0, 1], torch.zeros(2, 2, dtype=torch.bool), r"shape \(2, 3\)"),
            (torch.zeros(2, 3), [0, 1], torch.zeros(2, 3), "boolean"),
            (torch.zeros(2, 3), [0, 1], torch.eye(2, 3, dtype=torch.bool), "own positive"),
        ],
    )
    def test_bad_input(self, scores, positives, mask, message):
        with pytest.raises(ValueError, match=message):
            in_batch_nce_loss(scores, torch.tensor(positives), mask)


class TestListwise:
    def test_equals_loop(self):
        scores = normal(5, 4)
        expected = sum(-math.log(softmax_of(row.tolist())[0]) for row in scores) / 5
        assert listwise_cross_entropy_loss(scores).item() == pytest.approx(expected, abs=1e-12)

    def test_gradient(self):
        assert torch.autograd.gradcheck(listwise_cross_entropy_loss, normal(3, 4).requires_grad_())

    def test_bad_input(self):
        with pytest.raises(ValueError, match="negative.*one column"):
            listwise_cross_entropy_loss(torch.zeros(4, 1))
        with pytest.raises(ValueError, match="num_queries, nway"):
            listwise_cross_entropy_loss(torch.zeros(4))


class TestScoreDistillation:
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
    def test_equals_loop(self, temperature):
        student, teacher = normal(4, 6), 3 * normal(4, 6, seed=1)
        expected = temperature**2 / 4
        expected *= sum(
            kl_of([x / temperature for x in t.tolist()], [x / temperature for x in s.tolist()])
            for s, t in zip(student, teacher, strict=True)
        )
        loss = score_distillation_loss(student, teacher, temperature)
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    def test_zero_for_scores_that_differ_by_a_constant(self):
        student = normal(4, 6)
        assert score_distillation_loss(student, student + 7, 2.0).item() == pytest.approx(0, abs=1e-12)

    def test_gradient_reaches_the_student_only(self):
        student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: score_distillation_loss(s, teacher.detach(), 2.0), student)
        score_distillation_loss(student, teacher).backward()
        assert teacher.grad is None

    def test_bad_input(self):
        with pytest.raises(ValueError, match="same shape"):
            score_distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
        for temperature in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="`temperature` must be positive"):
                score_distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)


class TestMarginMSE:
    def test_equals_loop(self):
        student, teacher = normal(4, 3).tolist(), normal(4, 3, seed=1).tolist()
        terms = [
            ((s[0] - s[j]) - (t[0] - t[j])) ** 2 for s, t in zip(student, teacher, strict=True) for j in range(1, 3)
        ]
        loss = margin_mse_loss(torch.tensor(student).double(), torch.tensor(teacher).double())
        assert loss.item() == pytest.approx(sum(terms) / 8, abs=1e-6)

    def test_zero_for_scores_that_differ_by_a_constant(self):
        student = normal(4, 3)
        assert margin_mse_loss(student, student - 7).item() == pytest.approx(0, abs=1e-12)
        assert margin_mse_loss(student, 2 * student).item() > 0.1

    def test_gradient_reaches_the_student_only(self):
        student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: margin_mse_loss(s, teacher.detach()), student)
        margin_mse_loss(student, teacher).backward()
        assert teacher.grad is None

    def test_half_precision_is_reduced_in_float32(self):
        loss = margin_mse_loss(torch.tensor([[300.0, 0.0]], dtype=torch.float16), torch.zeros(1, 2))
        assert loss.dtype == torch.float32 and loss.item() == 90_000  # more than float16 has

    def test_bad_input(self):
        with pytest.raises(ValueError, match="same shape"):
            margin_mse_loss(torch.zeros(2, 3), torch.zeros(2, 4))
        with pytest.raises(ValueError, match="negative.*one column"):
            margin_mse_loss(torch.zeros(2, 1), torch.zeros(2, 1))


class TestReaderDistillation:
    def test_equals_loop_with_absent_passages(self):
        retriever, reader = normal(3, 4), normal(3, 4, seed=1)
        reader[1, 3] = reader[2, 0] = reader[2, 2] = -INF
        expected = 0.0
        for i in range(3):
            present = [j for j in range(4) if reader[i, j] != -INF]
            expected += kl_of([reader[i, j].item() for j in present], [retriever[i, j].item() for j in present]) / 3
        assert reader_distillation_loss(retriever, reader).item() == pytest.approx(expected, abs=1e-12)

    def test_perplexity_is_the_divergence_from_the_posterior_of_passages(self):
        retriever, likelihoods = normal(3, 4), -normal(3, 4, seed=1).abs() - 800  # whose exponentials are all 0
        likelihoods[1, 2] = -INF
        expected = 0.0
        for i in range(3):
            present = [j for j in range(4) if likelihoods[i, j] != -INF]
            shifted = [likelihoods[i, j].item() + 800 for j in present]
            expected += kl_of(shifted, [retriever[i, j].item() for j in present]) / 3
        found = reader_distillation_loss(retriever, likelihoods, "perplexity")
        assert found.item() == pytest.approx(expected, abs=1e-10)

    def test_emdr2_is_the_likelihood_of_the_answer(self):
        retriever, likelihoods = normal(3, 4), -normal(3, 4, seed=1).abs()
        likelihoods[0, 1] = likelihoods[2, 3] = -INF
        expected = 0.0
        for i in range(3):
            present = [j for j in range(4) if likelihoods[i, j] != -INF]
            weights = [math.exp(retriever[i, j]) for j in present]
            answer = sum(w * math.exp(likelihoods[i, j]) for w, j in zip(weights, present, strict=True)) / sum(weights)
            expected -= math.log(answer) / 3
        assert reader_distillation_loss(retriever, likelihoods, "emdr2").item() == pytest.approx(expected, abs=1e-12)
        assert reader_distillation_loss(retriever, likelihoods - 900, "emdr2").item() == pytest.approx(expected + 900)

    @pytest.mark.parametrize("kind", ["kl", "perplexity", "emdr2"])
    def test_score_of_an_absent_passage_is_irrelevant(self, kind):
        reader = -normal(2, 3).abs()
        reader[:, 2] = -INF
        retriever = normal(2, 3, seed=1)
        other = retriever.clone()
        other[0, 2], other[1, 2] = 100, -INF
        found, expected = (reader_distillation_loss(each, reader, kind) for each in (other, retriever))
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("kind", ["kl", "perplexity", "emdr2"])
    def test_gradient(self, kind):
        reader = -normal(3, 4, seed=1).abs()
        reader[0, 1] = -INF
        retriever = normal(3, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda r: reader_distillation_loss(r, reader, kind), retriever)
        reader_distillation_loss(retriever, reader, kind).backward()
        assert retriever.grad[0, 1] == 0
        assert retriever.grad.isfinite().all()

    def test_bad_input(self):
        reader = torch.zeros(3, 2)
        reader[1] = -INF
        with pytest.raises(ValueError, match=r"rows \[1\]"):
            reader_distillation_loss(torch.zeros(3, 2), reader)
        with pytest.raises(ValueError, match="same shape"):
            reader_distillation_loss(torch.zeros(3, 2), torch.zeros(2, 2))
        with pytest.raises(ValueError, match=r"`kind` must be one of \('kl', 'perplexity', 'emdr2'\), got 'ppl'"):
            reader_distillation_loss(torch.zeros(3, 2), torch.zeros(3, 2), "ppl")
        with pytest.raises(ValueError, match="`emdr2` needs log-likelihoods of answers, at most 0, got 0.5"):
            reader_distillation_loss(torch.zeros(1, 2), torch.tensor([[0.5, -1]]), "emdr2")


# Few directions and small integers: most draws have equal distances, which is where the order of choice shows.
ROW = st.lists(st.integers(-1, 1), min_size=3, max_size=3)


@st.composite
def alignments(draw):
    num_student, num_teacher = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rows = [draw(st.lists(ROW, min_size=n, max_size=n)) for n in (num_student, num_teacher)]
    masks = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in (num_student, num_teacher)]
    return *rows, *masks


class TestAlignTokens:
    @settings(max_examples=200, deadline=None)
    @given(alignments())
    def test_equals_definition_with_ties_and_masks(self, example):
        student, teacher, student_mask, teacher_mask = example
        partners = align_tokens(
            torch.tensor([student], dtype=torch.float32),
            torch.tensor([teacher], dtype=torch.float32),
            torch.tensor([student_mask]),
            torch.tensor([teacher_mask]),
        )
        assert partners[0].tolist() == greedy_partners(student, teacher, student_mask, teacher_mask)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
    def test_equals_definition_on_random_batches(self, seed, num_student, num_teacher):
        student, teacher = normal(3, num_student, 8, seed=seed), normal(3, num_teacher, 8, seed=seed + 1)
        partners = align_tokens(student, teacher)
        assert partners.dtype == torch.long
        for i in range(3):
            assert partners[i].tolist() == greedy_partners(student[i].tolist(), teacher[i].tolist())

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from([31, 128, 384]))
    def test_copies_of_a_row_are_tied_at_any_size(self, seed, dim):
        # matrix products give copies of one row different last bits, depending on where they stand
        generator = torch.Generator().manual_seed(seed)
        student = torch.randn(2, 3, dim, generator=generator)[:, torch.randint(0, 3, (17,), generator=generator)]
        teacher = torch.randn(2, 3, dim, generator=generator)[:, torch.randint(0, 3, (13,), generator=generator)]
        partners = align_tokens(student, teacher)
        for i in range(2):
            assert partners[i].tolist() == greedy_partners(student[i].tolist(), teacher[i].tolist())

    def test_all_rows_equal(self):
        rows = torch.ones(2, 40, 7)
        assert align_tokens(rows, rows)[1].tolist() == list(range(40))
        assert align_tokens(rows, rows[:, :3])[0].tolist() == [0, 1, 2] + [-1] * 37
        assert align_tokens(rows[:, :3], rows)[0].tolist() == [0, 1, 2]

    def test_takes_the_global_minimum_not_each_rows_own(self):
        angles = torch.tensor([0.0, 0.30]), torch.tensor([0.25, 1.5])
        student, teacher = (torch.stack([a.cos(), a.sin()], dim=1)[None] for a in angles)
        # both student rows are nearest to teacher row 0; the closer one gets it
        assert align_tokens(student, teacher).tolist() == [[1, 0]]

    def test_length_does_not_count(self):
        student, teacher = normal(2, 9, 5), normal(2, 9, 5, seed=1)
        scale = torch.rand(2, 9, 1, generator=torch.Generator().manual_seed(3)) * 100 + 0.01
        assert torch.equal(align_tokens(student * scale, teacher), align_tokens(student, teacher))

    def test_zero_and_nan_rows(self):
        student = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [INF, 0.0]]])
        teacher = torch.tensor([[[1.0, 0.1], [-1.0, 0.0], [float("nan"), 0.0]]])
        assert align_tokens(student, teacher).tolist() == [[1, 0, 2]]

    def test_does_not_change_its_input(self):
        student, teacher = normal(1, 4, 3), normal(1, 4, 3, seed=1)
        copies = student.clone(), teacher.clone()
        align_tokens(student, teacher)
        assert torch.equal(student, copies[0]) and torch.equal(teacher, copies[1])

    def test_no_rows(self):
        assert align_tokens(torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)).tolist() == [[-1] * 3] * 2
        assert align_tokens(torch.zeros(2, 0, 4), torch.zeros(2, 3, 4)).shape == (2, 0)

    @pytest.mark.parametrize(
        ("student", "teacher", "masks", "message"),
        [
            ((2, 3, 4), (3, 4), {}, "`teacher` must be a floating-point tensor of shape"),
            ((2, 3, 4), (1, 3, 4), {}, "agree in batch size and embedding size"),
            ((2, 3, 4), (2, 3, 5), {}, "agree in batch size and embedding size"),
            ((2, 3, 4), (2, 5, 4), {"student_mask": torch.ones(2, 5).bool()}, "`student_mask` must be a boolean"),
            ((2, 3, 4), (2, 5, 4), {"teacher_mask": torch.ones(2, 5)}, "`teacher_mask` must be a boolean"),
        ],
    )
    def test_bad_input(self, student, teacher, masks, message):
        with pytest.raises(ValueError, match=message):
            align_tokens(torch.zeros(student), torch.zeros(teacher), **masks)


class TestTokenDistillation:
    @pytest.mark.parametrize("distance", ["mse", "l1"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_equals_loop(self, distance, masked):
        shapes = {"qs": (3, 5, 4), "qt": (3, 6, 4), "ds": (3, 7, 4), "dt": (3, 7, 4)}
        tensors = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
        masks = {name: torch.ones(shape[:2], dtype=torch.bool) for name, shape in shapes.items()}
        if masked:
            masks["qs"][0, 3:] = masks["qt"][1, :4] = masks["ds"][2, 1] = masks["dt"][2, 4:] = False

        def mean_distance(pairs):
            terms = [a - b for s, t in pairs for a, b in zip(s.tolist(), t.tolist(), strict=True)]
            return sum(x * x if distance == "mse" else abs(x) for x in terms) / len(terms)

        query_pairs = []
        for i in range(3):
            partners = greedy_partners(
                tensors["qs"][i].tolist(), tensors["qt"][i].tolist(), masks["qs"][i], masks["qt"][i]
            )
            query_pairs += [(tensors["qs"][i, a], tensors["qt"][i, b]) for a, b in enumerate(partners) if b >= 0]
        kept = masks["ds"] & masks["dt"]
        document_pairs = list(zip(tensors["ds"][kept], tensors["dt"][kept], strict=True))
        assert len(query_pairs) == (3 + 2 + 5 if masked else 15)
        expected = 0.3 * mean_distance(query_pairs) + 0.7 * mean_distance(document_pairs)

        loss = token_distillation_loss(
            *tensors.values(), *(masks.values() if masked else ()), query_weight=0.3, distance=distance
        )
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("distance", ["mse", "l1"])
    def test_documents_of_two_tokenizers_are_aligned(self, distance):
        student, teacher = normal(3, 7, 4), normal(3, 5, 4, seed=1)
        masks = torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool)
        masks[0][1, 3:] = masks[1][2, 0] = False
        expected, number = 0.0, 0
        for i in range(3):
            partners = greedy_partners(student[i].tolist(), teacher[i].tolist(), masks[0][i], masks[1][i])
            for row, partner in enumerate(partners):
                if partner >= 0:
                    difference = student[i, row] - teacher[i, partner]
                    expected += (difference**2 if distance == "mse" else difference.abs()).sum().item()
                    number += 1
        assert number == 5 + 3 + 4
        loss = token_distillation_loss(
            None,
            None,
            student,
            teacher,
            None,
            None,
            *masks,
            query_weight=0.25,
            distance=distance,
            align_documents=True,
        )
        assert loss.item() == pytest.approx(0.75 * expected / (number * 4), abs=1e-12)

    @settings(max_examples=50, deadline=None)
    @given(alignments())
    def test_tokens_are_counted_by_the_masks(self, example):
        student, teacher, *masks = (torch.tensor([each]) for each in example)
        partners = align_tokens(student.float(), teacher.float(), *masks)
        assert count_distilled_tokens(*masks, align=True) == (partners >= 0).sum()
        if student.shape == teacher.shape:
            by_position = sum(a and b for a, b in zip(*example[2:], strict=True))
            assert count_distilled_tokens(*masks, align=False) == by_position

    def test_one_side_keeps_its_weight(self):
        queries, documents = normal(2, 3, 4), normal(2, 5, 4, seed=1)
        both = token_distillation_loss(queries, queries + 1, documents, documents + 2, query_weight=0.25)
        query_side = token_distillation_loss(queries, queries + 1, None, None, query_weight=0.25)
        document_side = token_distillation_loss(None, None, documents, documents + 2, query_weight=0.25)
        assert document_side.item() == pytest.approx(0.75 * 4)
        assert both.item() == pytest.approx(query_side.item() + document_side.item())

    def test_masked_tokens_get_no_gradient_even_if_nan(self):
        student, teacher = normal(1, 3, 4), normal(1, 3, 4, seed=1)
        student[0, 2] = float("nan")
        student.requires_grad_()
        mask = torch.tensor([[True, True, False]])
        loss = token_distillation_loss(student, teacher, student, teacher, mask, None, mask, None)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all() and (student.grad[0, 2] == 0).all()

    def test_gradient_reaches_the_student_only(self):
        inputs = [normal(2, 3, 4, seed=i).requires_grad_() for i in range(4)]

        def loss(qs, ds):
            return token_distillation_loss(qs, inputs[1], ds, inputs[3])

        assert torch.autograd.gradcheck(loss, (inputs[0], inputs[2]))
        loss(inputs[0], inputs[2]).backward()
        assert inputs[1].grad is None and inputs[3].grad is None

    def test_nothing_kept_is_zero_with_a_gradient(self):
        student = normal(1, 3, 4).requires_grad_()
        loss = token_distillation_loss(student, student + 1, None, None, torch.zeros(1, 3, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0 and (student.grad == 0).all()

    def test_bad_input(self):
        a, b = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)
        with pytest.raises(ValueError, match="nothing to distil"):
            token_distillation_loss(None, None, None, None)
        with pytest.raises(ValueError, match="`student_queries` and `teacher_queries`"):
            token_distillation_loss(a, None, a, a)
        with pytest.raises(ValueError, match="`student_documents` and `teacher_documents`.*shape"):
            token_distillation_loss(a, a, a, b)
        with pytest.raises(ValueError, match="`teacher_document_mask` must be a boolean"):
            token_distillation_loss(None, None, a, a, teacher_document_mask=torch.ones(2, 5).bool())
        with pytest.raises(ValueError, match='`distance` must be "mse" or "l1"'):
            token_distillation_loss(a, a, None, None, distance="cosine")
        with pytest.raises(ValueError, match=r"`query_weight` must lie in \[0, 1\]"):
            token_distillation_loss(a, a, None, None, query_weight=1.5)


class TestEmbeddingDistillation:
    @pytest.mark.parametrize("distance", ["mse", "cosine"])
    @pytest.mark.parametrize("scale", [None, 20.0])
    def test_equals_loop(self, distance, scale):
        student, teacher = normal(4, 5), normal(4, 5, seed=1)
        pairs = list(zip(student.tolist(), teacher.tolist(), strict=True))
        if distance == "mse":
            expected = sum((a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)) / 20
        else:
            expected = sum(cosine_distance(s, t) for s, t in pairs) / 4
        if scale is not None:
            for i, (s, _) in enumerate(pairs):
                scores = [scale * (1 - cosine_distance(s, t)) for _, t in pairs]
                expected -= math.log(softmax_of(scores)[i]) / 4
        loss = embedding_distillation_loss(student, teacher, distance, contrast_scale=scale)
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    def test_pairs_of_equal_text_are_no_negatives(self):
        student, teacher = normal(3, 5), normal(3, 5, seed=1)
        teacher[2] = teacher[0]
        mask = torch.zeros(3, 3, dtype=torch.bool)
        mask[0, 2] = mask[2, 0] = True
        loss = embedding_distillation_loss(student, teacher, contrast_scale=5.0, contrast_mask=mask)
        expected = embedding_distillation_loss(student, teacher).item()
        for i, candidates in enumerate([[0, 1], [0, 1, 2], [2, 1]]):
            own = candidates.index(i)
            scores = [5 * (1 - cosine_distance(student[i].tolist(), teacher[j].tolist())) for j in candidates]
            expected -= math.log(softmax_of(scores)[own]) / 3
        assert loss.item() == pytest.approx(expected, abs=1e-12)

    def test_gradient_reaches_the_student_only(self):
        student, teacher = normal(3, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
        for distance in ("mse", "cosine"):
            assert torch.autograd.gradcheck(
                lambda s, d=distance: embedding_distillation_loss(s, teacher.detach(), d, contrast_scale=3.0), student
            )
        embedding_distillation_loss(student, teacher, contrast_scale=3.0).backward()
        assert teacher.grad is None

    def test_bad_input(self):
        a = torch.zeros(2, 3)
        with pytest.raises(ValueError, match="same shape"):
            embedding_distillation_loss(a, torch.zeros(2, 4))
        with pytest.raises(ValueError, match='"mse" or "cosine"'):
            embedding_distillation_loss(a, a, distance="l1")
        with pytest.raises(ValueError, match="`contrast_scale` must be positive"):
            embedding_distillation_loss(a, a, contrast_scale=0)
        with pytest.raises(ValueError, match="`contrast_mask`.*`contrast_scale`"):
            embedding_distillation_loss(a, a, contrast_mask=torch.zeros(2, 2, dtype=torch.bool))
