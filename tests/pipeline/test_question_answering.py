"""Answers against the reader called by hand."""

import numpy as np
import pytest
import torch

from hf_xlir import QuestionAnsweringPipeline, RetrievalPipeline
from hf_xlir.evaluation import read_answers
from hf_xlir.pipeline.reader import distinct_answers


def likelihood(model, processor, question, passages, tokens):
    """Probability of an answer's token ids, by one pass with the answer given."""
    inputs = processor([question], [passages])
    with torch.no_grad():
        logits = model(**inputs, labels=torch.tensor([tokens])).logits[0].double()
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(tokens)[:, None]).sum().exp().item()


def generated(model, processor, question, passages, **arguments):
    """Token ids of the answers, the end included."""
    output = model.generate(**processor([question], [passages]), max_new_tokens=6, **arguments)
    rows = []
    for row in output[:, 1:].tolist():
        end = processor.tokenizer.eos_token_id
        rows.append(row[: row.index(end) + 1] if end in row else row)
    return rows


@pytest.mark.parametrize("kinds", [("colbert",), ("dense", "bm25")])
def test_equals_retrieval_then_reading(ask, search, world, reader, kinds):
    model, processor = reader
    results = ask(*kinds)(world.questions)
    found = search(*kinds)(world.questions, k=4)
    examples = [{"question": text, "ctxs": own} for text, own in zip(world.questions, found, strict=True)]
    expected = read_answers(model, processor, examples, scores="attention")
    assert len({answer.text for answer in expected}) > 1
    for question, result, answer, own in zip(world.questions, results, expected, found, strict=True):
        assert list(result) == ["answer", "score", "passages"]
        assert result["answer"] == answer.text
        scores = [passage.pop("reader_score") for passage in result["passages"]]
        assert scores == pytest.approx(answer.scores, abs=1e-4)
        assert [passage["id"] for passage in result["passages"]] == [passage["id"] for passage in own]
        assert result["passages"][0].keys() == own[0].keys()
        [tokens] = generated(model, processor, question, own)
        assert result["score"] == pytest.approx(likelihood(model, processor, question, own, tokens), rel=1e-3)
        assert 0 < result["score"] < 1


def test_score_includes_the_end_token_and_nothing_after(ask, world, reader):
    """Answers of one batch that end at different places, since some token is made an end."""
    model, processor = reader
    end = processor.tokenizer.eos_token_id
    found = ask("bm25")(world.questions)
    rows = [
        generated(model, processor, question, result["passages"])[0]
        for question, result in zip(world.questions, found, strict=True)
    ]
    long = next(place for place, row in enumerate(rows) if len(row) > 2)
    ends = [end, rows[long][1]]
    rows = [row[: next((place + 1 for place, id in enumerate(row) if id in ends), None)] for row in rows]
    assert len(rows[long]) == 2 and len(set(map(len, rows))) > 1
    results = ask("bm25", generate_kwargs={"eos_token_id": ends})(world.questions)
    for question, tokens, result in zip(world.questions, rows, results, strict=True):
        expected = likelihood(model, processor, question, result["passages"], tokens)
        assert result["score"] == pytest.approx(expected, rel=1e-3)
    # A forced end token counts, too
    question = world.questions[long]
    [result] = ask("bm25", generate_kwargs={"forced_eos_token_id": end, "max_new_tokens": 2})([question])
    expected = likelihood(model, processor, question, result["passages"], [rows[long][0], end])
    assert result["score"] == pytest.approx(expected, rel=1e-3)


def test_number_of_passages(ask, reader, world):
    model, processor = reader
    pipe = ask("colbert")
    assert len(pipe(world.questions[0])["passages"]) == 4  # from the processor
    assert len(pipe(world.questions[0], n_context=2)["passages"]) == 2
    assert len(pipe(world.questions[0], n_context=np.int64(2))["passages"]) == 2
    result = pipe(world.questions[0], n_context=7)
    assert len(result["passages"]) == 7 and processor.n_context == 4
    inputs = type(processor)(processor.tokenizer, 60, 6, n_context=7)([world.questions[0]], [result["passages"]])
    expected = model.reader_scores(**inputs)[0].tolist()
    assert [passage["reader_score"] for passage in result["passages"]] == pytest.approx(expected, abs=1e-4)
    assert len(ask("colbert", n_context=3)(world.questions[0])["passages"]) == 3


@pytest.mark.parametrize("beams", [None, 5])
def test_several_answers(ask, reader, world, beams):
    model, processor = reader
    arguments = {} if beams is None else {"generate_kwargs": {"num_beams": beams}}
    results = ask("bm25")(world.questions, num_answers=3, **arguments)
    for question, result in zip(world.questions, results, strict=True):
        rows = generated(model, processor, question, result["passages"], num_beams=beams or 3, num_return_sequences=3)
        expected = {}
        for tokens in rows:
            text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            score = likelihood(model, processor, question, result["passages"], tokens)
            expected[text] = max(score, expected.get(text, 0))
        assert {each["answer"]: each["score"] for each in result["answers"]} == pytest.approx(expected, rel=1e-3)
        scores = [each["score"] for each in result["answers"]]
        assert scores == sorted(scores, reverse=True)
        assert (result["answer"], result["score"]) == tuple(result["answers"][0].values())


def test_equal_answers_are_merged():
    answers = distinct_answers(["b", "a", "a", "c", "c"], [0.2, 0.1, 0.3, 0.25, 0.01], 2)
    assert answers == [{"answer": "a", "score": 0.3}, {"answer": "c", "score": 0.25}]


def test_sampling(ask, reader, world):
    model, processor = reader
    pipe = ask("bm25", generate_kwargs={"do_sample": True, "top_k": 5, "temperature": 3.0})
    torch.manual_seed(0)
    result = pipe(world.questions[0], num_answers=4)
    torch.manual_seed(0)
    arguments = {"do_sample": True, "top_k": 5, "temperature": 3.0, "num_return_sequences": 4}
    rows = generated(model, processor, world.questions[0], result["passages"], **arguments)
    scores = [likelihood(model, processor, world.questions[0], result["passages"], tokens) for tokens in rows]
    assert max(scores) == pytest.approx(result["score"], rel=1e-3)


def test_batch_equals_single_questions(ask, world):
    pipe = ask("colbert", "bm25", num_answers=2)
    batch = pipe(world.questions, batch_size=5)
    for question, of_batch in zip(world.questions, batch, strict=True):
        single = pipe(question)
        assert single["answer"] == of_batch["answer"]
        assert single["score"] == pytest.approx(of_batch["score"], rel=1e-3)
        assert [passage["id"] for passage in single["passages"]] == [each["id"] for each in of_batch["passages"]]
    assert [result["answer"] for result in pipe(iter(world.questions))] == [result["answer"] for result in batch]


def test_question_without_passages(ask, reader):
    model, processor = reader
    result = ask("bm25")("Xyzzy?")
    [expected] = read_answers(model, processor, [{"question": "Xyzzy?", "ctxs": []}])
    assert result["passages"] == [] and result["answer"] == expected.text and 0 < result["score"] < 1


def test_search_arguments(ask, world, parts):
    pipe = ask("colbert")
    allowed = world.passages["id"][:3]
    result = pipe(world.questions[0], allowed_ids=allowed, explain=True)
    assert sorted(passage["id"] for passage in result["passages"]) == sorted(allowed)
    assert result["passages"][0]["matches"][0]["query_token"] == "<s>"


def test_errors(ask, search, parts, world, reader):
    model, processor = reader
    pipe = ask("bm25")
    for arguments, error, message in (
        ({"n_context": 0}, ValueError, "`n_context` must be a positive integer, got 0"),
        ({"num_answers": True}, ValueError, "`num_answers` must be a positive integer, got True"),
        ({"generate_kwargs": [1]}, TypeError, "`generate_kwargs` must be a dictionary, got list"),
        ({"k": 3}, TypeError, "has no arguments \\['k'\\]"),
        ({"num_beams": 3}, TypeError, "has no arguments \\['num_beams'\\]"),
        ({"preset": "fast"}, TypeError, "preset"),
    ):
        with pytest.raises(error, match=message):
            pipe("Who?", **arguments)
    with pytest.raises(ValueError, match="There is no `reader`"):
        QuestionAnsweringPipeline(search("bm25"), device="cpu")
    with pytest.raises(ValueError, match="give `reader_processor`, too"):
        QuestionAnsweringPipeline(search("bm25"), reader=model, device="cpu")
    with pytest.raises(ValueError, match="`reader` must be .* 'colbert_xlmr'"):
        QuestionAnsweringPipeline(
            search("bm25"), reader=parts.colbert[0], reader_processor=parts.colbert[1], device="cpu"
        )


def test_made_from_another_pipeline(ask, search, world, reader):
    model, processor = reader
    retrieval = search("bm25", "dense", fusion="weighted_sum", k=3, num_candidates=9)
    pipe = QuestionAnsweringPipeline(retrieval, reader=model, reader_processor=processor, device="cpu")
    expected = ask("bm25", "dense", fusion="weighted_sum", num_candidates=9)(world.questions[0])
    assert pipe(world.questions[0]) == expected
    again = RetrievalPipeline(pipe, device="cpu")
    assert again.model.reader is None and pipe.model.reader is not None
    assert again(world.questions[0], k=3) == retrieval(world.questions[0])
    other = RetrievalPipeline(pipe, fusion="reciprocal_rank", device="cpu")
    assert other(world.questions[0]) == search("bm25", "dense", num_candidates=9)(world.questions[0])
    assert other(world.questions[0]) != again(world.questions[0])
    with pytest.raises(ValueError, match="whole system"):
        RetrievalPipeline(pipe, passages=world.passages)
