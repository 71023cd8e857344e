"""A start for students without pretrained weights: word vectors from parallel text, solved for instead of trained."""

import numpy as np
import torch
from scipy import sparse


def parallel_word_vectors(sentences, targets, tokens, ngrams=(2, 4), ridge=1.0):
    r"""
    One vector per token, such that their sum over a sentence points to where a teacher puts its translation.

    For a student that adds up word vectors, the least-squares form of learning sentence representations on parallel
    text (https://huggingface.co/papers/2004.09813) is ridge regression, which has an exact solution. Its features are
    the tokens, and character n-grams of the tokens, so that tokens that no sentence has still get a vector; each is
    weighted by its inverse document frequency. The mean of the targets is left out of the regression: it says nothing
    of a sentence, and a sum of word vectors that predicts it as well is drawn towards it.

    Args:
        sentences (`list[list[int]]`):
            Token ids of the sentences, without special tokens.
        targets (`numpy.ndarray` of shape `(number of sentences, dim)`):
            The teacher's vectors of their translations, of length 1.
        tokens (`list[str]`):
            The vocabulary: the piece of each id.
        ngrams (`tuple[int, int]`, *optional*, defaults to `(2, 4)`):
            Least and greatest length of n-grams.
        ridge (`float`, *optional*, defaults to 1.0):
            Weight of the penalty on the squared solution, where a sentence's features have length 1.

    Returns:
        `torch.FloatTensor` of shape `(len(tokens), dim)`: of mean squared length 1 over the tokens that have a vector,
        and 0 for those that share nothing with the sentences. Meanwhile it takes memory of 8 bytes times the number of
        sentences squared.

    Raises:
        ValueError: If there are no sentences, not one target a sentence, or a number or range makes no sense.

    Example:
    ```python
    >>> import numpy as np
    >>> from support.closed_form import parallel_word_vectors

    >>> tokens = ["▁chat", "▁chou", "▁le"]
    >>> vectors = parallel_word_vectors([[2, 0], [2, 1]], np.eye(2), tokens, ngrams=(4, 5))
    >>> [[round(value, 2) for value in vector] for vector in vectors.tolist()]
    [[0.71, -0.71], [-0.71, 0.71], [0.0, 0.0]]

    ```
    """
    targets = np.asarray(targets, dtype=np.float64)
    if not sentences or targets.ndim != 2 or len(targets) != len(sentences):
        raise ValueError(
            "Expected at least one sentence and targets of shape (number of sentences, dim), got "
            f"{len(sentences)} sentences and targets of shape {targets.shape}."
        )
    shortest, longest = ngrams
    if not 1 <= shortest <= longest:
        raise ValueError(f"`ngrams` must be a range of positive lengths, got {ngrams}.")
    if ridge <= 0:
        raise ValueError(f"`ridge` must be positive, got {ridge}.")

    features_of_token = _features(tokens, shortest, longest)
    features = _counts(sentences, len(tokens)) @ features_of_token  # (sentences, features)
    frequency = np.asarray((features > 0).sum(axis=0)).ravel()
    weight = np.where(frequency > 0, np.log(len(sentences) / np.maximum(frequency, 1)), 0.0)
    features_of_token = features_of_token @ sparse.diags(weight)
    features = features @ sparse.diags(weight)
    length = np.sqrt(np.asarray(features.multiply(features).sum(axis=1)).ravel())
    features = sparse.diags(1 / np.maximum(length, 1e-12)) @ features
    kernel = (features @ features.T).toarray()
    kernel[np.diag_indices(len(kernel))] += ridge
    dual = np.linalg.solve(kernel, targets - targets.mean(axis=0))
    vectors = features_of_token @ (features.T @ dual)
    squared = np.square(vectors).sum(axis=1)
    if squared.any():
        vectors /= np.sqrt(squared[squared > 0].mean())
    return torch.from_numpy(vectors).float()


@torch.no_grad()
def bag_of_words_init_(model, vectors, context_weight=1.0):
    r"""
    Make a retriever over an XLM-R-shaped encoder a bag of given word vectors, from where it can be trained.

    A dual encoder's text vector is then the direction of the sum of its tokens' vectors, up to a factor per token
    where the encoder has layers; a ColBERT's token vector is the direction of the token's vector plus `context_weight`
    times the text's mean vector, once per layer: words that say little, whose vectors are short, take the direction of
    the text. Attention starts even over all tokens, and the feed-forward layers add nothing.

    LayerNorm behind the embeddings makes all tokens equally long. Two more dimensions fill each word vector up to one
    length, so that LayerNorm only scales it, and the projection leaves them out: the encoder's `hidden_size` must
    exceed the vectors' by 2 at least.

    Args:
        model ([`BiEncoderModel`] or [`ColBERTXLMRModel`]):
            The model, changed in place. Its `embedding_dim` is that of the vectors.
        vectors (`torch.FloatTensor` of shape `(vocab_size, dim)`):
            Such as [`parallel_word_vectors`] gives.
        context_weight (`float`, *optional*, defaults to 1.0):
            See above.

    Returns:
        The model.

    Raises:
        ValueError: If the sizes do not fit.

    Example:
    ```python
    >>> import torch
    >>> from transformers import XLMRobertaConfig
    >>> from hf_xlir import BiEncoderConfig, BiEncoderModel
    >>> from support.closed_form import bag_of_words_init_

    >>> encoder = XLMRobertaConfig(vocab_size=6, hidden_size=8, num_hidden_layers=0, max_position_embeddings=66)
    >>> config = BiEncoderConfig(
    ...     encoder_config=encoder, embedding_dim=4, pooling="mean", normalize=True, query_length=8, document_length=8
    ... )
    >>> vectors = torch.tensor([[0.0, 0, 0, 0]] * 4 + [[3.0, -3, 1, -1], [0, 0, 2, -2]])
    >>> model = bag_of_words_init_(BiEncoderModel(config).eval(), vectors)
    >>> model(torch.tensor([[0, 4, 5, 2]])).embeddings.mul(6).round().tolist()
    [[3.0, -3.0, 3.0, -3.0]]

    ```
    """
    encoder, dim = model.encoder, vectors.shape[1]
    embeddings = encoder.embeddings
    words = embeddings.word_embeddings.weight
    if vectors.shape[0] != len(words):
        raise ValueError(f"`vectors` has {len(vectors)} rows, but the encoder's vocabulary has {len(words)} tokens.")
    if model.config.embedding_dim != dim or words.shape[1] < dim + 2:
        raise ValueError(
            f"Vectors of {dim} dimensions need `embedding_dim={dim}` and a `hidden_size` of at least {dim + 2}, got "
            f"{model.config.embedding_dim} and {words.shape[1]}."
        )
    vectors = vectors.to(words) - vectors.to(words).mean(dim=1, keepdim=True)  # LayerNorm would do so
    squared = vectors.square().sum(dim=1)
    filling = ((1.01 * squared.max() - squared) / 2).sqrt()
    words.zero_()
    words[:, :dim] = vectors
    words[:, dim], words[:, dim + 1] = filling, -filling
    for name in ("position_embeddings", "token_type_embeddings"):
        getattr(embeddings, name).weight.zero_()
    for layer in encoder.encoder.layer:
        _identity_(layer.attention.self.value, words.shape[1])
        _identity_(layer.attention.output.dense, dim, context_weight)
        _identity_(layer.output.dense, 0)
    _identity_(model.head.linear if hasattr(model, "head") else model.linear, dim)
    return model


def _identity_(linear, size, factor=1.0):
    """Make a linear layer copy its first `size` inputs, times a factor, and nothing else."""
    linear.weight.zero_()
    linear.weight[:size, :size].fill_diagonal_(factor)
    if linear.bias is not None:
        linear.bias.zero_()


def _features(tokens, shortest, longest):
    """Which features each token has, the token itself first: sparse `(len(tokens), number of features)`."""
    columns, places, ends = {}, [], [0]
    for token in tokens:
        grams = [
            token[start : start + length]
            for length in range(shortest, longest + 1)
            for start in range(len(token) - length + 1)
        ]
        names = [(token, None), *((gram, len(gram)) for gram in grams)]
        places += [columns.setdefault(name, len(columns)) for name in names]
        ends.append(len(places))
    return sparse.csr_matrix((np.ones(len(places)), places, ends), shape=(len(tokens), len(columns)))


def _counts(sentences, vocab_size):
    """How often each token is in each sentence: sparse `(number of sentences, vocab_size)`."""
    ends = np.cumsum([0, *(len(sentence) for sentence in sentences)])
    places = np.concatenate([np.asarray(sentence, dtype=np.int64) for sentence in sentences])
    return sparse.csr_matrix((np.ones(len(places)), places, ends), shape=(len(sentences), vocab_size))


__all__ = ["bag_of_words_init_", "parallel_word_vectors"]
