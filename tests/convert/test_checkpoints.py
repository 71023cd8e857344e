"""Safe reading of files from other libraries, and complete models from their weights."""

import os
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_xlir.convert.checkpoints import fill, read_json, read_pickle, read_weights


class Harmful:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestPickles:
    def test_what_training_scripts_save(self, tmp_path):
        states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
        torch.save({"weights": {"a": torch.arange(3)}, "arguments": {"dim": 8}, **states}, tmp_path / "file")
        found = read_pickle(tmp_path / "file")
        assert found["weights"]["a"].tolist() == [0, 1, 2] and found["arguments"] == {"dim": 8}
        assert np.array_equal(found["numpy"][1], states["numpy"][1])

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_not_run(self, tmp_path, zipped):
        content = {"weights": torch.ones(2), "more": Harmful(tmp_path / "ran")}
        torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"refused.*`\w+\.mkdir`"):
            read_pickle(tmp_path / "file")
        assert not (tmp_path / "ran").exists()
        torch.load(tmp_path / "file", weights_only=False)  # it would have
        assert (tmp_path / "ran").exists()

    def test_damaged(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ValueError, match="is damaged"):
            read_pickle(tmp_path / "file")
        torch.save({"a": torch.zeros(1000)}, tmp_path / "file")
        whole = (tmp_path / "file").read_bytes()
        (tmp_path / "file").write_bytes(whole[: len(whole) // 2])  # as a download that was interrupted leaves it
        with pytest.raises(ValueError, match="file` is damaged"):
            read_pickle(tmp_path / "file")


class TestWeights:
    def test_safetensors_come_first(self, tmp_path):
        torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
        assert read_weights(tmp_path)["a"].item() == 0
        save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
        assert read_weights(tmp_path)["a"].item() == 1

    @pytest.mark.parametrize("name, save", [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
    def test_several_files(self, tmp_path, name, save):
        parts = {"a": "part-1", "b": "part-2", "c": "part-1"}
        save({"a": torch.tensor([1.0]), "c": torch.tensor([3.0])}, tmp_path / "part-1")
        save({"b": torch.tensor([2.0])}, tmp_path / "part-2")
        (tmp_path / f"{name}.index.json").write_text(f'{{"weight_map": {str(parts).replace(chr(39), chr(34))}}}')
        assert {key: value.item() for key, value in read_weights(tmp_path).items()} == {"a": 1, "b": 2, "c": 3}

    def test_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="has no weights"):
            read_weights(tmp_path)


class TestFilling:
    def test_nothing_is_left_random(self, make_colbert):
        model, weights = make_colbert(), make_colbert(seed=1).state_dict()
        weights["encoder.pooler.dense.weight"] = torch.ones(3)  # what no retriever uses
        fill(model, weights, "there")
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        extra = {**weights, "score_scaler.weight": torch.ones(1)}
        with pytest.raises(ValueError, match="has 1 weights.*scaler"):
            fill(model, extra, "there")
        del weights["linear.weight"]
        with pytest.raises(ValueError, match="lacks 1 weights.*linear.weight"):
            fill(model, weights, "there")
        weights["linear.weight"] = torch.ones(3, 32)
        with pytest.raises(ValueError, match=r"`linear.weight` of shape \(3, 32\).*describes \(12, 32\)"):
            fill(model, weights, "there")

    def test_the_precision_is_the_checkpoint_s(self, make_colbert):
        half = {name: value.half() for name, value in make_colbert().state_dict().items()}
        assert fill(make_colbert(), half, "").dtype == torch.float16
        half["linear.weight"] = half["linear.weight"].float()
        assert {weight.dtype for weight in fill(make_colbert(), half, "").parameters()} == {torch.float32}


class TestJSON:
    def test_damaged_or_absent(self, tmp_path):
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(ValueError, match="a.json"):
            read_json(tmp_path / "a.json")
        with pytest.raises(FileNotFoundError, match="b.json"):
            read_json(tmp_path / "b.json")
        assert read_json(tmp_path / "b.json", default={}) == {}
