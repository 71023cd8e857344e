"""Whole systems in folders: what is saved, what is read when, and what is said of a broken folder."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import transformers
from datasets import Dataset
from transformers import AutoConfig, AutoModel, AutoProcessor

import hf_xlir
from hf_xlir import BiEncoderModel, BiEncoderProcessor, ColBERTXLMRModel, QuestionAnsweringPipeline, RetrievalPipeline
from hf_xlir.index import BM25Index, DenseEmbeddings, LateInteractionIndex, add_dense_index, embed_passages


@pytest.fixture
def whole(ask, cross_encoder, tokenizer):
    """A system with everything."""
    return ask(
        *("colbert", "dense", "bm25"),
        fusion="weighted_sum",
        weights={"colbert": 1.0, "dense": 2.0, "bm25": 0.5},
        reranker=cross_encoder(),
        reranker_processor=tokenizer,
        num_candidates=6,
        n_context=3,
        generate_kwargs={"num_beams": 2},
    )


def load(folder, kind=RetrievalPipeline, **arguments):
    return kind.from_pretrained(folder, device="cpu", **arguments)


def said(results):
    """Answers and what was read for them, without scores, which weights at other addresses round another way."""
    return [(result["answer"], [passage["id"] for passage in result["passages"]]) for result in results]


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


class TestRoundTrip:
    def test_all_parts(self, whole, world, tmp_path):
        whole.save_pretrained(tmp_path)
        assert names_in(tmp_path) == [
            *("README.md", "config.json"),
            *("index-bm25", "index-colbert", "index-dense"),
            "passages",
            *("reader", "reranker", "retriever-colbert", "retriever-dense"),
        ]
        loaded = load(tmp_path, QuestionAnsweringPipeline)
        expected = whole(world.questions)
        assert len(expected[0]["passages"]) == 3
        assert loaded(world.questions) == expected
        retrieval = load(tmp_path)
        assert retrieval.model.reader is None
        for of_one, result in zip(retrieval(world.questions, k=3), expected, strict=True):
            read = [{**passage, "reader_score": None} for passage in result["passages"]]
            assert [{**passage, "reader_score": None} for passage in of_one] == read

    def test_one_retriever(self, parts, world, tmp_path):
        pipe = RetrievalPipeline(*parts.colbert, parts.late, world.passages, device="cpu", k=2)
        pipe.save_pretrained(tmp_path / "new" / "folder")
        folder = tmp_path / "new" / "folder"
        assert names_in(folder) == ["README.md", "config.json", "index", "passages", "retriever"]
        assert load(folder)(world.questions) == pipe(world.questions)
        assert len(load(folder, k=5)(world.questions[0])) == 5
        values = json.loads((folder / "config.json").read_text())
        assert len(values.pop("save_id")) == 12
        assert values == {
            "model_type": "xlir_system",
            "format_version": 1,
            "task": "xlir-retrieval",
            "passages": "passages",
            "retrievers": [{"name": "retriever", "kind": "late_interaction", "index": "index", "model": "retriever"}],
            "fusion": {},
            "reranker": None,
            "reader": None,
            "defaults": {"k": 2},
        }
        assert isinstance(AutoModel.from_pretrained(folder, subfolder="retriever"), ColBERTXLMRModel)
        assert isinstance(AutoProcessor.from_pretrained(folder, subfolder="retriever"), type(parts.colbert[1]))
        assert AutoConfig.from_pretrained(folder).folders() == ["index", "passages", "retriever"]

    def test_shared_model_is_saved_once(self, search, parts, world, tmp_path):
        model, processor = parts.colbert
        pipe = search("colbert", "bm25", reranker=model, reranker_processor=processor)
        pipe.save_pretrained(tmp_path)
        parts = ["index-bm25", "index-colbert", "passages", "retriever-colbert"]
        assert names_in(tmp_path) == ["README.md", "config.json", *parts]
        loaded = load(tmp_path)
        assert loaded(world.questions) == pipe(world.questions)
        assert loaded.model.reranker.model is loaded.model.retrievers["colbert"].model

    def test_bm25_without_spaces(self, tmp_path):
        passages = [{"id": "a", "text": "尼罗河向北流"}, {"id": "b", "text": "伏尔加河向南流"}]
        index = BM25Index.build(passages, tokenize="bigrams", progress=False)
        RetrievalPipeline(index=index, passages=passages, device="cpu").save_pretrained(tmp_path)
        assert [each["id"] for each in load(tmp_path)("伏尔加河在哪里?")] == ["b"]

    def test_vectors_are_saved_only_in_the_index(self, parts, world, tmp_path):
        vectors = embed_passages(*parts.biencoder, world.passages, progress=False)
        passages = add_dense_index(world.passages.add_column("vector", list(vectors.values)), "vector")
        pipe = RetrievalPipeline(*parts.biencoder, passages.get_index("dense"), passages, device="cpu")
        pipe.save_pretrained(tmp_path)
        assert passages.list_indexes()  # still attached
        loaded = load(tmp_path)
        assert loaded.model.passages.column_names == ["id", "title", "text", "lang"]
        assert loaded(world.questions) == pipe(world.questions)


class TestReading:
    def test_weights_are_read_at_first_use(self, whole, world, tmp_path, monkeypatch):
        whole.save_pretrained(tmp_path)
        read = []
        loading = transformers.modeling_utils.PreTrainedModel.from_pretrained.__func__

        def counted(cls, *args, **kwargs):
            read.append(cls.__name__)
            return loading(cls, *args, **kwargs)

        monkeypatch.setattr(transformers.modeling_utils.PreTrainedModel, "from_pretrained", classmethod(counted))
        loaded = load(tmp_path, QuestionAnsweringPipeline)
        assert read == []
        loaded(world.questions[0])
        retrievers = {"ColBERTXLMRModel", "BiEncoderModel"}
        assert set(read) == retrievers | {"XLMRobertaForSequenceClassification", "FiDT5ForConditionalGeneration"}
        loaded(world.questions[0])
        assert len(read) == 4

    @pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what Linux says was read")
    def test_opening_reads_little(self, make_biencoder, encoder_config, tokenizer, tmp_path):
        """Indexes and passages are memory-mapped: of an index of 21 MB, only ids and small files are read."""
        count, dim = 10_240, 512
        model = make_biencoder(encoder_config=encoder_config(), embedding_dim=dim)
        processor = BiEncoderProcessor.from_config(tokenizer, model.config)
        passages = Dataset.from_dict({"id": [str(row) for row in range(count)], "text": ["word"] * count})
        values = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
        index = add_dense_index(passages, DenseEmbeddings(values, passages["id"][:]), "dense").get_index("dense")
        RetrievalPipeline(model, processor, index, passages, device="cpu").save_pretrained(tmp_path)
        assert sum(path.stat().st_size for path in (tmp_path / "index").iterdir()) > 20e6

        def num_read():
            [line] = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
            return int(line.split()[1])

        load(tmp_path)  # imports what it needs
        before = num_read()
        loaded = load(tmp_path)
        assert num_read() - before < 2e6
        assert len(loaded("word", k=3)) == 3

    def test_dtype(self, parts, world, tmp_path):
        pipe = RetrievalPipeline(*parts.colbert, parts.late, world.passages, device="cpu")
        pipe.save_pretrained(tmp_path / "a")
        half = load(tmp_path / "a", dtype="bfloat16")
        half.save_pretrained(tmp_path / "b")
        model, _ = load(tmp_path / "b").model.retrievers["retriever"].model.get()
        assert str(model.dtype) == "torch.bfloat16"

    def test_retriever_with_index_and_passages(self, parts, world, tmp_path):
        for each in parts.colbert:
            each.save_pretrained(tmp_path / "model")
        parts.late.save(tmp_path / "index")
        world.passages.to_json(tmp_path / "passages.jsonl")
        world.passages.save_to_disk(tmp_path / "passages")
        expected = RetrievalPipeline(*parts.colbert, parts.late, world.passages, device="cpu")(world.questions)
        given = {"index": tmp_path / "index", "passages": tmp_path / "passages"}
        assert load(tmp_path / "model", **given)(world.questions) == expected
        given["passages"] = str(tmp_path / "passages.jsonl")
        found = load(tmp_path / "model", **given)(world.questions)
        assert [[each["id"] for each in of_one] for of_one in found] == [
            [each["id"] for each in of_one] for of_one in expected
        ]
        with pytest.raises(ValueError, match="There are no `passages`"):
            load(tmp_path / "model", index=tmp_path / "index")
        positional = RetrievalPipeline.from_pretrained(tmp_path / "model", parts.late, world.passages, device="cpu")
        assert positional(world.questions) == expected
        with pytest.raises(FileNotFoundError, match="load_index_from_hub"):
            load(tmp_path / "model", index="me/my-index", passages=world.passages)

    def test_folders_without_a_system(self, parts, world, reader, tmp_path):
        parts.late.save(tmp_path / "index")
        (tmp_path / "empty").mkdir()
        given = {"index": parts.late, "passages": world.passages}
        for path, error, message in (
            (tmp_path / "index", ValueError, "holds an index: give it as `index`"),
            (tmp_path / "empty", ValueError, "no config.json"),
            (tmp_path / "nothing", FileNotFoundError, "There is no folder `.*nothing`, and no repository"),
        ):
            with pytest.raises(error, match=message):
                load(path, **given)
            for part in ("reader", "reranker"):
                with pytest.raises(error, match=message):
                    QuestionAnsweringPipeline(*parts.colbert, **given, **{"reader": reader[0], part: path})

    def test_several_indexes_of_one_model(self, parts, world, search, tmp_path):
        for each in parts.colbert:
            each.save_pretrained(tmp_path / "model")
        parts.bm25.save(tmp_path / "words")
        indexes = {"colbert": parts.late, "bm25": tmp_path / "words"}
        pipe = RetrievalPipeline.from_pretrained(tmp_path / "model", indexes, world.passages, device="cpu")
        assert pipe(world.questions) == search("colbert", "bm25")(world.questions)
        pipe = RetrievalPipeline.from_pretrained(None, parts.bm25, world.passages, device="cpu")
        assert pipe(world.questions) == search("bm25")(world.questions)
        twice = RetrievalPipeline(*parts.colbert, {"a": parts.late, "b": parts.late}, world.passages, device="cpu")
        assert {passage["id"] for passage in twice(world.questions[0], k=5)} == {
            passage["id"] for passage in search("colbert")(world.questions[0], k=5)
        }
        for indexes, message in (
            ({"a": parts.bm25, "b": parts.bm25}, "leave `model`"),
            ({"colbert": parts.late, "dense": parts.dense}, "gives token_vectors"),
            ({}, "There is no retriever"),
        ):
            with pytest.raises(ValueError, match=message):
                RetrievalPipeline.from_pretrained(tmp_path / "model", indexes, world.passages, device="cpu")

    def test_working_directory_may_change(self, ask, world, tmp_path, monkeypatch):
        expected = ask("colbert")(world.questions)
        ask("colbert").save_pretrained(tmp_path / "here" / "my system é")
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        loaded = load("my system é", QuestionAnsweringPipeline)
        monkeypatch.chdir(tmp_path / "there")
        assert said(loaded(world.questions)) == said(expected)

    def test_moved_read_only_folder(self, ask, world, tmp_path):
        expected = ask("colbert", "dense", "bm25")(world.questions)
        ask("colbert", "dense", "bm25").save_pretrained(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        paths = [tmp_path / "b", *(tmp_path / "b").rglob("*")]
        before = {path: path.stat().st_mtime_ns for path in paths}
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            assert said(load(tmp_path / "b", QuestionAnsweringPipeline)(world.questions)) == said(expected)
        finally:
            for path in paths:
                path.chmod(0o755)
        # root could write, but nothing did
        assert {path: path.stat().st_mtime_ns for path in [tmp_path / "b", *(tmp_path / "b").rglob("*")]} == before

    def test_concurrent_threads(self, ask, world, tmp_path):
        ask("colbert", "dense", "bm25").save_pretrained(tmp_path)
        expected = [ask("colbert", "dense", "bm25")(question) for question in world.questions]
        loaded = load(tmp_path, QuestionAnsweringPipeline)  # nothing is read yet
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(loaded, world.questions * 3))
        assert said(found) == said(expected * 3)
        alone = [passage["reader_score"] for question in world.questions for passage in loaded(question)["passages"]]
        together = [passage["reader_score"] for result in found for passage in result["passages"]]
        assert together == pytest.approx(alone * 3, abs=1e-4)


class TestSavingAgain:
    def test_replaces_the_whole_system(self, search, ask, world, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        ask("colbert", "bm25").save_pretrained(tmp_path)
        search("dense").save_pretrained(tmp_path)
        names = names_in(tmp_path)
        assert len(names) == 6 and {"README.md", "config.json", "notes.txt"} < set(names)
        assert [name.split("-")[0] for name in names if "." not in name] == ["index", "passages", "retriever"]
        assert load(tmp_path)(world.questions) == search("dense")(world.questions)

    def test_saves_over_its_source(self, ask, world, tmp_path):
        expected = ask("colbert", "bm25")(world.questions)
        ask("colbert", "bm25").save_pretrained(tmp_path)
        loaded = load(tmp_path, QuestionAnsweringPipeline)
        for _ in range(2):
            loaded.save_pretrained(tmp_path)
            assert load(tmp_path, QuestionAnsweringPipeline)(world.questions) == expected
        assert loaded(world.questions) == expected
        assert len(names_in(tmp_path)) == 7
        shutil.rmtree(tmp_path)  # mapped files stay readable
        loaded.save_pretrained(tmp_path)
        assert load(tmp_path, QuestionAnsweringPipeline)(world.questions) == expected

    def test_unread_parts_are_copied(self, ask, world, tmp_path):
        ask("colbert").save_pretrained(tmp_path / "a")
        load(tmp_path / "a", QuestionAnsweringPipeline).save_pretrained(tmp_path / "b")
        weights = [(tmp_path / name / "reader" / "model.safetensors").read_bytes() for name in "ab"]
        assert weights[0] == weights[1]

    def test_open_pipelines_refuse_new_parts(self, search, ask, world, tmp_path):
        ask("colbert").save_pretrained(tmp_path)
        early, late = (load(tmp_path, QuestionAnsweringPipeline) for _ in range(2))
        expected = early(world.questions)
        ask("dense").save_pretrained(tmp_path)
        assert early(world.questions) == expected  # it has read everything
        with pytest.raises(ValueError, match="saved again"):
            late(world.questions)

    @pytest.mark.parametrize("remove", [True, False])
    def test_open_pipelines_refuse_parts_with_equal_names(self, ask, world, tmp_path, remove):
        ask("colbert").save_pretrained(tmp_path)
        late = load(tmp_path, QuestionAnsweringPipeline)
        if remove:
            shutil.rmtree(tmp_path)
        else:
            ask("dense").save_pretrained(tmp_path)
        ask("colbert").save_pretrained(tmp_path)
        assert "reader" in names_in(tmp_path)
        with pytest.raises(ValueError, match="saved again"):
            late(world.questions)

    def test_failed_save_changes_nothing(self, search, ask, world, tmp_path, monkeypatch):
        ask("colbert", "bm25").save_pretrained(tmp_path)
        before = names_in(tmp_path)

        def fail(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(BiEncoderModel, "save_pretrained", fail)
        with pytest.raises(OSError, match="No space left"):
            search("dense").save_pretrained(tmp_path)
        assert names_in(tmp_path) == before
        assert load(tmp_path)(world.questions) == search("colbert", "bm25")(world.questions)

    def test_parts_of_killed_saves_are_removed_a_day_later(self, search, tmp_path):
        search("bm25").save_pretrained(tmp_path)
        for name in ("index-aaaaaaaaaaaa", "retriever-colbert-bbbbbbbbbbbb", "index-mine"):
            (tmp_path / name).mkdir()
            os.utime(tmp_path / name, (0, 0))
        (tmp_path / "reader-cccccccccccc").mkdir()  # may be in use by a writer
        search("bm25").save_pretrained(tmp_path)
        names = names_in(tmp_path)
        assert "index-mine" in names and "reader-cccccccccccc" in names
        assert not {"index-aaaaaaaaaaaa", "retriever-colbert-bbbbbbbbbbbb"} & set(names)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs `fork`")
    @pytest.mark.slow
    def test_kill_at_every_step(self, tmp_path):
        script = Path(__file__).with_name("killed_saves.py")
        environment = {**os.environ, "PYTHONPATH": str(Path(hf_xlir.__file__).parents[1])}
        process = subprocess.run(
            [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment
        )
        assert process.returncode == 0, process.stderr
        result = json.loads(process.stdout)
        old, new = "old0old1old2", "new0new1new2"
        first_new = result["found"].index(new)
        assert result["found"] == [old] * first_new + [new] * (result["steps"] - first_new)
        assert first_new > 5 and result["steps"] - first_new >= 2  # old parts are removed last


class TestRefused:
    def test_folders_without_a_system(self, search, parts, tmp_path):
        parts.colbert[0].save_pretrained(tmp_path)
        before = names_in(tmp_path)
        with pytest.raises(ValueError, match="'colbert_xlmr', whose config.json"):
            search("bm25").save_pretrained(tmp_path)
        assert names_in(tmp_path) == before
        with pytest.raises(ValueError, match="is a file: give a folder"):
            search("bm25").save_pretrained(tmp_path / "config.json")

    def test_parts_that_cannot_be_saved(self, world, tmp_path, search):
        index = BM25Index.build(world.passages, tokenize=str.split, progress=False)
        pipe = RetrievalPipeline(index=index, passages=world.passages, device="cpu")
        with pytest.raises(ValueError, match="tokenize"):
            pipe.save_pretrained(tmp_path / "a")
        with pytest.raises(ValueError, match="default of `params`"):
            search("dense", params=object()).save_pretrained(tmp_path / "a")
        assert names_in(tmp_path) == []

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            load(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises((OSError, ValueError), match="config.json"):
            load(tmp_path / "empty")

    @pytest.fixture
    def edit(self, ask, tmp_path):
        ask("colbert", "bm25").save_pretrained(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())

        def change(**fields):
            (tmp_path / "config.json").write_text(json.dumps({**values, **fields}))
            return tmp_path

        return change

    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"format_version": 2}, "version 2, .* up to 1: upgrade"),
            ({"passages": "../passages"}, "names \\['../passages'\\]"),
            ({"reader": "gone"}, "lacks \\['gone'\\], which its config.json names"),
            ({"retrievers": []}, "is damaged: it does not name the parts"),
            ({"retrievers": [{"name": "a", "kind": "magic", "index": "index-bm25"}]}, "'bm25', .* names 'magic'"),
            ({"retrievers": ["index-bm25"]}, "is damaged: it does not name the parts"),
            ({"retrievers": [{"name": "a", "kind": "bm25", "index": 3}]}, "is damaged: it does not name the parts"),
            (
                {"retrievers": [{"name": "a", "kind": "dense", "index": "index-bm25"}]},
                "'bm25', .* names 'dense'",
            ),
            (
                {"retrievers": [{"name": "a", "kind": "late_interaction", "index": "index-colbert"}]},
                "give the `model`",
            ),
            ({"defaults": {"generate_kwargs": {"custom_generate": "a/b"}}}, "run code from elsewhere"),
            ({"defaults": {"generate_kwargs": {"trust_remote_code": True}}}, "run code from elsewhere"),
            ({"defaults": {"n_context": -1}}, "`n_context` must be a positive integer"),
            ({"fusion": {"method": "borda"}}, "`method` must be one of"),
            ({"fusion": {"rank_constant": "60"}}, "`rank_constant`.*'60'"),
            ({"format_version": "2"}, "is damaged: Validation error for field 'format_version'"),
            (
                {"fusion": {"method": "reciprocal_rank", "rank_konstant": 9}},
                "config.json of `.*` cannot be read: its `fusion` has the key 'rank_konstant', which this hf_xlir "
                "does not know. Known keys are 'method', 'weights', 'rank_constant': correct the key, or upgrade",
            ),
            (
                {"retrievers": [{"name": "a", "kind": "bm25", "index": "index-bm25", "modell": "x"}]},
                "its retriever 'a' has the key 'modell', which .* Known keys are 'name', 'kind', 'index', 'model':",
            ),
            ({"rerankers": "x"}, "it has the key 'rerankers', which .* 'fusion', 'reranker', 'reader', 'defaults'"),
        ],
    )
    def test_invalid_configurations(self, edit, fields, message):
        with pytest.raises(ValueError, match=message):
            load(edit(**fields), QuestionAnsweringPipeline)

    def test_missing_or_foreign_parts(self, edit, parts, world, tmp_path):
        folder = edit()
        with pytest.raises(ValueError, match="There is no `reader`"):
            load(edit(reader=None), QuestionAnsweringPipeline)
        edit()
        world.passages.select(range(10)).save_to_disk(folder / "passages")
        with pytest.raises(ValueError, match="has 10 rows, but 24"):
            load(folder)
        world.passages.save_to_disk(folder / "passages")
        assert load(folder)
        LateInteractionIndex.build(
            embed_passages(*parts.colbert, world.passages.select(range(5)), progress=False)
        ).save(folder / "index-colbert")
        with pytest.raises(ValueError, match="has 24 rows, but 5"):
            load(folder)

    def test_damaged_passages(self, edit):
        folder = edit()
        [file] = (folder / "passages").glob("*.arrow")
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(ValueError, match="passages` is damaged .*: copy or download it again"):
            load(folder)
        shutil.rmtree(folder / "passages")
        (folder / "passages").mkdir()
        with pytest.raises(ValueError, match="passages` is damaged .*: copy or download it again"):
            load(folder)

    def test_model_classes_refuse_a_system(self, edit):
        with pytest.raises(ValueError, match="xlir_system"):
            ColBERTXLMRModel.from_pretrained(edit())
