"""Fixtures of the tests of sharing."""

from hub_fixtures import hub, in_fresh_process, server  # noqa: F401
