"""The `config.json` of a folder with a whole system."""

from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


FORMAT_VERSION = 1


@strict
class RetrievalSystemConfig(PreTrainedConfig):
    r"""
    The `config.json` of a folder or repository with a whole system: models, indexes and passages, each in its own
    folder. [`RetrievalPipeline.save_pretrained`] writes it last, so that it never names what does not exist.

    Args:
        format_version (`int`, *optional*, defaults to 1):
            Version of this format. hf_xlir reads its own version and earlier ones.
        task (`str`, *optional*):
            The task that the system was saved for, as `transformers.pipeline` calls it.
        passages (`str`, *optional*):
            Folder of the passages.
        retrievers (`list[dict]`, *optional*):
            Per retriever its `name`, the `kind` of its index, the folder of the `index` and, if any, of the `model`.
        fusion (`dict`, *optional*):
            How rankings are fused: arguments of [`~hf_xlir.index.fusion.fuse`].
        reranker (`str`, *optional*):
            Folder of the reranker.
        reader (`str`, *optional*):
            Folder of the reader.
        defaults (`dict`, *optional*):
            Default arguments of calls.
        save_id (`str`, *optional*):
            Differs with each save, so that a reader notices when a folder was saved again.

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
        """Names of the folders of all parts."""
        named = [self.passages, self.reranker, self.reader]
        named += [each.get(part) for each in self.retrievers or [] for part in ("index", "model")]
        return sorted({name for name in named if name is not None})

    def parts(self):
        """What `config.json` holds: the type, and the fields that other configurations do not have."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in inherited}
        return {"model_type": self.model_type, **own}


__all__ = ["FORMAT_VERSION", "RetrievalSystemConfig"]
