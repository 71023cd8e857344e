"""Charts of an evaluation report, by `matplotlib` (the extra `plot`)."""

import math
from pathlib import Path

from ..utils.checks import check_choice
from ..utils.files import replacing


FORMATS = (".png", ".svg")
LARGEST_LABELLED = 24  # bars: the labels of more would overlap


def require_matplotlib():
    r"""
    Import `matplotlib`. A script calls this before long work, which would otherwise end in an error.

    Returns:
        `module`

    Raises:
        ImportError: If `matplotlib` is not installed.

    Example:
    ```python
    >>> from hf_xlir.evaluation import require_matplotlib

    >>> matplotlib = require_matplotlib()  # doctest: +SKIP

    ```
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "Plots need `matplotlib`, which is not installed: `pip install hf_xlir[plot]`, or switch plots off."
        ) from error
    return matplotlib


def plot_by_language(report, path, measure=None):
    r"""
    Draw a bar chart with one group of bars per language and one bar per system. Names are drawn literally. If
    matplotlib's font lacks their letters, set another one in its `font.family`.

    Args:
        report ([`EvaluationReport`]):
            The report to draw.
        path (`str` or `os.PathLike`):
            The file, with the suffix `.png` or `.svg`. It is written completely or not at all.
        measure (`str`, *optional*):
            One of the report's measures. Defaults to the first.

    Raises:
        ImportError: If `matplotlib` is not installed.
        ValueError: If the suffix differs, or no system has the measure.

    Example:
    ```python
    >>> from hf_xlir.evaluation import plot_by_language

    >>> plot_by_language(report, "by_language.png", "R@10")  # doctest: +SKIP

    ```
    """
    systems = {name: values for name, values in report.systems.items() if measure is None or measure in values}
    if not systems:
        raise ValueError(f"No system has the measure {measure!r}.")
    measure = measure or next(iter(next(iter(systems.values()))))
    names, labels = report.columns()
    width = 0.8 / len(systems)
    with _chart(path, (max(4.0, 1.6 + 0.28 * len(names) * (len(systems) + 1)), 3.6)) as axes:
        drawn = []
        for position, values in enumerate(systems.values()):
            places = [place + (position - (len(systems) - 1) / 2) * width for place in range(len(names))]
            bars = axes.bar(places, [100 * values[measure].get(name, math.nan) for name in names], width)
            drawn.append(bars)
            if len(names) * len(systems) <= LARGEST_LABELLED:
                axes.bar_label(bars, fmt="%.0f", fontsize=7)
        axes.set_xticks(range(len(names)), labels)
        axes.set_ylim(0, 105)
        axes.set_ylabel(f"{measure}, percent")
        axes.set_title(report.benchmark)
        _legend(axes, drawn, systems)


def plot_recall_curve(report, path):
    r"""
    Draw recall, or DPR's accuracy, by the number of passages looked at, with one line per system.

    Args:
        report ([`EvaluationReport`]):
            The report whose `curves` to draw.
        path (`str` or `os.PathLike`):
            The file, as for [`plot_by_language`].

    Raises:
        ImportError: If `matplotlib` is not installed.
        ValueError: If the suffix differs, or the report has no curve.

    Example:
    ```python
    >>> from hf_xlir.evaluation import plot_recall_curve

    >>> plot_recall_curve(report, "recall_curve.svg")  # doctest: +SKIP

    ```
    """
    if not report.curves:
        raise ValueError("The report has no `curves` to draw.")
    cutoffs = list(next(iter(report.curves.values())))
    with _chart(path, (5.2, 3.6)) as axes:
        drawn = [
            axes.plot(list(curve), [100 * value for value in curve.values()], marker="o", markersize=3)[0]
            for curve in report.curves.values()
        ]
        axes.set_xscale("log")
        axes.set_xticks(cutoffs, [str(k) for k in cutoffs])
        axes.minorticks_off()
        axes.set_ylim(0, 105)
        axes.set_xlabel("k")
        axes.set_ylabel(f"{report.curve_measure}@k, percent")
        axes.set_title(report.benchmark)
        axes.grid(alpha=0.3)
        _legend(axes, drawn, report.curves)


def _legend(axes, drawn, names):
    """Add the names afterwards: a legend leaves out labels that begin with `_`."""
    legend = axes.legend(drawn, map(str, range(len(drawn))), loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


class _chart:
    """Axes to draw on; the file is written unless drawing fails. `pyplot`, which is global, is not used."""

    def __init__(self, path, size):
        suffix = Path(path).suffix.lower()
        check_choice("the suffix of `path`", suffix, FORMATS)
        self.matplotlib = require_matplotlib()
        from matplotlib.figure import Figure

        self.path, self.kind = Path(path), suffix[1:]
        self.figure = Figure(figsize=size, layout="constrained")
        # Names are not formulas, and the same numbers give the same file
        settings = {"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "hf_xlir"}
        self.settings = self.matplotlib.rc_context(settings)

    def __enter__(self):
        self.settings.__enter__()
        axes = self.figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def __exit__(self, error_class, *error):
        try:
            if error_class is None:
                self._write()
        finally:
            self.settings.__exit__(error_class, *error)

    def _write(self):
        metadata = {"Date": None} if self.kind == "svg" else None
        with replacing(self.path) as draft:
            self.figure.savefig(draft, format=self.kind, dpi=150, metadata=metadata)


__all__ = ["plot_by_language", "plot_recall_curve", "require_matplotlib"]
