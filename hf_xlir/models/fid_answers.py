"""Answers of a Fusion-in-Decoder reader: what evaluation and pipelines have in common."""

ANSWER_LENGTH = 50  # token ids of an answer where its processor sets no limit


def answer_limit(processor):
    """The most token ids of an answer, by a [`FiDT5Processor`]."""
    return processor.answer_maxlength or ANSWER_LENGTH


def generate_answers(model, processor, questions, passages, **arguments):
    r"""
    Let a reader answer questions, each from its passages.

    Args:
        model ([`FiDT5ForConditionalGeneration`]):
            The reader.
        processor ([`FiDT5Processor`]):
            Its processor.
        questions (`list[str]`):
            The questions.
        passages (`list[list[dict]]`):
            Each question's passages, best first.
        arguments:
            Of `generate`.

    Returns:
        `tuple` of what `generate` returned; the answers (`list[str]`), as many a question as it was asked for, without
        white space around them; and with `output_reader_scores=True` how much the reader looked at each passage that
        it read (`list[list[float]]`), otherwise `None`.

    Example:
    ```python
    >>> from hf_xlir.models.fid_answers import generate_answers

    >>> passages = [[{"title": "Bell", "text": "He did."}]]
    >>> _, answers, _ = generate_answers(model, processor, ["Who?"], passages)  # doctest: +SKIP
    >>> answers  # doctest: +SKIP
    ['Bell']

    ```
    """
    inputs = processor(questions, passages).to(model.device)
    output = model.generate(**inputs, **{**arguments, "return_dict_in_generate": True})
    texts = [text.strip() for text in processor.batch_decode(output.sequences, skip_special_tokens=True)]
    looked = None
    if arguments.get("output_reader_scores"):
        looked = scores_read(output.reader_scores.tolist(), passages, processor)
    return output, texts, looked


def scores_read(scores, passages, processor):
    """Scores of passages without the padding behind those that each question has and the reader reads."""
    return [of_one[: len(own[: processor.n_context])] for of_one, own in zip(scores, passages, strict=True)]


__all__ = ["ANSWER_LENGTH", "answer_limit", "generate_answers", "scores_read"]
