"""Progress bars that follow the settings of transformers."""

from tqdm.auto import tqdm
from transformers.utils import logging


def progress_bar(iterable=None, show=True, **options):
    """A `tqdm` bar, unless `show` is false or `transformers.utils.logging.disable_progress_bar()` was called."""
    return tqdm(iterable, disable=not (show and logging.is_progress_bar_enabled()), **options)


__all__ = ["progress_bar"]
