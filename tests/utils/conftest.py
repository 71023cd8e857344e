"""The tests' own model counts as a family of the package."""

import pytest
from word_model import word_families


@pytest.fixture(autouse=True)
def _word_families():
    with word_families():
        yield
