"""Word vectors in closed form, against the normal equations and a bag of words written out."""

import math

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig

from hf_xlir import BiEncoderConfig, BiEncoderModel, ColBERTXLMRConfig, ColBERTXLMRModel
from support.closed_form import bag_of_words_init_, parallel_word_vectors


TOKENS = ["<s>", "▁ab", "abc", "▁xy", "xyz", "bc", "q"]
SENTENCES = [[1, 2], [3], [4, 4, 1], [2, 3]]


def targets(seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(SENTENCES), 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def primal(sentences, goals, tokens, shortest, longest, ridge):
    """The same regression with dense matrices, solved over features instead of sentences."""
    names = []
    for token in tokens:
        grams = [token[i:j] for i in range(len(token)) for j in range(i + 1, len(token) + 1)]
        names.append([f"={token}"] + [gram for gram in grams if shortest <= len(gram) <= longest])
    columns = {name: place for place, name in enumerate(sorted({name for own in names for name in own}))}
    of_token = np.zeros((len(tokens), len(columns)))
    for row, own in enumerate(names):
        for name in own:
            of_token[row, columns[name]] += 1
    of_sentence = np.array([sum(of_token[token] for token in sentence) for sentence in sentences])
    number = (of_sentence > 0).sum(axis=0)
    weight = np.array([math.log(len(sentences) / n) if n else 0.0 for n in number])
    x = of_sentence * weight
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    solution = np.linalg.solve(x.T @ x + ridge * np.eye(len(columns)), x.T @ (goals - goals.mean(axis=0)))
    vectors = of_token * weight @ solution
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors / np.sqrt((lengths[lengths > 0] ** 2).mean())


@pytest.mark.parametrize("ridge", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("ngrams", [(2, 4), (1, 2), (3, 3)])
def test_word_vectors_solve_the_normal_equations(ridge, ngrams):
    vectors = parallel_word_vectors(SENTENCES, targets(), TOKENS, ngrams, ridge)
    expected = primal(SENTENCES, targets(), TOKENS, *ngrams, ridge)
    np.testing.assert_allclose(vectors.numpy(), expected, atol=1e-6)


def test_a_token_of_no_sentence_has_a_vector_by_its_characters_or_none():
    vectors = parallel_word_vectors(SENTENCES, targets(), TOKENS)
    assert vectors[5].norm() > 0.1  # `bc`, which `abc` contains
    assert vectors[[0, 6]].tolist() == [[0.0] * 3] * 2


def test_what_all_targets_share_changes_nothing():
    vectors = parallel_word_vectors(SENTENCES, targets(), TOKENS)
    shifted = parallel_word_vectors(SENTENCES, targets() + [5.0, -2.0, 1.0], TOKENS)
    torch.testing.assert_close(vectors, shifted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": []}, "0 sentences"),
        ({"targets": targets()[:2]}, "4 sentences and targets of shape \\(2, 3\\)"),
        ({"ngrams": (3, 2)}, "got \\(3, 2\\)"),
        ({"ngrams": (0, 2)}, "got \\(0, 2\\)"),
        ({"ridge": 0.0}, "`ridge` must be positive, got 0.0"),
    ],
)
def test_input_that_makes_no_sense(change, message):
    arguments = {"sentences": SENTENCES, "targets": targets(), "tokens": TOKENS, **change}
    with pytest.raises(ValueError, match=message):
        parallel_word_vectors(**arguments)


def sizes(layers, dim=6, hidden=8):
    encoder_config = XLMRobertaConfig(
        vocab_size=12,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        layer_norm_eps=1e-12,
    )
    return {"encoder_config": encoder_config, "embedding_dim": dim, "query_length": 16, "document_length": 16}


def centred(vectors):
    return vectors - vectors.mean(dim=1, keepdim=True)


def test_a_dual_encoder_adds_up_the_words():
    vectors = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    model = BiEncoderModel(BiEncoderConfig(pooling="mean", normalize=True, **sizes(0))).eval()
    bag_of_words_init_(model, vectors)
    ids = torch.tensor([[0, 5, 7, 7, 2, 1], [0, 4, 6, 8, 9, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6])
    summed = torch.stack([centred(vectors)[row[kept.bool()]].sum(dim=0) for row, kept in zip(ids, mask, strict=True)])
    expected = torch.nn.functional.normalize(summed, dim=1)
    torch.testing.assert_close(model(ids, mask).embeddings, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("context_weight", [0.0, 1.0, 2.5])
def test_a_colbert_adds_the_mean_of_the_text_to_each_word(context_weight):
    vectors = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    model = ColBERTXLMRModel(ColBERTXLMRConfig(**sizes(1))).eval()
    with torch.no_grad():  # attention that is exactly even
        model.encoder.encoder.layer[0].attention.self.query.weight.zero_()
        model.encoder.encoder.layer[0].attention.self.query.bias.zero_()
    bag_of_words_init_(model, vectors, context_weight)
    ids, mask = torch.tensor([[0, 5, 7, 7, 2, 1]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    words = centred(vectors)[ids[0, :5]]
    expected = torch.nn.functional.normalize(words + context_weight * words.mean(dim=0), dim=1)
    torch.testing.assert_close(model(ids, mask).embeddings[0, :5], expected, atol=1e-5, rtol=0)


def test_random_attention_is_nearly_even():
    torch.manual_seed(0)
    vectors = torch.randn(12, 6)
    model = ColBERTXLMRModel(ColBERTXLMRConfig(**sizes(1))).eval()
    bag_of_words_init_(model, vectors)
    ids = torch.tensor([[0, 5, 7, 8, 2]])
    words = centred(vectors)[ids[0]]
    expected = torch.nn.functional.normalize(words + words.mean(dim=0), dim=1)
    assert (model(ids).embeddings[0] * expected).sum(dim=1).min() > 0.99


@pytest.mark.parametrize(
    ("vectors", "dim", "hidden", "message"),
    [
        ((11, 6), 6, 8, "has 11 rows, but the encoder's vocabulary has 12"),
        ((12, 6), 5, 8, "`hidden_size` of at least 8, got 5 and 8"),
        ((12, 7), 7, 8, "`hidden_size` of at least 9, got 7 and 8"),
    ],
)
def test_sizes_that_do_not_fit(vectors, dim, hidden, message):
    model = BiEncoderModel(BiEncoderConfig(**sizes(0, dim, hidden)))
    with pytest.raises(ValueError, match=message):
        bag_of_words_init_(model, torch.ones(vectors))
