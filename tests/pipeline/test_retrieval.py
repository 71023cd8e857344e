"""Retrieval pipelines against their parts called by hand."""

import string

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers.pipelines.pt_utils import KeyDataset

from hf_xlir import RetrievalPipeline
from hf_xlir.evaluation import rank_by_bm25
from hf_xlir.index import BM25Index, LateInteractionIndex, QueryEmbeddings, embed_passages, embed_queries
from hf_xlir.index.fusion import fuse
from hf_xlir.pipeline import Retriever


def ids(results):
    return [[passage["id"] for passage in of_one] for of_one in results]


def scores(results):
    return [[passage["score"] for passage in of_one] for of_one in results]


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def by_hand(parts, kind, questions, k):
    """Ids and scores of one retriever."""
    if kind == "bm25":
        found, rows = parts.bm25.search_batch(questions, k)
        kept = [(of_one[own >= 0], own[own >= 0]) for of_one, own in zip(found, rows, strict=True)]
    else:
        model, index = (parts.colbert, parts.late) if kind == "colbert" else (parts.biencoder, parts.dense)
        queries = embed_queries(*model, questions)
        masks = {} if queries.mask is None else {"query_mask": queries.mask}
        kept = list(zip(*index.search_batch(queries.embeddings, k, **masks), strict=True))
    names = parts.bm25.ids
    return [[names[row] for row in own] for _, own in kept], [of_one.tolist() for of_one, _ in kept]


class TestOneRetriever:
    @pytest.mark.parametrize("kind", ["colbert", "dense", "bm25"])
    def test_equals_its_parts(self, search, parts, world, kind):
        results = search(kind)(world.questions, k=5)
        expected = by_hand(parts, kind, world.questions, 5)
        assert ids(results) == expected[0]
        assert np.concatenate(scores(results)) == pytest.approx(np.concatenate(expected[1]))
        rows = {row["id"]: row for row in world.passages}
        assert all(
            passage == {**rows[passage["id"]], "score": passage["score"]} for of_one in results for passage in of_one
        )
        assert list(results[0][0]) == ["id", "title", "text", "lang", "score"]

    def test_model_index_and_passages(self, parts, world):
        pipe = RetrievalPipeline(*parts.colbert, index=parts.late, passages=world.passages, device="cpu")
        assert ids(pipe(world.questions, k=4)) == by_hand(parts, "colbert", world.questions, 4)[0]
        assert repr(pipe) == "RetrievalPipeline(24 passages, retriever: late_interaction, device='cpu')"
        pipe = RetrievalPipeline(index=parts.bm25, passages=world.passages.to_list(), device="cpu")
        ranking = rank_by_bm25([{"id": "q", "question": world.questions[0]}], world.passages, progress=False)
        assert [passage["id"] for passage in pipe(world.questions[0], k=24)] == ranking.rankings["q"]

    def test_hides_the_column_of_vectors(self, parts, world):
        from hf_xlir.index import add_dense_index

        vectors = embed_passages(*parts.biencoder, world.passages, progress=False)
        passages = world.passages.add_column("vector", list(vectors.values))
        passages = add_dense_index(passages, "vector")
        pipe = RetrievalPipeline(
            *parts.biencoder, index=passages.get_index("dense"), passages=passages, device="cpu", k=1
        )
        assert list(pipe(world.questions[0])[0]) == ["id", "title", "text", "lang", "score"]

    def test_search_parameters_reach_the_index(self, world, parts):
        embeddings = embed_passages(*parts.colbert, world.passages, progress=False)
        index = LateInteractionIndex.build(embeddings, nbits=1, num_centroids=8)
        pipe = RetrievalPipeline(*parts.colbert, index, world.passages, device="cpu", preset="exact")
        queries = embed_queries(*parts.colbert, world.questions)
        for limits in ({}, {"preset": "fast"}, {"n_probe": 1, "n_rerank": 2, "preset": "balanced"}):
            rows = index.search_batch(
                queries.embeddings, 6, queries.mask, **{"preset": "exact", **limits}
            ).total_indices
            assert ids(pipe(world.questions, k=6, **limits)) == [[index.ids[row] for row in own] for own in rows]

    def test_sees_removed_passages(self, parts, world):
        index = LateInteractionIndex.build(embed_passages(*parts.colbert, world.passages, progress=False))
        pipe = RetrievalPipeline(*parts.colbert, index, world.passages, device="cpu")
        first, second, third = (passage["id"] for passage in pipe(world.questions[0], k=3))
        index.remove([first])
        assert [passage["id"] for passage in pipe(world.questions[0], k=2)] == [second, third]
        retrievers = {"colbert": Retriever(index, *parts.colbert), "bm25": Retriever(parts.bm25)}
        with pytest.raises(ValueError, match="has 24 rows, but 23"):
            RetrievalPipeline(retrievers=retrievers, passages=world.passages)

    def test_removed_from_one_of_two_indexes(self, parts, world):
        index = LateInteractionIndex.build(embed_passages(*parts.colbert, world.passages, progress=False))
        retrievers = {"colbert": Retriever(index, *parts.colbert), "bm25": Retriever(parts.bm25)}
        pipe = RetrievalPipeline(retrievers=retrievers, passages=world.passages, device="cpu")
        first = pipe(world.questions[0], k=1, explain=True)[0]
        assert first["matches"]
        index.remove([first["id"]])
        found = {passage["id"]: passage["matches"] for passage in pipe(world.questions[0], k=24, explain=True)}
        assert found.pop(first["id"], []) == [] and all(found.values())


class TestInputs:
    @pytest.mark.parametrize("kinds", [("colbert",), ("colbert", "bm25", "dense")])
    def test_batch_equals_single_questions(self, search, world, kinds):
        pipe = search(*kinds, k=4)
        single = [pipe(question) for question in world.questions]
        assert [len(of_one) for of_one in single] == [4] * len(world.questions)
        for size in (1, 4, 64):
            batch = pipe(world.questions, batch_size=size)
            assert ids(batch) == ids(single)
            assert np.concatenate(scores(batch)) == pytest.approx(np.concatenate(scores(single)), rel=1e-5)

    def test_containers_of_questions(self, search, world):
        pipe = search("bm25", k=2)
        expected = pipe(world.questions)
        dataset = Dataset.from_dict({"question": world.questions})
        assert pipe(tuple(world.questions)) == expected
        assert pipe(dataset["question"]) == expected
        assert pipe(KeyDataset(dataset, "question")) == expected
        assert pipe(np.array(world.questions), batch_size=np.int64(2)) == expected
        assert pipe(pd.Series(world.questions, index=range(7, 13))) == expected  # has no row 0
        assert pipe(dict.fromkeys(world.questions).keys()) == expected
        assert pipe(dataset.to_dict()["question"]) == expected

    def test_generator_is_read_batch_by_batch(self, search, world):
        read = []

        def questions():
            for question in world.questions:
                read.append(question)
                yield question

        pipe = search("bm25", k=2)
        results = pipe(questions(), batch_size=4)
        assert read == []
        first = next(results)
        assert len(read) == 4
        assert [first, *results] == pipe(world.questions)


class TestSeveralRetrievers:
    @pytest.mark.parametrize("method", ["reciprocal_rank", "weighted_sum"])
    @pytest.mark.parametrize("weights", [None, {"bm25": 0.5, "dense": 2.0, "colbert": 1.0}])
    def test_fusion(self, search, parts, world, method, weights):
        names = ("colbert", "dense", "bm25")
        pipe = search(*names, fusion=method, weights=weights, num_candidates=6)
        results = pipe(world.questions, k=5)
        rankings = {name: by_hand(parts, name, world.questions, 6) for name in names}
        for place, of_one in enumerate(results):
            expected, values = fuse(
                [rankings[name][0][place] for name in names],
                [rankings[name][1][place] for name in names],
                method,
                None if weights is None else [weights[name] for name in names],
            )
            assert [passage["id"] for passage in of_one] == expected[:5]
            assert [passage["score"] for passage in of_one] == pytest.approx(values[:5], rel=1e-4)

    def test_rank_constant_and_candidates(self, search, parts, world):
        pipe = search("colbert", "bm25", rank_constant=0)
        [best, *_] = pipe(world.questions[0], k=1)
        rankings = [by_hand(parts, name, world.questions[:1], 100)[0][0] for name in ("colbert", "bm25")]
        expected = fuse(rankings, rank_constant=0)
        assert (best["id"], best["score"]) == (expected[0][0], expected[1][0])
        assert len(pipe(world.questions[0], k=24, num_candidates=2)) == 24  # at least `k` candidates


class TestReranking:
    def test_cross_encoder(self, search, world, tokenizer, cross_encoder):
        model = cross_encoder()
        results = search("bm25", reranker=model, reranker_processor=tokenizer, num_candidates=8)(world.questions, k=8)
        first = search("bm25")(world.questions, k=8)
        for question, of_one, before in zip(world.questions, results, first, strict=True):
            expected = {}
            for passage in before:
                pair = tokenizer(question, f"{passage['title']} {passage['text']}", return_tensors="pt")
                expected[passage["id"]] = (model(**pair).logits.item(), passage["score"])
            assert sorted(passage["id"] for passage in of_one) == sorted(expected)
            for passage in of_one:
                score, before = expected[passage["id"]]
                assert passage["score"] == pytest.approx(score, abs=1e-5)
                assert passage["retrieval_score"] == before
            values = [passage["score"] for passage in of_one]
            assert values == sorted(values, reverse=True)

    def test_only_candidates_are_reranked(self, search, world, tokenizer, cross_encoder):
        rerank = {"reranker": cross_encoder(), "reranker_processor": tokenizer}
        few = search("colbert", num_candidates=3, **rerank)(world.questions[0], k=2)
        candidates = [passage["id"] for passage in search("colbert")(world.questions[0], k=3)]
        assert len(few) == 2 and {passage["id"] for passage in few} <= set(candidates)

    def test_two_labels_are_log_odds(self, search, world, tokenizer, cross_encoder):
        model = cross_encoder(num_labels=2)
        [best, *_] = search("bm25", reranker=model, reranker_processor=tokenizer)(world.questions[0], k=1)
        pair = tokenizer(world.questions[0], f"{best['title']} {best['text']}", return_tensors="pt")
        no, yes = model(**pair).logits.softmax(dim=-1)[0].tolist()
        assert best["score"] == pytest.approx(np.log(yes / no), abs=1e-5)

    def test_long_pairs_are_cut(self, search, world, tokenizer, cross_encoder):
        """The model has 128 positions, question and passage together more token ids."""
        pipe = search("bm25", reranker=cross_encoder(), reranker_processor=tokenizer)
        question = " ".join([world.questions[0]] * 20)
        assert len(pipe(question, k=3)) == 3

    def test_colbert_reranker(self, search, world, parts):
        model, processor = parts.colbert
        results = search("bm25", reranker=model, reranker_processor=processor)(world.questions, k=5)
        for question, of_one in zip(world.questions, results, strict=True):
            with torch.no_grad():
                query = model(**processor.process_queries([question]))
                for passage in of_one:
                    document = model(**processor.process_documents([passage["text"]], titles=[passage["title"]]))
                    assert passage["score"] == pytest.approx(processor.score(query, document).item(), abs=1e-4)
            assert of_one == sorted(of_one, key=lambda passage: -passage["score"])

    def test_nothing_to_rerank(self, search, parts, tokenizer, cross_encoder):
        for rerank in ((cross_encoder(), tokenizer), parts.colbert):
            pipe = search("bm25", reranker=rerank[0], reranker_processor=rerank[1])
            assert pipe("Xyzzy?") == [] and pipe(["Xyzzy?", "!?"]) == [[], []]


class TestExplain:
    def test_equals_the_index(self, search, parts, world):
        model, processor = parts.colbert
        pipe = search("bm25", "colbert")
        for question, of_one in zip(world.questions, pipe(world.questions, k=2, explain=True), strict=True):
            queries = embed_queries(model, processor, [question])
            asked = pieces(processor.tokenizer, question)
            for passage in of_one:
                expected = parts.late.explain(queries.embeddings[0], passage["id"], queries.mask[0])
                matches = passage["matches"]
                assert [match["similarity"] for match in matches] == pytest.approx(
                    [match.similarity for match in expected], abs=1e-5
                )
                assert [match["query_token"] for match in matches] == ["<s>", "[Q]", *asked, "</s>"]
                text = f"{passage['title']} {passage['text']}"
                read = ["<s>", "[D]", *pieces(processor.tokenizer, text)[: model.config.document_length - 3], "</s>"]
                read = [token for token in read if token.lstrip("▁") not in tuple(string.punctuation)]
                assert [match["passage_token"] for match in matches] == [read[m.passage_token] for m in expected]

    def test_sums_up_to_the_score(self, search, world):
        [best, *_] = search("colbert")(world.questions[0], explain=True)
        assert sum(match["similarity"] for match in best["matches"]) == pytest.approx(best["score"], abs=1e-4)

    def test_pooled_tokens_have_no_text(self, parts, world):
        embeddings = embed_passages(*parts.colbert, world.passages, progress=False)
        index = LateInteractionIndex.build(embeddings, pooling_factor=2)
        pipe = RetrievalPipeline(*parts.colbert, index, world.passages, device="cpu")
        matches = pipe(world.questions[0], k=1, explain=True)[0]["matches"]
        assert {match["passage_token"] for match in matches} == {None}

    def test_text_differs_from_the_embedded_one(self, parts, world):
        passages = world.passages.map(lambda row: {"text": "No.", "title": ""})
        pipe = RetrievalPipeline(*parts.colbert, parts.late, passages, device="cpu")
        with pytest.raises(ValueError, match="fewer than in the index"):
            pipe(world.questions, explain=True)


class TestAllowed:
    @pytest.mark.parametrize("kinds", [("colbert",), ("dense",), ("bm25",), ("colbert", "dense", "bm25")])
    def test_allowed_ids(self, search, world, kinds):
        allowed = world.passages["id"][3:20:4]
        pipe = search(*kinds)
        everything = pipe(world.questions, k=24)
        found = pipe(world.questions, k=24, allowed_ids=(id for id in allowed), batch_size=2)
        assert [set(of_one) <= set(allowed) for of_one in ids(found)] == [True] * len(world.questions)
        if len(kinds) == 1:  # fused scores depend on the ranks among allowed passages
            expected = [[id for id in of_one if id in allowed] for of_one in ids(everything)]
            assert ids(found) == expected
        assert pipe(world.questions[0], allowed_ids=[]) == []

    def test_k_above_the_number_of_passages(self, search, world):
        assert len(search("colbert")(world.questions[0], k=1000)) == 24
        assert len(search("dense", "colbert")(world.questions[0], k=1000)) == 24


class TestErrors:
    @pytest.mark.parametrize(
        "inputs, error, message",
        [
            ([], ValueError, "There is no question"),
            (["a", " \n"], ValueError, "Question 1 is empty"),
            ("", ValueError, "Question 0 is empty"),
            (["a", 3], TypeError, "Question 1 must be a text, got int"),
            ({"question": "a"}, TypeError, "Expected a question or several, got dict"),
            (3, TypeError, "Expected a question or several, got int"),
            (b"a", TypeError, "Question 0 must be a text, got int"),
            (None, TypeError, "Expected a question or several, got NoneType"),
            (pd.DataFrame({"question": ["a"]}), TypeError, "Expected a question or several, got DataFrame"),
            (np.array([["a"]]), TypeError, "Expected a question or several, got ndarray"),
        ],
    )
    def test_questions(self, search, inputs, error, message):
        with pytest.raises(error, match=message):
            search("bm25")(inputs)

    @pytest.mark.parametrize(
        "arguments, error, message",
        [
            ({"k": 0}, ValueError, "`k`.*got 0"),
            ({"num_candidates": 0}, ValueError, "positive integer, got 0"),
            ({"top_k": 3}, TypeError, "has no arguments \\['top_k'\\]"),
            ({"preset": "slow"}, ValueError, "`preset` must be one of"),
            ({"n_probe": 0}, ValueError, "`n_probe` must be a positive integer"),
            ({"params": 3}, TypeError, "params"),
            ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer"),
            ({"allowed_ids": "a"}, ValueError, "allowed_ids.*one string"),
            ({"allowed_ids": ["nobody"]}, ValueError, "1 ids are not in this index"),
        ],
    )
    def test_arguments(self, search, arguments, error, message):
        pipe = search("colbert")
        with pytest.raises(error, match=message):
            pipe("Who?", **arguments)
        if {"k", "num_candidates", "top_k", "params"} & arguments.keys():  # checked at construction, too
            with pytest.raises(error, match=message):
                search("colbert", **arguments)

    def test_options_of_other_indexes(self, search):
        with pytest.raises(ValueError, match="late-interaction index .* \\['bm25', 'dense'\\]"):
            search("bm25", "dense")("Who?", explain=True)
        with pytest.raises(TypeError, match="preset"):
            search("bm25")("Who?", preset="fast")

    def test_parts(self, parts, world, make_colbert, encoder_config, tokenizer, cross_encoder):
        def build(*args, **arguments):
            return RetrievalPipeline(*args, **{"device": "cpu", "passages": world.passages, **arguments})

        for arguments, message in (
            ({"index": parts.bm25, "passages": None}, "There are no `passages`"),
            ({}, "There is no `index`"),
            ({"retrievers": {}}, "There is no retriever"),
            ({"retrievers": {"a b": Retriever(parts.bm25)}}, "must be identifiers, got \\['a b'\\]"),
            ({"retrievers": {"a": Retriever(parts.bm25)}, "index": parts.bm25}, "not both"),
            ({"index": parts.late}, "give the `model` or `encoder`"),
            ({"index": parts.bm25, "model": parts.colbert[0]}, "leave `model`"),
            ({"index": parts.late, "model": parts.colbert[0]}, "its processor"),
            ({"index": world.passages}, "got `Dataset`"),
            ({"index": parts.bm25, "passages": world.passages.select(range(9))}, "has 9 rows, but 24"),
            ({"index": parts.bm25, "passages": world.passages.select([*range(1, 24), 0])}, "Row 0 of the dataset"),
            ({"index": parts.bm25, "passages": "rows"}, "No such file|There is no|not exist"),
            ({"index": parts.bm25, "passages": {"id": "a"}}, "must be a `datasets.Dataset`"),
            ({"index": parts.bm25, "passages": [{"text": "a"}]}, "lack \\['id'\\]"),
            ({"index": parts.bm25, "passages": [{"id": "a", "text": "a", "score": 1}]}, "have a `score` of their own"),
            ({"index": parts.bm25, "weights": {"bm25": 1}}, "one for each of \\['retriever'\\], got \\['bm25'\\]"),
            ({"index": parts.bm25, "fusion": "borda"}, "`method` must be one of"),
            ({"index": parts.bm25, "reranker": cross_encoder()}, "give `reranker_processor`, too"),
            (
                {"index": parts.bm25, "reranker": cross_encoder(3), "reranker_processor": tokenizer},
                "3 labels",
            ),
            (
                {"index": parts.bm25, "reranker": parts.biencoder[0], "reranker_processor": parts.biencoder[1]},
                "biencoder",
            ),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                build(**arguments)
        with pytest.raises(ValueError, match="vectors, but `colbert_xlmr` gives token_vectors"):
            build(*parts.colbert, parts.dense)
        small = make_colbert(encoder_config=encoder_config(), embedding_dim=5)
        processor = type(parts.colbert[1]).from_config(tokenizer, small.config)
        with pytest.raises(ValueError, match="5 dimensions, the index has 12"):
            build(small, processor, parts.late)
        with pytest.raises(ValueError, match="The processor has query_length"):
            build(small, parts.colbert[1], parts.late)
        with pytest.raises(ValueError, match="expected one of them"):
            build(*parts.colbert, parts.late, encoder=parts.colbert)


def test_maxsim_of_padding_does_not_count(world, parts, monkeypatch):
    """
    Texts of one batch differ in length, and the zeros that fill up the shorter one must not be matched: they would be
    by a query whose inner product with each of its tokens is -1.
    """
    model, processor = parts.colbert
    passages = [{"id": "a", "text": "No"}, {"id": "b", "text": " ".join(world.passages["text"][:2])}]
    embeddings = embed_passages(model, processor, passages, progress=False)
    tokens = torch.from_numpy(embeddings[0])
    query = torch.linalg.lstsq(tokens, -torch.ones(len(tokens), 1)).solution.T[None]  # (1, 1, embedding_dim)
    assert len(tokens) < len(embeddings[1]) and torch.allclose(
        tokens @ query[0, 0], -torch.ones(len(tokens)), atol=1e-4
    )
    queries = QueryEmbeddings(query, torch.ones(1, 1, dtype=torch.bool))
    monkeypatch.setattr("hf_xlir.pipeline.reranker.embed_queries", lambda *args: queries)
    pipe = RetrievalPipeline(
        index=BM25Index.build(passages, tokenize=lambda text: ["x"], progress=False),  # finds all
        passages=passages,
        reranker=model,
        reranker_processor=processor,
        device="cpu",
    )
    scores = {passage["id"]: passage["score"] for passage in pipe("x")}
    assert scores["a"] == pytest.approx(-1, abs=1e-4)
    assert scores["b"] == pytest.approx((embeddings[1] @ query[0, 0].numpy()).max(), abs=1e-4)
