"""Progress bars, switched on and off as the rest of transformers does it."""

from tqdm.auto import tqdm
from transformers.utils import logging


def progress_bar(iterable=None, show=None, **options):
    """A `tqdm` bar. `show=None` follows `transformers.utils.logging.disable_progress_bar()`; `options` are tqdm's."""
    shown = logging.is_progress_bar_enabled() if show is None else show
    return tqdm(iterable, disable=not shown, **options)


__all__ = ["progress_bar"]
