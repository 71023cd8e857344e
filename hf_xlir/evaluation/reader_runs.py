"""Reader runs: the answers of a reader to examples in memory or in a file of any size, and how good they are."""

import hashlib
import json
import math
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..data.building import blocks, download, resolve_file
from ..data.collators import target_of
from ..data.reader_examples import read_reader_rows
from ..data.reading import BLOCK_BYTES, RowErrors
from ..models.processing_fid_t5 import ANSWER_LENGTH, answer_limit, generate_answers, scores_read
from ..utils.checks import check_choice, check_integer, quoted
from ..utils.files import flush_to_disk, folder_lock, replacing
from ..utils.processes import Processes
from ..utils.progress import progress_bar
from ..utils.resume import fingerprint_of
from .answers import exact_match, f1_score


logger = logging.get_logger(__name__)

SCORES = ("attention", "likelihood")
PREDICTIONS, SCORED, RESULTS, RUN = "predictions.jsonl", "dataset_wscores.jsonl", "eval_results.json", "run.json"
UNFINISHED, LOCK = "unfinished", "evaluation.lock"
QUESTIONS_PER_BLOCK = 256  # in memory at once; a kill costs at most one block per process


class ReadAnswer(NamedTuple):
    """
    A reader's answer to one question.

    Args:
        text (`str`):
            The answer.
        scores (`list[float]`, *optional*):
            A score for each passage that was read; see [`read_answers`].
    """

    text: str
    scores: list[float] | None


@torch.no_grad()
def read_answers(model, processor, examples, batch_size=8, scores=None, **generation):
    r"""
    Answer questions from their passages. Questions with passages of similar number and length share a batch; the
    results do not depend on it.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader. It is put into evaluation mode.
        processor ([`FiDT5Processor`]):
            The reader's processor, which sets how many passages and tokens are read.
        examples (`list[dict]`):
            Rows with `question` and `ctxs`, a list of passages with the best first. A question without passages is
            read alone.
        batch_size (`int`, *optional*, defaults to 8):
            Number of questions to read at once.
        scores (`"attention"` or `"likelihood"`, *optional*):
            Passage scores to return as well. `"attention"`: how much the reader attended to each passage
            ([`FiDT5ForConditionalGeneration.reader_scores`]). `"likelihood"`: how likely each passage, read alone,
            makes the example's `target`, or else the first of its `answers` ([`answer_log_likelihoods`]); an example
            with neither gets no scores.
        generation:
            Arguments of `generate`. By default decoding is greedy, with at most as many tokens as the processor's
            `answer_maxlength`, or 50 if that is `None`.

    Returns:
        `list[ReadAnswer]`: `text` and `scores`, in the order of `examples`. Passages beyond `n_context` have no score.

    Raises:
        ValueError: If a score is NaN or infinite, or `scores` is unknown.

    Example:
    ```python
    >>> from hf_xlir.evaluation import read_answers

    >>> example = {"question": "Who?", "ctxs": [{"title": "Bell", "text": "He did."}]}  # doctest: +SKIP
    >>> read_answers(model, processor, [example])[0].text  # doctest: +SKIP
    'Bell'

    ```
    """
    check_choice("scores", scores, (*SCORES, None))
    model.eval()
    if "max_length" not in generation:
        generation.setdefault("max_new_tokens", answer_limit(processor))
    generation = {"do_sample": False, "num_beams": 1, **generation, "output_reader_scores": scores == "attention"}
    order = sorted(range(len(examples)), key=lambda place: _size(examples[place], processor.n_context))
    answers = [None] * len(examples)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        questions = [examples[place]["question"] for place in places]
        passages = [examples[place]["ctxs"] for place in places]
        _, texts, found = generate_answers(model, processor, questions, passages, **generation)
        if scores == "likelihood":
            targets = [target_of(examples[place]) for place in places]
            found = _likelihoods(model, processor, questions, passages, targets)
        for place, text, own in zip(places, texts, found or [None] * len(places), strict=True):
            if own is not None and not all(map(math.isfinite, own)):
                raise ValueError(
                    f"The reader's scores of passages for {examples[place]['question']!r:.80} are not all finite: its "
                    "weights are damaged, or overflow the type that it was loaded in; try float32."
                )
            answers[place] = ReadAnswer(text, own)
    return answers


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
    Answer the questions of a file from their passages, and write the results into a folder:

    - `predictions.jsonl`: for each row its `id`, `lang`, `question`, `prediction`, `answers`, and `exact_match` and
      `f1` with SQuAD's normalisation. These are `null` for a row that has neither `answers` nor `target`;
    - `dataset_wscores.jsonl`, with `scores`: each row unchanged, except that each passage's `score` is replaced by
      the reader's. It is `null` for passages beyond the processor's `n_context`, which are not read, and for
      likelihoods of a row without a known answer;
    - `eval_results.json`: the mean of `exact_match` and `f1` over questions, by language and over languages, the
      number of questions, and the number of questions with known answers;
    - `run.json`: the model, file and arguments, which identify a finished run.

    Rows keep the order of the file. A row may have fewer passages than `n_context`, or none: its question is then read
    alone. The whole file is checked before work starts. It is then read in blocks, so that memory does not grow with
    the file. Under `accelerate launch` the processes share the blocks, on a disk that all of them see. An interrupted
    run keeps its finished blocks in the folder `unfinished`; the same call resumes it, with any number of processes.
    Only complete results get the names above, and `run.json` is written last. While a call works in the folder, a
    second call is refused.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader, on its device.
        processor ([`FiDT5Processor`]):
            The reader's processor.
        path (`str` or `os.PathLike`):
            Path or URL of a file for [`load_reader_examples`]: JSON lines, or one JSON array.
        output_dir (`str` or `os.PathLike`):
            The folder. If it has the finished results of the same call, nothing is computed.
        scores (`"attention"` or `"likelihood"`, *optional*):
            Scores for `dataset_wscores.jsonl`: `"attention"` for `reader_distillation="kl"`, `"likelihood"` for
            `"perplexity"` and `"emdr2"`. See [`read_answers`].
        batch_size (`int`, *optional*, defaults to 8):
            Number of questions to read at once.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"skip"` leaves out bad rows, and logs their number and the first of them.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to start again, and to delete the results of another call.
        progress (`bool`, *optional*, defaults to `True`):
            Whether the first process shows a progress bar.
        generation:
            Arguments of `generate`, see [`read_answers`].

    Returns:
        `dict`: The content of `eval_results.json`, on every process.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row is bad (the message gives file and line), the file has no rows, or the folder has the
            results, finished or not, of a call with another model, file or arguments; and as [`read_answers`] raises.
        RuntimeError: If another call is working in the folder.

    Example:
    ```python
    >>> from hf_xlir.evaluation import evaluate_reader

    >>> evaluate_reader(model, processor, "test.jsonl", "out")["exact_match"]  # doctest: +SKIP
    0.41

    ```
    """
    check_choice("scores", scores, (*SCORES, None))
    check_integer("batch_size", batch_size)
    folder, name = Path(output_dir), os.fspath(path)
    path = download(resolve_file(path))
    processes = Processes(model.device)
    num_questions = _count(path, name, on_error, report=processes.rank == 0)
    arguments = {"scores": scores, "on_error": on_error, **generation}
    fingerprint = fingerprint_of(model, processor, _digest(path), arguments)

    with processes.meeting() as meet, ExitStack() as held:
        meet()  # all processes have checked the file
        if processes.rank == 0:
            held.enter_context(folder_lock(folder, LOCK))
            _begin(folder, fingerprint, overwrite, num_questions, batch_size * processes.count)
        meet()
        if not _is_finished(folder, fingerprint):
            run = json.loads((folder / UNFINISHED / RUN).read_text(encoding="utf-8"))
            _check_same(run, fingerprint, folder)  # machines without a common disk would find another run
            rows = read_reader_rows(path, name, RowErrors(on_error))
            show = progress and processes.rank == 0
            with progress_bar(total=num_questions, show=show, desc="Reading", unit="question") as bar:
                for number, block in enumerate(blocks(rows, run["questions_per_block"])):
                    part = _part(folder, number)
                    if number % processes.count == processes.rank and not (part / PREDICTIONS).exists():
                        examples = [example for _, example in block]
                        answers = read_answers(model, processor, examples, batch_size, scores, **generation)
                        _write_part(part, block, answers, scores)
                    bar.update(len(block))
            meet()
            if processes.rank == 0:
                _merge(folder, num_questions, run["questions_per_block"], scores)
            meet()
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        meet()  # before anyone overwrites the results
    return results


@torch.no_grad()
def answer_log_likelihoods(model, input_ids, attention_mask, labels, passages_per_step=16):
    r"""
    `log p(answer | question, passage)` for each passage, read alone: the signal from which the perplexity distillation
    and EMDR2 of Atlas train a retriever (https://huggingface.co/papers/2208.03299). It is the sum over the answer's
    tokens, including the end token.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader, in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)`):
            Token ids of question and passage.
        attention_mask (`torch.Tensor` of the same shape):
            Not 0 for real tokens. A passage without real tokens is absent.
        labels (`torch.LongTensor` of shape `(batch_size, target_length)`):
            Token ids of the answers, with -100 after the end.
        passages_per_step (`int`, *optional*, defaults to 16):
            Number of passages to read at once. Memory for their logits grows with `target_length` times the size of
            the vocabulary.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_passages)`, at least float32: at most 0, and `-inf` for absent
        passages.

    Raises:
        ValueError: If shapes do not match, or an answer has no token.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration
    >>> from hf_xlir.evaluation import answer_log_likelihoods

    >>> config = FiDT5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    >>> model = FiDT5ForConditionalGeneration(config).eval()
    >>> input_ids = torch.randint(3, 100, (2, 3, 8))  # two questions, three passages each
    >>> labels = torch.tensor([[7, 1, -100], [5, 6, 1]])
    >>> answer_log_likelihoods(model, input_ids, torch.ones_like(input_ids), labels).shape
    torch.Size([2, 3])

    ```
    """
    if input_ids.ndim != 3 or attention_mask.shape != input_ids.shape or len(labels) != len(input_ids):
        raise ValueError(
            "`input_ids` and `attention_mask` must have the shape (batch_size, num_passages, length), and `labels` "
            f"(batch_size, target_length), got {tuple(input_ids.shape)}, {tuple(attention_mask.shape)} and "
            f"{tuple(labels.shape)}."
        )
    counts = labels != -100
    if not counts.any(dim=1).all():
        empty = (~counts.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"The answers of the questions in rows {empty} have no token: leave these questions out.")
    batch_size, num_passages, length = input_ids.shape
    tokens, mask = input_ids.reshape(-1, length), attention_mask.reshape(-1, length)
    present = mask.ne(0).any(dim=1).nonzero().flatten()
    likelihoods = []
    for rows in present.split(passages_per_step):
        answers = labels[rows // num_passages]
        logits = model(input_ids=tokens[rows], attention_mask=mask[rows], labels=answers, use_cache=False).logits
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        counted = answers != -100
        chosen = logits.gather(2, answers.masked_fill(~counted, 0)[:, :, None]).squeeze(2) - logits.logsumexp(dim=2)
        likelihoods.append(chosen.masked_fill(~counted, 0).sum(dim=1))
    likelihoods = torch.cat(likelihoods) if likelihoods else torch.zeros(0, device=input_ids.device)
    found = likelihoods.new_full((batch_size * num_passages,), -torch.inf)
    found[present] = likelihoods.clamp_max(0)  # rounding may leave a little more
    return found.view(batch_size, num_passages)


def known_answers(example):
    """The right answers of a reader's example: its `answers`, or else its `target`; empty if none is known."""
    return example["answers"] or [each for each in [example["target"]] if each is not None]


def judge_answer(text, answers):
    """`exact_match` and `f1` of an answer, as a dictionary; both `None` if there are no right `answers`."""
    if not answers:
        return {"exact_match": None, "f1": None}
    return {"exact_match": exact_match(text, answers), "f1": f1_score(text, answers)}


def answer_metrics(judged):
    """
    Means of the dictionaries of [`judge_answer`], which may also have a `lang`: `exact_match` and `f1` over questions.
    With several languages also `macro_f1`, the mean over languages, and one mean per language, such as `ko_f1`;
    `other` stands for questions without a language. Questions without known answers do not count.
    """
    sums = {}  # by language: number of questions, sum of exact match, sum of F1
    for row in judged:
        if row["exact_match"] is None:
            continue
        own = sums.setdefault(row.get("lang") or "other", [0, 0, 0.0])
        for place, value in enumerate((1, row["exact_match"], row["f1"])):
            own[place] += value
    if not sums:
        return {}
    num_questions = sum(number for number, _, _ in sums.values())
    names = ("exact_match", "f1")
    metrics = {name: sum(each[place] for each in sums.values()) / num_questions for place, name in enumerate(names, 1)}
    if len(sums) == 1:
        return metrics
    means = {
        language: {name: own[place] / own[0] for place, name in enumerate(names, 1)}
        for language, own in sorted(sums.items())
    }
    metrics |= {f"macro_{name}": sum(own[name] for own in means.values()) / len(means) for name in names}
    return metrics | {f"{language}_{name}": own[name] for language, own in means.items() for name in names}


def _likelihoods(model, processor, questions, passages, targets):
    """The passage scores of each question, or `None` if no answer is known."""
    known = [place for place, target in enumerate(targets) if target is not None]
    found = [None] * len(targets)
    if known:
        questions, passages, targets = ([each[place] for place in known] for each in (questions, passages, targets))
        inputs = processor(questions, passages, targets).to(model.device)
        scores = answer_log_likelihoods(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        for place, own in zip(known, scores_read(scores.tolist(), passages, processor), strict=True):
            found[place] = own
    return found


def _size(example, n_context):
    """The cost of a question in a batch: the number of its passages, and the length of the longest."""
    passages = example["ctxs"][:n_context]
    return len(passages), max((len(each.get("title") or "") + len(each["text"]) for each in passages), default=0)


def _count(path, name, on_error, report):
    """The number of rows in the file, after a check of every row."""
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
    """Prepare the folder, or raise if it belongs to another run."""
    run, begun = folder / RUN, folder / UNFINISHED / RUN
    if overwrite:
        run.unlink(missing_ok=True)  # first: it says that the other files are complete
        for file in (PREDICTIONS, SCORED, RESULTS):
            (folder / file).unlink(missing_ok=True)
    has_work = any(begun.parent.glob(f"*/{PREDICTIONS}"))  # a call that failed on its first block has none
    for known in (run, begun) if has_work else (run,):
        if known.exists() and not overwrite:
            _check_same(json.loads(known.read_text(encoding="utf-8")), fingerprint, folder)
            if known is run:
                logger.warning(f"`{folder}` already has the results.")
                shutil.rmtree(begun.parent, ignore_errors=True)  # left by a run that was killed at its end
            return
    taken = [file for file in (PREDICTIONS, SCORED, RESULTS) if (folder / file).exists()]
    if taken:
        raise ValueError(
            f"`{folder}` has files that this run would replace: {quoted(taken)}. Give another folder, or set "
            "`overwrite`."
        )
    shutil.rmtree(begun.parent, ignore_errors=True)
    begun.parent.mkdir(parents=True)
    share = math.ceil(num_questions / 4 / batch_size) * batch_size  # with few questions every process still gets some
    _write(
        begun, [{"fingerprint": fingerprint, "questions_per_block": max(1, min(QUESTIONS_PER_BLOCK, share))}], indent=2
    )


def _check_same(run, fingerprint, folder):
    differing = [name for name in fingerprint if run["fingerprint"].get(name) != fingerprint[name]]
    if differing:
        names = {"passages": "path"}
        raise ValueError(
            f"`{folder}` has the results, finished or not, of another run: "
            f"{quoted(names.get(name, name) for name in differing)} differ. Give another folder, or set `overwrite`."
        )


def _is_finished(folder, fingerprint):
    if not (folder / RUN).exists():
        return False
    return json.loads((folder / RUN).read_text(encoding="utf-8"))["fingerprint"] == fingerprint


def _part(folder, number):
    return folder / UNFINISHED / f"{number:08d}"


def _write_part(part, block, answers, scores):
    """Write a block into its own folder. The predictions come last: with them the block is complete."""
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
    """Join the blocks in the order of the file. Each result gets its name when it is complete, `run.json` last."""
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
    """Write JSON lines; the file is complete or absent."""
    with replacing(file, flush=True) as draft, open(draft, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False, indent=indent) + "\n" for row in rows)


def _publish(draft, file):
    """Flush a file to the disk, then give it its name."""
    flush_to_disk(draft)
    os.replace(draft, file)


__all__ = ["ANSWER_LENGTH", "answer_log_likelihoods", "evaluate_reader", "read_answers"]
