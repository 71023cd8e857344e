"""Indexes and passages on the Hub: one commit, also after failures, and back with checksums."""

from pathlib import Path

import numpy as np
import pytest
import torch
from card_rules import faults_of_card
from datasets import Dataset
from hub_server import Fault
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_xlir.hub.upload import files_of, push_files
from hf_xlir.index import (
    DenseEmbeddings,
    DenseIndex,
    LateInteractionIndex,
    TokenEmbeddings,
    add_dense_index,
    sharing,
)
from hf_xlir.index.bm25 import BM25Index
from hf_xlir.index.sharing import _size_category, load_index_from_hub, push_index_to_hub
from hf_xlir.utils import storage


REPO = "tester/my-index"
OID = "[0-9a-f]{64}"


def make_passages(count=6, first=0):
    rows = range(first, first + count)
    return Dataset.from_dict(
        {
            "id": [f"p{row}" for row in rows],
            "title": [f"Title {row}" for row in rows],
            "text": [f"word{row} and more" for row in rows],
        }
    )


def make_late(passages, nbits=2, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.arange(len(passages)) % 3 + 2
    values = rng.standard_normal((lengths.sum(), 8)).astype("float32")
    return LateInteractionIndex.build(TokenEmbeddings(values, lengths, passages["id"][:]), nbits=nbits)


def make_dense(passages):
    values = np.random.default_rng(1).standard_normal((len(passages), 8)).astype("float32")
    return add_dense_index(passages, DenseEmbeddings(values, passages["id"][:]), "dense").get_index("dense")


def shown(hub, revision="main"):
    return sorted(hub.files(REPO, "datasets", revision))


class TestRoundTrip:
    def test_late_interaction(self, hub):
        passages = make_passages()
        index = make_late(passages)
        commit = push_index_to_hub(
            *(index, passages, REPO),
            model_id="tester/my-colbert",
            model_revision="0123abc",
            language=["fi", "ko"],
            license="cc-by-sa-4.0",
        )
        assert hub.repository(REPO, "datasets").branches["main"] == commit.oid
        loaded, rows = load_index_from_hub(REPO)
        assert type(loaded) is LateInteractionIndex and loaded.ids == index.ids
        assert rows[:] == passages[:] and rows.features == passages.features
        query = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
        for found, expected in zip(loaded.search(query, k=4), index.search(query, k=4), strict=True):
            assert np.array_equal(found, expected)
        values = loaded.contents.segments[0].tokens.arrays["records"]
        assert isinstance(values, np.memmap)  # mapped through the links of the cache
        assert Path(values.filename).resolve().parent.name == "blobs"
        loaded.attach(rows, "colbert")
        assert rows.get_nearest_examples("colbert", query, k=1)[1]["id"] == [index.ids[index.search(query, 1)[1][0]]]

        files = hub.files(REPO, "datasets")
        assert sorted(files)[:2] == [".gitattributes", "README.md"]
        assert "passages/train-00000-of-00001.parquet" in files and "index/manifest.json" in files
        card = files["README.md"].decode()
        assert faults_of_card(card, "dataset") == ([], [])
        size = sum(len(file) for path, file in files.items() if path.startswith("index/") and path.endswith(".npy"))
        for line in (
            "| Passages | 6, with `id`, `title`, `text` |",
            "| Tokens | 18 |",
            f"| Bytes per token | {size / 18:.1f} |",
            "| Bits per dimension | 2 |",
            "| Model | `tester/my-colbert` |",
            "| Model's revision | `0123abc` |",
            "| License | cc-by-sa-4.0 |",
            "| Source of the passages | not stated |",
        ):
            assert line in card.splitlines(), line
        assert 'from_pretrained("tester/my-colbert", revision="0123abc")' in card

    def test_dense_and_bm25(self, hub, tmp_path):
        passages = make_passages()
        dense = make_dense(passages)  # attached to the passages
        push_index_to_hub(dense, passages, REPO)
        loaded, rows = load_index_from_hub(REPO)
        query = np.arange(8.0)
        assert type(loaded) is DenseIndex and rows["text"][:] == passages["text"][:]
        assert loaded.search(query, 6).indices.tolist() == dense.search(query, 6).indices.tolist()
        card = hub.files(REPO, "datasets")["README.md"].decode()
        assert "| Model | not stated |" in card and "embed_queries" not in card

        words = BM25Index.build(passages, progress=False)
        words.save(tmp_path / "words")
        (tmp_path / "words" / "stranger.txt").write_text("not of the index")
        push_index_to_hub(tmp_path / "words", passages, REPO)  # a folder, over another kind of index
        loaded, rows = load_index_from_hub(REPO)
        assert type(loaded) is BM25Index
        assert loaded.search("word3", 2).indices.tolist() == [3]
        assert "index/index.faiss" not in shown(hub) and "index/stranger.txt" not in shown(hub)
        assert "| Model |" not in hub.files(REPO, "datasets")["README.md"].decode()

    def test_usage_of_the_card(self, hub, monkeypatch):
        passages = make_passages(12)
        push_index_to_hub(BM25Index.build(passages, progress=False), passages, REPO)
        card = hub.files(REPO, "datasets")["README.md"].decode()
        code = card.split("```python\n")[1].split("```")[0].replace("What is the capital of Finland?", "word7")
        names = {}
        exec(code, names)
        assert names["passage"]["id"] == "p7"

    def test_passages_in_several_files(self, hub, monkeypatch):
        passages = make_passages(50)
        monkeypatch.setattr(sharing, "BYTES_PER_FILE", passages.data.nbytes // 3)
        monkeypatch.setattr(sharing, "ROWS_PER_WRITE", 4)
        push_index_to_hub(BM25Index.build(passages, progress=False), passages, REPO)
        names = [path for path in shown(hub) if path.startswith("passages/")]
        assert names == [f"passages/train-0000{number}-of-00004.parquet" for number in range(4)]
        assert load_index_from_hub(REPO)[1][:] == passages[:]
        # fewer files replace more
        monkeypatch.setattr(sharing, "BYTES_PER_FILE", 2**30)
        push_index_to_hub(BM25Index.build(passages, progress=False), passages, REPO)
        assert [path for path in shown(hub) if path.startswith("passages/")] == [
            "passages/train-00000-of-00001.parquet"
        ]

    def test_revisions(self, hub):
        first, second = make_passages(), make_passages(4, first=100)
        commit = push_index_to_hub(make_late(first), first, REPO)
        push_index_to_hub(make_late(second), second, REPO, revision="other")
        assert load_index_from_hub(REPO)[0].ids == first["id"][:]
        assert load_index_from_hub(REPO, revision="other")[1]["id"][:] == second["id"][:]
        push_index_to_hub(make_late(second), second, REPO)
        assert load_index_from_hub(REPO)[0].ids == second["id"][:]
        assert load_index_from_hub(REPO, revision=commit.oid)[0].ids == first["id"][:]
        with pytest.raises(RevisionNotFoundError, match="nowhere"):
            load_index_from_hub(REPO, revision="nowhere")

    def test_unchanged_files_are_not_sent(self, hub):
        passages = make_passages()
        index = make_late(passages)
        commit = push_index_to_hub(index, passages, REPO)
        sent = hub.count("PUT", OID)
        assert sent > 2
        again = push_index_to_hub(index, passages, REPO)
        assert again.oid == commit.oid and hub.count("PUT", OID) == sent  # not even an empty commit


class TestFailures:
    def test_lost_connections_are_retried(self, hub):
        passages = make_passages()
        faults = [
            Fault("POST", "repos/create", "status", status=503),
            Fault("POST", "preupload", "drop"),
            Fault("PUT", OID, "drop"),
            Fault("PUT", OID, "status", status=500),
            Fault("POST", "/commit/", "drop"),
            Fault("POST", "/commit/", "status", status=503),
        ]
        with hub.failing(*faults):
            push_index_to_hub(make_late(passages), passages, REPO)
        assert [fault.times for fault in faults] == [0] * len(faults)
        assert load_index_from_hub(REPO)[0].ids == passages["id"][:]
        assert len(hub.repository(REPO, "datasets").commits) == 2  # the creation and this one

    def test_retries_after_the_client_gave_up(self, hub, tmp_path):
        """It tries a large file six times, and then raises an error of its own."""
        np.save(tmp_path / "large.npy", np.arange(4))
        fault = Fault("PUT", OID, "drop", times=7)
        with hub.failing(fault):
            push_files({"large.npy": tmp_path / "large.npy"}, REPO)
        assert fault.times == 0 and "large.npy" in hub.files(REPO)

    def test_lost_answer_makes_no_second_commit(self, hub):
        passages = make_passages()
        with hub.failing(Fault("POST", "/commit/", "lost")):
            commit = push_index_to_hub(make_late(passages), passages, REPO)
        assert list(hub.repository(REPO, "datasets").commits)[1:] == [commit.oid]

    def test_nothing_is_half_visible(self, hub):
        passages = make_passages()
        index = make_late(passages)
        with hub.failing(Fault("POST", "/commit/", "drop", times=100)):
            with pytest.raises(Exception) as failure:  # noqa: B017, PT011 - the client's own
                push_index_to_hub(index, passages, REPO, num_retries=1)
        assert any("sends only what is missing" in note for note in failure.value.__notes__)
        sent = hub.count("PUT", OID)
        assert sent > 2 and shown(hub) == [".gitattributes"]
        with pytest.raises(FileNotFoundError, match="first upload"):
            load_index_from_hub(REPO)
        push_index_to_hub(index, passages, REPO)
        assert hub.count("PUT", OID) == sent  # all contents were there
        assert load_index_from_hub(REPO)[0].ids == passages["id"][:]

        before, other = shown(hub), make_passages(4, first=100)
        with hub.failing(Fault("PUT", OID, "drop", times=100)):
            with pytest.raises(RuntimeError, match="uploading"):
                push_index_to_hub(make_late(other), other, REPO, num_retries=0)
        assert shown(hub) == before and load_index_from_hub(REPO)[0].ids == passages["id"][:]

    @pytest.mark.slow
    def test_killed_before_the_commit(self, hub, in_fresh_process, tmp_path):
        passages = make_passages()
        make_late(passages).save(tmp_path / "index")
        passages.save_to_disk(tmp_path / "passages")
        in_fresh_process(
            f"""
import signal
from datasets import load_from_disk
from huggingface_hub import HfApi
from hf_xlir.index import push_index_to_hub

upload = HfApi.preupload_lfs_files  # the first step of a commit
HfApi.preupload_lfs_files = lambda *given, **more: (upload(*given, **more), os.kill(os.getpid(), signal.SIGKILL))
push_index_to_hub(sys.argv[1], load_from_disk(sys.argv[2]), {REPO!r})
""",
            *(tmp_path / "index", tmp_path / "passages"),
            killed=True,
        )
        sent = hub.count("PUT", OID)
        assert sent > 2 and shown(hub) == [".gitattributes"]
        push_index_to_hub(tmp_path / "index", passages, REPO)
        assert hub.count("PUT", OID) == sent
        assert load_index_from_hub(REPO)[0].ids == passages["id"][:]

    def test_refusals_are_not_retried(self, hub):
        passages = make_passages()
        with hub.failing(Fault("POST", "/commit/", "status", times=100, status=403)):
            with pytest.raises(HfHubHTTPError, match="403"):
                push_index_to_hub(make_late(passages), passages, REPO)
        asked = [path for method, path, _ in hub.requests if method == "POST" and "/commit/" in path]
        assert len(asked) == 1

    def test_concurrent_commit(self, hub, monkeypatch):
        passages, other = make_passages(), make_passages(4, first=100)
        push_index_to_hub(make_late(passages), passages, REPO)
        create_commit, intruding = HfApi.create_commit, [True]

        def slow_commit(api, *args, **kwargs):
            if intruding.pop() if intruding else False:
                files = {**hub.repository(REPO, "datasets").commits[kwargs["parent_commit"]]}
                hub.repository(REPO, "datasets").commit("main", {**files, "passages/more.parquet": b"strange"})
            return create_commit(api, *args, **kwargs)

        monkeypatch.setattr(HfApi, "create_commit", slow_commit)
        push_index_to_hub(make_late(other), other, REPO)
        assert "passages/more.parquet" not in shown(hub)  # the retry listed it
        assert load_index_from_hub(REPO)[0].ids == other["id"][:]

    def test_interrupted_download(self, hub):
        passages = make_passages()
        push_index_to_hub(make_late(passages), passages, REPO)
        with hub.failing(Fault("GET", "/resolve/", "truncate", times=2)):
            try:
                load_index_from_hub(REPO)
            except Exception:  # noqa: BLE001 - the client decides which error; the next call counts
                pass
        loaded, rows = load_index_from_hub(REPO)
        assert loaded.ids == passages["id"][:] and rows[:] == passages[:]

    def test_damage_is_found(self, hub, monkeypatch):
        passages = make_passages()
        push_index_to_hub(make_late(passages), passages, REPO)
        load_index_from_hub(REPO)
        (file,) = Path(constants.HF_HUB_CACHE).glob("datasets--*/snapshots/*/index/records-0.npy")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.resolve().write_bytes(bytes(content))
        monkeypatch.setattr(storage, "ALWAYS_VERIFIED", 0)  # as if the file were large
        with pytest.raises(ValueError, match="other contents than were written"):
            load_index_from_hub(REPO)
        assert load_index_from_hub(REPO, verify=False)[0].ids == passages["id"][:]

    def test_foreign_passages(self, hub):
        push_index_to_hub(make_late(make_passages()), make_passages(), REPO)
        repository = hub.repository(REPO, "datasets")
        files = repository.commits[repository.branches["main"]]
        other = make_passages(6, first=1)
        push_index_to_hub(make_late(other), other, "tester/other")
        others = hub.repository("tester/other", "datasets")
        (path,) = [path for path in files if path.startswith("passages/")]
        repository.commit("main", {**files, path: others.commits[others.branches["main"]][path]})
        with pytest.raises(ValueError, match="`p1`, but `p0` was embedded"):
            load_index_from_hub(REPO)
        repository.commit("main", {name: each for name, each in files.items() if name != path})
        with pytest.raises(FileNotFoundError, match="no passages"):
            load_index_from_hub(REPO)


class TestRights:
    def test_private(self, hub):
        passages = make_passages()
        push_index_to_hub(make_late(passages), passages, REPO, private=True)
        assert hub.repository(REPO, "datasets").private
        with pytest.raises(RepositoryNotFoundError, match="private or gated repo"):
            load_index_from_hub(REPO, token=False)
        assert load_index_from_hub(REPO)[0].ids == passages["id"][:]
        with pytest.raises(RepositoryNotFoundError):
            load_index_from_hub("tester/nothing")

    def test_gated(self, hub):
        passages = make_passages()
        push_index_to_hub(make_late(passages), passages, REPO)
        hub.repository(REPO, "datasets").gated = True
        with pytest.raises(GatedRepoError, match="restricted"):
            load_index_from_hub(REPO, token=False)

    def test_writing_needs_a_token(self, hub):
        passages = make_passages()
        with pytest.raises(HfHubHTTPError, match="401"):
            push_index_to_hub(make_late(passages), passages, REPO, token=False)
        assert not hub.repositories


class TestChecks:
    def test_before_anything_is_sent(self, hub, tmp_path):
        passages, other = make_passages(), make_passages(6, first=1)
        index = make_late(passages)
        for arguments, error, message in (
            ((index, other), ValueError, "was embedded there"),
            ((index, passages.select([0, 1])), ValueError, "2 rows, but 6"),
            ((index, passages.to_list()), ValueError, "must be a `datasets.Dataset`"),
            ((index, passages.remove_columns("text")), ValueError, "lacks"),
            ((tmp_path / "nothing", passages), FileNotFoundError, "no folder"),
            ((tmp_path, passages), ValueError, "has no manifest.json"),
        ):
            with pytest.raises(error, match=message):
                push_index_to_hub(*arguments, REPO)
        index.save(tmp_path / "index")
        (file,) = (tmp_path / "index").glob("records-0*.npy")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(ValueError, match="damaged"):
            push_index_to_hub(tmp_path / "index", passages, REPO)
        TokenEmbeddings(np.eye(2, dtype="float32"), np.array([1, 1]), ["a", "b"]).save(tmp_path / "embeddings")
        with pytest.raises(ValueError, match="token_embeddings"):
            push_index_to_hub(tmp_path / "embeddings", passages, REPO)
        own = BM25Index.build(passages, tokenize=str.split, progress=False)
        with pytest.raises(ValueError, match="tokenize"):
            push_index_to_hub(own, passages, REPO)
        with pytest.raises(ValueError, match="license"):
            push_index_to_hub(index, passages, REPO, license="my own licence")
        assert hub.count("PUT", OID) == 0

    def test_files(self, hub, tmp_path):
        with pytest.raises(ValueError, match="is empty"):
            push_files({}, REPO)
        with pytest.raises(FileNotFoundError, match="1 files do not exist"):
            push_files({"a": tmp_path / "a"}, REPO)
        with pytest.raises(FileNotFoundError, match="no folder"):
            files_of(tmp_path / "nothing")
        for name in ("config.json", "checkpoint-5/config.json", "deep/er/file.txt", "_draft", "training_args.bin"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        files = files_of(tmp_path, ("_*", "checkpoint-*", "training_args.bin"))
        assert sorted(files) == ["config.json", "deep/er/file.txt"]
        push_files(files, "my-model")  # belongs to the user
        assert hub.files("tester/my-model")["deep/er/file.txt"] == b"deep/er/file.txt"
        push_files({"other": tmp_path / "_draft"}, "my-model", replaced=("deep/",))
        assert sorted(hub.files("tester/my-model")) == [".gitattributes", "config.json", "other"]
        assert not hub.count("PUT", OID)


@pytest.mark.parametrize(
    "count, size",
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (21_015_324, "10M<n<100M"),
        (10**11, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories(count, size):
    assert _size_category(count) == size


def test_passages_alone(in_fresh_process, server, hub):
    """As the card says, and from a fresh process."""
    passages = make_passages()
    push_index_to_hub(make_late(passages), passages, REPO)
    answer = in_fresh_process(
        "from datasets import load_dataset\n"
        f"passages = load_dataset({REPO!r}, split='train')\n"
        "ANSWER['rows'] = passages[:]\n"
    )
    assert answer["rows"] == passages[:]
