"""XOR-Retrieve's metrics against the task's definition, spelled out as a plain loop, and by hand."""

import random
import re
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_xlir.data import load_xor_tydi
from hf_xlir.evaluation import xor_retrieve_metrics
from hf_xlir.evaluation.xor_metrics import _TextPrefixes


NUM_SCORED = {"te": 238, "bn": 304, "fi": 314, "ja": 241, "ko": 285, "ru": 237, "ar": 309}


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


@pytest.fixture(scope="module")
def questions(shared_data, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_xor_tydi("retrieve", "validation", shared_data / "xor_tydi", cache_dir=cache).to_list()


class TestOnTheDevelopmentSet:
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


class TestByHand:
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
        """As the official script's is: a sum of floats would give 50."""
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
    def test_the_limits_are_of_all_texts_together(self, num_before, hits, per_text):
        tokens = ["w"] * num_before + ["New", "York"]  # of two tokens, so that the last one may be cut off
        texts = [" ".join(tokens[start : start + per_text]) for start in range(0, len(tokens), per_text)]
        assert recall([found(*texts)], {"1": ["New York"]}) == hits

    @pytest.mark.parametrize(
        ("texts", "answer", "is_hit"),
        [
            (["Paris, France"], "Par", True),  # a substring, not tokens
            (["Paris, France"], "s , F", True),  # of tokens joined by spaces
            (["Paris, France"], "Paris, France", False),  # which the answer's are not
            (["It costs $5."], "$5", False),
            (["Paris"], "paris", False),
            (["In New", "York."], "New York", True),  # across texts
            (["", "  ", "New", "", "York"], "New York", True),  # of which one without tokens leaves no second space
            (["東京 は 日本 の 首都"], "日本 の 首", True),
            ([], "Paris", False),
        ],
    )
    def test_what_is_a_hit(self, texts, answer, is_hit):
        assert recall([found(*texts)], {"1": [answer]}, words_and_marks) == (100 * is_hit, 100 * is_hit)

    def test_yes_and_no_do_not_count_but_yes_in_capitals_does(self):
        predictions = [found("yes or no", id=id) for id in "12345"]
        answers = {"1": ["yes"], "2": ["no", "no"], "3": ["yes", "or"], "4": ["Yes"], "5": ["no", "maybe"]}
        assert recall(predictions, answers) == (1 / 3 * 100, 1 / 3 * 100)

    def test_any_answer_will_do(self):
        assert recall([found("c")], {"1": ["a", "b", "c"]}) == (100, 100)

    def test_questions_without_a_prediction_do_not_count_and_a_warning_says_so(self, monkeypatch):
        warnings = []
        monkeypatch.setattr("hf_xlir.evaluation.xor_metrics.logger.warning", warnings.append)
        answers = {"1": ["a"], "2": ["b"], "3": ["c"], "4": ["yes"]}
        assert recall([found("a")], answers) == (100, 100)
        assert len(warnings) == 1 and warnings[0].startswith("2 question(s) with an answer have no prediction")
        assert recall([found("a"), *(found(id=id) for id in "23")], answers) == (1 / 3 * 100, 1 / 3 * 100)
        assert len(warnings) == 1

    def test_other_questions_predictions_are_left_aside(self):
        assert recall([found("b", id="9", lang="te"), found("a")], {"1": ["a"]}) == (100, 100)

    def test_spaces_around_a_language_make_no_language(self):
        result = xor_retrieve_metrics(
            [found("a", lang=" ar"), found("b", id="2", lang="ar")],
            [{"id": "1", "answers": ["a"]}, {"id": "2", "answers": ["a"]}],
            tokenize=str.split,
        )
        assert result["recall@5kt"] == {"ar": 50.0, "macro": 50.0}

    def test_predictions_may_be_read_once_only(self):
        assert recall(iter([found("a")]), {"1": ["a"]}) == (100, 100)

    def test_the_result_names_an_approximation_and_nothing_else(self):
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
def test_starts_of_texts_are_those_of_all_their_tokens(texts, first, second):
    """Whatever tokens are: empty, or with spaces in them."""
    keys = [str(number) for number in range(len(texts))]
    starts = _TextPrefixes(lambda key: texts[int(key)])
    tokens = [token for each in texts for token in each]
    for limit in (first, second, first):
        assert starts.of(keys, limit) == " ".join(tokens[:limit])


class TestErrors:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1", "`predictions`, row 1: it must be a dictionary with `id`, `lang` and `ctxs`, got '1'"),
            ({"id": 2, "lang": "ja", "ctxs": []}, "row 1: its `id` is 2; ids are non-empty"),
            ({"lang": "ja", "ctxs": []}, "row 1: its `id` is None"),
            ({"id": "2", "ctxs": []}, "row 1: `lang` of the question `2` is None"),
            ({"id": "2", "lang": " ", "ctxs": []}, "row 1: `lang` of the question `2` is ' '"),
            ({"id": "2", "lang": "ja", "ctxs": "Tokyo"}, "row 1: `ctxs` of the question `2` must be a list of"),
            ({"id": "2", "lang": "ja", "ctxs": [{"text": "Tokyo"}]}, "got .*Tokyo"),
            ({"id": "2", "lang": "ja"}, "`ctxs` of the question `2`.*got 'None'"),
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
            ([{"id": "1"}], "row 0: `answers` of the question `1` must be a list of strings, got None"),
            ([{"id": "1", "answers": ["a"]}] * 2, "row 1: the question `1` occurred before"),
            ([{"id": "7", "answers": ["a"]}], r"predictions have \['1'\], references \['7'\]"),
            ([{"id": "1", "answers": ["no"]}], "No question with a prediction has an answer other than"),
        ],
    )
    def test_of_references(self, references, message):
        with pytest.raises(ValueError, match=message):
            xor_retrieve_metrics([found("a")], references, tokenize=str.split)

    def test_of_tokenizers_come_before_their_work(self):
        with pytest.raises(ValueError, match="`tokenize` must return a list of tokens, got the string 'a b'"):
            recall([found("a b")], {"1": ["a"]}, str.strip)
        with pytest.raises(ValueError, match="`tokenize` must be `None` for .*got 'punkt'"):
            recall([found("a b")], {"1": ["a"]}, "punkt")
