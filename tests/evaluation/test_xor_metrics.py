"""The metrics of XOR-TyDi against their definitions, spelled out as plain loops, and by hand."""

import math
import random
import re
import string
import sys
import warnings
from collections import Counter
from statistics import mean

import nltk.tokenize
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import sentence_bleu

from hf_xlir.data import load_xor_tydi
from hf_xlir.evaluation import (
    passage_tokenizer,
    xor_english_span_metrics,
    xor_full_metrics,
    xor_retrieve_metrics,
)
from hf_xlir.evaluation.xor_metrics import _japanese_segmenter, _TextPrefixes


NUM_SCORED = {"te": 238, "bn": 304, "fi": 314, "ja": 241, "ko": 285, "ru": 237, "ar": 309}
NAMES = ("f1", "exact_match", "bleu")


@pytest.fixture(scope="module")
def questions(shared_data, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_xor_tydi("retrieve", "validation", shared_data / "xor_tydi", cache_dir=cache).to_list()


# XOR-Retrieve


def words_and_marks(text):
    return re.findall(r"\w+|[^\w\s]", text)


def recall_by_definition(predictions, references, limit, tokenize):
    """The percentages of languages and their mean, question by question and token by token."""
    answers_of = {row["id"]: row["answers"] for row in references}
    hits_of = {}
    for row in predictions:
        answers = [answer for answer in answers_of.get(row["id"], []) if answer != "yes" and answer != "no"]
        if answers:
            tokens = []
            for text in row["ctxs"]:
                tokens = tokens + tokenize(text)
            read = " ".join(tokens[:limit])
            found = 0
            for answer in answers:
                if read.find(answer) >= 0:
                    found = 1
            hits_of.setdefault(row["lang"], []).append(found)
    values = {language: (sum(hits) / len(hits)) * 100 for language, hits in hits_of.items()}
    return {**values, "macro": mean(values.values())}


class TestRetrieveOnTheDevelopmentSet:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_random_rankings_to_the_last_digit(self, questions, seed):
        rng = random.Random(seed)
        answers = [answer for row in questions for answer in row["answers"]]
        words = [word for row in questions for word in row["question"].split()]
        pool = [
            " ".join(rng.choices(words, k=rng.randint(0, 220)) + rng.choices(answers, k=rng.randint(0, 6)))
            for _ in range(200)
        ]
        predictions = []
        for row in rng.sample(questions, k=len(questions) - 100):
            texts = rng.sample(pool, k=rng.randint(0, 60))
            if rng.random() < 0.5:  # anywhere, also beyond both limits
                texts.insert(rng.randint(0, len(texts)), f"It is {rng.choice(row['answers'])}, they say.")
            predictions.append({"id": row["id"], "lang": row["lang"], "ctxs": texts})

        tokens_of = {}

        def tokenize(text):
            if text not in tokens_of:
                tokens_of[text] = words_and_marks(text)
            return tokens_of[text]

        result = xor_retrieve_metrics(predictions, questions, tokenize=words_and_marks)
        assert result == {
            "recall@2kt": recall_by_definition(predictions, questions, 2000, tokenize),
            "recall@5kt": recall_by_definition(predictions, questions, 5000, tokenize),
        }
        assert result["recall@2kt"].keys() == NUM_SCORED.keys() | {"macro"}
        assert 10 < result["recall@2kt"]["macro"] < result["recall@5kt"]["macro"] - 5 < 80

    def test_one_hit_in_each_language_shows_how_many_questions_count(self, questions):
        predictions, seen = [], set()
        for row in questions:
            spans = [answer for answer in row["answers"] if answer not in ("yes", "no")]
            is_first = bool(spans) and row["lang"] not in seen
            predictions.append({"id": row["id"], "lang": row["lang"], "ctxs": spans[:1] if is_first else []})
            seen |= {row["lang"]} if is_first else set()
        # A text is one token: answers have double spaces
        result = xor_retrieve_metrics(predictions, questions, tokenize=lambda text: [text])["recall@2kt"]
        assert sum(NUM_SCORED.values()) == 1928
        assert result.pop("macro") == mean(1 / number * 100 for number in NUM_SCORED.values())
        assert result == {language: 1 / number * 100 for language, number in NUM_SCORED.items()}


def found(*texts, id="1", lang="ja"):
    return {"id": id, "lang": lang, "ctxs": list(texts)}


def recall(predictions, answers, tokenize=str.split):
    """R@2kt and R@5kt of predictions in one language."""
    references = [{"id": id, "answers": each} for id, each in answers.items()]
    result = xor_retrieve_metrics(predictions, references, tokenize=tokenize)
    return result["recall@2kt"]["macro"], result["recall@5kt"]["macro"]


class TestRetrieve:
    def test_percentages_and_their_mean(self):
        predictions = [
            found("a b", id="1"),
            found("c d", id="2"),
            found("a", id="3"),
            found("the answer is e", id="4", lang="ko"),
        ]
        references = [{"id": id, "answers": [answer]} for id, answer in zip("1234", "bxae", strict=True)]
        assert xor_retrieve_metrics(predictions, references, tokenize=str.split) == {
            name: {"ja": 2 / 3 * 100, "ko": 100.0, "macro": mean([2 / 3 * 100, 100])}
            for name in ("recall@2kt", "recall@5kt")
        }

    def test_the_mean_is_rounded_once(self):
        """As in the official script: a sum of floats would give 50."""
        predictions, references = [], []
        for language, hits in [("fi", "10"), ("ja", "100"), ("ko", "110")]:
            for position, hit in enumerate(hits):
                predictions.append(found("a" if hit == "1" else "b", id=f"{language}{position}", lang=language))
                references.append({"id": f"{language}{position}", "answers": ["a"]})
        result = xor_retrieve_metrics(predictions, references, tokenize=str.split)["recall@2kt"]
        assert result == {"fi": 50.0, "ja": 1 / 3 * 100, "ko": 2 / 3 * 100, "macro": 49.99999999999999}

    @pytest.mark.parametrize(
        ("num_before", "hits"),
        [(1998, (100, 100)), (1999, (0, 100)), (4998, (0, 100)), (4999, (0, 0)), (9000, (0, 0))],
    )
    @pytest.mark.parametrize("per_text", [1, 7, 700, 100_000])
    def test_limits_apply_to_all_texts_together(self, num_before, hits, per_text):
        tokens = ["w"] * num_before + ["New", "York"]  # of two tokens, so that the last one may be cut off
        texts = [" ".join(tokens[start : start + per_text]) for start in range(0, len(tokens), per_text)]
        assert recall([found(*texts)], {"1": ["New York"]}) == hits

    @pytest.mark.parametrize(
        ("texts", "answer", "is_hit"),
        [
            (["Paris, France"], "Par", True),  # a substring, not tokens
            (["Paris, France"], "s , F", True),  # in tokens joined by spaces
            (["Paris, France"], "Paris, France", False),  # the answer is not tokenized
            (["It costs $5."], "$5", False),
            (["Paris"], "paris", False),
            (["In New", "York."], "New York", True),  # across texts
            (["", "  ", "New", "", "York"], "New York", True),  # a text without tokens leaves no second space
            (["東京 は 日本 の 首都"], "日本 の 首", True),
            ([], "Paris", False),
        ],
    )
    def test_hits(self, texts, answer, is_hit):
        assert recall([found(*texts)], {"1": [answer]}, words_and_marks) == (100 * is_hit, 100 * is_hit)

    def test_only_lower_case_yes_and_no_are_dropped(self):
        predictions = [found("yes or no", id=id) for id in "12345"]
        answers = {"1": ["yes"], "2": ["no", "no"], "3": ["yes", "or"], "4": ["Yes"], "5": ["no", "maybe"]}
        assert recall(predictions, answers) == (1 / 3 * 100, 1 / 3 * 100)

    def test_one_of_several_answers_is_enough(self):
        assert recall([found("c")], {"1": ["a", "b", "c"]}) == (100, 100)

    def test_questions_without_a_prediction_do_not_count_and_are_logged(self, monkeypatch):
        warnings = []
        monkeypatch.setattr("hf_xlir.evaluation.xor_metrics.logger.warning", warnings.append)
        answers = {"1": ["a"], "2": ["b"], "3": ["c"], "4": ["yes"]}
        assert recall([found("a")], answers) == (100, 100)
        assert len(warnings) == 1 and warnings[0].startswith("2 question(s) with an answer have no prediction")
        assert recall([found("a"), *(found(id=id) for id in "23")], answers) == (1 / 3 * 100, 1 / 3 * 100)
        assert len(warnings) == 1

    def test_predictions_for_other_questions_are_ignored(self):
        assert recall([found("b", id="9", lang="te"), found("a")], {"1": ["a"]}) == (100, 100)

    def test_spaces_around_a_language_are_ignored(self):
        result = xor_retrieve_metrics(
            [found("a", lang=" ar"), found("b", id="2", lang="ar")],
            [{"id": "1", "answers": ["a"]}, {"id": "2", "answers": ["a"]}],
            tokenize=str.split,
        )
        assert result["recall@5kt"] == {"ar": 50.0, "macro": 50.0}

    def test_predictions_may_be_an_iterator(self):
        assert recall(iter([found("a")]), {"1": ["a"]}) == (100, 100)

    def test_the_result_names_an_approximation(self):
        predictions, references = [found("Paris. It is.")], [{"id": "1", "answers": ["Paris."]}]
        result = xor_retrieve_metrics(predictions, references, tokenize="treebank")
        assert result.pop("tokenizer").startswith("treebank (an approximation: ")
        assert result == xor_retrieve_metrics(predictions, references, tokenize=str.split)
        assert result["recall@2kt"] == {"ja": 100.0, "macro": 100.0}


@given(
    st.lists(st.lists(st.text("ab ", max_size=3), max_size=5), max_size=6),
    st.integers(1, 25),
    st.integers(1, 25),
)
def test_prefixes_equal_those_of_all_tokens(texts, first, second):
    """For any tokens, also empty ones and tokens with spaces."""
    keys = [str(number) for number in range(len(texts))]
    starts = _TextPrefixes(lambda key: texts[int(key)])
    tokens = [token for each in texts for token in each]
    for limit in (first, second, first):
        assert starts.of(keys, limit) == " ".join(tokens[:limit])


class TestErrorsOfRetrieve:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1", "`predictions`, row 1: it must be a dictionary with `id`, `lang` and `ctxs`, got '1'"),
            ({"id": 2, "lang": "ja", "ctxs": []}, "row 1: its `id` is 2; ids are non-empty"),
            ({"id": "2", "ctxs": []}, "row 1: `lang` of the question `2` is None"),
            ({"id": "2", "lang": " ", "ctxs": []}, "row 1: `lang` of the question `2` is ' '"),
            ({"id": "2", "lang": "ja", "ctxs": "Tokyo"}, "row 1: `ctxs` of the question `2` must be a list of"),
            ({"id": "2", "lang": "ja", "ctxs": [{"text": "Tokyo"}]}, "got .*Tokyo"),
            ({"id": "1", "lang": "ja", "ctxs": []}, "row 1: the question `1` occurred before"),
        ],
    )
    def test_of_predictions(self, row, message):
        with pytest.raises(ValueError, match=message):
            xor_retrieve_metrics([found("a"), row], [{"id": "1", "answers": ["a"]}], tokenize=str.split)

    @pytest.mark.parametrize(
        ("references", "message"),
        [
            ([], "`references` is empty"),
            (["1"], "`references`, row 0: it must be a dictionary with `id` and `answers`, got '1'"),
            ([{"id": 1, "answers": ["a"]}], "row 0: its `id` is 1. Ids are non-empty"),
            ([{"id": "1", "answers": "a"}], "row 0: `answers` of the question `1` must be a list of strings, got 'a'"),
            ([{"id": "1", "answers": ["a"]}] * 2, "row 1: the question `1` occurred before"),
            ([{"id": "7", "answers": ["a"]}], r"predictions have \['1'\], references \['7'\]"),
            ([{"id": "1", "answers": ["no"]}], "No question with a prediction has an answer other than"),
        ],
    )
    def test_of_references(self, references, message):
        with pytest.raises(ValueError, match=message):
            xor_retrieve_metrics([found("a")], references, tokenize=str.split)

    def test_of_tokenizers(self):
        with pytest.raises(ValueError, match="`tokenize` must return a list of tokens, got the string 'a b'"):
            recall([found("a b")], {"1": ["a"]}, str.strip)
        with pytest.raises(ValueError, match="`tokenize` must be `None` for .*got 'punkt'"):
            recall([found("a b")], {"1": ["a"]}, "punkt")


# XOR-EnglishSpan and XOR-Full


def normal(text, in_english):
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    if in_english:
        text = re.sub(r"\b(a|an|the)\b", " ", text)
    else:
        for counter in "年歳人년":
            text = text.replace(counter, "")
    return " ".join(text.split())


def f1_by_definition(prediction, answer):
    prediction, answer = prediction.split(), answer.split()
    shared = sum((Counter(prediction) & Counter(answer)).values())
    if shared == 0:
        return 0
    precision, recall = shared / len(prediction), shared / len(answer)
    return (2 * precision * recall) / (precision + recall)


def english_span_by_definition(predictions, references):
    result = {"f1": {}, "exact_match": {}}
    f1_total, em_total = 0.0, 0.0
    for language in ["ar", "bn", "fi", "ja", "ko", "ru", "te"]:
        f1 = em = number = 0
        for row in references:
            if row["lang"] == language:
                number += 1
                if row["id"] in predictions:
                    prediction = normal(predictions[row["id"]], True)
                    f1 += max(f1_by_definition(prediction, normal(answer, True)) for answer in row["answers"])
                    em += max(prediction == normal(answer, True) for answer in row["answers"])
        result["f1"][language] = 100.0 * f1 / number
        result["exact_match"][language] = 100.0 * em / number
        f1_total += result["f1"][language]
        em_total += result["exact_match"][language]
    result["f1"]["macro"], result["exact_match"]["macro"] = f1_total / 7, em_total / 7
    return result


def full_by_definition(predictions, references, segment):
    result, total = {name: {} for name in NAMES}, dict.fromkeys(NAMES, 0.0)
    for language in ["te", "fi", "ja", "ru", "ar", "bn", "ko"]:
        sums, number = dict.fromkeys(NAMES, 0), 0
        for row in references:
            if row["lang"] == language:
                number += 1
                if row["id"] in predictions:
                    prediction, answers = predictions[row["id"]], row["answers"]
                    words = prediction
                    if language == "ja":
                        words = segment(prediction.replace("・", " ").replace("、", ","))
                        answers = [segment(answer) for answer in answers]
                    words = normal(words, False)
                    sums["f1"] += max(f1_by_definition(words, normal(answer, False)) for answer in answers)
                    sums["exact_match"] += max(words == normal(answer, False) for answer in answers)
                    sums["bleu"] += sentence_bleu(answers, prediction)
        for name in NAMES:
            result[name][language] = sums[name] / number * 100
            total[name] += sums[name] / number
    for name in NAMES:
        result[name]["macro"] = total[name] / 7 * 100
    return result


def guesses(questions, seed):
    """Answers that are right, nearly right, wrong, empty and absent."""
    rng = random.Random(seed)
    others = [answer for row in questions for answer in row["answers"]]
    predictions = {}
    for row in questions:
        words = rng.choice(row["answers"]).split()
        kind = rng.randrange(8)
        if kind == 0:
            continue
        if kind == 1:
            words = rng.choice(others).split()
        elif kind == 2:
            words = [*words, *rng.choice(others).split()]
        elif kind == 3:
            words = ["The", *rng.sample(words, k=len(words)), "1990年、", "東京・都."]
        elif kind == 4:
            words = words[: rng.randint(0, len(words))]
        elif kind == 5:
            words = [word.upper() + rng.choice(["", ",", "!"]) for word in words]
        predictions[row["id"]] = " ".join(words)
    return predictions


def characters(text):
    return " ".join(text) + " \n"


class TestAnswersOnTheDevelopmentSet:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_english_spans_to_the_last_digit(self, questions, seed):
        predictions = guesses(questions, seed)
        result = xor_english_span_metrics(predictions, questions)
        assert result == english_span_by_definition(predictions, questions)
        assert 20 < result["exact_match"]["macro"] < result["f1"]["macro"] - 5 < 80

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_full_answers_to_the_last_digit(self, questions, seed):
        predictions = guesses(questions, seed)
        result = xor_full_metrics(predictions, questions, segment_japanese=characters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert result == full_by_definition(predictions, questions, characters)
        assert 20 < result["exact_match"]["macro"] < result["f1"]["macro"] - 5 < 80


def question(*answers, id="1", lang="ja"):
    return {"id": id, "lang": lang, "answers": list(answers)}


class TestEnglishSpans:
    @pytest.mark.parametrize(
        ("prediction", "answers", "f1", "exact_match"),
        [
            ("the Edo period", ["An EDO-period?"], 0.0, 0.0),  # "edo period" and "edoperiod"
            ("The  Edo period.", ["edo Period"], 100.0, 100.0),
            ("Edo", ["the Edo period", "Tokyo"], 200 / 3, 0.0),
            ("Tokyo", ["the Edo period", "Tokyo"], 100.0, 100.0),
            ("a b b c", ["b b d"], 200 * 2 / 3 * 2 / 3 / (2 / 3 + 2 / 3), 0.0),
            ("yes", ["yes"], 100.0, 100.0),
            ("the", ["?"], 0.0, 100.0),  # nothing is left of either
            ("", ["x"], 0.0, 0.0),
            ("a\u0301", ["\u0301"], 100.0, 100.0),  # for `re` an accent is not a part of a word: the article goes
            ("1990年", ["1990"], 0.0, 0.0),
        ],
    )
    def test_by_hand(self, prediction, answers, f1, exact_match):
        result = xor_english_span_metrics({"1": prediction}, [question(*answers)])
        assert result == {
            "f1": {"ja": pytest.approx(f1, rel=1e-15), "macro": pytest.approx(f1, rel=1e-15)},
            "exact_match": {"ja": exact_match, "macro": exact_match},
        }

    def test_languages_have_equal_weight_and_missing_answers_are_wrong(self):
        references = [
            question("x", id=id, lang=lang) for id, lang in [("1", "ja"), ("2", " ja"), ("3", "ko"), ("4", "te")]
        ]
        result = xor_english_span_metrics({"1": "x", "3": "x", "9": "x"}, references)
        expected = {"ja": 50.0, "ko": 100.0, "te": 0.0, "macro": 50.0}
        assert result == {"f1": expected, "exact_match": expected}

    def test_predictions_of_three_shapes(self):
        references = [question("x", id="1"), question("y", id="2")]
        shapes = [
            {"1": "x", "2": "z"},
            {"1": {"answer": "x", "score": 0.5}, "2": {"answer": "z"}},
            [{"id": "1", "answer": "x"}, {"id": "2", "answer": "z"}],
        ]
        for shape in shapes:
            assert xor_english_span_metrics(shape, references)["exact_match"]["ja"] == 50.0

    def test_missing_predictions_are_logged(self, monkeypatch):
        said = []
        monkeypatch.setattr("hf_xlir.evaluation.xor_metrics.logger.warning", said.append)
        references = [question("x", id=id) for id in "123"]
        xor_english_span_metrics({"1": "x"}, references)
        xor_english_span_metrics(dict.fromkeys("123", "x"), references)
        assert said == ["2 of 3 questions have no prediction and count as wrong."]

    @pytest.mark.parametrize(
        ("predictions", "message"),
        [
            ({}, r"predictions have \[\], references \['1'\]"),
            ({"ja_1": "x"}, r"predictions have \['ja_1'\]"),  # XOR-Full's script cuts, this task's does not
            ({"1": 5}, "got 5 for the question '1'"),
            ({"1": ["x"]}, r"got \['x'\] for the question '1'"),
            ([{"id": "1", "answer": "x"}] * 2, "`1` has two predictions"),
            ([{"id": "1", "text": "x"}], "must be a dictionary from question ids"),
            ("x", "must be a dictionary from question ids.*got 'x'"),
        ],
    )
    def test_bad_predictions(self, predictions, message):
        with pytest.raises(ValueError, match=message):
            xor_english_span_metrics(predictions, [question("x")])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"id": "2", "answers": ["x"]}, "row 1: `lang` of the question `2` is None, not one of ar, bn"),
            ({"id": "2", "answers": ["x"], "lang": "en"}, "`lang` of the question `2` is 'en'"),
            ({"id": "2", "answers": [], "lang": "ja"}, "row 1: the question `2` has no answers"),
            ({"id": "1", "answers": ["x"], "lang": "ja"}, "row 1: the question `1` occurred before"),
        ],
    )
    @pytest.mark.parametrize("metrics", [xor_english_span_metrics, xor_full_metrics])
    def test_bad_references(self, metrics, row, message):
        with pytest.raises(ValueError, match=message):
            metrics({"1": "x"}, [question("x"), row])


def bleu_of_characters(prediction, answers):
    """BLEU-4 of characters by its formula; what does not occur counts as the smallest normal float."""
    logs = 0
    for n in range(1, 5):
        grams = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (prediction, *answers)]
        most = grams[1]
        for each in grams[2:]:
            most = most | each
        clipped = sum((grams[0] & most).values())
        if n == 1 and not clipped:
            return 0.0
        logs += math.log(clipped / sum(grams[0].values()) if clipped else sys.float_info.min) / 4
    closest = min((abs(len(answer) - len(prediction)), len(answer)) for answer in answers)[1]
    brevity = 1 if len(prediction) > closest else math.exp(1 - closest / len(prediction))
    return brevity * math.exp(logs)


class TestFull:
    @pytest.mark.parametrize(
        ("prediction", "answers", "f1", "exact_match"),
        [
            ("1998년", ["1998"], 100.0, 100.0),
            ("30歳の人", ["30の年"], 100.0, 100.0),
            ("The answer", ["answer"], 200 / 3, 0.0),  # articles stay
            ("МОСКВА!", ["Москва", "Рига"], 100.0, 100.0),
            ("년", ["?"], 0.0, 100.0),
            ("кот", ["пёс"], 0.0, 0.0),
        ],
    )
    def test_words_by_hand(self, prediction, answers, f1, exact_match):
        result = xor_full_metrics({"1": prediction}, [question(*answers, lang="ru")])
        assert result["f1"] == dict.fromkeys(("ru", "macro over 1 of 7"), pytest.approx(f1, rel=1e-15))
        assert result["exact_match"] == {"ru": exact_match, "macro over 1 of 7": exact_match}

    @pytest.mark.parametrize(
        ("prediction", "answers", "bleu"),
        [
            ("Москва", ["Москва"], 1.0),
            ("москва", ["Москва"], (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25),
            ("Москв", ["Москва"], math.exp(1 - 6 / 5)),
            ("abcdx", ["abcd", "bcdxy"], 1.0),  # each n-gram is in one of them
            ("abab", ["ab", "abcd"], (2 / 4 * 1 / 3) ** 0.25 * sys.float_info.min**0.5),
            ("Рим", ["Рим"], sys.float_info.min**0.25),
            ("x", ["y"], 0.0),
            ("", ["y"], 0.0),
        ],
    )
    def test_bleu_by_hand(self, prediction, answers, bleu):
        result = xor_full_metrics({"1": prediction}, [question(*answers, lang="ru")])["bleu"]["ru"]
        assert result == pytest.approx(100 * bleu, rel=1e-12, abs=0)
        assert result == pytest.approx(
            100 * bleu_of_characters(prediction, answers) if prediction else 0, rel=1e-12, abs=0
        )

    def test_japanese_is_split_into_words_for_all_but_the_prediction_in_bleu(self):
        seen = []

        def segment(text):
            seen.append(text)
            return characters(text)

        result = xor_full_metrics({"1": "東京・大阪、1990年"}, [question("東京 大阪,1990")], segment_japanese=segment)
        assert seen == ["東京 大阪,1990年", "東京 大阪,1990"]
        assert result["exact_match"]["ja"] == result["f1"]["ja"] == 100.0
        answer = characters("東京 大阪,1990")
        assert result["bleu"]["ja"] == pytest.approx(
            100 * bleu_of_characters("東京・大阪、1990年", [answer]), rel=1e-12
        )

    def test_japanese_by_mecab(self):
        pytest.importorskip("MeCab", reason="needs the extra `japanese`")
        pytest.importorskip("unidic_lite", reason="needs the extra `japanese`")
        result = xor_full_metrics({"1": "日本の首都"}, [question("日本の都市")])
        assert result["f1"]["ja"] == pytest.approx(200 / 3)  # 日本, の and 首都; 日本, の and 都市
        assert result["exact_match"]["ja"] == 0
        assert result["bleu"]["ja"] == pytest.approx(
            100 * bleu_of_characters("日本の首都", ["日本 の 都市 \n"]), rel=1e-12
        )

    def test_mecab_is_not_needed_without_japanese(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "MeCab", None)
        assert xor_full_metrics({"1": "Рим"}, [question("Рим", lang="ru")])["f1"]["ru"] == 100.0
        with pytest.raises(ImportError, match=r"hf_xlir\[japanese\]"):
            xor_full_metrics({"1": "Рим"}, [question("Рим", lang="ru"), question("東京", id="2")])

    def test_nltk_is_quiet_about_short_answers(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            xor_full_metrics({"1": "Рим"}, [question("Рим", lang="ru")])

    def test_the_mean_over_fewer_than_seven_languages_has_another_name(self):
        references = [question("x", id=id, lang=lang) for id, lang in [("1", "ru"), ("2", "ru"), ("3", "ko")]]
        result = xor_full_metrics({"1": "x"}, references)
        assert result["exact_match"] == {"ru": 50.0, "ko": 0.0, "macro over 2 of 7": 25.0}
        languages = ["te", "fi", "ja", "ar", "bn"]
        references += [question("x", id=lang, lang=lang) for lang in languages]
        result = xor_full_metrics({"1": "x"}, references, segment_japanese=characters)
        # As the official script, which adds shares in this order and divides by seven
        expected = {"te": 0.0, "fi": 0.0, "ja": 0.0, "ru": 50.0, "ar": 0.0, "bn": 0.0, "ko": 0.0}
        assert result["exact_match"] == {**expected, "macro": 0.5 / 7 * 100}
        assert list(xor_full_metrics({"1": "x"}, references[:-1], segment_japanese=characters)["f1"])[-1] == (
            "macro over 6 of 7"
        )

    def test_ids_may_follow_another_text(self):
        references = [question("x", id="1", lang="ru"), question("y", id="a_2", lang="ru")]
        assert xor_full_metrics({"dev_ru_1": "x", "a_2": "y"}, references)["exact_match"]["ru"] == 100.0
        with pytest.raises(ValueError, match="`1` has two predictions"):
            xor_full_metrics({"ru_1": "x", "1": "y"}, references)


# Tokenizers


TEXT = 'He paid $5. In the U.S. "don\'t" (a) 1,000.'
PREDICTIONS = [{"id": "1", "lang": "ja", "ctxs": [TEXT]}]


def references(answer):
    return [{"id": "1", "answers": [answer]}]


class TestPassageTokenizer:
    def test_treebank_keeps_full_stops_within_a_text(self):
        tokenize, name = passage_tokenizer("treebank")
        assert " ".join(tokenize(TEXT)) == "He paid $ 5. In the U.S. `` do n't '' ( a ) 1,000 ."
        assert name.startswith("treebank (an approximation")

    def test_the_default_is_the_official_tokenizer(self, monkeypatch):
        # Punkt's place, whether or not it is there
        monkeypatch.setattr("nltk.tokenize.sent_tokenize", lambda text, *_: text.replace(". ", ".\n").split("\n"))
        assert passage_tokenizer() == (word_tokenize, None)
        result = xor_retrieve_metrics(PREDICTIONS, references("$ 5 . In"))
        assert result == {name: {"ja": 100.0, "macro": 100.0} for name in ("recall@2kt", "recall@5kt")}
        assert xor_retrieve_metrics(PREDICTIONS, references("5."))["recall@5kt"]["macro"] == 0

    def test_the_error_without_data_names_both_remedies(self, monkeypatch):
        def absent(*_):
            raise LookupError("Resource punkt_tab not found.")

        monkeypatch.setattr("nltk.tokenize.sent_tokenize", absent)
        with pytest.raises(LookupError, match=r'nltk.download\("punkt_tab"\).*`tokenize="treebank"`'):
            xor_retrieve_metrics(PREDICTIONS, references("He"))

    def test_nltk_searches_the_data(self, monkeypatch, tmp_path):
        monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
        nltk.tokenize._get_punkt_tokenizer.cache_clear()
        with pytest.raises(LookupError, match="punkt_tab"):
            passage_tokenizer()

    def test_a_function_is_used_as_it_is(self):
        assert passage_tokenizer(str.split) == (str.split, None)


class TestJapaneseSegmenter:
    def test_words(self):
        pytest.importorskip("MeCab", reason="needs the extra `japanese`")
        pytest.importorskip("unidic_lite", reason="needs the extra `japanese`")
        assert _japanese_segmenter()("東京は日本の首都です。1990年") == "東京 は 日本 の 首都 です 。 1990 年 \n"

    @pytest.mark.parametrize("module", ["MeCab", "unidic_lite"])
    def test_the_error_names_the_extra(self, monkeypatch, module):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install hf_xlir\[japanese\].*`segment_japanese`"):
            _japanese_segmenter()
