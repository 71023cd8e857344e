"""The metrics of XOR-EnglishSpan and XOR-Full against their definitions, spelled out as plain loops, and by hand."""

import math
import random
import re
import string
import sys
import warnings
from collections import Counter

import pytest
from nltk.translate.bleu_score import sentence_bleu

from hf_xlir.data import load_xor_tydi
from hf_xlir.evaluation import xor_english_span_metrics, xor_full_metrics


NAMES = ("f1", "exact_match", "bleu")


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


@pytest.fixture(scope="module")
def questions(shared_data, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_xor_tydi("retrieve", "validation", shared_data / "xor_tydi", cache_dir=cache).to_list()


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


class TestOnTheDevelopmentSet:
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
            ("a\u0301", ["\u0301"], 100.0, 100.0),  # an accent is no part of a word to `re`: the article goes
            ("1990年", ["1990"], 0.0, 0.0),
        ],
    )
    def test_by_hand(self, prediction, answers, f1, exact_match):
        result = xor_english_span_metrics({"1": prediction}, [question(*answers)])
        assert result == {
            "f1": {"ja": pytest.approx(f1, rel=1e-15), "macro": pytest.approx(f1, rel=1e-15)},
            "exact_match": {"ja": exact_match, "macro": exact_match},
        }

    def test_languages_count_alike_and_what_is_missing_is_wrong(self):
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

    def test_missing_predictions_are_said(self, monkeypatch):
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
            ({"2": "x"}, r"predictions have \['2'\]"),
            ({"ja_1": "x"}, r"predictions have \['ja_1'\]"),  # XOR-Full's script cuts, this task's does not
            ({"1": 5}, "got 5 for the question '1'"),
            ({1: "x"}, "got 'x' for the question 1"),
            ({"1": ["x"]}, r"got \['x'\] for the question '1'"),
            ({"1": {"text": "x"}}, "got {'text': 'x'} for the question '1'"),
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

    def test_the_official_mean_is_over_seven_languages_and_another_has_another_name(self):
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

    def test_ids_may_stand_after_another_text(self):
        references = [question("x", id="1", lang="ru"), question("y", id="a_2", lang="ru")]
        assert xor_full_metrics({"dev_ru_1": "x", "a_2": "y"}, references)["exact_match"]["ru"] == 100.0
        with pytest.raises(ValueError, match="`1` has two predictions"):
            xor_full_metrics({"ru_1": "x", "1": "y"}, references)
