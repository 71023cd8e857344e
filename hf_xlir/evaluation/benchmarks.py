"""Retrieval benchmarks: questions, passages and relevance judgements or answers, ready to rank and measure."""

import os
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers.utils import logging

from ..data.building import official_file
from ..data.collection import PASSAGES, load_passages, load_queries
from ..data.features import JUDGED_QUESTION_FEATURES, PASSAGE_FEATURES
from ..data.mini_world import load_mini_world
from ..data.natural_questions import load_natural_questions
from ..data.reading import RowErrors
from ..data.tables import load_table
from ..data.xor_tydi import load_xor_tydi
from ..data.xquad import XQUAD_LANGUAGES, load_xquad
from ..utils.checks import check_choice
from .ranking_files import read_qrels, with_relevant


logger = logging.get_logger(__name__)

NO_SPANS = ("yes", "no", "unknown")  # answers of XOR-TyDi that are not in passages
# The arguments of each built-in benchmark beside `cache_dir`; a folder takes `split` and `on_error`
OPTIONS = {
    "xquad-r": ("data_dir", "languages", "passage_language"),
    "xor-retrieve": ("data_dir", "languages", "passages", "split", "on_error"),
    "nq": ("data_dir", "passages", "on_error"),
    "mini-world": ("languages", "split"),
}


class Benchmark(NamedTuple):
    r"""
    The result of [`load_benchmark`]. Its fields are arguments of [`rank_passages`], [`rank_by_bm25`] and
    [`evaluate_rankings`].

    Args:
        name (`str`):
            The name in reports.
        questions (`datasets.Dataset`):
            Rows with `id` and `question`, and possibly more columns.
        passages (`datasets.Dataset`):
            Rows with `id`, `title` and `text`.
        relevance (`dict[str, list[str]]` or `dict[str, dict[str, int]]`, *optional*):
            For each question id, its relevant passages, if they are known.
        answers (`dict[str, list[str]]`, *optional*):
            For each question id, short answers in the language of the passages. A test split with hidden answers has
            neither these nor `relevance`.
        groups (`dict[str, str]`, *optional*):
            For each question id its language, or the languages of question and passages, such as `"ar-en"`.
        without_own_id (`bool`):
            Whether to remove the passage with the question's own id from its ranking, by [`drop_own_ids`]. BEIR's
            evaluation does so, because some of its questions are passages themselves.
        translated (`bool`):
            Whether the languages have the same questions, translated. Questions in different languages are then not
            independent.
    """

    name: str
    questions: Dataset
    passages: Dataset
    relevance: dict | None = None
    answers: dict | None = None
    groups: dict | None = None
    without_own_id: bool = False
    translated: bool = False


def load_benchmark(
    name,
    data_dir=None,
    *,
    split=None,
    languages=None,
    passage_language=None,
    passages=None,
    on_error=None,
    cache_dir=None,
):
    r"""
    Load a retrieval benchmark.

    - `"xquad-r"`: XQuAD's 1,190 questions in each of `languages` over its 240 paragraphs in `passage_language`. The
      relevant passage is the paragraph that answers the question. Titles are left out, because they are English in
      every language. A question's id is XQuAD's id, a hyphen and the language.
    - `"xor-retrieve"`: XOR-TyDi's questions in seven languages over passages of the English Wikipedia. A passage with
      an answer is right. Questions with the answer yes or no do not count.
    - `"nq"`: Natural Questions (open): the 3,610 questions of NQ-open, or of DPR if the folder has `nq-test.qa.csv`
      and not `NQ-open.dev.jsonl`. A passage with an answer is right.
    - `"mini-world"`: the built-in questions in eight languages over English passages.
    - a folder in BEIR's layout (https://huggingface.co/papers/2104.08663): `corpus.jsonl`, `queries.jsonl` and
      `qrels/<split>.tsv`, gzipped or not. If a passage has a title but no text, the title becomes its text.

    Args:
        name (`str` or `os.PathLike`):
            One of these names, or the path of a folder.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder with the official files, or a folder that contains them in `xquad`, `xor_tydi` or `nq_open`. By
            default they are downloaded.
        split (`str`, *optional*):
            Defaults to `"validation"` for `"xor-retrieve"`, and to `"test"` for `"mini-world"` and folders.
        languages (`list[str]`, *optional*):
            Languages of the questions. Defaults to all; for XQuAD, to those in the folder.
        passage_language (`str`, *optional*):
            For `"xquad-r"`: the language of the paragraphs. Defaults to `"en"`.
        passages (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            For `"xor-retrieve"` and `"nq"`, which have no passages: a collection, or its file for [`load_passages`].
        on_error (`str`, *optional*):
            `"raise"`, the default, or `"skip"`, which leaves out bad rows, and logs their number and the first of
            them.
        cache_dir (`str`, *optional*):
            Folder for Arrow files and downloads.

    Returns:
        [`Benchmark`]

    Raises:
        FileNotFoundError: If a folder or a file does not exist.
        ConnectionError: If a file cannot be downloaded.
        ValueError: If the benchmark is unknown, does not take an argument or lacks one, or a row cannot be read or
            judges an unknown query or passage. The message gives file and line.

    Example:
    ```python
    >>> from hf_xlir.evaluation import evaluate_rankings, load_benchmark, rank_by_bm25

    >>> benchmark = load_benchmark("mini-world", languages=["en", "fi"])
    >>> ranked = rank_by_bm25(benchmark.questions, benchmark.passages, k=5, progress=False)
    >>> values = evaluate_rankings(ranked, benchmark.relevance, ["R@5"], benchmark.groups)["R@5"]
    >>> values["en"] > values["fi"]
    True

    ```
    """
    given = {
        "data_dir": data_dir,
        "split": split,
        "languages": languages,
        "passage_language": passage_language,
        "passages": passages,
        "on_error": on_error,
    }
    given = {option: value for option, value in given.items() if value is not None}
    if isinstance(languages, str):
        raise ValueError(f"`languages` must be a list, such as {[languages]!r}, got the string {languages!r}.")
    if languages is not None and not len(languages):
        raise ValueError("`languages` is empty: give at least one, or leave it out for all.")
    is_folder = name not in OPTIONS
    if is_folder and not Path(name).expanduser().is_dir():
        raise ValueError(
            f"`{os.fspath(name)}` is neither a benchmark nor a folder: choose one of {', '.join(map(repr, OPTIONS))}, "
            "or a folder with corpus.jsonl, queries.jsonl and qrels/."
        )
    not_taken = [option for option in given if option not in (("split", "on_error") if is_folder else OPTIONS[name])]
    if not_taken:
        raise ValueError(f"The benchmark `{os.fspath(name)}` does not take `{not_taken[0]}`: leave it out.")
    if is_folder:
        return _load_beir(Path(name).expanduser(), cache_dir=cache_dir, **given)
    loaders = {"xquad-r": _load_xquad, "xor-retrieve": _load_xor, "nq": _load_nq, "mini-world": _load_mini_world}
    return loaders[name](cache_dir=cache_dir, **given)


def _load_xquad(cache_dir, data_dir=None, languages=None, passage_language="en"):
    folder = _folder(data_dir, "xquad")
    if languages is None and folder is not None:
        languages = [each for each in XQUAD_LANGUAGES if (folder / f"xquad.{each}.json").is_file()]
    passages, originals = load_xquad(passage_language, folder, cache_dir)
    answers = dict(zip(originals["id"], originals["answers"], strict=True))
    rows = []
    for language in dict.fromkeys(languages or XQUAD_LANGUAGES):
        for row in load_xquad(language, folder, cache_dir).questions:
            if row["id"] not in answers:
                raise ValueError(
                    f"XQuAD's question `{row['id']}` is in the file of {language!r}, but not in that of "
                    f"{passage_language!r}: download both again."
                )
            rows.append({**row, "id": f"{row['id']}-{language}", "answers": answers[row["id"]]})
    passages = Dataset.from_list([{**row, "title": ""} for row in passages], PASSAGE_FEATURES)
    return _judged("xquad-r", Dataset.from_list(rows, JUDGED_QUESTION_FEATURES), passages, f"-{passage_language}")


def _load_mini_world(cache_dir, languages=None, split="test"):
    world = load_mini_world(languages)
    check_choice("split", split, tuple(world.questions))
    return _judged("mini-world", world.questions[split], world.passages)


def _judged(name, questions, passages, suffix=""):
    """A benchmark whose questions have `passage_ids`, the same questions in each language."""
    columns = [questions[column][:] for column in ("id", "passage_ids", "answers", "lang")]
    ids, relevant, answers, languages = columns
    return Benchmark(
        name,
        questions,
        passages,
        dict(zip(ids, relevant, strict=True)),
        dict(zip(ids, answers, strict=True)),
        {id: f"{language}{suffix}" for id, language in zip(ids, languages, strict=True)},
        translated=len(set(languages)) > 1,
    )


def _load_xor(cache_dir, data_dir=None, languages=None, passages=None, split="validation", on_error="raise"):
    passages = _passages("xor-retrieve", passages, on_error, cache_dir)
    questions = load_xor_tydi("retrieve", split, _folder(data_dir, "xor_tydi"), languages, on_error, cache_dir)
    return _answered("xor-retrieve", questions, passages)


def _load_nq(cache_dir, data_dir=None, passages=None, on_error="raise"):
    passages = _passages("nq", passages, on_error, cache_dir)
    folder = _folder(data_dir, "nq_open")
    dpr = folder is not None and (folder / "nq-test.qa.csv").is_file() and not (folder / "NQ-open.dev.jsonl").is_file()
    questions = load_natural_questions(
        "dpr" if dpr else "open", "test", folder, on_error=on_error, cache_dir=cache_dir
    ).select_columns(["id", "question", "answers", "lang"])
    return _answered("nq", questions, passages)


def _answered(name, questions, passages):
    """A benchmark whose questions have answers, without the answers that are not in passages."""
    answers, groups = {}, {}
    for row in questions.select_columns(["id", "answers", "lang"]):
        spans = [answer for answer in row["answers"] if name == "nq" or answer not in NO_SPANS]
        groups[row["id"]] = row["lang"]
        if spans:
            answers[row["id"]] = spans
    return Benchmark(name, questions, passages, None, answers or None, groups)


def _load_beir(folder, cache_dir, split=None, on_error="raise"):
    names = ("corpus.jsonl", "queries.jsonl")
    corpus, queries = (official_file(folder, [name, f"{name}.gz"], "the dataset from BEIR") for name in names)
    files = [path for ending in (".tsv.gz", ".tsv") for path in sorted((folder / "qrels").glob(f"[!.]*{ending}"))]
    splits = {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in files}
    if not splits:
        raise FileNotFoundError(f"`{folder}` has no file qrels/<split>.tsv: add the relevance judgements.")
    split = split or ("test" if "test" in splits else next(iter(splits)))
    check_choice("split", split, tuple(splits))
    options = {"on_error": on_error, "cache_dir": cache_dir}
    passages = load_table(corpus, BEIR_PASSAGES, quoting="auto", streaming=False, **options)
    questions = load_queries(queries, **options)

    row_of_query, passage_ids = {id: row for row, id in enumerate(questions["id"])}, set(passages["id"])
    name, errors, relevance = str(splits[split]), RowErrors(on_error), {}
    for number, query, passage, grade in read_qrels(name, errors):
        if query not in row_of_query:
            errors.bad(name, number, f"`{queries}` has no query `{query}`")
        elif passage not in passage_ids:
            errors.bad(name, number, f"`{corpus}` has no passage `{passage}`")
        else:
            relevance.setdefault(query, {})[passage] = grade
    if errors.count:
        logger.warning(errors.report())
    relevance = with_relevant(relevance, name)
    questions = questions.select(sorted(row_of_query[query] for query in relevance))
    return Benchmark(folder.resolve().name, questions, passages, relevance, without_own_id=True)


def _title_as_text(row):
    """Some passages of BEIR have only a title, and some of those are judged."""
    title, text = row.get("title"), row.get("text")
    return {**row, "title": "", "text": title} if title and not str(text or "").strip() else row


BEIR_PASSAGES = PASSAGES._replace(adapt=_title_as_text)


def _folder(data_dir, name):
    """The folder of one data set: `data_dir`, or the folder of that name in it."""
    if data_dir is None:
        return None
    folder = Path(data_dir).expanduser()
    return folder / name if (folder / name).is_dir() else folder


def _passages(name, passages, on_error, cache_dir):
    if passages is None:
        raise ValueError(
            f"`{name}` has only questions: give `passages` to search for their answers, such as DPR's "
            "psgs_w100.tsv.gz."
        )
    return (
        passages if isinstance(passages, Dataset) else load_passages(passages, on_error=on_error, cache_dir=cache_dir)
    )


__all__ = ["Benchmark", "load_benchmark"]
