r"""
Late interaction, side by side: `LateInteractionIndex` against fast-plaid, PyLate's engine, and WARP through PyLate, on
the same token vectors and equally many threads.

    python benchmarks/late_interaction.py --embeddings EMBEDDINGS --peer_python PEER/bin/python --output REPORT
    python benchmarks/late_interaction.py --embeddings EMBEDDINGS --sizes 5000 10000 20000 50000 --nbits 4

`EMBEDDINGS` is a folder of `late_interaction_data.py`, which encodes it if it is not there. What is measured:

- build: seconds from memory-mapped vectors to an index on disk, and of its parts; the peers' input is in their memory
  before the clock starts. Peak memory is what the process and its children have that no file backs;
- size: bytes a token of the index's files that a search and its rerank need, and of all that are stored; memory that
  loading and searching adds to the process, mapped files included;
- queries: `--query_sample` further ones are given to our builds as the sample that precision is fitted to; the index
  of the first of `--nbits` is also built without, and with the pieces of passages that `embed_passages` takes instead;
- search: single queries (median and 95th percentile) and all at once (throughput, CPU time), and how many of the 10
  and the 100 best passages of exact MaxSim are among the 10 and the 100 found (R@10, R@100), at several operating
  points: of ours `n_probe`, `n_tokens`, `n_rerank`; of the peers their defaults, and others;
- growth, with several `--sizes`: the exponent of search cost over passages at fixed recall, fitted.

Every engine is built in a process of its own, and searched in another. Rounds of searches alternate between engines
and their points: a ratio is the median of the rounds' ratios. A peer whose default build takes longer than
`--build_limit` learns its centroids from a sample of `--peer_sample` passages instead, and the table says so.

The peers have an environment of their own:

    python -m venv PEER
    PEER/bin/pip install "pylate[warp]==1.6.0" fast-plaid==1.4.6.2110

On a machine without a GPU, torch's CPU build (2.11.0) is enough. Linux only, for `/proc`.
"""

import argparse
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import late_interaction_report as report
import numpy as np


DATA, WORKERS = (Path(__file__).with_name(f"late_interaction_{name}.py") for name in ("data", "workers"))
K = 100
SECONDS_BETWEEN_SAMPLES = 0.1  # of memory
EVERYTHING = 2**40
OUR_POINTS = ("fast", "balanced", "4,0,500", "8,0,500", "16,0,1000", "32,0,1000", "32,0,2000", "64,0,4000", "exact")
PEER_POINTS = {
    "fast-plaid": {
        "default": {},
        "probe 4, full 1024": {"n_ivf_probe": 4, "n_full_scores": 1024},
        "probe 16, full 8192": {"n_ivf_probe": 16, "n_full_scores": 8192},
        "probe 32, full 8192": {"n_ivf_probe": 32, "n_full_scores": 8192},
    },
    "warp": {
        "default": {},
        "probe 8": {"n_ivf_probe": 8},
        "probe 64": {"n_ivf_probe": 64},
        "probe 128": {"n_ivf_probe": 128},
    },
}
MODULES = {"fast-plaid": ["fast_plaid"], "warp": ["xtr_warp", "pylate"]}


class Engine(NamedTuple):
    """What is measured: its name in tables, the worker's name of it, its interpreter, and options."""

    name: str
    kind: str
    python: str
    options: dict
    points: dict


def main(argv=None):
    """Measure, print tables, write the report."""
    args = parse_args(argv)
    ensure_embeddings(args)
    engines = our_engines(args) + peer_engines(args)
    result = {"arguments": vars(args), "sizes": []}
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
            found = measure(size, engines, Path(folder), args)
        result["sizes"].append(found)
        report.print_tables(found)
        if args.output:
            Path(args.output).mkdir(parents=True, exist_ok=True)
            Path(args.output, "report.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            report.plot(found, Path(args.output, f"recall_throughput_{size}.png"))
    if len(args.sizes) > 1:
        result["growth"] = report.growth(result["sizes"])
        report.print_growth(result["growth"])
        if args.output:
            Path(args.output, "report.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def parse_args(argv=None):
    """The command line; errors in it end the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", required=True, help="folder of late_interaction_data.py, made if absent")
    parser.add_argument("--xquad_dir", help="for embeddings that are made: folder with xquad.en.json")
    parser.add_argument("--model", help="for embeddings that are made: folder of an encoder")
    parser.add_argument("--query_length", type=int, default=32, help="for embeddings that are made")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000], help="numbers of passages")
    parser.add_argument("--num_queries", type=int, default=100)
    parser.add_argument("--query_sample", type=int, default=100, help="further queries, given to our builds; 0: none")
    parser.add_argument("--num_single", type=int, help="of them one at a time; by default all")
    parser.add_argument(
        "--query_tokens", choices=("expanded", "real"), default="expanded", help="with or without [MASK]"
    )
    parser.add_argument("--nbits", type=int, nargs="+", default=[4, 2, 8], help="of our compressed indexes")
    parser.add_argument(
        "--pooling_factors", type=int, nargs="*", default=[], help="of further indexes, with the first of --nbits"
    )
    parser.add_argument(
        "--points", nargs="+", default=OUR_POINTS, help="of ours: presets, or n_probe,n_tokens,n_rerank (0: no limit)"
    )
    parser.add_argument("--peer_python", help="interpreter that has fast-plaid, or PyLate with WARP, or both")
    parser.add_argument("--peers", nargs="*", choices=list(PEER_POINTS), default=list(PEER_POINTS))
    parser.add_argument("--peer_points", type=int, default=4, help="how many; the first is the default one")
    parser.add_argument("--build_limit", type=float, default=1200, help="seconds of a peer's default build")
    parser.add_argument("--peer_sample", type=int, default=5000, help="passages that centroids are learned from else")
    parser.add_argument("--build_rounds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work_dir", help="where indexes are built; by default the system's temporary folder")
    parser.add_argument("--output", help="folder for report.json and the plot")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int | float) and each < (0 if name == "query_sample" else 1):
                parser.error(f"--{name} must be at least 1, got {each}.")
    if min(args.sizes) < K:
        parser.error(f"--sizes must be at least {K}, of which recall is measured, got {min(args.sizes)}.")
    if args.peer_python and not Path(args.peer_python).is_file():
        parser.error(f"--peer_python names no file: {args.peer_python}. Give an environment's bin/python.")
    args.points = {text: point(text, parser) for text in args.points}
    args.sizes = sorted(args.sizes)
    return args


def point(text, parser):
    """Search options of ours."""
    if text in ("fast", "balanced", "exact"):
        return {"preset": text}
    values = text.split(",")
    if len(values) != 3 or not all(value.isdigit() for value in values):
        parser.error(f"--points takes `fast`, `balanced`, `exact`, or three numbers like 16,0,1000, got {text}.")
    limits = (int(value) or EVERYTHING for value in values)
    return dict(zip(("n_probe", "n_tokens", "n_rerank"), limits, strict=True))


def ensure_embeddings(args):
    """Encode if nobody has, and check that there is enough."""
    folder = Path(args.embeddings)
    if not (folder / "passages" / "manifest.json").exists():
        command = [sys.executable, DATA, folder, "--num_passages", max(args.sizes), "--threads", args.threads]
        command += ["--num_queries", args.num_queries + args.query_sample, "--query_length", args.query_length]
        for name in ("xquad_dir", "model"):
            if getattr(args, name):
                command += [f"--{name}", getattr(args, name)]
        subprocess.run([str(each) for each in command], check=True)
    files = array_files(folder)
    num_passages, num_queries = (len(np.load(files[name], mmap_mode="r")) for name in ("lengths", "query_mask"))
    needed = args.num_queries + args.query_sample
    if num_passages < max(args.sizes) or num_queries < needed:
        raise SystemExit(
            f"{folder} has {num_passages} passages and {num_queries} queries, {max(args.sizes)} and {needed} are "
            "needed: encode more with late_interaction_data.py, or give smaller numbers."
        )


def array_files(folder):
    """Paths of the arrays, which peers read without this package."""
    passages = folder / "passages"
    names = json.loads((passages / "manifest.json").read_text(encoding="utf-8"))["files"]
    wanted = [name for name in ("values", "lengths", "query_moments") if f"{name}.npy" in names]
    files = {name: str(passages / names[f"{name}.npy"]["name"]) for name in wanted}
    return files | {name: str(folder / f"{name}.npy") for name in ("queries", "query_mask")}


def our_engines(args):
    """Exact search, which gives the truth, and the compressed indexes."""
    sample = {"query_sample": args.query_sample} if args.query_sample else {}
    indexes = {f"ours, {nbits} bits": {"nbits": nbits} | sample for nbits in args.nbits}
    if sample:
        pieces = array_files(Path(args.embeddings)).get("query_moments")
        if pieces:
            indexes[f"ours, {args.nbits[0]} bits, pieces"] = {"nbits": args.nbits[0], "query_moments": pieces}
        indexes[f"ours, {args.nbits[0]} bits, no sample"] = {"nbits": args.nbits[0]}
    for factor in args.pooling_factors:
        pooled = {"nbits": args.nbits[0], "pooling_factor": factor}
        indexes[f"ours, {args.nbits[0]} bits, pooled {factor}"] = pooled | sample
    exact = Engine("exact", "ours", sys.executable, {"nbits": None}, {"all passages": {}})
    return [exact] + [Engine(name, "ours", sys.executable, each, args.points) for name, each in indexes.items()]


def peer_engines(args):
    """Those of the peers that the interpreter has."""
    engines = []
    for kind in args.peers if args.peer_python else []:
        code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {MODULES[kind]})))"
        if subprocess.run([args.peer_python, "-c", code]).returncode:
            print(f"Without {kind}: {args.peer_python} has not all of {MODULES[kind]}.", flush=True)
            continue
        points = dict(itertools.islice(PEER_POINTS[kind].items(), args.peer_points))
        engines.append(Engine(kind, kind, args.peer_python, {}, points))
    return engines


def measure(size, engines, folder, args):
    """Build and search an index of so many passages by each engine."""
    result = {"passages": size, "engines": {}}
    built = []
    for round, engine in itertools.product(range(args.build_rounds), engines):
        index = folder / f"{engine.name}-{round}"
        if round and engine.name not in result["engines"]:
            continue  # failed before
        found = build(engine, index, size, args)
        if found is None:
            continue
        result["tokens"] = found["num_tokens"]
        result["engines"].setdefault(engine.name, {"kind": engine.kind, "builds": []})["builds"].append(found)
        if round == 0:
            built.append((engine, index))
    workers = {}
    try:
        for engine, index in built:
            worker = workers[engine.name] = Worker(engine, index, size, args)
            result["engines"][engine.name]["load"] = worker.ask({"do": "load"})
        result["rounds"] = search_rounds([engine for engine, _ in built], workers, args)
    finally:
        for worker in workers.values():
            worker.close()
    report.summarize(result, args.num_queries)
    return result


def build(engine, index, size, args):
    """Seconds, memory and bytes of a build, or `None` if it fails."""
    attempts = [({}, None)]
    if engine.kind != "ours":
        attempts = [({}, args.build_limit), ({"n_samples_kmeans": args.peer_sample}, 2 * args.build_limit)]
    for options, limit in attempts:
        worker = Worker(engine._replace(options=engine.options | options), index, size, args)
        try:
            found = worker.ask({"do": "build"}, limit)
        except TimeoutError:
            print(f"{engine.name}: the build with {options or 'defaults'} was ended after {limit:.0f} s.", flush=True)
            continue
        except RuntimeError as error:
            print(f"{engine.name}: {error}", flush=True)
            return None
        finally:
            worker.close()
        found |= {"options": options, "peak_mb": worker.peak_mb}
        found["files"] = {
            str(path.relative_to(index)): path.stat().st_size for path in index.rglob("*") if path.is_file()
        }
        print(f"{engine.name}: {size} passages built in {found['seconds']:.1f} s", flush=True)
        return found
    return None


def search_rounds(engines, workers, args):
    """`{engine: {point: [answers of a round: single and batch]}}`, engines and points alternating."""
    answers = {engine.name: {name: [] for name in engine.points} for engine in engines}
    for round in range(-1, args.rounds):
        for engine in engines:
            for name, options in engine.points.items():
                worker = workers[engine.name]
                command = {"do": "search", "k": K, "options": options, "single": True}
                if round < 0:  # the first ones warm up
                    worker.ask({**command, "num_queries": 2})
                    continue
                if engine.name == "exact" and round:
                    continue  # the truth is the truth
                num_single = 5 if engine.name == "exact" else args.num_single
                single = worker.ask({**command, "num_queries": num_single})
                batch = worker.ask({**command, "single": False})
                answers[engine.name][name].append({"single": single, "batch": batch})
        if round >= 0:
            print(f"searches: round {round + 1} of {args.rounds}", flush=True)
    return answers


class Worker:
    """A process of `late_interaction_workers.py`."""

    def __init__(self, engine, index, size, args):
        settings = {
            "engine": engine.kind,
            "options": engine.options,
            "index": str(index),
            "files": array_files(Path(args.embeddings).resolve()),
            "num_passages": size,
            "num_queries": args.num_queries,
            "query_tokens": args.query_tokens,
            "threads": args.threads,
        }
        threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS")}
        self.peak_mb, self.name, self.errors = 0.0, engine.name, tempfile.TemporaryFile(mode="w+")
        environment = {**os.environ, **threads}
        if engine.kind != "ours":
            environment.pop("PYTHONPATH", None)  # of this environment
        self.process = subprocess.Popen(
            [engine.python, WORKERS, json.dumps(settings)],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "text": True},
            env=environment,
        )

    def ask(self, command, limit=None):
        """The answer; peak memory is watched meanwhile."""
        with suppress(BrokenPipeError):  # the process has ended; the missing answer says why
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        waited = 0.0
        while not select.select([self.process.stdout], [], [], SECONDS_BETWEEN_SAMPLES)[0]:
            if command["do"] == "build":
                self.peak_mb = max(self.peak_mb, private_mb(self.process.pid))
            waited += SECONDS_BETWEEN_SAMPLES
            if limit is not None and waited > limit:
                raise TimeoutError
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended: {self.errors.read()[-2000:]}")
        return json.loads(line)

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def private_mb(pid):
    """Megabytes of a process and its children that no file backs."""
    total = 0.0
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
        total += int(fields.get("RssAnon", "0").split()[0]) * 1024 / 1e6
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(private_mb(child) for child in (task / "children").read_text("utf-8").split())
    except OSError:
        pass  # it ended meanwhile
    return total


if __name__ == "__main__":
    main()
