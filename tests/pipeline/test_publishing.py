"""Whole systems on a test server of the Hub. Fresh processes are in `tests/hub`."""

from pathlib import Path

import pytest
from hub_api import TOKEN
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from transformers import pipeline

from hf_xlir import QuestionAnsweringPipeline, RetrievalPipeline


REPO = "tester/system"


def parts_in(hub):
    return {name.split("/")[0] for name in hub.files(REPO) if "/" in name}


def test_what_was_there_is_replaced(hub, ask, search, world):
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


def test_a_card_that_nobody_changed_is_replaced(hub, search):
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


def test_models_of_the_hub_are_named(hub, parts, world):
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
    RetrievalPipeline.from_pretrained(REPO, device="cpu").push_to_hub("tester/copy")  # and from there on
    assert ModelCard.load("tester/copy").data.to_dict() == data.to_dict()


def test_nothing_is_made_for_a_card_that_is_wrong(hub, search):
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


def test_only_what_is_needed_is_downloaded(hub, ask, world):
    ask("bm25").push_to_hub(REPO)
    retrieve = RetrievalPipeline.from_pretrained(REPO, device="cpu")
    expected = retrieve(world.questions)
    folder = Path(hf_hub_download(REPO, "config.json", local_files_only=True)).parent
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "index", "passages"]
    again = RetrievalPipeline.from_pretrained(REPO, local_files_only=True, device="cpu")
    assert again(world.questions) == expected
    with pytest.raises((OSError, ValueError), match="reader"):
        QuestionAnsweringPipeline.from_pretrained(REPO, local_files_only=True, device="cpu")


def test_a_private_one_needs_a_token(hub, search, world, tmp_path, monkeypatch):
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
