"""Numbers, tables and the plot of `late_interaction.py`, from what its workers answered."""

import importlib.util
import re
import statistics

import numpy as np


TARGETS = {"R@10": (0.94, 0.98), "R@100": (0.85, 0.95)}  # at which growth is fitted
COSTS = ("batch_ms", "p50_ms", "cpu_ms")
# Chunks that fast-plaid keeps, though it has merged them and searches the merged ones
NOT_SEARCHED = {"fast-plaid": re.compile(r"\d+\.(codes|residuals)\.npy")}


def summarize(result, num_queries):
    """Replace the workers' answers in `result` by numbers a point and a build, and ratios to a reference."""
    rounds = result.pop("rounds")
    (truth,) = (answers[0]["batch"]["rows"] for answers in rounds["exact"].values())
    reference = next((name for name, each in result["engines"].items() if each["kind"] != "ours"), "exact")
    result["reference"] = reference
    reference_point = next(iter(rounds[reference].values()))
    for name, engine in result["engines"].items():
        engine.update(summary_of_builds(engine, engine.pop("builds"), engine.pop("load"), result["tokens"]))
        engine["points"] = {
            point: summary_of_rounds(answers, reference_point, truth, num_queries)
            for point, answers in rounds[name].items()
        }
        rss = [answer["single"]["rss_mb"] for answers in rounds[name].values() for answer in answers]
        engine["resident_mb"] = round(max(rss) - engine["before_load_mb"], 1)
    for engine in result["engines"].values():
        engine["build_ratio"] = result["engines"][reference]["build_s"] / engine["build_s"]


def summary_of_builds(engine, builds, load, num_tokens):
    """Medians of the builds' seconds; memory and bytes of the first."""
    first, not_searched = builds[0], NOT_SEARCHED.get(engine["kind"])
    files = {name: size for name, size in first["files"].items() if not (not_searched and not_searched.match(name))}
    return {
        "build_s": statistics.median(each["seconds"] for each in builds),
        "build_cpu_s": statistics.median(each["cpu_seconds"] for each in builds),
        "build_parts_s": {name: round(seconds, 2) for name, seconds in first["parts"].items()},
        "build_options": first["options"],
        "build_peak_mb": round(first["peak_mb"] - first["before_mb"], 1),
        "bytes_per_token": sum(files.values()) / num_tokens,
        "stored_bytes_per_token": sum(first["files"].values()) / num_tokens,
        "files": first["files"],
        "before_load_mb": load["before_mb"],
    }


def summary_of_rounds(answers, reference, truth, num_queries):
    """Latency, throughput, recall, and ratios to the reference's answers of the same rounds."""
    singles = np.array([answer["single"]["seconds"] for answer in answers])  # (rounds, queries)
    batches = np.array([sum(answer["batch"]["seconds"]) for answer in answers])
    pairs = list(zip(answers, reference, strict=False))
    rows = answers[0]["batch"]["rows"]
    return {
        "R@10": recall(rows, truth, 10),
        "R@100": recall(rows, truth, 100),
        "p50_ms": 1e3 * float(np.median(np.percentile(singles, 50, axis=1))),
        "p95_ms": 1e3 * float(np.median(np.percentile(singles, 95, axis=1))),
        "batch_ms": 1e3 * float(np.median(batches)) / num_queries,
        "queries_per_s": num_queries / float(np.median(batches)),
        "cpu_ms": 1e3 * statistics.median(answer["batch"]["cpu_seconds"] for answer in answers) / num_queries,
        "throughput_ratio": statistics.median(
            sum(other["batch"]["seconds"]) / sum(own["batch"]["seconds"]) for own, other in pairs
        ),
        "latency_ratio": statistics.median(
            np.median(other["single"]["seconds"]) / np.median(own["single"]["seconds"]) for own, other in pairs
        ),
    }


def recall(rows, truth, k):
    """Mean share of the best `k` that are among the first `k` found."""
    shares = [len(set(found[:k]) & set(best[:k])) / k for found, best in zip(rows, truth, strict=True)]
    return statistics.mean(shares)


def print_tables(result):
    """Two Markdown tables: builds, and operating points."""
    reference = result["reference"]
    print(f"\n{result['passages']} passages, {result['tokens']} tokens; ratios are to {reference}\n")
    print(f"| | build, s | parts, s | times as fast as {reference} | peak, MB | bytes/token (stored) | resident, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, engine in result["engines"].items():
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in engine["build_parts_s"].items())
        note = "".join(f" ({option} {value})" for option, value in engine["build_options"].items())
        print(
            f"| {name}{note} | {engine['build_s']:.1f} | {parts} | {engine['build_ratio']:.2f} | "
            f"{engine['build_peak_mb']:.0f} | {engine['bytes_per_token']:.1f} "
            f"({engine['stored_bytes_per_token']:.1f}) | {engine['resident_mb']:.0f} |"
        )
    print("\n| | point | R@10 | R@100 | p50, ms | p95, ms | queries/s | CPU ms/query | throughput | latency |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, engine in result["engines"].items():
        for point, found in engine["points"].items():
            print(
                f"| {name} | {point} | {found['R@10']:.3f} | {found['R@100']:.3f} | {found['p50_ms']:.1f} | "
                f"{found['p95_ms']:.1f} | {found['queries_per_s']:.1f} | {found['cpu_ms']:.1f} | "
                f"{found['throughput_ratio']:.2f}x | 1/{found['latency_ratio']:.2f} |"
            )
    print(flush=True)


def growth(sizes):
    """
    Fits of cost over passages at fixed recall: `{engine: [{recall, target, cost, passages, ms, exponent}]}`, for the
    compressed engines that reach the recall at two sizes or more.
    """
    fits = {}
    names = {name for size in sizes for name in size["engines"]} - {"exact"}
    for name in sorted(names):
        for measure, targets in TARGETS.items():
            for target in targets:
                for cost in COSTS:
                    found = [
                        (size["passages"], cost_at(size["engines"][name]["points"].values(), measure, target, cost))
                        for size in sizes
                        if name in size["engines"]
                    ]
                    found = [(passages, ms) for passages, ms in found if ms is not None]
                    if len(found) < 2:
                        continue
                    passages, ms = zip(*found, strict=True)
                    exponent = float(np.polyfit(np.log(passages), np.log(ms), 1)[0])
                    fits.setdefault(name, []).append(
                        {
                            **{"recall": measure, "target": target, "cost": cost},
                            **{"passages": passages, "ms": ms, "exponent": exponent},
                        }
                    )
    return fits


def cost_at(points, measure, target, cost):
    """
    The least cost at which a recall is reached: along the points that no other one beats in both, the logarithm of the
    cost is interpolated between the last one below the recall and the first one above; `None` if none is above.
    """
    front = []
    for point in sorted(points, key=lambda each: (each[cost], -each[measure])):
        if not front or point[measure] > front[-1][0]:
            front.append((point[measure], point[cost]))
    below = [each for each in front if each[0] < target]
    above = [each for each in front if each[0] >= target]
    if not above:
        return None
    if not below:
        return above[0][1]
    (low, cheap), (high, dear) = below[-1], above[0]
    share = (target - low) / (high - low)
    return float(np.exp((1 - share) * np.log(cheap) + share * np.log(dear)))


def print_growth(fits):
    """A Markdown table."""
    print("| | at | cost | ms a query | exponent |\n|---|---|---|---|---|")
    for name, rows in fits.items():
        for row in rows:
            series = ", ".join(
                f"{passages}: {ms:.1f}" for passages, ms in zip(row["passages"], row["ms"], strict=True)
            )
            print(
                f"| {name} | {row['recall']} {row['target']} | {row['cost']} | {series} | {row['exponent']:.2f} |",
                flush=True,
            )


def plot(result, path):
    """Recall against throughput, a line an engine."""
    if importlib.util.find_spec("matplotlib") is None:
        print('Without a plot: `pip install "hf_xlir[benchmark]"` for matplotlib.')
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, measure in zip(axes, TARGETS, strict=True):
        for name, engine in result["engines"].items():
            points = sorted((each[measure], each["queries_per_s"]) for each in engine["points"].values())
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xlabel=f"{measure} against exact MaxSim", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("queries a second, all at once")
    axes[1].legend()
    figure.suptitle(f"{result['passages']:,} passages, {result['tokens']:,} token vectors")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
