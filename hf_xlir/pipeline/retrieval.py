"""`RetrievalPipeline`: a question in any language in, ranked passages out."""

from collections.abc import Mapping
from numbers import Integral

from transformers.pipelines.base import Pipeline


SEARCH_ARGUMENTS = (
    *("k", "num_candidates", "allowed_ids", "explain"),
    *("preset", "n_probe", "n_tokens", "n_rerank", "params"),  # of the indexes' search
)


class RetrievalPipeline(Pipeline):
    r"""
    Ranks passages for questions.

    One index or several, of any kind: late interaction with a [`ColBERTXLMRModel`], dense with a [`BiEncoderModel`],
    and BM25 without a model. The rankings of several are fused; a reranker may look at the texts once more. Load a
    whole system with [`~RetrievalPipeline.from_pretrained`] or `transformers.pipeline("xlir-retrieval", model=...)`,
    or put one together.

    Args:
        model (`RetrieverPreTrainedModel`, *optional*):
            The model that embedded the passages, or a student that learnt to search its index. BM25 has none. Also
            another pipeline, whose parts are taken over.
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        index ([`LateInteractionIndex`], [`DenseIndex`] or [`BM25Index`], or a `dict` of them, *optional*):
            What is searched. That of [`add_dense_index`] is `passages.get_index("dense")`. Of several, by name, the
            model searches those that need one.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title` and others, in the order of the index.
        retrievers (`dict[str, Retriever]`, *optional*):
            Several retrievers by name, in the place of `model`, `processor` and `index`: of several models.
        fusion (`"reciprocal_rank"` or `"weighted_sum"`, *optional*, defaults to `"reciprocal_rank"`):
            How their rankings become one, see [`~hf_xlir.index.fusion.fuse`].
        weights (`dict[str, float]`, *optional*):
            How much each retriever counts, by name. All count 1 by default.
        rank_constant (`float`, *optional*, defaults to 60):
            Of `"reciprocal_rank"`.
        reranker (`PreTrainedModel`, `str` or `os.PathLike`, *optional*):
            Ranks what was found anew: a cross-encoder, which `AutoModelForSequenceClassification` loads, or a
            [`ColBERTXLMRModel`], which compares the texts by MaxSim. Also its folder or repository.
        reranker_processor (`PreTrainedTokenizerBase` or [`ColBERTXLMRProcessor`], *optional*):
            The tokenizer or processor of a model.
        device (`str`, `int` or `torch.device`, *optional*):
            Where the models shall be. By default on the first accelerator, or else the CPU, as for all pipelines of
            Transformers. Indexes stay where they are.
        batch_size (`int`, *optional*, defaults to 64):
            Questions that are searched at once.
        parameters:
            Arguments of a call where the call does not give them; [`~RetrievalPipeline.save_pretrained`] keeps them.

    Raises:
        ValueError: If the parts do not fit together: passages and index, index and model, model and processor.

    Example:
    ```python
    >>> from hf_xlir import RetrievalPipeline
    >>> from hf_xlir.index import BM25Index

    >>> passages = [{"id": "a", "text": "Paris lies on the Seine."}, {"id": "b", "text": "Rome lies on the Tiber."}]
    >>> search = RetrievalPipeline(index=BM25Index.build(passages, progress=False), passages=passages, device="cpu")
    >>> [(passage["id"], passage["text"]) for passage in search("Which city is on the Tiber?", k=1)]
    [('b', 'Rome lies on the Tiber.')]

    ```
    """

    default_task = "xlir-retrieval"
    default_batch_size = 64
    with_reader = False
    arguments = SEARCH_ARGUMENTS
    # `transformers.pipeline` has nothing to load beside the system
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(
        self,
        model=None,
        processor=None,
        index=None,
        passages=None,
        *,
        retrievers=None,
        fusion=None,
        weights=None,
        rank_constant=None,
        reranker=None,
        reranker_processor=None,
        task=None,
        device=None,
        batch_size=None,
        **parameters,
    ):
        from .building import build_system

        if isinstance(model, RetrievalPipeline):
            model = model.model.copy(defaults=model._forward_params)
        fusion = {"method": fusion, "weights": weights, "rank_constant": rank_constant}
        rerankers = reranker, reranker_processor
        system = build_system(model, processor, index, passages, retrievers, fusion, *rerankers, self.with_reader)
        defaults = {name: value for name, value in system.defaults.items() if name in self.arguments}
        super().__init__(
            model=system,
            task=task or self.default_task,
            device=device,
            batch_size=_checked_size(self.default_batch_size if batch_size is None else batch_size),
            **{**defaults, **parameters},
        )

    @classmethod
    def from_pretrained(
        cls,
        path,
        index=None,
        passages=None,
        *,
        revision=None,
        token=None,
        cache_dir=None,
        local_files_only=False,
        trust_remote_code=False,
        dtype=None,
        **arguments,
    ):
        r"""
        Load a whole system, or a retriever for an index.

        A repository's parts are downloaded now, but for a reader that this pipeline does not use. Of a whole system,
        indexes and passages are memory-mapped, and a model's weights are read when it is used first.

        Args:
            path (`str` or `os.PathLike`):
                Folder or Hub repository: of a system that [`~RetrievalPipeline.save_pretrained`] or
                [`~RetrievalPipeline.push_to_hub`] wrote, or of a retriever. `None` for BM25 alone.
            index (`str`, `os.PathLike`, an index, or a `dict` of them, *optional*):
                For a retriever: its index, or the folder that it was saved to. Several by name, such as `{"colbert":
                index, "bm25": words}`, are searched all, and fused. What a repository of
                [`~hf_xlir.index.push_index_to_hub`] has, [`~hf_xlir.hub.load_index_from_hub`] returns.
            passages (`str`, `os.PathLike`, `datasets.Dataset` or `list[dict]`, *optional*):
                For a retriever: the passages, the file that [`load_passages`] reads, or a folder that
                `Dataset.save_to_disk` wrote.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            token (`str` or `bool`, *optional*):
                For a private repository.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Where downloads go.
            local_files_only (`bool`, *optional*, defaults to `False`):
                Whether to download nothing.
            trust_remote_code (`bool`, *optional*, defaults to `False`):
                Whether a retriever's repository may run code of its own. A system's never does.
            dtype (`str` or `torch.dtype`, *optional*):
                Type of the weights; by default that of the files.
            arguments:
                Further arguments of the constructor, such as `device`, `reranker` or `k`.

        Returns:
            The pipeline.

        Raises:
            FileNotFoundError: If there is no such folder.
            OSError: If there is no such repository, or the token does not open it.
            ValueError: If a part is missing or damaged, parts do not fit together, or a later hf_xlir wrote it.
        """
        from .building import load_model

        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        model = None if path is None else load_model(path, cls.with_reader, dtype, trust_remote_code, **hub)
        given = {"index": index, "passages": passages}
        return cls(model, **{name: value for name, value in given.items() if value is not None}, **arguments)

    def save_pretrained(self, save_directory, **card_arguments):
        r"""
        Write the whole system to a folder, all at once: a run that is killed leaves what was there before.

        The folder has a `config.json` that names the others: `passages` (Arrow), `index`, `retriever`, and `reranker`
        and `reader` where there are; those of several retrievers are `index-NAME` and `retriever-NAME`. Where such a
        folder is replaced, the new one has a further suffix. The parts load alone, too:
        `AutoModel.from_pretrained(folder, subfolder="retriever")`. Its `README.md` is a card for the Hub.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder, made if absent.
            card_arguments:
                What the card says: arguments of [`~hf_xlir.pipeline.system_card.build_system_card`], such as
                `language`, `license` and `evaluations`. Without any, a `README.md` that somebody wrote or changed
                stays.

        Raises:
            ValueError: If the folder holds something else with a `config.json`, such as a model, a part cannot be
                saved, such as a BM25 index with a splitter of its own, or the card's metadata are not valid.
            OSError: If the folder cannot be written to, or is full; what it held is unchanged.
        """
        from .publishing import save_with_card

        save_with_card(self, save_directory, card_arguments)

    def push_to_hub(
        self, repo_id, *, private=None, token=None, revision=None, commit_message=None, card=None, **card_arguments
    ):
        r"""
        Upload the whole system to a repository of models, made if absent, in one commit.

        Args:
            repo_id (`str`):
                The repository.
            private (`bool`, *optional*):
                Whether a new repository is private. By default as the account or organisation has it.
            token (`str` or `bool`, *optional*):
                Who pushes. By default who is logged in.
            revision (`str`, *optional*):
                Branch to push to, made if absent.
            commit_message (`str`, *optional*):
                By default what was pushed.
            card (`str`, *optional*):
                Text of the `README.md`, with its metadata, in the place of the one that is made.
            card_arguments:
                What the card says: arguments of [`~hf_xlir.pipeline.system_card.build_system_card`], such as
                `language`, `license` and `evaluations`. Without any, a card that somebody wrote or changed stays.

        Returns:
            `huggingface_hub.CommitInfo`: The commit.

        Raises:
            ValueError: If the card's metadata are not valid, or a part cannot be saved.
            huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for lack of a token for instance.
        """
        from .publishing import push_system

        message = commit_message or f"Upload {type(self).__name__}"
        return push_system(self, repo_id, private, token, revision, message, card, card_arguments)

    def __call__(self, inputs, *, batch_size=None, **parameters):
        r"""
        Rank passages.

        Args:
            inputs (`str`, `list[str]` or `Iterable[str]`):
                A question, in any language that the model reads, or several. Of a generator, or what else has no
                length, one batch after another is read.
            batch_size (`int`, *optional*):
                Questions that are searched at once.
            k (`int`, *optional*, defaults to 10):
                Passages a question; all that are allowed if there are fewer. BM25 finds what shares a word, and so
                perhaps fewer.
            num_candidates (`int`, *optional*, defaults to 100):
                Passages that each of several retrievers finds, or that are ranked anew by a reranker.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.
            explain (`bool`, *optional*, defaults to `False`):
                Whether each passage gets `matches`, by the (first) late-interaction index: a list of `query_token`,
                `passage_token` and `similarity`, whose sum is the passage's score in that index.
            preset (`"fast"`, `"balanced"` or `"exact"`, *optional*), n_probe, n_tokens, n_rerank (`int`, *optional*):
                How thoroughly a late-interaction index is searched: [`LateInteractionIndex.search`].
            params (`faiss.SearchParameters`, *optional*):
                The same for a dense index.

        Returns:
            `list[dict]` for one question: its passages, best first, each with the columns of the dataset and `score`,
            which is higher for better ones: that of the index, of the fusion or of the reranker, beside which
            `retrieval_score` is the one before. A list of such lists for several, or a generator of them for a
            generator.

        Raises:
            ValueError: If there is no question, one is empty, an id is unknown, or an argument is out of range.
            TypeError: If an argument is unknown, or a question is no text.
        """
        _, parameters, _ = self._sanitize_parameters(**parameters)
        parameters = {**self._forward_params, **parameters}
        size = self._batch_size if batch_size is None else _checked_size(batch_size)
        if isinstance(inputs, str):
            return self._run(checked_questions([inputs]), parameters)[0]
        iterable = hasattr(inputs, "__iter__") or hasattr(inputs, "__len__")
        if isinstance(inputs, Mapping) or not iterable or getattr(inputs, "ndim", 1) != 1:  # a table has two
            raise TypeError(f"Expected a question or several, got {type(inputs).__name__}.")
        if not hasattr(inputs, "__len__"):
            return self._stream(inputs, size, parameters)
        if not hasattr(inputs, "__iter__"):  # PyTorch's datasets
            inputs = [inputs[place] for place in range(len(inputs))]
        questions = checked_questions(list(inputs))
        blocks = [questions[start : start + size] for start in range(0, len(questions), size)]
        return [result for block in blocks for result in self._run(block, parameters)]

    def _stream(self, inputs, size, parameters):
        block = []
        for question in inputs:
            block.append(question)
            if len(block) == size:
                yield from self._run(checked_questions(block), parameters)
                block = []
        if block:
            yield from self._run(checked_questions(block), parameters)

    def _run(self, questions, parameters):
        return self.postprocess(self.forward(self.preprocess(questions), **parameters))

    def preprocess(self, questions):
        """What [`Pipeline`] names the first step; the models' processors do the work."""
        return {"texts": questions}

    def _forward(self, inputs, **parameters):
        return {"results": self.model.retrieve(inputs["texts"], **parameters)}

    def postprocess(self, outputs):
        """The results of a batch, as a list."""
        return outputs["results"]

    def _sanitize_parameters(self, **parameters):
        unknown = sorted(parameters.keys() - set(self.arguments))
        if unknown:
            raise TypeError(f"`{type(self).__name__}` has no arguments {unknown}; it has {sorted(self.arguments)}.")
        given = {name: value for name, value in parameters.items() if value is not None}
        if not isinstance(given.get("allowed_ids", ""), str):
            given["allowed_ids"] = list(given["allowed_ids"])  # a generator would be empty at the second batch
        self._check(**given)
        return {}, given, {}

    def _check(self, k=10, allowed_ids=None, **others):
        self.model.check(k, **others)

    def __repr__(self):
        kinds = ", ".join(f"{name}: {each.kind}" for name, each in self.model.retrievers.items())
        return f"{type(self).__name__}({len(self.model.passages)} passages, {kinds}, device={str(self.device)!r})"


def checked_questions(questions):
    """The questions, or an error that says which of them is wrong."""
    from ..models.processing_text import fault_of

    if not questions:
        raise ValueError("There is no question: give at least one.")
    for place, question in enumerate(questions):
        if not isinstance(question, str):
            raise TypeError(f"Question {place} must be a text, got {type(question).__name__}.")
        if (fault := fault_of(question)) is not None:
            raise ValueError(f"Question {place} {fault}")
    return questions


def _checked_size(size):
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"`batch_size` must be a positive integer, got {size!r}.")
    return int(size)


__all__ = ["RetrievalPipeline"]
