"""A reader's answers to a file of any size, by one process or several, that go on where a run was interrupted."""

import hashlib
import json
import math
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.building import blocks, download, resolve_file
from ..data.reader_examples import read_reader_rows
from ..data.reading import BLOCK_BYTES, RowErrors
from ..utils.files import folder_lock
from ..utils.processes import Processes
from ..utils.resume import fingerprint_of
from .reader import answer_metrics, check_scores, judge_answer, known_answers, read_answers


logger = logging.get_logger(__name__)

PREDICTIONS, SCORED, RESULTS, RUN = "predictions.jsonl", "dataset_wscores.jsonl", "eval_results.json", "run.json"
UNFINISHED, LOCK = "unfinished", "evaluation.lock"
QUESTIONS_PER_BLOCK = 256  # that are in memory, and that a kill may cost


def evaluate_reader(
    model,
    processor,
    path,
    output_dir,
    scores=None,
    batch_size=8,
    on_error="raise",
    overwrite=False,
    progress=True,
    **generation,
):
    r"""
    Answer the questions of a file from their passages, and write what comes of it into a folder:

    - `predictions.jsonl`: for each row of the file its `id`, `lang`, `question`, `prediction`, `answers`, and
      `exact_match` and `f1` by SQuAD's definitions, which are `null` for a row that has neither `answers` nor
      `target`;
    - `dataset_wscores.jsonl`, with `scores`: each row as it was, whatever else it says, but for the `score` of its
      passages, which takes the place of what was there, such as a retriever's. It is `null` for passages beyond the
      processor's `n_context`, which were not read, and where likelihoods are asked for and no answer is known;
    - `eval_results.json`: the metrics of [`answer_metrics`], and how many questions there are and have known answers;
    - `run.json`: what decided about all that, by which a finished run is known.

    Rows are in the order of the file. They may have fewer passages than `n_context`, or none: the question is then
    read alone. The whole file is checked first, row by row, so that a bad row costs no work. After that it is read in
    blocks, and memory does not grow with it. Under `accelerate launch` each process takes its share of the blocks, on
    a disk that all see. What is finished of an interrupted run stands in the folder `unfinished`, and the same call
    goes on with it, with any number of processes; only whole results get the names above, and `run.json` comes last.
    A second call that is made while one is at work in the folder is refused.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader, on its device.
        processor ([`FiDT5Processor`]):
            Its processor.
        path (`str` or `os.PathLike`):
            Path or URL of what [`load_reader_examples`] reads: JSON lines, or one JSON array.
        output_dir (`str` or `os.PathLike`):
            The folder. If it holds the finished results of the same call, nothing is computed.
        scores (`"attention"` or `"likelihood"`, *optional*):
            What to write into `dataset_wscores.jsonl`: how much the reader looked at each passage, which
            `reader_distillation="kl"` learns from, or how likely each makes the answer, for `"perplexity"` and
            `"emdr2"`; see [`read_answers`].
        batch_size (`int`, *optional*, defaults to 8):
            Questions that are read at a time.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs how many and the first of them.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to begin anew, and to drop the results of another call.
        progress (`bool`, *optional*, defaults to `True`):
            Whether the first process shows a progress bar.
        generation:
            Arguments of `generate`, see [`read_answers`].

    Returns:
        `dict`: What is in `eval_results.json`, on every process.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is bad, by file and line; there is none; the folder holds the results, finished or not, of
            a call with another model, file or arguments; or as [`read_answers`] raises.
        RuntimeError: If another call is at work in the folder.

    Example:
    ```python
    >>> from hf_xlir.evaluation.reader_runs import evaluate_reader

    >>> evaluate_reader(model, processor, "test.jsonl", "out")["exact_match"]  # doctest: +SKIP
    0.41

    ```
    """
    check_scores(scores)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    folder, name = Path(output_dir), os.fspath(path)
    path = download(resolve_file(path))
    processes = Processes(model.device)
    num_questions = _count(path, name, on_error, report=processes.rank == 0)
    arguments = {"scores": scores, "on_error": on_error, **generation}
    fingerprint = fingerprint_of(model, processor, _digest(path), arguments)

    with processes.meeting() as meet, ExitStack() as held:
        meet()  # all have found the file good
        if processes.rank == 0:
            held.enter_context(folder_lock(folder, LOCK))
            _begin(folder, fingerprint, overwrite, num_questions, batch_size * processes.count)
        meet()
        if not _is_finished(folder, fingerprint):
            run = json.loads((folder / UNFINISHED / RUN).read_text(encoding="utf-8"))
            _check_same(run, fingerprint, folder)  # where machines have disks of their own it is another's
            rows = read_reader_rows(path, name, RowErrors(on_error))
            shown = tqdm(total=num_questions, unit="question", disable=not (progress and processes.rank == 0))
            with shown:
                for number, block in enumerate(blocks(rows, run["questions_per_block"])):
                    part = _part(folder, number)
                    if number % processes.count == processes.rank and not (part / PREDICTIONS).exists():
                        examples = [example for _, example in block]
                        answers = read_answers(model, processor, examples, batch_size, scores, **generation)
                        _write_part(part, block, answers, scores)
                    shown.update(len(block))
            meet()
            if processes.rank == 0:
                _merge(folder, num_questions, run["questions_per_block"], scores)
            meet()
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        meet()  # nobody overwrites what another is still reading
    return results


def _count(path, name, on_error, report):
    """How many rows the file has, all of which have been checked."""
    errors = RowErrors(on_error)
    count = sum(1 for _ in read_reader_rows(path, name, errors))
    if report and errors.count:
        logger.warning(errors.report())
    if not count:
        raise ValueError(f"`{name}` has no rows to read: it is empty, or every row was left out.")
    return count


def _digest(path):
    with open(path, "rb", buffering=BLOCK_BYTES) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _begin(folder, fingerprint, overwrite, num_questions, batch_size):
    """Make the folder ready, or raise if it is another run's."""
    run, begun = folder / RUN, folder / UNFINISHED / RUN
    if overwrite:
        run.unlink(missing_ok=True)  # first, since it says that the others are whole
        for file in (PREDICTIONS, SCORED, RESULTS):
            (folder / file).unlink(missing_ok=True)
    has_work = any(begun.parent.glob(f"*/{PREDICTIONS}"))  # a call that failed at its first questions left none
    for known in (run, begun) if has_work else (run,):
        if known.exists() and not overwrite:
            _check_same(json.loads(known.read_text(encoding="utf-8")), fingerprint, folder)
            if known is run:
                logger.warning(f"`{folder}` holds the results already.")
                shutil.rmtree(begun.parent, ignore_errors=True)  # of a run that was killed at its very end
            return
    taken = [file for file in (PREDICTIONS, SCORED, RESULTS) if (folder / file).exists()]
    if taken:
        raise ValueError(
            f"`{folder}` has files that this run would replace: {', '.join(f'`{file}`' for file in taken)}. Give "
            "another folder, or `overwrite`."
        )
    shutil.rmtree(begun.parent, ignore_errors=True)
    begun.parent.mkdir(parents=True)
    share = math.ceil(num_questions / 4 / batch_size) * batch_size  # of few questions each process gets some
    _write(
        begun, [{"fingerprint": fingerprint, "questions_per_block": max(1, min(QUESTIONS_PER_BLOCK, share))}], indent=2
    )


def _check_same(run, fingerprint, folder):
    differing = [name for name in fingerprint if run["fingerprint"].get(name) != fingerprint[name]]
    if differing:
        names = {"passages": "path"}
        raise ValueError(
            f"`{folder}` holds the results of another run, finished or not: "
            f"{', '.join(f'`{names.get(name, name)}`' for name in differing)} differ. Give another folder, or "
            "`overwrite`."
        )


def _is_finished(folder, fingerprint):
    if not (folder / RUN).exists():
        return False
    return json.loads((folder / RUN).read_text(encoding="utf-8"))["fingerprint"] == fingerprint


def _part(folder, number):
    return folder / UNFINISHED / f"{number:08d}"


def _write_part(part, block, answers, scores):
    """The lines of a block, in a folder of their own; the predictions come last, and say that the block is done."""
    part.mkdir(exist_ok=True)
    if scores:
        scored = (_scored(row, answer.scores) for (row, _), answer in zip(block, answers, strict=True))
        _write(part / SCORED, scored)
    _write(
        part / PREDICTIONS, (_prediction(example, answer) for (_, example), answer in zip(block, answers, strict=True))
    )


def _scored(row, scores):
    if not row.get("ctxs"):
        return row
    scores = scores or []
    scores = scores + [None] * (len(row["ctxs"]) - len(scores))
    return {**row, "ctxs": [{**each, "score": score} for each, score in zip(row["ctxs"], scores, strict=True)]}


def _prediction(example, answer):
    answers = known_answers(example)
    return {
        **{name: example[name] for name in ("id", "lang", "question")},
        "prediction": answer.text,
        "answers": answers,
        **judge_answer(answer.text, answers),
    }


def _merge(folder, num_questions, questions_per_block, scores):
    """Put the blocks together, in the order of the file; each result is renamed when it is whole, `run.json` last."""
    parts = [_part(folder, number) for number in range(math.ceil(num_questions / questions_per_block))]
    missing = [part.name for part in parts if not (part / PREDICTIONS).exists()]
    if missing:
        raise ValueError(
            f"`{folder / UNFINISHED}` lacks {len(missing)} of {len(parts)} blocks, such as {missing[:3]}: the folder "
            "must be on a disk that all processes see."
        )
    for name in (SCORED, PREDICTIONS) if scores else (PREDICTIONS,):
        draft = folder / UNFINISHED / name
        with open(draft, "wb") as whole:
            for part in parts:
                with open(part / name, "rb") as lines:
                    shutil.copyfileobj(lines, whole)
        _publish(draft, folder / name)

    counts = {"num_questions": num_questions, "num_with_answers": 0}

    def judged():
        with open(folder / PREDICTIONS, encoding="utf-8", newline="\n") as lines:
            for line in lines:
                row = json.loads(line)
                counts["num_with_answers"] += row["exact_match"] is not None
                yield row

    metrics = answer_metrics(judged())
    _write(folder / UNFINISHED / RESULTS, [{**metrics, **counts}], indent=2)
    for name in (RESULTS, RUN):
        _publish(folder / UNFINISHED / name, folder / name)
    shutil.rmtree(folder / UNFINISHED)


def _write(file, rows, indent=None):
    """JSON lines under another name, then renamed: what is there is whole."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False, indent=indent) + "\n" for row in rows)
        _publish(draft, file)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _publish(draft, file):
    """Bring a file to the disk, then give it its name."""
    with open(draft, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(draft, file)


__all__ = ["evaluate_reader"]
