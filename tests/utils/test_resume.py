"""Interrupted embedding resumes with the same result, and a folder is never published half-written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import embedding_processes
import killed_runs
import numpy as np
import pytest
import torch
from filelock import FileLock
from launching import launch
from word_model import WordModel, WordProcessor, random_passages

from hf_xlir.index import LateInteractionIndex, TokenEmbeddings, embed_passages
from hf_xlir.utils.storage import RowWriter


ROOT = Path(__file__).parents[2]


def embed(folder, model=None, passages=None, processor=None, **options):
    options = {"block_size": 20, "progress": False, **options}
    passages = random_passages(50) if passages is None else passages
    return embed_passages(model or WordModel(), processor or WordProcessor(), passages, folder, **options)


def fail_at(model, batch, error=KeyboardInterrupt):
    """Have the model fail at its `batch`-th call."""

    def fail(*_):
        if len(model.shapes) == batch:
            raise error

    model.register_forward_pre_hook(fail)
    return model


def interrupt(folder, batch=1, **options):
    with pytest.raises(KeyboardInterrupt):
        embed(folder, fail_at(WordModel(), batch), **options)


def names(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
@pytest.mark.parametrize("kind", ["token", "dense"])
def test_kills_before_each_change_of_the_disk(tmp_path, kind):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, killed_runs.__file__, tmp_path, kind],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["unlike"] == [] and found["left over"] == []
    assert found["steps"] >= 20 and set(found["gone on with"]) == {0, 1, 2, 3}
    # complete exactly from the renaming of the manifest on
    assert found["whole before"] == list(range(found["whole before"][0], found["steps"] + 1))
    assert found["gone on with"][found["whole before"][0] - 2] == 3


def test_only_the_remaining_passages_are_encoded(tmp_path):
    expected = embed(None)
    interrupt(tmp_path, batch=2)
    model, processor = WordModel(), WordProcessor()
    embeddings = embed(tmp_path, model, processor=processor)
    assert [len(texts) for texts, _ in processor.calls] == [10]
    assert np.array_equal(embeddings.values, expected.values) and embeddings.ids == expected.ids
    assert np.array_equal(embeddings.lengths, expected.lengths)
    assert names(tmp_path) == ["ids", "lengths", "manifest.json", "query_moments", "values"]


def test_a_finished_call_returns_at_once(tmp_path):
    first = embed(tmp_path)
    model = WordModel()
    again = embed(tmp_path, model)
    assert model.shapes == [] and np.array_equal(again.values, first.values)
    embed(tmp_path, model, resume=False)
    assert len(model.shapes) == 3
    embed(tmp_path, model, stored_dtype="float16")  # another call replaces it
    assert len(model.shapes) == 6 and TokenEmbeddings.load(tmp_path).values.dtype == np.float16


def other_model():
    model = WordModel()
    model.table.weight.data[3, 2] += 1e-6
    return model


def other_processor():
    processor = WordProcessor()
    processor.tokenizer.backend_tokenizer.to_str = lambda: '{"truncation": null, "padding": null, "model": "letters"}'
    return processor


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": other_model}, "`model`"),
        ({"processor": other_processor}, "`processor`"),
        ({"passages": lambda: random_passages(50, titles=False)}, "`passages`"),
        ({"block_size": 25}, "`block_size`"),
        ({"batch_size": 3, "dtype": "bfloat16"}, "`batch_size`, `dtype`, `stored_dtype`"),
    ],
)
def test_other_calls_are_refused(tmp_path, change, named):
    interrupt(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = {name: value() if callable(value) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=f"unfinished work of another call, with other {named}"):
        embed(tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    again = embed(tmp_path, resume=False, **options)
    assert np.array_equal(again.values, embed(None, **options).values)
    assert names(tmp_path) == ["ids", "lengths", "manifest.json", "query_moments", "values"]


def test_padding_of_the_last_call_does_not_matter(tmp_path):
    interrupt(tmp_path)
    processor = WordProcessor()
    processor.tokenizer.backend_tokenizer.to_str = lambda: '{"truncation": 5, "padding": 7, "model": "words"}'
    assert len(embed(tmp_path, processor=processor)) == 50


def test_the_old_result_stays_until_the_new_one_is_complete(tmp_path):
    old = embed(tmp_path, passages=random_passages(9, seed=1))
    interrupt(tmp_path)
    loaded = TokenEmbeddings.load(tmp_path, verify=True)
    assert np.array_equal(loaded.values, old.values) and len(loaded) == 9
    assert len(embed(tmp_path)) == 50 and np.isfinite(old.values).all()
    assert names(tmp_path) == ["ids", "lengths", "manifest.json", "query_moments", "values"]


def test_passages_that_cannot_be_embedded_leave_no_files(tmp_path):
    broken = [{"id": str(i), "text": "w1"} for i in range(40)] + [{"id": "last", "text": ",,"}]
    with pytest.raises(ValueError, match="`last` keeps no token"):
        embed(tmp_path, passages=broken)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    """The work so far stays, and the same call resumes it once there is room."""
    append = RowWriter.append

    def full(writer, rows):
        if writer.num_rows:
            append(writer, rows[: len(rows) // 2])  # half of the block reaches the disk
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "append", full)
        with pytest.raises(OSError, match="could not be written .No space left.*Make room") as raised:
            embed(tmp_path)
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match="has no manifest.json"):
        TokenEmbeddings.load(tmp_path)
    model, processor = WordModel(), WordProcessor()
    assert np.array_equal(embed(tmp_path, model, processor=processor).values, embed(None).values)
    assert [len(texts) for texts, _ in processor.calls] == [20, 10]


def test_a_folder_that_holds_an_index(tmp_path):
    index = LateInteractionIndex.build(TokenEmbeddings(np.ones((1, 2), np.float32), np.array([1]), ["a"]))
    index.save(tmp_path)
    model = WordModel()
    with pytest.raises(ValueError, match="holds `hf_xlir.late_interaction_index`"):
        embed_passages(model, WordProcessor(), random_passages(5), tmp_path, progress=False)
    assert not model.shapes and len(LateInteractionIndex.load(tmp_path)) == 1


def test_a_second_process_is_refused(tmp_path):
    with FileLock(tmp_path / "unfinished-0.lock"), pytest.raises(RuntimeError, match="Another run is writing"):
        embed(tmp_path)
    assert len(embed(tmp_path)) == 50


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    model = WordModel()
    with pytest.raises(OSError, match="could not be written"):
        embed(tmp_path / "file" / "folder", model)
    assert model.shapes == []


def test_two_processes(tmp_path):
    """Each writes and resumes its share, and both read the same result as one process, bit for bit."""
    ranks = launch(embedding_processes.__file__, tmp_path)
    assert [rank["written"] for rank in ranks] == [2, 2]
    expected = {
        "dense": embedding_processes.embed(None, dense=True),
        "token": embedding_processes.embed(None),
        "one block": embedding_processes.embed(None, num_passages=5),
    }
    for case, of_one in expected.items():
        of_one = embedding_processes.parts(of_one)
        for rank in ranks:
            assert rank[case]["ids"] == of_one["ids"] and torch.equal(rank[case]["values"], of_one["values"])
            assert case == "dense" or torch.equal(rank[case]["lengths"], of_one["lengths"])
        assert "unfinished" not in str(list((tmp_path / case).iterdir()))
