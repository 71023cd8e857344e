"""The cards of whole systems: what they say of their models, and when they are written."""

import io
import shutil
from contextlib import redirect_stdout

import pytest
from huggingface_hub import ModelCard

from hf_xlir import QuestionAnsweringPipeline, RetrievalPipeline
from hf_xlir.hub.metadata import faults_of
from hf_xlir.index import BM25Index
from hf_xlir.pipeline.sharing import build_system_card, is_replaceable


RESULTS = {"XQuAD-R": {"recall@5": {"ar": 47.9, "mean": 48.0}}}


def row(card, name):
    [line] = [line for line in str(card).splitlines() if line.startswith(f"| {name} |")]
    return line.split(" | ", 1)[1].removesuffix(" |")


def read(folder):
    return ModelCard.load(folder / "README.md")


def code_of(card):
    [code] = [part.split("```")[0] for part in str(card).split("```python\n")[1:]]
    return code


@pytest.fixture
def known(ask, parts, reader, world, tmp_path):
    """Makes a system whose models were loaded from folders with cards."""

    def make(retriever, answerer, licence="", names=("colbert",), **arguments):
        folders = {"retriever": (retriever, parts.colbert), "reader": (answerer, reader)}
        loaded = []
        for name, (metadata, (model, processor)) in folders.items():
            folder = tmp_path / f"trained-{name}"
            for each in (model, processor):
                each.save_pretrained(folder)
            if metadata is not None:
                (folder / "README.md").write_text(f"---\n{metadata}\n---\n# Mine", encoding="utf-8")
            loaded += [type(model).from_pretrained(folder).eval(), type(processor).from_pretrained(folder)]
        passages = world.passages.select(range(24))
        passages.info.license = licence
        return QuestionAnsweringPipeline(
            *loaded[:2], parts.late, passages, reader=loaded[2], reader_processor=loaded[3], device="cpu", **arguments
        )

    return make


def test_what_the_cards_of_its_models_say(known, tmp_path):
    pipe = known(
        "base_model: user/encoder\nlanguage: [ko, fi]\nlicense: mit\ndatasets: user/triples",
        "base_model: [google/mt5-small]\nlanguage: [fi, en]\nlicense: mit\ndatasets: [user/answers, user/triples]",
        licence="mit",
    )
    pipe.save_pretrained(tmp_path / "my-system", evaluations=RESULTS, tags="mine", limitations=["None that I found."])
    card = read(tmp_path / "my-system")
    assert faults_of(card.data.to_dict()) == []
    assert {name: value for name, value in card.data.to_dict().items() if name != "model-index"} == {
        "base_model": ["user/encoder", "google/mt5-small"],
        "datasets": ["user/triples", "user/answers"],
        "language": ["ko", "fi", "en"],
        "library_name": "hf_xlir",
        "license": "mit",
        "pipeline_tag": "question-answering",
        "tags": ["hf_xlir", "xlir-question-answering", "late_interaction", "mine"],
    }
    assert card.data.model_name == "my-system"
    found = {(result.dataset_config, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert found == {("ar", "recall@5"): 47.9, ("mean", "recall@5"): 48.0}
    assert {result.task_type for result in card.data.eval_results} == {"question-answering"}
    assert row(card, "Retriever") == "`colbert_xlmr`, made from `user/encoder`"
    assert row(card, "Reader") == "`fid_t5`, made from `google/mt5-small`"
    assert row(card, "License") == "mit" and row(card, "Languages") == "ko, fi, en"
    assert "| recall@5 | 47.9 | 48 |" in card.text and "evaluated in ar." in card.text
    assert "always writes an answer" in card.text and "None that I found." in card.text
    assert "eprint = {2004.12832}" in card.text and "eprint = {2007.01282}" in card.text

    # The facts are saved beside the models, so they are known after loading
    shutil.rmtree(tmp_path / "trained-retriever")
    shutil.rmtree(tmp_path / "trained-reader")
    for _ in range(2):
        loaded = QuestionAnsweringPipeline.from_pretrained(tmp_path / "my-system", device="cpu")
        loaded.save_pretrained(tmp_path / "again")
        again = read(tmp_path / "again").data.to_dict()
        first = card.data.to_dict()
        for name in ("base_model", "datasets", "language", "license"):
            assert again[name] == first[name]
        loaded("Who?")  # its weights are read, and written anew instead of copied
        shutil.move(tmp_path / "again", tmp_path / "moved")
        shutil.rmtree(tmp_path / "my-system")
        shutil.move(tmp_path / "moved", tmp_path / "my-system")
    alone = RetrievalPipeline.from_pretrained(tmp_path / "my-system", device="cpu")
    alone.save_pretrained(tmp_path / "alone")
    data = read(tmp_path / "alone").data
    assert data.base_model == ["user/encoder"] and data.language == ["ko", "fi"]  # without the reader
    assert data.pipeline_tag == "text-ranking" and data.eval_results is None


@pytest.mark.parametrize(
    "retriever, answerer, passages, shown",
    [
        ("license: mit", "license: apache-2.0", "mit", "retriever: mit, reader: apache-2.0, passages: mit"),
        ("language: ko", "license: mit", "mit", "retriever: not stated, reader: mit, passages: mit"),
        ("license: mit", "license: mit", "Ask them.", "retriever: mit, reader: mit, passages: not stated"),
        (
            "license: other\nlicense_name: own-1.0\nlicense_link: LICENSE",
            "license: other",
            "mit",
            "retriever: [own-1.0](LICENSE), reader: not stated, passages: mit",
        ),
    ],
)
def test_a_licence_is_stated_where_all_parts_have_it(known, retriever, answerer, passages, shown):
    pipe = known(retriever, answerer, passages)
    card = ModelCard(build_system_card(pipe, "me/my-system"))
    assert card.data.license is None and row(card, "License") == f"of the whole not stated; {shown}"
    own = {"license": "other", "license_name": "mine-1.0", "license_link": "LICENSE"}
    card = ModelCard(build_system_card(pipe, "me/my-system", **own))
    assert {name: card.data[name] for name in own} == own and row(card, "License") == "[mine-1.0](LICENSE)"


def test_damaged_cards_of_models(known):
    """What others wrote never stops a system from being saved, and is not passed on."""
    metadata = "language: Korean\nlicense: My own\nbase_model: /x/y/z"
    card = ModelCard(build_system_card(known(metadata, None), "me/my-system"))
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert row(card, "Retriever") == "`colbert_xlmr`; origin not stated"


def test_nothing_is_made_up(ask, search, world):
    card = build_system_card(ask("colbert", "bm25"), "me/my-system")
    data = ModelCard(card).data
    assert data.to_dict() == {
        "library_name": "hf_xlir",
        "pipeline_tag": "question-answering",
        "tags": ["hf_xlir", "xlir-question-answering", "late_interaction", "bm25"],
    }
    assert "24 passages. It finds passages by late interaction of tokens and `bm25`" in card
    assert 'pipeline("xlir-question-answering", model="me/my-system")' in code_of(card)
    assert f"{world.passages[0]['title']}?" in code_of(card)
    assert row(card, "Languages") == row(card, "Training data") == "not stated"
    assert row(card, "Retriever `colbert`") == "`colbert_xlmr`; origin not stated"
    assert "No results are stated" in card
    card = build_system_card(search("bm25"), "me/my-system")
    assert "## Citation" not in card and "writes an answer" not in card and "Retriever" not in card


def test_arguments_that_are_wrong(search, tmp_path):
    for arguments, message in (
        ({"license": "Apache 2.0"}, "`apache-2.0`"),
        ({"language": "Korean"}, "ISO 639"),
        ({"license": "other"}, "`license_name`"),
        ({"base_model": "/my/model"}, "id of a repository"),
        ({"evaluations": {"a": {"f1": {"ko": None}}}}, "None, expected a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            search("bm25").save_pretrained(tmp_path / "new", **arguments)
    with pytest.raises(TypeError, match="licence"):
        search("bm25").save_pretrained(tmp_path / "new", licence="mit")
    assert not (tmp_path / "new").exists()


def test_usage_runs_as_printed(ask, search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for pipe, name in ((ask("colbert", "bm25"), "answers"), (search("dense"), "ranks")):
        pipe.save_pretrained(name)
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(code_of(read(tmp_path / name)), {})
        assert printed.getvalue().strip()


def test_usage_is_one_line_for_any_title():
    passages = [{"id": "1", "title": 'The "Nile",\n a\\river', "text": "It flows north."}]
    search = RetrievalPipeline(index=BM25Index.build(passages, progress=False), passages=passages, device="cpu")
    code = code_of(build_system_card(search, "me/my-system"))
    compile(code, "card", "exec")
    assert 'ask("The Nile, ariver?", k=3)' in code


def test_when_a_card_is_replaced(ask, search, tmp_path):
    file = tmp_path / "README.md"
    ask("bm25").save_pretrained(tmp_path, language="ko")
    first = file.read_text(encoding="utf-8")
    assert is_replaceable(first) and is_replaceable(first.replace("\n", "\r\n")) and "- ko" in first
    search("dense").save_pretrained(tmp_path)  # another system: its own card
    second = file.read_text(encoding="utf-8")
    assert "one vector per text" in second and "- ko" not in second
    edited = second.replace("one vector", "one small vector")
    file.write_text(edited, encoding="utf-8")
    assert not is_replaceable(edited) and not is_replaceable("Mine.")
    search("bm25").save_pretrained(tmp_path)
    assert file.read_text(encoding="utf-8") == edited
    search("bm25").save_pretrained(tmp_path, license="mit")
    assert "license: mit" in file.read_text(encoding="utf-8")
