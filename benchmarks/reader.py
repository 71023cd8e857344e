r"""
Reading, side by side: `FiDT5ForConditionalGeneration` against the same model called as the FiD repository does.

    python benchmarks/reader.py --xquad_dir XQUAD
    python benchmarks/reader.py --xquad_dir XQUAD --options bfloat16 static compiled

- naive: each passage padded to 250 token ids, all of them encoded at once, eager attention, and a decoder that keeps
  keys and values of the padding, too;
- ours: `FiDT5Processor` and `generate`, as they come. `--options` adds ours in bfloat16, with a static cache, and with
  a static cache and decoding steps that `torch.compile` compiled (all shapes before the clock starts).

What is measured: from a question and its passages as text to the answer's token ids, one question after the other, and
the most memory that reading takes beside the loaded model. What is not: imports, loading, and a first question with
two passages. Each measurement is a process of its own, and the sides take turns, round after round: a ratio is the
median of the rounds' ratios. Beside the wall clock stands the processes' CPU time, which a busy machine disturbs less.
Answers must be equal, but for bfloat16, where their share is printed; and how far their tokens'
log-probabilities are from each other, which says more where random weights answer much alike.

Passages: an XQuAD question's own paragraph and those that follow it, of their natural lengths; without `--xquad_dir`
the built-in mini world's, which are shorter and more alike. The model is one of T5-small's shape with random weights
that copy what they attend to, unless `--model` names a reader or a T5, mT5 or umT5.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, AutoTokenizer

from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration, FiDT5Processor
from hf_xlir.data import load_mini_world, load_xquad


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from support.mimetic_init import mimetic_init_  # noqa: E402
from support.vocabulary import train_tokenizer  # noqa: E402


WORKERS = Path(__file__).with_name("reader_workers.py")
OPTIONS = ("bfloat16", "static", "compiled")
NAMES = {
    "naive": "naive",
    "ours": "ours",
    "bfloat16": "ours, bfloat16",
    "static": "ours, static cache",
    "compiled": "ours, static cache, compiled",
}
SHARPNESS = 8.0  # of cross-attention, which otherwise looks at all tokens alike: what is read then matters
SMOKE = {
    "num_passages": [2, 4],
    "num_questions": 2,
    "rounds": 1,
    "max_new_tokens": 3,
    "text_maxlength": 200,
    "vocab_size": 1000,
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 2,
}


def main():
    """Prepare, measure, check, and print a table."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        settings = prepare(args, Path(folder))
        results = measure(settings, args)
    report(results, args.num_questions)


def parse_arguments():
    """The command line; errors in it end the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xquad_dir", help="Folder with xquad.en.json.")
    parser.add_argument("--model", help="Folder or Hub id, instead of random weights.")
    parser.add_argument("--options", nargs="*", default=[], choices=OPTIONS, help="More ways to call ours.")
    parser.add_argument("--num_passages", type=int, nargs="+", default=[10, 50, 100], help="Passages per question.")
    parser.add_argument("--num_questions", type=int, default=4, help="Read in each measurement.")
    parser.add_argument("--rounds", type=int, default=3, help="How often each side is measured.")
    parser.add_argument("--max_new_tokens", type=int, default=10, help="Longest answer, in tokens.")
    parser.add_argument("--text_maxlength", type=int, default=250, help="Token ids of a passage with its question.")
    parser.add_argument("--threads", type=int, default=1, help="Threads per process.")
    parser.add_argument("--vocab_size", type=int, default=8000, help="Pieces of the random model's tokenizer.")
    parser.add_argument("--d_model", type=int, default=512, help="Width of the random model.")
    parser.add_argument(
        "--num_layers", type=int, default=6, help="Layers of the random model's encoder, and of its decoder."
    )
    parser.add_argument("--num_heads", type=int, default=8, help="Attention heads of the random model.")
    parser.add_argument("--smoke", action="store_true", help="The smallest sizes, to see that it runs.")
    if "--smoke" in sys.argv:
        parser.set_defaults(**SMOKE)
    args = parser.parse_args()
    for name, value in vars(args).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(each, int) and not isinstance(each, bool) and each < 1 for each in numbers):
            parser.error(f"--{name} must be at least 1, got {value}.")
    if args.xquad_dir is not None and not Path(args.xquad_dir, "xquad.en.json").is_file():
        parser.error(f"--xquad_dir has no xquad.en.json: {args.xquad_dir}.")
    return args


def prepare(args, folder):
    """Write the rows and a plain model into a folder: what all measurements have in common."""
    passages, questions = read_data(args.xquad_dir)
    most = max(args.num_passages)
    if most > len(passages):
        raise SystemExit(f"There are {len(passages)} passages: --num_passages may not be more, got {most}.")
    rows = make_rows(passages, questions, args.num_questions, most)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")

    if args.model is None:
        tokenizer = train_tokenizer(
            [*(each["text"] for each in passages), *(each[0] for each in questions)], args.vocab_size
        )
        reader = make_reader(tokenizer, args)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        reader = FiDT5ForConditionalGeneration.from_pretrained(args.model, dtype="float32")
    tokenizer.save_pretrained(folder)
    save_plain(reader, folder)
    print_lengths(FiDT5Processor(tokenizer, args.text_maxlength, n_context=None), rows)
    return {
        "folder": str(folder),
        "rows": str(folder / "rows.json"),
        "text_maxlength": args.text_maxlength,
        "max_new_tokens": args.max_new_tokens,
        "threads": args.threads,
    }


def read_data(xquad_dir):
    """Passages, and `(question, row of the passage that answers it)`."""
    if xquad_dir is None:
        world = load_mini_world(["ko"])
        passages, questions = world.passages, world.questions["validation"]
    else:
        passages, questions = load_xquad("en", xquad_dir)
    row_of = {id: row for row, id in enumerate(passages["id"])}
    pairs = [(each["question"], row_of[each["passage_ids"][0]]) for each in questions if each["passage_ids"]]
    return list(passages), pairs


def make_rows(passages, questions, num_questions, num_passages):
    """Questions from all over the data, each with its own passage and those that follow it."""
    chosen = questions[:: max(1, len(questions) // num_questions)][:num_questions]
    return [
        {
            "question": question,
            "passages": [passages[(row + each) % len(passages)] for each in range(num_passages)],
        }
        for question, row in chosen
    ]


def make_reader(tokenizer, args):
    """A reader with random weights."""
    torch.manual_seed(0)
    config = FiDT5Config(
        vocab_size=len(tokenizer),
        d_model=args.d_model,
        d_kv=args.d_model // args.num_heads,
        d_ff=4 * args.d_model,
        num_layers=args.num_layers,
        num_heads=args.num_heads,
        tie_word_embeddings=False,  # else each token would be followed by itself
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    reader = mimetic_init_(FiDT5ForConditionalGeneration(config), cross_value_scale=SHARPNESS)
    for block in reader.decoder.block:
        for projection in (block.layer[1].EncDecAttention.q, block.layer[1].EncDecAttention.k):
            projection.weight.data.mul_(SHARPNESS)
    reader.lm_head.weight.data.copy_(reader.shared.weight)  # what is attended to is what is written
    return reader


def save_plain(reader, folder):
    """Save a reader as the T5, mT5 or umT5 that it is made of, which both sides can load."""
    left_out = ("model_type", "backbone_model_type", "architectures")
    fields = {name: value for name, value in reader.config.to_dict().items() if name not in left_out}
    plain = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING[reader.config.backbone_model_type](**fields))
    plain.load_state_dict(reader.state_dict())
    plain.save_pretrained(folder)


def print_lengths(processor, rows):
    """How ragged the passages are."""
    lengths = torch.cat(
        [processor([row["question"]], passages=[row["passages"]])["attention_mask"].sum(-1).flatten() for row in rows]
    ).float()
    quantiles = [int(each) for each in lengths.quantile(torch.tensor([0.1, 0.5, 0.9]))]
    print(f"Passages of {float(lengths.mean()):.0f} token ids with their question (10/50/90%: {quantiles})")


def measure(settings, args):
    """`{(number of passages, side): [result of each round]}`: the sides take turns."""
    sides = ["naive", "ours", *args.options]
    results = {(number, side): [] for number in args.num_passages for side in sides}
    for round in range(args.rounds):
        for number, side in results:
            results[number, side].append(run({**settings, "num_passages": number, "side": side}))
        print(f"round {round + 1} of {args.rounds}", file=sys.stderr, flush=True)
    return results


def run(settings):
    """What a side's process writes."""
    folder = Path(settings["folder"])
    settings_path, result_path = folder / "settings.json", folder / "result.json"
    settings_path.write_text(json.dumps(settings), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    threads = {name: str(settings["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(WORKERS), str(settings_path), str(result_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{settings['side']} with {settings['num_passages']} passages failed:\n{done.stderr[-3000:]}")
    return json.loads(result_path.read_text(encoding="utf-8"))


def report(results, num_questions):
    """Check the answers, print a line a side in Markdown, and how memory grows."""
    numbers = list(dict.fromkeys(number for number, _ in results))
    sides = list(dict.fromkeys(side for _, side in results))
    columns = "questions/s | times as fast | by CPU time | memory, MB | of naive | equal answers | log-probabilities"
    print(f"| passages | | {columns} |")
    print("|" + "---|" * (columns.count("|") + 3))
    memory = {side: [] for side in sides}
    for number in numbers:
        naive = results[number, "naive"]
        for side in sides:
            own = results[number, side]
            equal, off = share_of_equal(naive, own), largest_difference(naive, own)
            if side != "bfloat16" and equal < 1:
                raise SystemExit(
                    f"{NAMES[side]} answers otherwise than naive: {equal:.0%} are equal at {number} passages."
                )
            speed = num_questions / statistics.median(each["wall"] for each in own)
            times = [
                statistics.median(base[clock] / each[clock] for base, each in zip(naive, own, strict=True))
                for clock in ("wall", "cpu")
            ]
            memory[side].append(statistics.median(each["reading_mb"] for each in own))
            of_naive = memory[side][-1] / (memory["naive"][-1] or float("nan"))
            print(
                f"| {number} | {NAMES[side]} | {speed:.3g} | {times[0]:.2f} | {times[1]:.2f} | "
                f"{memory[side][-1]:.0f} | {of_naive:.2f} | {equal:.0%} | {off:.0e} |",
                flush=True,
            )
    for side in sides:
        if len(numbers) > 1:
            exponent, r2 = fit_growth(numbers, memory[side])
            print(f"Memory of {NAMES[side]}: as N^{exponent:.2f}; a straight line explains R² = {r2:.4f}")


def share_of_equal(naive, own):
    """The share of a side's answers, over all rounds, that are the naive ones."""
    pairs = [
        pair
        for rounds in zip(naive, own, strict=True)
        for pair in zip(*[each["answers"] for each in rounds], strict=True)
    ]
    return sum(first == second for first, second in pairs) / len(pairs)


def largest_difference(naive, own):
    """The largest difference of tokens' log-probabilities; NaN where answers differ in length."""
    pairs = [
        pair
        for rounds in zip(naive, own, strict=True)
        for pair in zip(*[each["log_probabilities"] for each in rounds], strict=True)
    ]
    if any(len(first) != len(second) for first, second in pairs):
        return float("nan")
    return max(abs(a - b) for first, second in pairs for a, b in zip(first, second, strict=True))


def fit_growth(numbers, values):
    """The exponent of the power of N that fits best, and R² of the straight line that does."""
    numbers, values = np.array(numbers, dtype=float), np.array(values)
    exponent = np.polyfit(np.log(numbers), np.log(np.maximum(values, 1e-3)), 1)[0]
    errors = values - np.polyval(np.polyfit(numbers, values, 1), numbers)
    spread = ((values - values.mean()) ** 2).sum()
    return float(exponent), float(1 - (errors**2).sum() / spread) if spread else 1.0


if __name__ == "__main__":
    main()
