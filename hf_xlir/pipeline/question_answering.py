"""`QuestionAnsweringPipeline`: a question in any language in, an answer and where it comes from out."""

from numbers import Integral

from .retrieval import SEARCH_ARGUMENTS, RetrievalPipeline


class QuestionAnsweringPipeline(RetrievalPipeline):
    r"""
    Answers questions from the passages that it finds for them, with a Fusion-in-Decoder reader.

    Load a whole system with [`~QuestionAnsweringPipeline.from_pretrained`] or
    `transformers.pipeline("xlir-question-answering", model=...)`, or put one together.

    Args:
        reader ([`FiDT5ForConditionalGeneration`], `str` or `os.PathLike`):
            What reads the passages and writes the answer. Also its folder or repository.
        reader_processor ([`FiDT5Processor`], *optional*):
            The processor of a model.
        batch_size (`int`, *optional*, defaults to 8):
            Questions that are answered at once.
        model, processor, index, passages, others:
            As for [`RetrievalPipeline`], which finds the passages.

    Raises:
        ValueError: If there is no reader, or the parts do not fit together.

    Example:
    ```python
    >>> from hf_xlir import QuestionAnsweringPipeline

    >>> answer = QuestionAnsweringPipeline.from_pretrained("my-system")  # doctest: +SKIP
    >>> result = answer("프랑스의 수도는 어디입니까?", n_context=5)  # doctest: +SKIP
    >>> result["answer"], result["passages"][0]["title"]  # doctest: +SKIP
    ('Paris', 'France')

    ```
    """

    default_task = "xlir-question-answering"
    default_batch_size = 8
    with_reader = True
    arguments = ("n_context", "num_answers", "generate_kwargs", *(name for name in SEARCH_ARGUMENTS if name != "k"))

    def __init__(self, model=None, *args, reader=None, reader_processor=None, **others):
        super().__init__(model, *args, **others)
        if reader is not None:
            from .building import given
            from .reader import Reader

            self.model.reader = Reader(*given(reader, reader_processor, "reader"))
        if self.model.reader is None:
            raise ValueError(
                "There is no `reader` to answer from what is found: give one, or use `RetrievalPipeline`."
            )

    def __call__(self, inputs, *, batch_size=None, **parameters):
        r"""
        Answer questions.

        Args:
            inputs (`str`, `list[str]` or `Iterable[str]`):
                A question or several. Of a generator, or what else has no length, one batch after another is read.
            batch_size (`int`, *optional*):
                Questions that are answered at once.
            n_context (`int`, *optional*):
                Passages that are found and read. By default as many as the reader's processor says.
            num_answers (`int`, *optional*, defaults to 1):
                Answers a question, by beam search if there are several. Equal ones are one, so that there may be
                fewer.
            generate_kwargs (`dict`, *optional*):
                Arguments of the reader's `generate`, such as `{"num_beams": 4, "max_new_tokens": 20}`. By default the
                answer is the greedy one, of at most as many token ids as the processor says.
            num_candidates, allowed_ids, explain, preset, n_probe, n_tokens, n_rerank, params (*optional*):
                As for [`RetrievalPipeline`].

        Returns:
            `dict` for one question:

            - **answer** (`str`): the answer;
            - **score** (`float`): its probability given the question and its passages, from 0 to 1: the product of the
              probabilities of its tokens, the end included. Longer answers have lower ones;
            - **passages** (`list[dict]`): what was read, best first: the columns of the dataset, `score` of
              [`RetrievalPipeline`], and `reader_score`: how much the reader looked at it, see
              [`FiDT5ForConditionalGeneration.reader_scores`];
            - **answers** (`list[dict]`), if `num_answers` is above 1: each one's `answer` and `score`, best first.

            A list of them for several, or a generator of them for a generator.

        Raises:
            ValueError: If there is no question, one is empty, an id is unknown, or an argument is out of range.
            TypeError: If an argument is unknown, or a question is no text.
        """
        return super().__call__(inputs, batch_size=batch_size, **parameters)

    def _forward(self, inputs, **parameters):
        return {"results": self.model.answer(inputs["texts"], **parameters)}

    def _check(self, n_context=None, num_answers=1, generate_kwargs=None, allowed_ids=None, **others):
        if generate_kwargs is not None and not isinstance(generate_kwargs, dict):
            raise TypeError(f"`generate_kwargs` must be a dictionary, got {type(generate_kwargs).__name__}.")
        for name, value in (("n_context", 1 if n_context is None else n_context), ("num_answers", num_answers)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        self.model.check(1, **others)


__all__ = ["QuestionAnsweringPipeline"]
