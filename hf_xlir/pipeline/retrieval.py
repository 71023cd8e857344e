"""`RetrievalPipeline`: a question in any language in, ranked passages out."""

from collections.abc import Mapping

from transformers.pipelines.base import Pipeline

from ..utils.checks import check_integer


READING_TASK = "xlir-question-answering"


class RetrievalPipeline(Pipeline):
    r"""
    Ranks passages for questions.

    It searches one index or several of any kind, fuses the rankings of several, and may rerank what was found. Load a
    whole system with [`~RetrievalPipeline.from_pretrained`] or `transformers.pipeline("xlir-retrieval", model=...)`,
    build one from passages with [`~RetrievalPipeline.build`], or put one together.

    Args:
        model (`RetrieverPreTrainedModel`, *optional*):
            The model that embedded the passages, or a student that learned to search its index. Also another pipeline,
            whose parts are taken over.
        processor (`RetrieverProcessor`, *optional*):
            The model's processor.
        index ([`~hf_xlir.index.SearchIndex`], or a `dict` of them, *optional*):
            What is searched: [`LateInteractionIndex`], [`DenseIndex`], [`BM25Index`], or any object with the protocol.
            The index of [`add_dense_index`] is `passages.get_index("dense")`. Several are given by name; the model
            searches those that are searched with vectors.
        passages (`datasets.Dataset` or `list[dict]`):
            Rows with `id`, `text` and optionally `title` and others, in the order of the index.
        encoder (*optional*):
            Instead of `model` and `processor`: `(model, processor)`, a path or id on the Hub, or any object with
            `encode_query`, such as a `SentenceTransformer`.
        retrievers (`dict[str, Retriever]`, *optional*):
            Several retrievers by name, instead of `model`, `processor` and `index`, if their models differ.
        fusion (`"reciprocal_rank"` or `"weighted_sum"`, *optional*, defaults to `"reciprocal_rank"`):
            How rankings are fused, see [`~hf_xlir.index.fusion.fuse`].
        weights (`dict[str, float]`, *optional*):
            Weight of each retriever in the fusion, by name. By default each weighs 1.
        rank_constant (`float`, *optional*, defaults to 60):
            Constant of `"reciprocal_rank"`.
        reranker (`PreTrainedModel`, `str` or `os.PathLike`, *optional*):
            Reranks what was found: a cross-encoder, which `AutoModelForSequenceClassification` loads, or a
            [`ColBERTXLMRModel`], which compares the texts by MaxSim. Also its folder or repository.
        reranker_processor (`PreTrainedTokenizerBase` or [`ColBERTXLMRProcessor`], *optional*):
            The tokenizer or processor, if `reranker` is a model.
        device (`str`, `int` or `torch.device`, *optional*):
            Device of the models. By default the first accelerator, or else the CPU, as for all pipelines of
            Transformers. Indexes stay where they are.
        batch_size (`int`, *optional*, defaults to 64):
            Number of questions per search.
        parameters:
            Default arguments of calls. [`~RetrievalPipeline.save_pretrained`] keeps them.

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
    arguments = ("k", "num_candidates", "allowed_ids", "explain")  # of calls, beside those of the indexes' searches
    # `transformers.pipeline` loads nothing but the system
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(
        self,
        model=None,
        processor=None,
        index=None,
        passages=None,
        *,
        encoder=None,
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
        from .system import build_system

        if encoder is not None:
            if model is not None:
                raise ValueError("Got `model` and `encoder`, expected one of them.")
            model = encoder
        if isinstance(model, RetrievalPipeline):
            model = model.model.copy(defaults=model._forward_params)
        fusion = {"method": fusion, "weights": weights, "rank_constant": rank_constant}
        rerankers = reranker, reranker_processor
        system = build_system(model, processor, index, passages, retrievers, fusion, *rerankers, self.with_reader)
        known = {*self.arguments, *system.search_options()}
        defaults = {name: value for name, value in system.defaults.items() if name in known}
        super().__init__(
            model=system,
            task=task or self.default_task,
            device=device,
            batch_size=check_integer("batch_size", self.default_batch_size if batch_size is None else batch_size),
            **{**defaults, **parameters},
        )

    @classmethod
    def build(cls, encoder, passages, *, index_settings=None, embedding_settings=None, **arguments):
        r"""
        Embed passages, index them in memory, and return a pipeline that is ready to be asked.

        The index is a [`LateInteractionIndex`] if the encoder gives vectors of tokens, and a [`DenseIndex`] if it
        gives one vector per text.

        Args:
            encoder (`str`, `os.PathLike`, `tuple` or an encoder):
                A path or id on the Hub, `(model, processor)`, or any object with `encode_query` and `encode_document`.
            passages (`datasets.Dataset` or `list[dict]`):
                Rows with `id`, `text` and optionally `title` and others.
            index_settings (`dict`, *optional*):
                Arguments of the index's `build`, such as `{"nbits": 2}`.
            embedding_settings (`dict`, *optional*):
                Arguments of [`embed_passages`], such as `{"output_dir": "embeddings"}` for a large corpus.
            arguments:
                Other arguments of the constructor, such as `device`, `reranker` or `k`.

        Returns:
            The pipeline.

        Raises:
            ValueError: If a passage lacks an id or a text, or the encoder's vectors are not finite.

        Example:
        ```python
        >>> from hf_xlir import RetrievalPipeline

        >>> passages = [{"id": "a", "text": "Rome lies on the Tiber."}]
        >>> search = RetrievalPipeline.build("user/my-colbert", passages)  # doctest: +SKIP
        >>> search("Which city is on the Tiber?", k=1)[0]["id"]  # doctest: +SKIP
        'a'

        ```
        """
        from .system import build_index

        encoder, index, passages = build_index(encoder, passages, index_settings or {}, embedding_settings or {})
        return cls(index=index, passages=passages, encoder=encoder, **arguments)

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

        A repository's parts are downloaded now, except for a reader that this pipeline does not use. Indexes and
        passages of a whole system are memory-mapped, and a model's weights are read at first use.

        Args:
            path (`str` or `os.PathLike`):
                Folder or repository on the Hub: of a system that [`~RetrievalPipeline.save_pretrained`] or
                [`~RetrievalPipeline.push_to_hub`] wrote, or of a retriever. `None` for an index that is searched with
                texts.
            index (`str`, `os.PathLike`, an index, or a `dict` of them, *optional*):
                For a retriever: its index, or the folder that it was saved to. Several by name, such as `{"colbert":
                index, "bm25": words}`, are all searched, and their rankings are fused.
                [`~hf_xlir.index.load_index_from_hub`] returns the index and passages of a repository.
            passages (`str`, `os.PathLike`, `datasets.Dataset` or `list[dict]`, *optional*):
                For a retriever: the passages, a file for [`load_passages`], or a folder of `Dataset.save_to_disk`.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            token (`str` or `bool`, *optional*):
                For a private repository.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Where downloads go.
            local_files_only (`bool`, *optional*, defaults to `False`):
                Whether to download nothing.
            trust_remote_code (`bool`, *optional*, defaults to `False`):
                Whether a retriever's repository may run its own code. A system's never does.
            dtype (`str` or `torch.dtype`, *optional*):
                Type of the weights. By default that of the files.
            arguments:
                Other arguments of the constructor, such as `device`, `reranker` or `k`.

        Returns:
            The pipeline.

        Raises:
            FileNotFoundError: If there is no such folder.
            OSError: If there is no such repository, or the token does not open it.
            ValueError: If a part is missing or damaged, parts do not fit together, or a later hf_xlir wrote it.
        """
        from .saving import load_model

        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        model = None if path is None else load_model(path, cls.with_reader, dtype, trust_remote_code, **hub)
        given = {"index": index, "passages": passages}
        return cls(model, **{name: value for name, value in given.items() if value is not None}, **arguments)

    def save_pretrained(self, save_directory, **card_arguments):
        r"""
        Write the whole system to a folder at once: a run that is killed leaves what was there before.

        The folder has a `config.json` that names the others: `passages` (Arrow), `index`, `retriever`, and, if any,
        `reranker` and `reader`. Several retrievers have `index-NAME` and `retriever-NAME`. Folders that replace others
        have an additional suffix. The parts can be loaded alone: `AutoModel.from_pretrained(folder,
        subfolder="retriever")`. The `README.md` is a card for the Hub.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder, created if it does not exist.
            card_arguments:
                What the card says: `language`, `license`, `license_name`, `license_link`, `datasets`, `base_model`,
                `tags`, `evaluations` (results by dataset, measure and language) and `limitations`. Without any, a
                `README.md` that somebody wrote or changed stays.

        Raises:
            ValueError: If the folder holds something else with a `config.json`, such as a model, the card's metadata
                are not valid, or a part cannot be saved, such as an index whose format is not registered.
            OSError: If the folder cannot be written to, or is full. What it held is unchanged.
        """
        from .sharing import save_with_card

        save_with_card(self, save_directory, card_arguments)

    def push_to_hub(
        self, repo_id, *, private=None, token=None, revision=None, commit_message=None, card=None, **card_arguments
    ):
        r"""
        Upload the whole system to a model repository in one commit. The repository is created if it does not exist.

        Args:
            repo_id (`str`):
                The repository.
            private (`bool`, *optional*):
                Whether a new repository is private. By default the namespace's setting.
            token (`str` or `bool`, *optional*):
                By default the token of the logged-in user.
            revision (`str`, *optional*):
                Branch, created if it does not exist.
            commit_message (`str`, *optional*):
                By default names the pipeline's class.
            card (`str`, *optional*):
                Text of the `README.md`, with metadata, instead of the generated card.
            card_arguments:
                What the card says, as for [`~RetrievalPipeline.save_pretrained`]. Without any, a card that somebody
                wrote or changed stays.

        Returns:
            `huggingface_hub.CommitInfo`: The commit.

        Raises:
            ValueError: If the card's metadata are not valid, or a part cannot be saved.
            huggingface_hub.errors.HfHubHTTPError: If the Hub refuses, for example without a token.
        """
        from .sharing import push_system

        message = commit_message or f"Upload {type(self).__name__}"
        return push_system(self, repo_id, private, token, revision, message, card, card_arguments)

    def __call__(self, inputs, *, batch_size=None, **parameters):
        r"""
        Rank passages.

        Args:
            inputs (`str`, `list[str]` or `Iterable[str]`):
                A question, in any language that the model reads, or several. A generator, or anything else without a
                length, is read batch by batch.
            batch_size (`int`, *optional*):
                Number of questions per search.
            k (`int`, *optional*, defaults to 10):
                Passages per question; fewer if fewer are allowed, or if an index such as BM25 finds fewer.
            num_candidates (`int`, *optional*, defaults to 100):
                Rerank depth: passages per question that each of several retrievers finds, or that are reranked; at
                least `k`.
            allowed_ids (`Iterable[str]`, *optional*):
                Rank only these passages.
            explain (`bool`, *optional*, defaults to `False`):
                Whether each passage gets `matches` from the first late-interaction index: a list of `query_token`,
                `passage_token` and `similarity`, whose sum is the passage's score in that index.
            parameters:
                Options of the indexes' searches: `preset` (`"fast"`, `"balanced"` or `"exact"`), `n_probe`, `n_tokens`
                and `n_rerank` of [`LateInteractionIndex.search`], `params` (`faiss.SearchParameters`) of
                [`DenseIndex`], and the `search_options` of any other index.

        Returns:
            `list[dict]` for one question: its passages, best first, with the columns of the dataset and `score`, the
            score of the index, the fusion or the reranker (higher is better). After a reranker, `retrieval_score` is
            the score before. A list of such lists for several questions, or a generator of them for a generator.

        Raises:
            ValueError: If there is no question, one is empty, an id is unknown, or an argument is out of range.
            TypeError: If an argument is unknown, or a question is not a text.
        """
        _, parameters, _ = self._sanitize_parameters(**parameters)
        parameters = {**self._forward_params, **parameters}
        size = self._batch_size if batch_size is None else check_integer("batch_size", batch_size)
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
        """The first step of a [`Pipeline`]. The models' processors do the work."""
        return {"texts": questions}

    def _forward(self, inputs, **parameters):
        return {"results": self.model.retrieve(inputs["texts"], **parameters)}

    def postprocess(self, outputs):
        """The results of a batch, as a list."""
        return outputs["results"]

    def _sanitize_parameters(self, **parameters):
        known = {*self.arguments, *self.model.search_options()}
        unknown = sorted(parameters.keys() - known)
        if unknown:
            kinds = [each.kind for each in self.model.retrievers.values()]
            raise TypeError(
                f"`{type(self).__name__}` over indexes of kind {kinds} has no arguments {unknown}; it has "
                f"{sorted(known)}."
            )
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


class SystemLoader:
    """What `transformers.pipeline` takes for the class of a model: loads a whole system, or a retriever."""

    @classmethod
    def from_pretrained(
        cls, path, *, dtype=None, trust_remote_code=None, code_revision=None, _from_pipeline=None, **hub_arguments
    ):
        """What [`RetrievalPipeline.from_pretrained`] loads, without the pipeline around it."""
        from .saving import load_model

        return load_model(path, _from_pipeline == READING_TASK, dtype, bool(trust_remote_code), **hub_arguments)


__all__ = ["READING_TASK", "RetrievalPipeline", "SystemLoader"]
