"""Memory that is freed in training is used again, and given back at the end."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hf_xlir.training import host_memory
from hf_xlir.training.host_memory import kept_host_memory


PROGRAM = """
import resource
import sys
from contextlib import nullcontext
import torch
from hf_xlir.training.host_memory import kept_host_memory

torch.set_num_threads(1)

def resident():
    return int(open("/proc/self/statm").read().split()[1])

def faults():
    pieces = [torch.ones(2**24) for _ in range(4)]  # 64 MiB each
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        del pieces
        pieces = [torch.ones(2**24) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start = resident()
with kept_host_memory(False):
    outside = faults()
with kept_host_memory():
    inside = faults()
    kept = resident() - start
print(outside, inside, kept, resident() - start)
"""


@pytest.mark.skipif(host_memory._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_used_again_and_given_back_at_the_end():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    outside, inside, kept, left = map(int, done.stdout.split())
    assert inside * 10 < outside
    assert kept > 4 * 2**26 // 4096 * 0.9 > 5 * left


def test_the_defaults_come_back_after_an_error_too(monkeypatch):
    calls = []
    libc = SimpleNamespace(mallopt=lambda *call: calls.append(call), malloc_trim=lambda pad: calls.append(pad))
    monkeypatch.setattr(host_memory, "_glibc", lambda: libc)
    with pytest.raises(RuntimeError, match="inside"), kept_host_memory():
        assert calls == [(-4, 0), (-1, 2**31 - 1)]
        raise RuntimeError("inside")
    assert calls[2:] == [(-4, 65536), (-1, 131072), 0]


def test_another_c_library_changes_nothing(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert host_memory._glibc() is None
    with kept_host_memory():
        assert torch.ones(3).sum() == 3
