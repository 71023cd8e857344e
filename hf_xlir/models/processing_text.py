"""Base of all processors, and checks of texts."""

import unicodedata

from transformers import PreTrainedConfig, ProcessorMixin


INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")  # controls, format characters such as byte-order marks, white space


class TextProcessor(ProcessorMixin):
    """Base of the processors. It refuses the folders of other families."""

    # Set by subclasses: the configuration class of the models
    config_class = PreTrainedConfig

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """
        Like the parent's, but only from a folder of this family or of a model that one of this family starts from. The
        parent would silently take the settings of any other processor.

        Raises:
            ValueError: If the folder holds a processor or a model of another family.
        """
        values, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        saved = values.get("processor_class")
        if saved is None:
            cls._check_model_type(pretrained_model_name_or_path, kwargs)
        elif saved not in {each.__name__ for each in cls.__mro__}:
            raise ValueError(
                f"`{pretrained_model_name_or_path}` holds a `{saved}`, expected a `{cls.__name__}`. "
                "`AutoProcessor.from_pretrained` picks the class that fits a folder."
            )
        return values, unused

    @classmethod
    def _check_model_type(cls, path, kwargs):
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub_arguments = {name: kwargs[name] for name in names if name in kwargs}
        try:
            source, _ = PreTrainedConfig.get_config_dict(path, **hub_arguments)
        except OSError:  # a tokenizer alone; loading reports what is missing
            return
        if "model_type" in source:
            cls.config_class.get_config_dict(path, **hub_arguments)


def is_blank(text):
    """Whether a text has only white space, controls and zero-width characters."""
    return all(unicodedata.category(character) in INVISIBLE for character in text)


def fault_of(text, may_be_blank=False):
    """What is wrong with a text, to follow its name in a message, or `None`. A title may be blank."""
    if not may_be_blank and is_blank(text):
        return "is empty: leave it out."
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"is not valid Unicode: character {error.start} is half of a surrogate pair. Read the text again with the "
            "correct encoding."
        )
    return None


__all__ = ["TextProcessor", "fault_of", "is_blank"]
