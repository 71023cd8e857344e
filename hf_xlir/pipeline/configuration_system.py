"""What a folder with a whole question-answering system consists of."""

from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


FORMAT_VERSION = 1


@strict
class RetrievalSystemConfig(PreTrainedConfig):
    r"""
    The `config.json` of a folder or repository with a whole system: models, indexes and passages, each in a folder of
    its own. [`RetrievalPipeline.save_pretrained`] and [`QuestionAnsweringPipeline.save_pretrained`] write it last, so
    that it never names what is not there.

    Args:
        format_version (`int`, *optional*, defaults to 1):
            Version of this layout; hf_xlir reads its own and earlier ones.
        task (`str`, *optional*):
            The task that the system was saved for, as `transformers.pipeline` calls it.
        passages (`str`, *optional*):
            Folder of the passages.
        retrievers (`list[dict]`, *optional*):
            For each retriever its `name`, the `kind` of its index, the folder of the `index` and, if it has one, that
            of its `model`.
        fusion (`dict`, *optional*):
            How the rankings of several retrievers become one: arguments of [`~hf_xlir.index.fusion.fuse`].
        reranker (`str`, *optional*):
            Folder of the model that ranks anew.
        reader (`str`, *optional*):
            Folder of the reader.
        defaults (`dict`, *optional*):
            Arguments of a call where the call does not give them.
        save_id (`str`, *optional*):
            Another with each save, by which a reader knows that a folder is still what it was.

    Example:
    ```python
    >>> from hf_xlir.pipeline.configuration_system import RetrievalSystemConfig

    >>> RetrievalSystemConfig(reader="reader").folders()
    ['reader']

    ```
    """

    model_type = "xlir_system"

    format_version: int = FORMAT_VERSION
    task: str | None = None
    passages: str | None = None
    retrievers: list | None = None
    fusion: dict | None = None
    reranker: str | None = None
    reader: str | None = None
    defaults: dict | None = None
    save_id: str | None = None

    def folders(self):
        """Names of the folders of all parts, each once."""
        named = [self.passages, self.reranker, self.reader]
        named += [each.get(part) for each in self.retrievers or [] for part in ("index", "model")]
        return sorted({name for name in named if name is not None})

    def parts(self):
        """The fields that are not those of every configuration, and the type: what `config.json` holds."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in inherited}
        return {"model_type": self.model_type, **own}


__all__ = ["FORMAT_VERSION", "RetrievalSystemConfig"]
