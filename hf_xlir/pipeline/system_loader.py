"""What `transformers.pipeline` takes for the class of a model."""

from .question_answering import QuestionAnsweringPipeline


class SystemLoader:
    """Loads what the argument `model` of `transformers.pipeline` names: a whole system, or a retriever."""

    @classmethod
    def from_pretrained(
        cls,
        path,
        *,
        revision=None,
        token=None,
        cache_dir=None,
        local_files_only=False,
        trust_remote_code=None,
        code_revision=None,
        dtype=None,
        _from_pipeline=None,
    ):
        r"""
        What [`RetrievalPipeline.from_pretrained`] loads, without the pipeline around it.

        Args:
            path, revision, token, cache_dir, local_files_only, trust_remote_code, dtype:
                As there.
            code_revision (`str`, *optional*):
                Not used: no code is loaded.
            _from_pipeline (`str`, *optional*):
                The task.
        """
        from .building import load_model

        with_reader = _from_pipeline == QuestionAnsweringPipeline.default_task
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        return load_model(path, with_reader, dtype, bool(trust_remote_code), **hub)


__all__ = ["SystemLoader"]
