"""Scripts end their process group on every way out."""

import pytest
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState

from hf_xlir.utils import process_group


@pytest.fixture
def launched(monkeypatch):
    """The environment of a launch of one process, and the state of before afterwards."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_group_ends_with_the_script(launched, error):
    @process_group()
    def main():
        dist.init_process_group("gloo", rank=0, world_size=1)
        PartialState(cpu=True)
        if error:
            raise error("inside")

    if error:
        with pytest.raises(error, match="inside"):
            main()
    else:
        main()
    assert not dist.is_initialized()


def test_the_group_of_a_caller_stays(launched):
    dist.init_process_group("gloo", rank=0, world_size=1)
    with process_group():
        pass
    assert dist.is_initialized()


def test_without_a_group_nothing_happens():
    with process_group():
        assert not dist.is_initialized()
