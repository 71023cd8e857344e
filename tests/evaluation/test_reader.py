"""Answers of a reader, whatever their batch, and what is said of them."""

import pytest
import torch
from fid_tiny import make_backbone, make_reader, make_tokenizer

from hf_xlir import FiDT5Processor
from hf_xlir.evaluation import read_answers
from hf_xlir.evaluation.reader_runs import answer_metrics, judge_answer, known_answers


RAIN = {"title": "Rain", "text": "the rain rained"}
SEOUL = {"text": "Seoul, the capital", "score": 3.0}
LONG = {"title": "Long", "text": "the capital Seoul " * 5}
EXAMPLES = [
    {"question": "Who?", "ctxs": [RAIN, LONG, SEOUL]},
    {"question": "What is the capital?", "ctxs": []},
    {"question": "Where?", "ctxs": [SEOUL]},
    {"question": "When?", "ctxs": [SEOUL, RAIN]},
    {"question": "Why?", "ctxs": [LONG, RAIN]},
]


@pytest.fixture(scope="module")
def reader():
    tokenizer = make_tokenizer()
    backbone = make_backbone(vocab_size=len(tokenizer))
    return make_reader(backbone), FiDT5Processor(tokenizer, answer_maxlength=6, n_context=2)


def test_answers_and_scores_are_each_question_s_own(reader):
    model, processor = reader
    expected = []
    for example in EXAMPLES:
        inputs = processor([example["question"]], [example["ctxs"]])
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        scores = model.reader_scores(**inputs)[0].tolist() if example["ctxs"] else []
        expected.append((processor.decode(tokens[0], skip_special_tokens=True).strip(), scores))
    assert len({text for text, _ in expected}) > 1 and [len(scores) for _, scores in expected] == [2, 0, 1, 2, 2]
    for batch_size in (1, 2, 5):
        answers = read_answers(model, processor, EXAMPLES, batch_size, scores="attention")
        for answer, (text, scores) in zip(answers, expected, strict=True):
            assert answer.text == text and answer.scores == pytest.approx(scores, abs=1e-5)
    model.train()
    assert [answer.text for answer in read_answers(model, processor, EXAMPLES)] == [text for text, _ in expected]
    assert not model.training


def test_likelihoods_of_the_answers(reader):
    model, processor = reader
    known = [{"target": "the rain"}, {"answers": ["Seoul", "rain"]}, {}, {"answers": ["the capital Seoul"]}, {}]
    examples = [example | more for example, more in zip(EXAMPLES, known, strict=True)]
    expected = [None] * 5
    for place, answer in ((0, "the rain"), (1, "Seoul"), (3, "the capital Seoul")):
        expected[place] = []
        for passage in EXAMPLES[place]["ctxs"][:2]:
            inputs = processor([EXAMPLES[place]["question"]], [[passage]], [answer])
            logits = model(**inputs).logits[0].detach().log_softmax(dim=1)
            expected[place].append(float(logits.gather(1, inputs["labels"].T).sum()))
    for batch_size in (1, 3, 5):
        answers = read_answers(model, processor, examples, batch_size, scores="likelihood")
        for answer, scores in zip(answers, expected, strict=True):
            assert answer.scores == (None if scores is None else pytest.approx(scores, abs=1e-4))
    texts = [answer.text for answer in read_answers(model, processor, examples)]
    assert [answer.text for answer in answers] == texts


@pytest.mark.parametrize("scores", ["attention", "likelihood"])
def test_scores_that_are_no_numbers(scores):
    """They would be found when a retriever learns from them."""
    tokenizer = make_tokenizer()
    model = make_reader(make_backbone(vocab_size=len(tokenizer)))
    with torch.no_grad():
        model.decoder.block[0].layer[1].EncDecAttention.k.weight[0] = torch.nan
    long = {**SEOUL, "text": SEOUL["text"] * 20}  # torch's sdpa makes 0 of NaN where there are fewer than 16 tokens
    example = {"question": "Who?", "ctxs": [long], "answers": ["Seoul"], "target": None}
    with pytest.raises(ValueError, match="scores of passages for 'Who\\?' are not all finite"):
        read_answers(model, FiDT5Processor(tokenizer), [example], scores=scores, max_new_tokens=2)


def test_no_such_scores(reader):
    with pytest.raises(ValueError, match="`scores` must be one of .*got True"):
        read_answers(*reader, EXAMPLES, scores=True)


def test_what_is_generated_can_be_said(reader):
    model, processor = reader
    answers = read_answers(model, processor, EXAMPLES[:1], num_beams=3, max_new_tokens=2)
    inputs = processor(["Who?"], [EXAMPLES[0]["ctxs"]])
    tokens = model.generate(**inputs, num_beams=3, max_new_tokens=2)
    assert answers == [(processor.decode(tokens[0], skip_special_tokens=True).strip(), None)]


@pytest.mark.parametrize(("limit", "length"), [(4, 4), (None, 50)])
def test_how_long_an_answer_may_be(reader, monkeypatch, limit, length):
    model, processor = reader
    outputs, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **given: outputs.append(generate(**given)) or outputs[-1])
    monkeypatch.setattr(processor, "answer_maxlength", limit)
    read_answers(model, processor, EXAMPLES[:1], min_new_tokens=length)
    assert outputs[0].sequences.shape == torch.Size([1, 1 + length])  # and the token that decoding starts from


def test_an_answer_is_judged():
    assert judge_answer("the Seine", ["Oder", "Seine"]) == {"exact_match": True, "f1": 1.0}
    judged = judge_answer("river Seine", ["Seine"])
    assert judged["exact_match"] is False and judged["f1"] == pytest.approx(2 / 3)
    assert judge_answer("Seine", []) == {"exact_match": None, "f1": None}
    assert known_answers({"answers": ["a", "b"], "target": "a"}) == ["a", "b"]
    assert known_answers({"answers": [], "target": ""}) == [""]
    assert known_answers({"answers": [], "target": None}) == []


def row(lang, exact_match, f1):
    return {"lang": lang, "exact_match": exact_match, "f1": f1}


def test_metrics_of_one_language():
    judged = [row("fi", True, 1.0), row("fi", None, None), row("fi", False, 0.5), row("fi", False, 0.0)]
    assert answer_metrics(iter(judged)) == {"exact_match": pytest.approx(1 / 3), "f1": 0.5}
    assert answer_metrics([{"exact_match": True, "f1": 1.0}]) == {"exact_match": 1.0, "f1": 1.0}
    assert answer_metrics([row("fi", None, None)]) == answer_metrics([]) == {}


def test_metrics_of_several_languages():
    judged = [row("ko", True, 1.0), row("fi", True, 1.0), row("ko", False, 0.5), row("", False, 0.0)]
    judged += [row("ar", None, None), row("ko", True, 1.0)]
    assert answer_metrics(judged) == {
        "exact_match": 0.6,
        "f1": 0.7,
        "macro_exact_match": pytest.approx((1 + 2 / 3 + 0) / 3),
        "macro_f1": pytest.approx((1 + 2.5 / 3 + 0) / 3),
        "fi_exact_match": 1.0,
        "fi_f1": 1.0,
        "ko_exact_match": pytest.approx(2 / 3),
        "ko_f1": pytest.approx(2.5 / 3),
        "other_exact_match": 0.0,
        "other_f1": 0.0,
    }
