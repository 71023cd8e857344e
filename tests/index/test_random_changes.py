"""Whatever is done to an index, in any order: no passage is lost, doubled or resurrected, and scores stay right."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shadowed_index import ShadowedIndex

from hf_xlir.index.late_interaction import maintenance


@pytest.fixture(autouse=True, scope="module")
def small_limits():
    """Segments of a few tokens stay apart, and an automatic index is compressed soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maintenance, "TOKENS_JOINED_ANYWAY", 4)
        patch.setattr(maintenance, "MOST_EXACT_TOKENS", 30)
        yield


class Changes(RuleBasedStateMachine):
    @initialize(nbits=st.sampled_from([None, "auto", 8, 4]))
    def build(self, nbits):
        self.folder = Path(tempfile.mkdtemp())
        self.shadowed, self.checks = ShadowedIndex(self.folder / "index", nbits), 0

    @rule(seeds=st.lists(st.integers(0, 1000), max_size=8), maintain=st.booleans())
    def add(self, seeds, maintain):
        self.shadowed.add(seeds, maintain)

    @precondition(lambda self: self.shadowed.gone)
    @rule(data=st.data())
    def add_again(self, data):
        self.shadowed.add_again(data.draw(st.sampled_from(sorted(self.shadowed.gone))))

    @precondition(lambda self: self.shadowed.vectors)
    @rule(data=st.data(), maintain=st.booleans())
    def remove(self, data, maintain):
        self.shadowed.remove(data.draw(some_of(self.shadowed.vectors)), maintain)

    @precondition(lambda self: self.shadowed.vectors)
    @rule(data=st.data(), seed=st.integers(0, 1000), maintain=st.booleans())
    def update(self, data, seed, maintain):
        self.shadowed.update(data.draw(some_of(self.shadowed.vectors)), seed, maintain)

    @rule()
    def compact(self):
        self.shadowed.index.compact()
        assert all(not len(segment.removed) for segment in self.shadowed.index.contents.segments)

    @rule(from_originals=st.booleans())
    def rebuild(self, from_originals):
        self.shadowed.rebuild(from_originals)
        assert len(self.shadowed.index.contents.segments) <= 1

    @rule()
    def save(self):
        self.shadowed.save()

    @rule()
    def load(self):
        self.shadowed.load()

    @precondition(lambda self: self.shadowed.on_disk is not None)
    @rule(step=st.integers(-1, 25))
    def killed_save(self, step):
        self.shadowed.killed_save(step)

    @invariant()
    def holds(self):
        self.checks += 1
        self.shadowed.check(self.checks)

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def some_of(ids):
    return st.lists(st.sampled_from(sorted(ids)), min_size=1, unique=True)


def machine(**options):
    case = type("Case", (Changes.TestCase,), {})
    case.settings = settings(deadline=None, suppress_health_check=list(HealthCheck), **options)
    return case


TestChanges = machine(max_examples=3, stateful_step_count=12)
TestManyChanges = pytest.mark.slow(machine(max_examples=15, stateful_step_count=25))


@pytest.mark.parametrize(
    "nbits, steps", [("auto", 120), *(pytest.param(nbits, 1000, marks=pytest.mark.slow) for nbits in (8, "auto"))]
)
def test_random_changes(tmp_path, nbits, steps):
    shadowed, generator = ShadowedIndex(tmp_path / "index", nbits), np.random.default_rng(5)
    shadowed.save()
    codecs = set()
    for step in range(steps):
        ids, seed = list(shadowed.vectors), int(generator.integers(1000))
        chosen = [ids[i] for i in generator.permutation(len(ids))[: generator.integers(1, 6)]]
        maintain = bool(generator.random() < 0.8)
        kind = generator.choice(
            ["add", "again", "remove", "purge", "update", "compact", "rebuild", "save", "load", "kill"],
            p=[0.28, 0.04, 0.14, 0.01, 0.2, 0.03, 0.02, 0.13, 0.05, 0.1],
        )
        if kind == "add" and len(ids) < 50:
            shadowed.add(range(seed, seed + int(generator.integers(5))), maintain)
        elif kind == "again" and shadowed.gone:
            shadowed.add_again(sorted(shadowed.gone)[seed % len(shadowed.gone)])
        elif kind == "remove" and ids:
            shadowed.remove(chosen, maintain)
        elif kind == "purge" or len(ids) > 50:
            shadowed.remove(ids[seed % 3 :], maintain)
        elif kind == "update" and ids:
            shadowed.update(chosen, seed, maintain)
        elif kind == "compact":
            shadowed.index.compact()
        elif kind == "rebuild":
            shadowed.rebuild(from_originals=bool(seed % 2))
        elif kind == "save":
            shadowed.save()
        elif kind == "load":
            shadowed.load()
        elif kind == "kill":
            shadowed.killed_save(seed % 15 - 1)
        shadowed.check(step)
        codecs.add(id(shadowed.index.contents.training))
    assert len(codecs) > steps // 100 and shadowed.next_id > steps // 2
