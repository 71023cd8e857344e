"""Both tasks of `transformers.pipeline`."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Pipeline, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import hf_xlir
from hf_xlir import QuestionAnsweringPipeline, RetrievalPipeline


def test_registered():
    for task, kind in (
        ("xlir-retrieval", RetrievalPipeline),
        ("xlir-question-answering", QuestionAnsweringPipeline),
    ):
        assert task in PIPELINE_REGISTRY.get_supported_tasks()
        assert PIPELINE_REGISTRY.check_task(task)[1]["impl"] is kind
        assert issubclass(kind, Pipeline)


def test_folder(ask, search, world, tmp_path):
    pipe = ask("colbert", "bm25", n_context=2)
    pipe.save_pretrained(tmp_path)
    answer = pipeline("xlir-question-answering", model=str(tmp_path), device="cpu")
    assert type(answer) is QuestionAnsweringPipeline and answer.task == "xlir-question-answering"
    assert answer(world.questions) == pipe(world.questions)
    retrieve = pipeline("xlir-retrieval", model=tmp_path, device="cpu", k=3)
    assert type(retrieve) is RetrievalPipeline
    assert retrieve(world.questions) == search("colbert", "bm25", k=3)(world.questions)


def test_pipeline(ask, search, world):
    pipe = ask("bm25", n_context=2)
    assert pipeline("xlir-question-answering", model=pipe, device="cpu")(world.questions[0]) == pipe(
        world.questions[0]
    )
    retrieve = pipeline("xlir-retrieval", model=search("bm25", k=2), device="cpu")
    assert retrieve(world.questions) == search("bm25")(world.questions, k=2)


def test_retriever(parts, world, reader, tmp_path):
    for each in parts.colbert:
        each.save_pretrained(tmp_path)
    given = {"index": parts.late, "passages": world.passages, "device": "cpu"}
    expected = RetrievalPipeline(*parts.colbert, **given)(world.questions)
    assert pipeline("xlir-retrieval", model=str(tmp_path), **given)(world.questions) == expected
    model, processor = parts.colbert
    assert pipeline("xlir-retrieval", model=model, processor=processor, **given)(world.questions) == expected
    answer = pipeline(
        "xlir-question-answering", model=str(tmp_path), reader=reader[0], reader_processor=reader[1], **given
    )
    assert len(answer(world.questions[0])["passages"]) == 4


def test_errors(search, world, tmp_path):
    search("bm25").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="There is no `reader`"):
        pipeline("xlir-question-answering", model=str(tmp_path), device="cpu")
    with pytest.raises(KeyError, match="Unknown task xlir-retrieve, available tasks are .*'xlir-retrieval'"):
        pipeline("xlir-retrieve", model=str(tmp_path))
    with pytest.raises(TypeError, match="has no arguments \\['top_k'\\]"):
        pipeline("xlir-retrieval", model=str(tmp_path), device="cpu", top_k=3)
    (tmp_path / "passages" / "state.json").unlink()
    with pytest.raises(ValueError, match="state.json|Directory"):
        pipeline("xlir-retrieval", model=str(tmp_path), device="cpu")


def test_fresh_process(ask, world, tmp_path):
    pipe = ask("colbert")
    pipe.save_pretrained(tmp_path)
    code = (
        "import sys, hf_xlir\n"
        "assert 'datasets' not in sys.modules and 'faiss' not in sys.modules\n"
        "from transformers import pipeline\n"
        "answer = pipeline('xlir-question-answering', model=sys.argv[1], device='cpu')\n"
        "print(answer(sys.argv[2])['answer'])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), world.questions[-1]],
        cwd=Path(hf_xlir.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].strip() == pipe(world.questions[-1])["answer"]
