"""A folder that one run writes into at a time."""

import os
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone_in(folder, name):
    r"""
    Hold a folder for as long as the context lasts, so that no other run writes into it. The system lets go of it when
    the process ends, however it ends: what a killed run leaves behind blocks nobody.

    Args:
        folder (`str` or `os.PathLike`):
            The folder; it is made if absent.
        name (`str`):
            What the file in it is called that is locked. Runs with different names do not exclude each other.

    Raises:
        RuntimeError: If another run holds it.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_xlir.utils.folder_lock import alone_in

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with alone_in(folder, "run.lock"):  # another one is refused from here on
    ...         print([file.name for file in Path(folder).iterdir()])
    ['run.lock']

    ```
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RuntimeError(
            f"Another run is writing into `{folder}`, which it would disturb: wait for it or end it, or give another "
            "folder."
        ) from None
    try:
        yield
    finally:
        if os.name == "posix":  # elsewhere an open file cannot be removed
            (folder / name).unlink(missing_ok=True)
        lock.release()


__all__ = ["alone_in"]
