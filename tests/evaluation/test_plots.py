"""Charts, checked in the content of SVG and PNG files."""

import html
import re
import sys

import pytest

from hf_xlir.evaluation import EvaluationReport, plot_by_language, plot_recall_curve, require_matplotlib


pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

VALUES = {"fi": 0.5, "ko": 0.25, "macro": 0.375, "mean": 0.4}
REPORT = EvaluationReport(
    "tiny-world",
    {"fi": 2, "ko": 2},
    4,
    {"model": {"R@1": VALUES, "RR": VALUES}, "bm25": {"R@1": {**VALUES, "fi": 0.0, "macro": 0.125}}},
    {"model": {1: 0.25, 5: 0.5, 10: 1.0}, "bm25": {1: 0.25, 5: 0.25, 10: 0.5}},
)


def texts(svg):
    """The texts in an SVG file: matplotlib repeats them in comments beside the outlines of letters."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text("utf-8"))


def test_bars_by_language(tmp_path):
    plot_by_language(REPORT, tmp_path / "new" / "bars.svg")
    said = texts(tmp_path / "new" / "bars.svg")
    assert {"fi", "ko", "macro", "model", "bm25", "tiny-world", "R@1, percent"} <= set(said)
    # Numbers above the bars, system by system; axes have others
    assert [each for each in said if each in ("50", "25", "38", "0", "12")][-6:] == ["50", "25", "38", "0", "25", "12"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["bars.svg"]
    plot_by_language(REPORT, tmp_path / "rr.svg", "RR")
    assert "bm25" not in texts(tmp_path / "rr.svg") and "RR, percent" in texts(tmp_path / "rr.svg")


def test_curve(tmp_path):
    plot_recall_curve(REPORT, tmp_path / "curve.svg")
    assert {"1", "5", "10", "k", "model", "bm25", "R@k, percent"} <= set(texts(tmp_path / "curve.svg"))


@pytest.mark.parametrize("plot", [plot_by_language, plot_recall_curve])
@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("Svg", b"<?xml")])
def test_the_same_numbers_give_the_same_file(tmp_path, plot, suffix, start):
    for name in ("a", "b"):
        plot(REPORT, tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content.startswith(start) and content == (tmp_path / f"b.{suffix}").read_bytes()


def test_without_languages(tmp_path):
    systems = {"model": {"Answer@1": {"mean": 0.5}}}
    report = EvaluationReport("nq", {"all": 3}, 4, systems, {"model": {1: 0.5}}, "Answer")
    plot_by_language(report, tmp_path / "bars.svg")
    assert {"all", "Answer@1, percent", "50"} <= set(texts(tmp_path / "bars.svg"))
    plot_recall_curve(report, tmp_path / "curve.svg")
    assert "Answer@k, percent" in texts(tmp_path / "curve.svg")


# Matplotlib would read the first ones as formulas, some of them faulty, and leave `_mine` out of legends
NAMES = ["$x", "a$b_c$^2", r"$\frac{1}$", r"C:\runs\new", "_mine", "a_b^c%d&e#f<g>", "日本語 العربية", "x\ny", ""]


@pytest.mark.parametrize("plot", [plot_by_language, plot_recall_curve])
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_names_are_drawn_literally(tmp_path, plot):
    systems = {name: {"R@1_$x$": {"$ar": 0.5, "_fi": 0.25, "macro": 0.375}} for name in NAMES}
    report = EvaluationReport("$1 \\ _b^", {"$ar": 2, "_fi": 2}, 4, systems, {name: {1: 0.25} for name in NAMES}, "$R")
    plot(report, tmp_path / "chart.svg")
    said = html.unescape("\n".join(texts(tmp_path / "chart.svg")))
    wanted = [*NAMES, report.benchmark] + (["$ar", "_fi"] if plot is plot_by_language else ["$R@k, percent"])
    for name in wanted:
        assert all(line in said for line in name.split("\n")), name
    plot(report, tmp_path / "chart.png")
    assert require_matplotlib().rcParams["text.parse_math"] is True  # the user's own settings are as they were


def test_a_system_without_a_language(tmp_path):
    systems = {"model": {"R@1": VALUES}, "other": {"R@1": {"fi": 0.75, "macro": 0.75}}}
    plot_by_language(EvaluationReport("b", {"fi": 2, "ko": 2}, 4, systems), tmp_path / "bars.svg")
    said = texts(tmp_path / "bars.svg")
    assert [each for each in said if each in ("50", "25", "38", "75")][-5:] == ["50", "25", "38", "75", "75"]


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="the suffix of `path`` must be one of '.png', '.svg', got '.pdf'"):
        plot_by_language(REPORT, tmp_path / "bars.pdf")
    with pytest.raises(ValueError, match="the suffix of `path`` must be one of '.png', '.svg', got ''"):
        plot_recall_curve(REPORT, tmp_path / "chart")
    with pytest.raises(ValueError, match="No system has the measure 'P@5'"):
        plot_by_language(REPORT, tmp_path / "bars.svg", "P@5")
    with pytest.raises(ValueError, match="has no `curves`"):
        plot_recall_curve(EvaluationReport("nq", {}, 0, {}), tmp_path / "curve.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for plot in (plot_by_language, plot_recall_curve):
        with pytest.raises(ImportError, match=r"`pip install hf_xlir\[plot\]`"):
            plot(REPORT, tmp_path / "chart.png")
    with pytest.raises(ImportError, match="Plots need `matplotlib`"):
        require_matplotlib()
    assert not list(tmp_path.iterdir())
