"""`QuestionAnsweringPipeline`: a question in any language in, an answer and its passages out."""

from ..utils.checks import check_integer
from .retrieval import READING_TASK, RetrievalPipeline


class QuestionAnsweringPipeline(RetrievalPipeline):
    r"""
    Answers questions from the passages that it finds for them, with a Fusion-in-Decoder reader.

    Load a whole system with [`~QuestionAnsweringPipeline.from_pretrained`] or
    `transformers.pipeline("xlir-question-answering", model=...)`, or put one together.

    Args:
        reader ([`FiDT5ForConditionalGeneration`], `str` or `os.PathLike`):
            Reads the passages and writes the answer. Also its folder or repository.
        reader_processor ([`FiDT5Processor`], *optional*):
            The processor, if `reader` is a model.
        batch_size (`int`, *optional*, defaults to 8):
            Number of questions per batch.
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

    default_task = READING_TASK
    default_batch_size = 8
    with_reader = True
    arguments = ("n_context", "num_answers", "generate_kwargs", "num_candidates", "allowed_ids", "explain")

    def __init__(self, model=None, *args, reader=None, reader_processor=None, **others):
        super().__init__(model, *args, **others)
        if reader is not None:
            from .model_part import given_part
            from .reader import Reader

            self.model.reader = Reader(*given_part(reader, reader_processor, "reader"))
        if self.model.reader is None:
            raise ValueError("There is no `reader` to answer from the passages: give one, or use `RetrievalPipeline`.")

    def __call__(self, inputs, *, batch_size=None, **parameters):
        r"""
        Answer questions.

        Args:
            inputs (`str`, `list[str]` or `Iterable[str]`):
                A question or several. A generator, or anything else without a length, is read batch by batch.
            batch_size (`int`, *optional*):
                Number of questions per batch.
            n_context (`int`, *optional*):
                Passages per question that are found and read. By default the number of the reader's processor.
            num_answers (`int`, *optional*, defaults to 1):
                Answers per question, by beam search if there are several. Equal answers are merged, so there may be
                fewer.
            generate_kwargs (`dict`, *optional*):
                Arguments of the reader's `generate`, such as `{"num_beams": 4, "max_new_tokens": 20}`. By default
                decoding is greedy, up to the processor's limit of token ids.
            parameters:
                `num_candidates`, `allowed_ids`, `explain` and options of the indexes' searches, as for
                [`RetrievalPipeline`].

        Returns:
            `dict` for one question:

            - **answer** (`str`): the answer;
            - **score** (`float`): its probability given the question and its passages, from 0 to 1: the product of the
              probabilities of its tokens, the end token included. It is lower for longer answers;
            - **passages** (`list[dict]`): what was read, best first: the columns of the dataset, `score` of
              [`RetrievalPipeline`], and `reader_score`, the attention that the reader paid to the passage
              ([`FiDT5ForConditionalGeneration.reader_scores`]);
            - **answers** (`list[dict]`), if `num_answers` is above 1: `answer` and `score` of each, best first.

            A list of them for several, or a generator of them for a generator.

        Raises:
            ValueError: If there is no question, one is empty, an id is unknown, or an argument is out of range.
            TypeError: If an argument is unknown, or a question is not a text.
        """
        return super().__call__(inputs, batch_size=batch_size, **parameters)

    def _forward(self, inputs, **parameters):
        return {"results": self.model.answer(inputs["texts"], **parameters)}

    def _check(self, n_context=None, num_answers=1, generate_kwargs=None, allowed_ids=None, **others):
        if generate_kwargs is not None and not isinstance(generate_kwargs, dict):
            raise TypeError(f"`generate_kwargs` must be a dictionary, got {type(generate_kwargs).__name__}.")
        check_integer("n_context", 1 if n_context is None else n_context)
        check_integer("num_answers", num_answers)
        self.model.check(1, **others)


__all__ = ["QuestionAnsweringPipeline"]
