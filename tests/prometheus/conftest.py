"""Fixtures of this suite, which tests/deploy uses too."""

from __future__ import annotations

from tests.support.prometheus.fixtures import _programs_can_be_loaded, alertmanager, build

__all__ = ["_programs_can_be_loaded", "alertmanager", "build"]
