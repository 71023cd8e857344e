"""Reader examples whose answers are exchanged, so that a reader has to read."""

import random
import re
import unicodedata


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


class AnswerSubstitution:
    r"""
    Replaces the answers of reader examples, in the passages and the target, by answers of other examples of the same
    look (a number, a name or a word). Knowledge of the world then does not help the reader, only reading does
    (https://huggingface.co/papers/2109.05052). Examples whose passages do not contain an answer, letter for letter,
    stay as they are.

    Args:
        records (`datasets.Dataset`):
            Records of [`load_reader_examples`], which the replacements are drawn from.
        share (`float`):
            Share of examples to change, from 0 to 1.

    Raises:
        ValueError: If `share` is not from 0 to 1.

    Example:
    ```python
    >>> from hf_xlir.training import answer_rows
    >>> from support.answer_substitution import AnswerSubstitution

    >>> rows = answer_rows(records, augment=AnswerSubstitution(records, share=0.5))  # doctest: +SKIP

    ```
    """

    def __init__(self, records, share):
        if not 0 <= share <= 1:
            raise ValueError(f"`share` must be from 0 to 1, got {share}.")
        self.share, substitutes = share, {}
        for target, answers in zip(records["target"], records["answers"], strict=True):
            for answer in [target] if target else answers:
                if not _is_blank(answer):  # a blank one would leave passages without text
                    substitutes.setdefault(_look(answer), {})[answer] = None  # each once, in order
        self.substitutes = {look: list(answers) for look, answers in substitutes.items()}

    def __call__(self, record, target, generator):
        """The target and passages to train on; see [`answer_rows`]."""
        ctxs = record["ctxs"]
        if _is_blank(target) or generator.random() >= self.share:
            return target, ctxs
        new = generator.choice(self.substitutes[_look(target)])
        answers = {each for each in (target, *record["answers"]) if not _is_blank(each)}
        replaced = _replace(ctxs, answers, new)
        return (target, ctxs) if replaced == ctxs else (new, replaced)


def _is_blank(text):
    """Whether a text shows nothing: only white space, controls and zero-width characters."""
    return all(unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") for character in text)


def _look(answer):
    """What an answer looks like: a number, a name or a word; of one word or several."""
    look = "number" if re.search(r"\d", answer) else "name" if answer[:1].isupper() else "word"
    return look, len(answer.split()) > 1


def _replace(ctxs, answers, new):
    """Passages with `new` in the place of all answers. Answers with cased letters or digits match whole words."""
    patterns = []
    for answer in sorted(answers, key=len, reverse=True):  # the longest match
        whole = answer.lower() != answer.upper() or answer[-1:].isdigit()
        pattern = re.escape(answer)
        patterns.append(rf"(?<!\w){pattern}(?!\w)" if whole else pattern)
    pattern = re.compile("|".join(patterns))
    return [
        {**ctx, **{name: pattern.sub(lambda _: new, ctx[name]) for name in ("title", "text") if ctx[name]}}
        for ctx in ctxs
    ]


def _columns(passages):
    return zip(passages["id"], passages["title"], passages["text"], strict=True)


def _readable(row, by_id):
    return row["passage_ids"] and any(answer in by_id[row["passage_ids"][0]]["text"] for answer in row["answers"])


def _replacements(passages):
    """Titles, names, numbers and last words of clauses: strings of the kinds that answers are."""
    pattern = r"(?<=[a-z] )[A-Z][\w-]+(?: [A-Z][\w-]+)?|\b\d[\d,.]*\d\b|(?<= )[a-z]{4,}(?=[.,])"
    found = {match for passage in passages for match in re.findall(pattern, passage["text"])}
    return sorted(found | {passage["title"] for passage in passages})


__all__ = ["AnswerSubstitution", "split_sentences", "substitute_answers"]
