"""
One engine of `late_interaction.py`, in a process of its own, by the interpreter that has it installed.

    python benchmarks/late_interaction_workers.py SETTINGS

`SETTINGS` is JSON: `engine`, `options` of the index, `index` (a folder), `files` (arrays: `values`, `lengths`,
`queries`, `query_mask`), `num_passages`, `num_queries`, `query_tokens` and `threads`. The process answers each line of
JSON on the standard input with one line: `build`, `load`, or `search` (with an operating point's options, `k`, and
whether queries come one at a time).
"""

import importlib
import json
import os
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch


class Passages:
    """Token vectors of the first passages, from files."""

    def __init__(self, values, lengths, num_passages):
        self.lengths = np.load(lengths)[:num_passages].astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.values = np.load(values, mmap_mode="c")[: self.offsets[-1]]
        self.values.view(np.uint8).max()  # reads all: a cold disk is not what is measured

    def tensors(self):
        """A tensor for each passage, as the peers want them: views of one copy in memory."""
        return list(torch.from_numpy(np.array(self.values)).split(self.lengths.tolist()))


class Ours:
    """`LateInteractionIndex`; exact with `nbits` of `None`."""

    def __init__(self, folder, options, sample):
        from hf_xlir import index

        self.library, self.folder, self.options, self.index = index, folder, dict(options), None
        self.query_moments = self.options.pop("query_moments", None)
        if self.options.pop("query_sample", 0):
            self.options["queries"] = index.QueryEmbeddings(*sample)

    def build(self, passages, clock):
        """Build and save."""
        segments = importlib.import_module("hf_xlir.index.late_interaction.segments")
        ids = [str(row) for row in range(len(passages.lengths))]
        moments = self.query_moments and np.load(self.query_moments)
        embeddings = self.library.TokenEmbeddings(passages.values, passages.lengths, ids, moments)
        trained = clock.calls("centroids", segments, "train_codec")
        with trained, clock.calls("codes", segments.CompressedTokens, "build"):
            index = self.library.LateInteractionIndex.build(embeddings, **self.options)
        with clock.part("save"):
            index.save(self.folder)

    def load(self):
        """Open the folder."""
        self.index = self.library.LateInteractionIndex.load(self.folder)

    def search(self, queries, mask, k, options):
        """Rows of the best passages."""
        found = self.index.search_batch(queries, k=k, query_mask=mask, progress=False, **options)
        return found.total_indices.tolist()


class FastPlaid:
    """fast-plaid, on the CPU."""

    def __init__(self, folder, options, sample):
        from fast_plaid.search import fast_plaid

        self.library, self.folder, self.options, self.index = fast_plaid, str(folder), options, None

    def build(self, passages, clock):
        """Build; it is saved meanwhile."""
        with clock.part("input"):
            tensors = passages.tensors()
        self.load()
        with clock.calls("centroids", self.library, "compute_kmeans"):
            self.index.create(tensors, **self.options)

    def load(self):
        """Open the folder."""
        self.index = self.library.FastPlaid(index=self.folder, device="cpu")

    def search(self, queries, mask, k, options):
        """Rows of the best passages."""
        # Its own rule for many queries, but with no more threads than the others have
        processes = None if len(queries) <= 10 else torch.get_num_threads()
        tensors = _counted(queries, mask)
        found = self.index.search(tensors, top_k=k, show_progress=False, n_processes=processes, **options)
        return [[row for row, _ in best] for best in found]


class Warp:
    """WARP through PyLate, whose options of a search are attributes of the index."""

    def __init__(self, folder, options, sample):
        from pylate.indexes import WARP

        self.library, self.folder, self.options, self.index = WARP, str(folder), options, None

    def build(self, passages, clock):
        """Build; it is saved meanwhile."""
        with clock.part("input"):
            tensors = passages.tensors()
        self.load()
        with clock.calls("centroids", importlib.import_module("xtr_warp.search"), "compute_kmeans"):
            self.index.add_documents([str(row) for row in range(len(tensors))], tensors)

    def load(self):
        """Open the folder, for as many threads as the others have; its default is one."""
        threads = torch.get_num_threads()
        self.index = self.library(self.folder, device="cpu", show_progress=False, num_threads=threads, **self.options)
        self.usual_probes = self.index.n_ivf_probe

    def search(self, queries, mask, k, options):
        """Rows of the best passages."""
        self.index.n_ivf_probe = options.get("n_ivf_probe", self.usual_probes)
        return [[int(each["id"]) for each in best] for best in self.index(_counted(queries, mask), k=k)]


ENGINES = {"ours": Ours, "fast-plaid": FastPlaid, "warp": Warp}


def main():
    """Answer commands."""
    # What libraries print goes to the errors
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)  # fast-plaid's sample
    files, num_queries = settings["files"], settings["num_queries"]
    queries, mask = (torch.from_numpy(np.load(files[name])) for name in ("queries", "query_mask"))
    if settings["query_tokens"] == "expanded":
        mask = torch.ones_like(mask)
    sample = slice(num_queries, num_queries + settings["options"].get("query_sample", 0))
    sample = queries[sample], mask[sample]
    queries, mask = queries[:num_queries], mask[:num_queries]
    engine = ENGINES[settings["engine"]](Path(settings["index"]), settings["options"], sample)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "build":
            answer = build(engine, Passages(files["values"], files["lengths"], settings["num_passages"]))
        elif command["do"] == "load":
            before = memory()
            engine.load()
            answer = {"before_mb": before["VmRSS"]}
        else:
            some = slice(command.get("num_queries"))
            answer = search(engine, queries[some], mask[some], command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(engine, passages):
    """Seconds of a build and of its parts; CPU seconds."""
    before, clock = memory(), Clock()
    started, cpu = time.perf_counter(), cpu_seconds()
    engine.build(passages, clock)
    return {
        "seconds": time.perf_counter() - started - clock.parts.pop("input", 0),
        "cpu_seconds": cpu_seconds() - cpu,
        "parts": clock.parts,
        "before_mb": before["RssAnon"],
        "num_tokens": len(passages.values),
    }


def search(engine, queries, mask, command):
    """Seconds of each call, the CPU's too, and the rankings."""
    step = 1 if command["single"] else len(queries)
    seconds, rows, cpu = [], [], cpu_seconds()
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        started = time.perf_counter()
        rows += engine.search(queries[chunk], mask[chunk], command["k"], command["options"])
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "rows": rows, "rss_mb": memory()["VmRSS"]}


class Clock:
    """Seconds by part."""

    def __init__(self):
        self.parts = {}

    @contextmanager
    def part(self, name):
        """Add the seconds of a block."""
        started = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0) + time.perf_counter() - started

    def calls(self, name, owner, attribute):
        """While a block runs, add the seconds of a function that it calls."""
        function = getattr(owner, attribute)

        def timed(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return mock.patch.object(owner, attribute, timed)


def memory():
    """Megabytes that the process has in memory: all (`VmRSS`), and without what is mapped from files (`RssAnon`)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")}


def cpu_seconds():
    """CPU seconds of the process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _counted(queries, mask):
    """A tensor for each query, of the tokens that count."""
    return [query[counts] for query, counts in zip(queries, mask, strict=True)]


if __name__ == "__main__":
    main()
