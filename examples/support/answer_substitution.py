"""Reader examples whose answers are exchanged, so that a reader has to read."""

import random
import re


def substitute_answers(
    questions, passages, num_examples, *, share=0.9, num_distractors=1, max_sentences=None, english=0.0, seed=0
):
    r"""
    Reader examples from questions and their gold passages in which most answers are replaced by another string, in the
    passage as in the target: what the reader remembers of the world then does not help, only what it reads does
    (https://huggingface.co/papers/2109.05052).

    Each passage is cut into its sentences, which a Fusion-in-Decoder reader encodes apart, every one with its title.

    Args:
        questions (`datasets.Dataset`):
            Columns `question`, `answers`, `lang` and `passage_ids`.
        passages (`datasets.Dataset`):
            Columns `id`, `title` and `text`.
        num_examples (`int`):
            How many examples to draw.
        share (`float`, *optional*, defaults to 0.9):
            Share of examples with a replaced answer.
        num_distractors (`int`, *optional*, defaults to 1):
            Random passages beside the gold one.
        max_sentences (`int`, *optional*):
            Keeps the sentence with the answer and this many others at most. `None` keeps all.
        english (`float`, *optional*, defaults to 0.0):
            Share of examples drawn from the English questions alone.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.

    Returns:
        `list[dict]`: `question`, `target` and `ctxs`, a shuffled list of `{"title", "text"}`.

    Raises:
        ValueError: If no question's gold passage contains its answer, or `english` is asked for without English
            questions.

    Example:
    ```python
    >>> from hf_xlir.data import load_mini_world
    >>> from support.answer_substitution import substitute_answers

    >>> world = load_mini_world(["en"])
    >>> examples = substitute_answers(world.questions["train"], world.passages, 2)
    >>> examples[0]["target"] in " ".join(ctx["title"] + " " + ctx["text"] for ctx in examples[0]["ctxs"])
    True

    ```
    """
    generator = random.Random(seed)
    passages = [{"id": id, "title": title, "text": text} for id, title, text in _columns(passages)]
    by_id = {passage["id"]: passage for passage in passages}
    readable = [row for row in questions.to_list() if _readable(row, by_id)]
    if not readable:
        raise ValueError("No question's first gold passage contains one of its answers, so there is nothing to read.")
    in_english = [row for row in readable if row["lang"] == "en"]
    if english and not in_english:
        raise ValueError(f"`english`={english} needs English questions, and there are none.")
    replacements = _replacements(passages)

    examples = []
    for _ in range(num_examples):
        row = generator.choice(in_english if generator.random() < english else readable)
        gold = by_id[row["passage_ids"][0]]
        answer = generator.choice([answer for answer in row["answers"] if answer in gold["text"]])
        title, text = gold["title"], gold["text"]
        if generator.random() < share:
            new = generator.choice(replacements)
            title, text, answer = title.replace(answer, new), text.replace(answer, new), new
        ctxs = split_sentences({"title": title, "text": text})
        for distractor in generator.sample(passages, num_distractors):
            if distractor["id"] not in row["passage_ids"]:
                ctxs += split_sentences(distractor)
        if max_sentences is not None:
            gold_sentence = generator.choice([ctx for ctx in ctxs if answer in ctx["text"]] or ctxs)
            others = [ctx for ctx in ctxs if ctx is not gold_sentence]
            ctxs = [gold_sentence, *generator.sample(others, min(max_sentences, len(others)))]
        generator.shuffle(ctxs)
        examples.append({"question": row["question"], "target": answer, "ctxs": ctxs})
    return examples


def split_sentences(passage):
    """
    Cut a passage after full stops, question and exclamation marks, but not after initials ("J. J. Thomson").

    Args:
        passage (`dict`):
            `title` and `text`.

    Returns:
        `list[dict]`: `title` and `text` of each sentence.
    """
    sentences = re.split(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=\S)", passage["text"].strip())
    return [{"title": passage["title"], "text": sentence} for sentence in sentences]


def _columns(passages):
    return zip(passages["id"], passages["title"], passages["text"], strict=True)


def _readable(row, by_id):
    return row["passage_ids"] and any(answer in by_id[row["passage_ids"][0]]["text"] for answer in row["answers"])


def _replacements(passages):
    """Titles, names, numbers and last words of clauses: strings of the kinds that answers are."""
    pattern = r"(?<=[a-z] )[A-Z][\w-]+(?: [A-Z][\w-]+)?|\b\d[\d,.]*\d\b|(?<= )[a-z]{4,}(?=[.,])"
    found = {match for passage in passages for match in re.findall(pattern, passage["text"])}
    return sorted(found | {passage["title"] for passage in passages})


__all__ = ["split_sentences", "substitute_answers"]
