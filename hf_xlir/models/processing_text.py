"""What the processors of all families share: folders of their own family alone, and what is wrong with a text."""

import unicodedata

from transformers import PreTrainedConfig, ProcessorMixin


INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")  # controls, format characters such as a byte-order mark, white space


class TextProcessor(ProcessorMixin):
    """Base of the processors, which loads no other family's folder."""

    # Set by subclasses: the configuration of the models that the processor belongs to
    config_class = PreTrainedConfig

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """
        Like the parent's, for `from_pretrained`, but only from a folder of this family or of what a model of this
        family is made of: settings of another would be taken without a word.

        Raises:
            ValueError: If the folder belongs to a processor or a model of another family.
        """
        values, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        saved = values.get("processor_class")
        if saved is None:
            cls._check_model_type(pretrained_model_name_or_path, kwargs)
        elif saved not in {each.__name__ for each in cls.__mro__}:
            raise ValueError(
                f"`{pretrained_model_name_or_path}` holds a `{saved}`, got `{cls.__name__}.from_pretrained`. "
                "`AutoProcessor.from_pretrained` picks the class that fits a folder."
            )
        return values, unused

    @classmethod
    def _check_model_type(cls, path, kwargs):
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub_arguments = {name: kwargs[name] for name in names if name in kwargs}
        try:
            source, _ = PreTrainedConfig.get_config_dict(path, **hub_arguments)
        except OSError:  # a tokenizer alone; loading it says what else is missing
            return
        if "model_type" in source:
            cls.config_class.get_config_dict(path, **hub_arguments)


def is_blank(text):
    """Whether a text has nothing to read: no characters but white space, controls and zero-width ones."""
    return all(unicodedata.category(character) in INVISIBLE for character in text)


def fault_of(text, may_be_blank=False):
    r"""
    What is wrong with a text, to be put behind its name, or `None`.

    Args:
        text (`str`):
            What shall be tokenized.
        may_be_blank (`bool`, *optional*, defaults to `False`):
            Whether it needs nothing to read, as a title.

    Example:
    ```python
    >>> from hf_xlir.models.processing_text import fault_of

    >>> fault_of("\ufeff ")
    'is empty: leave it out.'
    >>> fault_of("North.") is None
    True

    ```
    """
    if not may_be_blank and is_blank(text):
        return "is empty: leave it out."
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"is not valid Unicode: its character {error.start} is half of a surrogate pair. Read the text again with "
            "its own encoding."
        )
    return None


__all__ = ["TextProcessor", "fault_of", "is_blank"]
