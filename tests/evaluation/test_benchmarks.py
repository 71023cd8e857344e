"""Benchmarks from small files, and the published ones where their files exist."""

import gzip
import json
from collections import Counter

import pytest
from datasets import Dataset

from hf_xlir.data import load_mini_world
from hf_xlir.evaluation import benchmarks, load_benchmark
from hf_xlir.evaluation.benchmarks import OPTIONS


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def write_jsonl(path, rows, pack=bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()))


# XQuAD


def write_xquad(folder, language, ids=("q1", "q2")):
    qas = [
        {"id": id, "question": f"{language}: {id}?", "answers": [{"text": f"{language} {id}", "answer_start": 0}]}
        for id in ids
    ]
    article = {"title": "T", "paragraphs": [{"context": "C.", "qas": qas[:1]}, {"context": "D.", "qas": qas[1:]}]}
    folder.mkdir(exist_ok=True)
    (folder / f"xquad.{language}.json").write_text(json.dumps({"data": [article]}))


@pytest.mark.parametrize("inner", ["", "xquad"])
def test_xquad_by_language_pair(tmp_path, cache, inner):
    for language in ("en", "ar", "zh"):
        write_xquad(tmp_path / inner, language)
    (tmp_path / inner / "xquad.xx.json").write_text("no language of XQuAD's")
    benchmark = load_benchmark("xquad-r", tmp_path, cache_dir=cache)
    assert list(benchmark.groups.items())[::2] == [("q1-ar", "ar-en"), ("q1-en", "en-en"), ("q1-zh", "zh-en")]
    assert benchmark.relevance["q2-zh"] == ["0-1"]
    assert benchmark.answers["q2-zh"] == ["en q2"]  # in the passages' language
    assert benchmark.questions[0] == {
        "id": "q1-ar",
        "question": "ar: q1?",
        "answers": ["en q1"],
        "lang": "ar",
        "passage_ids": ["0-0"],
    }
    assert benchmark.passages[1] == {"id": "0-1", "title": "", "text": "D."} and benchmark.name == "xquad-r"
    assert benchmark.translated

    other = load_benchmark("xquad-r", tmp_path, languages=["zh"], passage_language="ar", cache_dir=cache)
    assert other.groups == {"q1-zh": "zh-ar", "q2-zh": "zh-ar"} and other.answers["q1-zh"] == ["ar q1"]
    assert not other.translated  # one language alone
    write_xquad(tmp_path / inner, "zh", ["q1", "q3"])
    with pytest.raises(ValueError, match="question `q3` is in the file of 'zh', but not in that of 'en'"):
        load_benchmark("xquad-r", tmp_path, cache_dir=cache)


def test_published_xquad(shared_data, cache):
    benchmark = load_benchmark("xquad-r", shared_data, languages=["en", "ar"], cache_dir=cache)
    assert Counter(benchmark.groups.values()) == {"en-en": 1190, "ar-en": 1190}
    assert len(benchmark.passages) == 240 and len(benchmark.relevance) == len(benchmark.questions) == 2380
    texts = dict(zip(benchmark.passages["id"], benchmark.passages["text"], strict=True))
    for id, answers in benchmark.answers.items():
        assert any(answer in texts[benchmark.relevance[id][0]] for answer in answers)


# Questions with answers


PASSAGES = [{"id": "p1", "title": "Seine", "text": "It flows through Paris."}, {"id": "p2", "title": "", "text": "-"}]


def test_xor_retrieve(tmp_path, cache):
    rows = [
        {"id": "1", "question": "A?", "answers": ["yes", "Paris"], "lang": "fi"},
        {"id": "2", "question": "B?", "answers": ["no"], "lang": "fi"},
        {"id": "3", "question": "C?", "answers": ["unknown"], "lang": "ja"},
        {"id": "4", "question": "D?", "answers": ["No"], "lang": "ja"},
    ]
    write_jsonl(tmp_path / "xor_tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl", rows)
    write_jsonl(tmp_path / "passages.jsonl", PASSAGES)
    benchmark = load_benchmark("xor-retrieve", tmp_path, passages=tmp_path / "passages.jsonl", cache_dir=cache)
    assert benchmark.answers == {"1": ["Paris"], "4": ["No"]} and benchmark.relevance is None
    assert benchmark.groups == {"1": "fi", "2": "fi", "3": "ja", "4": "ja"}
    assert len(benchmark.questions) == 4 and benchmark.passages[0] == PASSAGES[0]

    passages = Dataset.from_list(PASSAGES)
    japanese = load_benchmark("xor-retrieve", tmp_path, languages=["ja"], passages=passages, cache_dir=cache)
    assert list(japanese.groups) == ["3", "4"] and japanese.passages is passages
    with pytest.raises(FileNotFoundError, match="has no file `xor_train_retrieve_eng_span.jsonl`"):
        load_benchmark("xor-retrieve", tmp_path, passages=passages, split="train", cache_dir=cache)
    write_jsonl(tmp_path / "xor_tydi" / "xor_train_retrieve_eng_span.jsonl", rows[1:3])
    train = load_benchmark("xor-retrieve", tmp_path, passages=passages, split="train", cache_dir=cache)
    assert train.answers is None and list(train.groups) == ["2", "3"]


def test_published_xor_retrieve(shared_data, cache):
    benchmark = load_benchmark("xor-retrieve", shared_data, passages=Dataset.from_list(PASSAGES), cache_dir=cache)
    counted = Counter(benchmark.groups[id] for id in benchmark.answers)
    assert counted == {"te": 238, "bn": 304, "fi": 314, "ja": 241, "ko": 285, "ru": 237, "ar": 309}


def test_nq_from_both_sources(tmp_path, cache):
    passages = Dataset.from_list(PASSAGES)
    (tmp_path / "nq-test.qa.csv").write_text("who\t['no', 'x']\n")
    dpr = load_benchmark("nq", tmp_path, passages=passages, cache_dir=cache)
    assert dpr.questions[0] == {"id": "0", "question": "who", "answers": ["no", "x"], "lang": "en"}
    write_jsonl(tmp_path / "nq_open" / "NQ-open.dev.jsonl", [{"question": "what", "answer": ["unknown"]}])
    nq = load_benchmark("nq", tmp_path, passages=passages, cache_dir=cache)
    assert nq.questions["question"][:] == ["what"]
    assert (nq.answers, nq.groups, nq.relevance) == ({"0": ["unknown"]}, {"0": "en"}, None)


def test_bad_rows_of_questions(tmp_path, cache):
    write_jsonl(tmp_path / "NQ-open.dev.jsonl", [{"question": "a", "answer": ["b"]}, {"question": "c"}])
    options = {"passages": Dataset.from_list(PASSAGES), "cache_dir": cache}
    with pytest.raises(ValueError, match="NQ-open.dev.jsonl`, line 2: its answers are not a list of texts"):
        load_benchmark("nq", tmp_path, **options)
    assert list(load_benchmark("nq", tmp_path, on_error="skip", **options).answers) == ["0"]


def test_mini_world():
    benchmark = load_benchmark("mini-world", languages=["fi", "ko"])
    world = load_mini_world(["fi", "ko"])
    assert benchmark.questions.to_list() == world.questions["test"].to_list()
    assert set(benchmark.groups.values()) == {"fi", "ko"} and len(benchmark.passages) == len(world.passages)
    first = benchmark.questions[0]
    assert benchmark.relevance[first["id"]] == first["passage_ids"]
    assert benchmark.answers[first["id"]] == first["answers"]
    validation = load_benchmark("mini-world", languages=["fi"], split="validation")
    assert not set(validation.relevance) & set(benchmark.relevance)
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'validation', 'test', got 'dev'"):
        load_benchmark("mini-world", languages=["fi"], split="dev")


# Folders


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def folder(request, tmp_path):
    """A BEIR folder, gzipped or not."""
    folder = tmp_path / "my-set"
    suffix, pack = (".gz", gzip.compress) if request.param else ("", bytes)
    corpus = [
        {"_id": "d1", "title": "Seine", "text": "A river.", "metadata": {}},
        {"_id": "d2", "title": "", "text": "A city."},
        {"_id": "q1", "title": "", "text": "Which river?"},
    ]
    queries = [{"_id": "q0", "text": "Other?", "metadata": {}}, {"_id": "q1", "text": "Which river?"}]
    write_jsonl(folder / f"corpus.jsonl{suffix}", corpus, pack)
    write_jsonl(folder / f"queries.jsonl{suffix}", queries, pack)
    (folder / "qrels").mkdir()
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / f"dev.tsv{suffix}").write_bytes(pack((header + "q0\td2\t1\n").encode()))
    (folder / "qrels" / f"test.tsv{suffix}").write_bytes(pack((header + "q0\td2\t0\nq1\td1\t2\nq1\td2\t0\n").encode()))
    return folder


def test_a_folder(folder, cache):
    benchmark = load_benchmark(folder, cache_dir=cache)
    assert benchmark.name == "my-set" and benchmark.without_own_id
    assert benchmark.passages[0] == {"id": "d1", "title": "Seine", "text": "A river."}
    assert benchmark.questions.to_list() == [{"id": "q1", "question": "Which river?"}]
    assert benchmark.relevance == {"q1": {"d1": 2, "d2": 0}}
    assert benchmark.answers is None and benchmark.groups is None
    dev = load_benchmark(str(folder), split="dev", cache_dir=cache)
    assert dev.relevance == {"q0": {"d2": 1}} and dev.questions["id"][:] == ["q0"]
    with pytest.raises(ValueError, match="`split` must be one of 'dev', 'test', got 'train'"):
        load_benchmark(folder, split="train", cache_dir=cache)


def test_the_only_split_is_the_default(tmp_path, cache):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "A."}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "A?"}])
    with pytest.raises(FileNotFoundError, match="has no file qrels/<split>.tsv"):
        load_benchmark(tmp_path, cache_dir=cache)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("q\td\t1\n")
    assert load_benchmark(tmp_path, cache_dir=cache).relevance == {"q": {"d": 1}}
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="has no file `corpus.jsonl` or `corpus.jsonl.gz`"):
        load_benchmark(tmp_path, cache_dir=cache)


def test_copies_and_hidden_files_are_not_judgements(tmp_path, cache):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d", "text": "A."}, {"_id": "e", "text": "B."}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "A?"}])
    (tmp_path / "qrels").mkdir()
    for name, row in (
        ("test.tsv", "q\td\t1"),
        ("test.tsv.bak", "q\te\t1"),
        ("test.tsv~", "q\te\t1"),
        ("._a.tsv", "\0"),
    ):
        (tmp_path / "qrels" / name).write_text(row + "\n")
    assert load_benchmark(tmp_path, cache_dir=cache).relevance == {"q": {"d": 1}}
    with pytest.raises(ValueError, match="`split` must be one of 'test', got 'dev'"):
        load_benchmark(tmp_path, split="dev", cache_dir=cache)
    (tmp_path / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(b"q\te\t1\n"))
    assert load_benchmark(tmp_path, cache_dir=cache).relevance == {"q": {"d": 1}}  # the unpacked one


@pytest.mark.parametrize(
    ("start", "end", "header"), [("", "\n", []), ("\ufeff", "\r\n", ["query-id\tcorpus-id\tscore"])]
)
def test_folders_from_other_systems(tmp_path, cache, start, end, header):
    """With and without a byte order mark, lines of Windows and a header."""

    def write(path, rows):
        (tmp_path / path).write_bytes((start + end.join([*rows, ""])).encode())

    (tmp_path / "qrels").mkdir()
    write("corpus.jsonl", ['{"_id": "d", "title": null, "text": "A."}', '{"_id": "e", "title": "", "text": "B."}'])
    write("queries.jsonl", ['{"_id": "q", "text": "A?", "metadata": {}}', '{"_id": "p", "text": "B?"}'])
    write("qrels/test.tsv", [*header, "q\td\t2", "q\te\t-1", "p\te\t0"])
    benchmark = load_benchmark(tmp_path, cache_dir=cache)
    assert benchmark.passages.to_list() == [
        {"id": "d", "title": "", "text": "A."},
        {"id": "e", "title": "", "text": "B."},
    ]
    assert benchmark.relevance == {"q": {"d": 2, "e": -1}} and benchmark.questions["id"][:] == ["q"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q7\td1\t1", "queries.jsonl` has no query `q7`"),
        ("q0\td7\t1", "corpus.jsonl` has no passage `d7`"),
        ("q0\td1\tx", "the grade 'x' is not a whole number"),
    ],
)
def test_bad_judgements(tmp_path, cache, monkeypatch, row, message):
    logged = []
    monkeypatch.setattr(benchmarks.logger, "warning", logged.append)
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "A."}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q0", "text": "A?"}, {"_id": "q1", "text": "B?"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{row}\nq1\td1\t1\n")
    with pytest.raises(ValueError, match=f"qrels/test.tsv`, line 2: .*{message}"):
        load_benchmark(tmp_path, cache_dir=cache)
    assert load_benchmark(tmp_path, on_error="skip", cache_dir=cache).relevance == {"q1": {"d1": 1}}
    assert len(logged) == 1 and logged[0].startswith("Skipped 1 row(s)")


def test_bad_rows_of_a_corpus(tmp_path, cache):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "A."}, {"_id": "d2", "title": "", "text": " "}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "A?"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\td1\t1\n")
    with pytest.raises(ValueError, match="corpus.jsonl`, line 2: it has no text"):
        load_benchmark(tmp_path, cache_dir=cache)
    assert load_benchmark(tmp_path, on_error="skip", cache_dir=cache).passages["id"][:] == ["d1"]


@pytest.mark.parametrize("text", [{"text": " \n"}, {"text": None}, {}])
def test_a_title_without_text_becomes_the_text(tmp_path, cache, text):
    """TREC-COVID judges such passages."""
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": 1, "title": "T", "text": "A."}, {"_id": 2, "title": "B", **text}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": 7, "text": "A?"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\r\n7\t2\t1\r\n")
    benchmark = load_benchmark(tmp_path, cache_dir=cache)
    assert benchmark.relevance == {"7": {"2": 1}}
    assert benchmark.passages.to_list() == [
        {"id": "1", "title": "T", "text": "A."},
        {"id": "2", "title": "", "text": "B"},
    ]


# What does not go together


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("squad", {}, "`squad` is neither a benchmark nor a folder: choose one of 'xquad-r'"),
        ("nq", {}, "`nq` has only questions: give `passages`"),
        ("xquad-r", {"languages": "ar"}, "`languages` must be a list.*'ar'"),
        ("xquad-r", {"languages": []}, "`languages` is empty"),
        ("xquad-r", {"split": "test"}, "`xquad-r` does not take `split`"),
        ("nq", {"languages": ["en"]}, "`nq` does not take `languages`"),
        ("mini-world", {"data_dir": "d"}, "`mini-world` does not take `data_dir`"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(name, **options)


def test_a_folder_takes_a_split_only(tmp_path):
    with pytest.raises(ValueError, match="does not take `languages`"):
        load_benchmark(tmp_path, languages=["en"])
    assert set(OPTIONS) == {"xquad-r", "xor-retrieve", "nq", "mini-world"}
