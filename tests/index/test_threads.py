"""Work shared among threads: the same results in the same order, and torch's settings are left as they were."""

import threading
import time

import pytest
import torch

from hf_xlir.index.late_interaction.search import map_in_threads


@pytest.fixture(params=[1, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_order(num_threads):
    def slow_for_the_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * 2, torch.get_num_threads(), threading.get_ident()

    found = map_in_threads(slow_for_the_first, range(20))
    assert [double for double, _, _ in found] == [2 * item for item in range(20)]
    assert {inner for _, inner, _ in found} == {1}  # each call has one thread
    assert len({thread for _, _, thread in found}) <= num_threads
    assert torch.get_num_threads() == num_threads
    assert map_in_threads(abs, []) == [] and map_in_threads(abs, [-1]) == [1]


def test_threads_that_begin_later_have_the_old_number(num_threads):
    map_in_threads(abs, range(5))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [num_threads]


def test_an_error_comes_through(num_threads):
    def fail(item):
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        map_in_threads(fail, range(5))
    assert torch.get_num_threads() == num_threads
