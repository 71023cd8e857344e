"""Arguments of scripts: a recipe's, the command line's, and what is wrong with either."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from transformers import TrainingArguments

from support import recipes
from support.recipes import check_files, check_given, parse_recipe
from support.smoke import SMOKE_ARGUMENTS


@dataclass
class DataArguments:
    train_file: str | None = None
    parts: list[str] = field(default_factory=list)
    shuffle: bool = True
    kind: Literal["a", "b"] | None = None

    def __post_init__(self):
        if self.train_file == "wrong":
            raise ValueError("`train_file` is wrong.")


RECIPE = """
train_file: 007
parts: [x, "y z"]
shuffle: no
kind: b
use_cpu: true
learning_rate: 2e-5
adam_epsilon: 1.0e-9
lr_scheduler_type: polynomial
lr_scheduler_kwargs: {power: 1.0, lr_end: 3e-6}
max_steps: 1000
"""


@pytest.fixture
def parse(tmp_path):
    def run(*given, recipe=None):
        if recipe is not None:
            path = tmp_path / "recipe.yaml"
            path.write_text(recipe, encoding="utf-8")
            given = (str(path), *given)
        return parse_recipe(DataArguments, TrainingArguments, argv=list(given))

    return run


@pytest.fixture
def parse_wrong(parse, capsys):
    """Parses what is wrong, and returns what is said of it."""

    def run(*given, recipe=None):
        with pytest.raises(SystemExit) as raised:
            parse(*given, recipe=recipe)
        assert raised.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_recipe_has_values_of_each_type(parse):
    data_args, training_args, recipe_args = parse(recipe=RECIPE.replace("007", "'007'"))
    assert data_args == DataArguments("007", ["x", "y z"], False, "b")
    assert (training_args.learning_rate, training_args.adam_epsilon, training_args.max_steps) == (2e-5, 1e-9, 1000)
    assert training_args.lr_scheduler_type == "polynomial"
    assert {name: float(value) for name, value in training_args.lr_scheduler_kwargs.items()} == {
        "power": 1.0,
        "lr_end": 3e-6,
    }
    assert not recipe_args.smoke and recipe_args.global_batch_size is None
    assert training_args.per_device_train_batch_size == 8


def test_the_command_line_wins(parse):
    given = ("--learning_rate", "3e-5", "--shuffle", "--parts", "v", "--max_steps=5")
    data_args, training_args, _ = parse(*given, recipe=RECIPE)
    assert (data_args.shuffle, data_args.parts, data_args.kind) == (True, ["v"], "b")
    assert (training_args.learning_rate, training_args.max_steps) == (3e-5, 5)
    data_args, training_args, _ = parse("--kind", "a", "--no_shuffle", "--use_cpu")
    assert data_args == DataArguments(shuffle=False, kind="a")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("seeed: 2\nseed: 1", ["unknown arguments: `seeed`.", "Did you mean `seed`?"]),
        ("learning_rat: 1\nquery: q", ["unknown arguments: `learning_rat`, `query`.", "`learning_rate`"]),
        ("1: 2", ["unknown arguments: `1`."]),
        ("train_file:", ["has no value for `train_file`: leave it out"]),
        ("parts: []", ["has no value for `parts`"]),
        ("- train_file", ["must have lines of `argument: value`, got list"]),
        ("", ["must have lines of `argument: value`, got NoneType"]),
        ("a: b: c", ["is not YAML"]),
        ("learning_rate: fast", ["argument --learning_rate", "invalid float value: 'fast'"]),
        ("max_steps: 1.5", ["argument --max_steps", "invalid int value: '1.5'"]),
        ("kind: c", ["argument --kind", "invalid choice: 'c'"]),
        ("train_file: wrong", ["`train_file` is wrong."]),
        ("lr_scheduler_type: steep", ["steep"]),
    ],
)
def test_a_wrong_recipe(parse_wrong, recipe, said):
    message = parse_wrong(recipe=recipe)
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--train_fil", "a"], "unrecognized arguments: --train_fil a"),  # no abbreviations
        (["nothing.yaml"], "There is no file `nothing.yaml`"),
        (["--max_steps", "many"], "invalid int value: 'many'"),
        (["train.yml", "--max_steps", "1"], "There is no file `train.yml`"),
        (["train.txt"], "unrecognized arguments: train.txt"),
    ],
)
def test_a_wrong_command_line(parse_wrong, given, said):
    assert said in parse_wrong(*given)


def test_help(capsys):
    with pytest.raises(SystemExit) as raised:
        parse_recipe(DataArguments, TrainingArguments, argv=["--help"], description="Train:\n\n    a  b\n    c")
    printed = capsys.readouterr().out
    assert raised.value.code == 0 and "[recipe.yaml] [--argument value ...]" in printed
    assert (
        "Train:\n\n    a  b\n    c\n" in printed and "--global_batch_size" in printed and "(default: False)" in printed
    )


def test_the_whole_batch_is_shared(parse, parse_wrong):
    whole = ("--use_cpu", "--global_batch_size", "192")
    assert parse(*whole)[1].per_device_train_batch_size == 192
    given = (*whole, "--gradient_accumulation_steps", "6")
    assert parse(*given)[1].per_device_train_batch_size == 32
    assert parse(*given, "--per-device-train-batch-size=32")[1].per_device_train_batch_size == 32
    assert parse(*whole, recipe="per_device_train_batch_size: 192")[1].per_device_train_batch_size == 192
    assert "is not made of 1 device(s) x `gradient_accumulation_steps`=5:" in parse_wrong(
        *whole, "--gradient_accumulation_steps", "5"
    )
    assert "`gradient_accumulation_steps`=6 batches of `per_device_train_batch_size`=16:" in parse_wrong(
        *given, "--per_device_train_batch_size", "16"
    )
    for wrong in ("0", "-4"):
        assert f"`global_batch_size`={wrong} is not made of" in parse_wrong("--use_cpu", "--global_batch_size", wrong)


def test_several_processes_share_the_batch(parse, parse_wrong, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 8))
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 1))
    given = ("--use_cpu", "--global_batch_size", "192", "--gradient_accumulation_steps", "6")
    assert parse(*given)[1].per_device_train_batch_size == 4
    assert "is not made of 8 device(s)" in parse_wrong("--use_cpu", "--global_batch_size", "12")


@pytest.mark.parametrize(("processes", "gpu", "expected"), [(2, False, True), (2, True, False), (1, False, False)])
def test_processes_without_gpus_find_each_other(monkeypatch, processes, gpu, expected):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr(recipes.torch.accelerator, "is_available", lambda: gpu)
    assert recipes._launch_options() == ["--use_cpu=true"] * expected


def test_smoke_shrinks(parse):
    recipe = (
        "output_dir: out/a\ngradient_accumulation_steps: 6\nglobal_batch_size: 192\nwarmup_steps: 99\nuse_cpu: true"
    )
    _, training_args, recipe_args = parse("--smoke", recipe=recipe)
    assert recipe_args.smoke and recipe_args.global_batch_size == 8
    assert (training_args.max_steps, training_args.warmup_steps, training_args.save_steps) == (4, 1, 2)
    assert (training_args.gradient_accumulation_steps, training_args.per_device_train_batch_size) == (2, 4)
    assert training_args.output_dir == "out/a_smoke"  # whose checkpoints no run in earnest takes for its own
    changed = ("--smoke", "--max_steps", "2", "--output_dir", "out/b", "--gradient_accumulation_steps", "1")
    _, training_args, _ = parse(*changed, recipe=recipe)
    assert (training_args.max_steps, training_args.output_dir) == (2, "out/b")
    assert (training_args.gradient_accumulation_steps, training_args.per_device_train_batch_size) == (1, 8)
    assert parse("--smoke", "--use_cpu")[1].gradient_accumulation_steps == 1
    assert parse("--smoke", "--use_cpu")[1].output_dir == "trainer_output_smoke"
    assert set(SMOKE_ARGUMENTS) - {"global_batch_size"} <= set(TrainingArguments.__dataclass_fields__)


def test_what_is_missing(tmp_path):
    check_given(a=1, b="")
    with pytest.raises(ValueError, match="Missing: `b`, `c`. Give it on the command line"):
        check_given(a=0, b=None, c=None)
    (tmp_path / "there").touch()
    check_files(a=tmp_path / "there", b=None, c="https://example.org/elsewhere")
    with pytest.raises(FileNotFoundError, match="`b`: There is no file `.*absent`"):
        check_files(a=tmp_path / "there", b=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="`a`: .* is a folder"):
        check_files(a=tmp_path)
