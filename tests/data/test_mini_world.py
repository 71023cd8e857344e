"""The built-in world: sizes, facts, splits, languages."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path

import pytest

import hf_xlir
from hf_xlir.data import MINI_WORLD_LANGUAGES, MiniWorld, load_mini_world, mini_world


SCRIPTS = {
    "ar": ("ARABIC",),
    "bn": ("BENGALI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "te": ("TELUGU",),
}
INVERSES = {
    "capital_country",
    "symbol_element",
    "number_element",
    "work_writer",
    "work_artist",
    "work_composer",
    "find_scientist",
}


@pytest.fixture(scope="module")
def world():
    return load_mini_world()


@pytest.fixture(scope="module")
def passages(world):
    return {row["id"]: row for row in world.passages}


@pytest.fixture(scope="module")
def questions(world):
    return {split: list(rows) for split, rows in world.questions.items()}


@pytest.fixture(scope="module")
def facts(questions):
    """`{fact id: (split, one of its question rows)}`"""
    return {row["fact_id"]: (split, row) for split, rows in questions.items() for row in rows}


def relation_of(row):
    return row["fact_id"].split(":")[0]


def digest(world):
    """One hash over every cell, in order."""
    state = hashlib.sha256()
    for dataset in (world.passages, *world.questions.values(), world.parallel):
        state.update(json.dumps(dataset.to_dict(), ensure_ascii=False).encode())
    return state.hexdigest()


# Sizes and shape


def test_columns_and_sizes(world, facts):
    assert isinstance(world, MiniWorld) and world._fields == ("passages", "questions", "parallel")
    assert world.passages.column_names == ["id", "title", "text"]
    assert list(world.questions) == ["train", "validation", "test"]
    for split in world.questions.values():
        assert split.column_names == ["id", "question", "answers", "lang", "passage_ids", "fact_id"]
        assert split.features == mini_world.MINI_WORLD_QUESTION_FEATURES
    assert world.parallel.column_names == ["source", "target", "lang"]
    assert len(world.passages) >= 600
    assert 1000 <= len(facts) <= 2000
    parallel = Counter(world.parallel["lang"])
    assert set(parallel) == set(MINI_WORLD_LANGUAGES) - {"en"}
    assert all(1200 <= count <= 2100 for count in parallel.values())


def test_ids_are_unique_and_gold_passages_exist(world, questions, passages):
    assert len(passages) == len(world.passages) == len(set(world.passages["title"]))
    ids = [row["id"] for rows in questions.values() for row in rows]
    assert len(ids) == len(set(ids))
    assert all(row["passage_ids"] for rows in questions.values() for row in rows)
    assert {passage for rows in questions.values() for row in rows for passage in row["passage_ids"]} <= set(passages)


def test_passages_have_40_to_100_words_and_no_leftover_slots(world):
    lengths = [len(text.split()) for text in world.passages["text"]]
    assert 40 <= min(lengths) and max(lengths) <= 100
    assert not any("{" in text or "None" in text for text in world.passages["text"])
    assert len(set(world.passages["text"])) == len(world.passages)


def test_passages_mention_other_entities(passages):
    titles = {row["title"].lower() for row in passages.values()}
    for row in list(passages.values())[::25]:
        others = [title for title in titles if title not in row["title"].lower()]
        assert any(title in row["text"].lower() for title in others), row
    assert "France" in passages["capital-paris"]["text"]


# Facts, answers, splits


def test_answers_occur_in_every_gold_passage(facts, passages):
    for _, row in facts.values():
        for passage_id in row["passage_ids"]:
            for answer in row["answers"]:
                assert answer in passages[passage_id]["text"], (row["fact_id"], passage_id, answer)


def test_inverse_facts_answer_with_the_title_and_the_others_do_not(facts, passages):
    inverse = {
        fact_id
        for fact_id, (_, row) in facts.items()
        if any(passages[passage_id]["title"] in row["answers"] for passage_id in row["passage_ids"])
    }
    assert inverse == {fact_id for fact_id, (_, row) in facts.items() if relation_of(row) in INVERSES}
    assert 0.10 <= len(inverse) / len(facts) <= 0.25


def test_splits_are_disjoint_and_about_80_8_12(questions, facts):
    fact_ids = {split: {row["fact_id"] for row in rows} for split, rows in questions.items()}
    assert sum(map(len, fact_ids.values())) == len(set().union(*fact_ids.values())) == len(facts)
    shares = {split: len(ids) / len(facts) for split, ids in fact_ids.items()}
    assert shares == pytest.approx({"train": 0.80, "validation": 0.08, "test": 0.12}, abs=0.02)


def test_a_fact_and_its_inverse_share_a_split(facts):
    splits = defaultdict(dict)
    for split, row in facts.values():
        (passage_id, *_), relation = row["passage_ids"], relation_of(row)
        splits[passage_id][relation] = split
    pairs = [
        ("country_capital", "capital_country"),
        ("element_symbol", "symbol_element"),
        ("writer_work", "work_writer"),
    ]
    checked = 0
    for relations in splits.values():
        for forward, backward in pairs:
            if forward in relations:
                assert relations[forward] == relations[backward]
                checked += 1
    assert checked > 200


def test_every_relation_is_in_train(facts):
    relations = {relation_of(row) for _, row in facts.values()}
    assert {relation_of(row) for split, row in facts.values() if split == "train"} == relations
    assert 12 <= len(relations - INVERSES) <= 30


def test_each_fact_is_asked_once_per_language_and_in_every_english_wording_for_train(questions):
    for split, rows in questions.items():
        counts = Counter((row["fact_id"], row["lang"]) for row in rows)
        assert {language for _, language in counts} == set(MINI_WORLD_LANGUAGES)
        for (_, language), count in counts.items():
            assert count == (2 if split == "train" and language == "en" else 1)


def test_held_out_questions_are_nowhere_in_the_training_text(world, questions):
    seen = {row["question"] for row in questions["train"]}
    seen |= set(world.parallel["source"]) | set(world.parallel["target"])
    for split in ("validation", "test"):
        assert not [row["question"] for row in questions[split] if row["question"] in seen]


# Languages


def test_questions_and_sources_are_in_their_script(world, questions):
    texts = defaultdict(list)
    for rows in (*questions.values(), [{"question": row["source"], **row} for row in world.parallel]):
        for row in rows:
            texts[row["lang"]].append(row["question"])
    for language, script in SCRIPTS.items():
        for text in texts[language]:
            letters = [character for character in text if character.isalpha()]
            in_script = sum(unicodedata.name(character).startswith(script) for character in letters)
            assert in_script >= 0.5 * len(letters), text
    assert not set(texts["fi"]) & set(texts["en"])


def test_names_of_held_out_questions_occur_in_three_parallel_sentences(world, questions):
    names = mini_world._read_names()
    sources = defaultdict(set)
    for row in world.parallel:
        sources[row["lang"]].add(row["source"].lower())
    asked = {
        name
        for row in questions["test"] + questions["validation"]
        if row["lang"] == "en"
        for name in names
        if name in row["question"]
    }
    assert len(asked) > 150
    for language, sentences in sources.items():
        for name in asked:
            local = names[name][language].lower()
            assert sum(local in sentence for sentence in sentences) >= 3, (name, language)


def test_parallel_pairs_are_aligned(world):
    pairs = [
        (row["source"], row["target"]) for row in world.parallel if row["lang"] == "ko" and "케냐" in row["source"]
    ]
    assert len(pairs) >= 3
    assert all("Kenya" in target for _, target in pairs)


def test_language_subset():
    korean = load_mini_world(languages=["en", "ko"])
    assert set(korean.questions["test"]["lang"]) == {"en", "ko"}
    assert set(korean.parallel["lang"]) == {"ko"}
    english = load_mini_world(languages=["en"])
    assert len(english.parallel) == 0
    assert english.parallel.column_names == ["source", "target", "lang"]
    assert english.passages["text"] == korean.passages["text"]


@pytest.mark.parametrize("languages", [["en", "xx"], [], "klingon"])
def test_bad_languages(languages):
    with pytest.raises(ValueError, match="must be some of .*'te'.*got"):
        load_mini_world(languages=languages)


# Loading


def test_loads_equal_in_another_process(world):
    root = Path(hf_xlir.__file__).parents[1]
    code = (
        "import hashlib, json; from hf_xlir.data.mini_world import load_mini_world\n"
        + inspect.getsource(digest)
        + "\nprint(digest(load_mini_world()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest(world)


def test_data_files_are_small():
    files = list((resources.files("hf_xlir.data") / "mini_world_data").iterdir())
    sizes = {file.name: len(file.read_bytes()) for file in files if file.name.endswith(".json")}
    assert set(sizes) >= {"facts.json", "templates.json", "statements.json", *mini_world.NAME_TABLES}
    assert max(sizes.values()) < 300_000


# Content


@pytest.mark.parametrize(
    ("fact_id", "answers"),
    [
        ("country_capital:kenya", ["Nairobi"]),
        ("capital_country:ouagadougou", ["Burkina Faso"]),
        ("country_currency:japan", ["yen"]),
        ("symbol_element:fe", ["Iron"]),
        ("element_number:gold", ["79"]),
        ("element_discoverer:radium", ["Marie Curie", "Pierre Curie"]),
        ("river_mouth:nile", ["Mediterranean Sea"]),
        ("mountain_height:mount-kilimanjaro", ["5,895"]),
        ("work_writer:war-and-peace", ["Leo Tolstoy"]),
        ("person_birth:albert-einstein", ["1879"]),
        ("monument_city:eiffel-tower", ["Paris"]),
        ("moon_planet:titan", ["Saturn"]),
        ("event_year:fall-of-the-berlin-wall", ["1989"]),
        ("animal_class:penguin", ["bird"]),
    ],
)
def test_literal_facts(facts, fact_id, answers):
    assert facts[fact_id][1]["answers"] == answers


def test_literal_names():
    names = mini_world._read_names()
    assert names["Finland"] == {
        "en": "Finland",
        "ar": "فنلندا",
        "bn": "ফিনল্যান্ড",
        "fi": "Suomi",
        "ja": "フィンランド",
        "ko": "핀란드",
        "ru": "Финляндия",
        "te": "ఫిన్లాండ్",
    }
    assert names["iron"]["ko"] == "철"
    assert names["the Nile"]["fi"] == "Niili"
