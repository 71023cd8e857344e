"""FAISS: which distribution is installed, and the module, imported on first use."""

from importlib import metadata


GPU_DISTRIBUTIONS = ("faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")


def check_distributions():
    """
    Look at what is installed, without importing FAISS.

    Raises:
        ImportError: If a CPU and a GPU distribution are installed, which overwrite each other.
    """
    installed = [name for name in ("faiss-cpu", *GPU_DISTRIBUTIONS) if _is_installed(name)]
    if len(installed) > 1:
        keep = installed[-1]
        raise ImportError(
            f"{' and '.join(f'`{name}`' for name in installed)} are installed together, and both provide the module "
            f"`faiss`. Uninstall all of them and install one: `pip uninstall -y {' '.join(installed)}`, then "
            f"`pip install {keep}` for a machine with an NVIDIA GPU, or `pip install faiss-cpu` for any other."
        )


def import_faiss():
    """
    The module `faiss`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ImportError(
            "Dense indexes need FAISS: `pip install faiss-cpu`, or `pip install faiss-gpu` for an NVIDIA GPU."
        ) from error
    return faiss


def _is_installed(name):
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


__all__ = ["import_faiss"]
