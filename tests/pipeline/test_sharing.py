"""Cards of whole systems, and systems on a test server of the Hub. Fresh processes are in `tests/hub`."""

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hub_api import TOKEN
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from transformers import pipeline

from hf_xlir import QuestionAnsweringPipeline, RetrievalPipeline
from hf_xlir.hub.metadata import faults_of
from hf_xlir.index import BM25Index
from hf_xlir.pipeline.sharing import build_system_card, is_replaceable


REPO = "tester/system"
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


def test_card_takes_over_facts_of_the_models_cards(known, tmp_path):
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
        loaded("Who?")  # reads the weights, so they are written, not copied
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
def test_license_is_stated_only_if_all_parts_share_it(known, retriever, answerer, passages, shown):
    pipe = known(retriever, answerer, passages)
    card = ModelCard(build_system_card(pipe, "me/my-system"))
    assert card.data.license is None and row(card, "License") == f"of the whole not stated; {shown}"
    own = {"license": "other", "license_name": "mine-1.0", "license_link": "LICENSE"}
    card = ModelCard(build_system_card(pipe, "me/my-system", **own))
    assert {name: card.data[name] for name in own} == own and row(card, "License") == "[mine-1.0](LICENSE)"


def test_damaged_model_cards_are_ignored(known):
    """What others wrote never stops a system from being saved, and is not passed on."""
    metadata = "language: Korean\nlicense: My own\nbase_model: /x/y/z"
    card = ModelCard(build_system_card(known(metadata, None), "me/my-system"))
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert row(card, "Retriever") == "`colbert_xlmr`; origin not stated"


def test_card_without_facts(ask, search, world):
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


def test_wrong_card_arguments(search, tmp_path):
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


def test_usage_compiles_for_any_title():
    passages = [{"id": "1", "title": 'The "Nile",\n a\\river', "text": "It flows north."}]
    search = RetrievalPipeline(index=BM25Index.build(passages, progress=False), passages=passages, device="cpu")
    code = code_of(build_system_card(search, "me/my-system"))
    compile(code, "card", "exec")
    assert 'ask("The Nile, ariver?", k=3)' in code


def test_only_unchanged_cards_are_replaced(ask, search, tmp_path):
    file = tmp_path / "README.md"
    ask("bm25").save_pretrained(tmp_path, language="ko")
    first = file.read_text(encoding="utf-8")
    assert is_replaceable(first) and is_replaceable(first.replace("\n", "\r\n")) and "- ko" in first
    search("dense").save_pretrained(tmp_path)  # another system has another card
    second = file.read_text(encoding="utf-8")
    assert "one vector per text" in second and "- ko" not in second
    edited = second.replace("one vector", "one small vector")
    file.write_text(edited, encoding="utf-8")
    assert not is_replaceable(edited) and not is_replaceable("Mine.")
    search("bm25").save_pretrained(tmp_path)
    assert file.read_text(encoding="utf-8") == edited
    search("bm25").save_pretrained(tmp_path, license="mit")
    assert "license: mit" in file.read_text(encoding="utf-8")


def parts_in(hub):
    return {name.split("/")[0] for name in hub.files(REPO) if "/" in name}


def test_push_replaces_the_old_system(hub, ask, search, world):
    pipe = ask("colbert", "bm25", n_context=2)
    pipe.push_to_hub(REPO)
    assert parts_in(hub) == {"passages", "index-colbert", "index-bm25", "retriever-colbert", "reader"}
    expected = pipe(world.questions)
    assert QuestionAnsweringPipeline.from_pretrained(REPO, device="cpu")(world.questions) == expected
    HfApi().upload_file(path_or_fileobj=b"---\nlicense: mit\n---\nMine.", path_in_repo="README.md", repo_id=REPO)
    num_commits = len(hub.repository(REPO).commits)
    search("bm25").push_to_hub(REPO, commit_message="Words alone")
    assert len(hub.repository(REPO).commits) == num_commits + 1
    assert parts_in(hub) == {"passages", "index"} and hub.files(REPO)["README.md"].endswith(b"Mine.")
    search("bm25").push_to_hub(REPO, card="---\nlicense: mit\n---\nNew.")
    assert hub.files(REPO)["README.md"].endswith(b"New.")
    found = RetrievalPipeline.from_pretrained(REPO, device="cpu")(world.questions)
    assert found == search("bm25")(world.questions)


def test_push_replaces_an_unchanged_card(hub, search):
    """A system that replaces another is not described by the other's card."""
    search("dense").push_to_hub(REPO, language="ko", license="mit")
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert (card.data.language, card.data.license) == (["ko"], "mit") and "one vector per text" in card.text
    search("bm25").push_to_hub(REPO)
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert card.data.license is None and "by `bm25`" in card.text
    HfApi().upload_file(path_or_fileobj=b"---\nlicense: mit\n---\nMine.", path_in_repo="README.md", repo_id=REPO)
    search("bm25").push_to_hub(REPO, license="apache-2.0", evaluations={"XQuAD-R": {"recall@5": {"ko": 0.5}}})
    card = ModelCard.load(REPO)
    assert card.data.license == "apache-2.0" and card.data.eval_results[0].metric_value == 0.5


def test_card_names_models_on_the_hub(hub, parts, world):
    """With what their cards say, which nobody has downloaded yet."""
    for each in parts.colbert:
        each.push_to_hub("tester/retriever")
    card = b"---\nlicense: cc-by-4.0\nlanguage: [ko]\nbase_model: user/other\n---\nIts card."
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="tester/retriever")
    passages = world.passages.select(range(24))
    passages.info.license = "cc-by-4.0"
    pipe = RetrievalPipeline.from_pretrained("tester/retriever", index=parts.late, passages=passages, device="cpu")
    pipe.push_to_hub(REPO)
    data = ModelCard.load(REPO).data
    assert (data.base_model, data.license, data.language) == (["tester/retriever"], "cc-by-4.0", ["ko"])
    RetrievalPipeline.from_pretrained(REPO, device="cpu").push_to_hub("tester/copy")
    assert ModelCard.load("tester/copy").data.to_dict() == data.to_dict()


def test_no_repository_for_a_wrong_card(hub, search):
    for arguments, message in (
        ({"license": "MIT License"}, "'MIT License'"),
        ({"card": "---\nlicense: MIT\n---\n"}, "'MIT'"),
        ({"card": "Mine.", "license": "mit"}, "not both"),
    ):
        with pytest.raises(ValueError, match=message):
            search("bm25").push_to_hub(REPO, **arguments)
    assert not hub.repositories


def test_revisions(hub, ask, search, world):
    first = ask("bm25", n_context=2)
    commit = first.push_to_hub(REPO)
    ask("dense").push_to_hub(REPO, revision="next")
    ask("bm25", n_context=3).push_to_hub(REPO)
    for revision, expected in (
        (None, ask("bm25", n_context=3)),
        ("next", ask("dense")),
        (commit.oid, first),
    ):
        loaded = QuestionAnsweringPipeline.from_pretrained(REPO, revision=revision, device="cpu")
        assert loaded(world.questions) == expected(world.questions)
        loaded = pipeline("xlir-question-answering", model=REPO, revision=revision, device="cpu")
        assert loaded(world.questions) == expected(world.questions)


def test_downloads_only_the_needed_parts(hub, ask, world):
    ask("bm25").push_to_hub(REPO)
    retrieve = RetrievalPipeline.from_pretrained(REPO, device="cpu")
    expected = retrieve(world.questions)
    folder = Path(hf_hub_download(REPO, "config.json", local_files_only=True)).parent
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "index", "passages"]
    again = RetrievalPipeline.from_pretrained(REPO, local_files_only=True, device="cpu")
    assert again(world.questions) == expected
    with pytest.raises((OSError, ValueError), match="reader"):
        QuestionAnsweringPipeline.from_pretrained(REPO, local_files_only=True, device="cpu")


def test_private_repository_needs_a_token(hub, search, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search("bm25").push_to_hub(REPO, private=True)
    assert RetrievalPipeline.from_pretrained(REPO, device="cpu")
    for load in (
        lambda: RetrievalPipeline.from_pretrained(REPO, token=False, cache_dir="empty", device="cpu"),
        lambda: pipeline("xlir-retrieval", model=REPO, token=False, model_kwargs={"cache_dir": "empty"}),
    ):
        with pytest.raises(OSError, match="private repository"):
            load()
    monkeypatch.delenv("HF_TOKEN")
    expected = search("bm25")(world.questions)
    commit = hub.repository(REPO).branches["main"]
    given = {"token": TOKEN, "revision": commit}
    assert RetrievalPipeline.from_pretrained(REPO, cache_dir="a", device="cpu", **given)(world.questions) == expected
    arguments = {"model_kwargs": {"cache_dir": "b"}, "device": "cpu"}
    assert pipeline("xlir-retrieval", model=REPO, **given, **arguments)(world.questions) == expected
