"""A reload that fails keeps the old configuration, and writes few lines."""

from __future__ import annotations

import contextlib

import pytest

from exporter.config.options import Config, ConfigError
from exporter.service.reload import Reloader


def test_ten_errors_of_a_refused_configuration_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def reread() -> Config:
        raise ConfigError(*(f"config.yaml:{line}: wrong" for line in range(1, 24)))

    applied: list[Config] = []
    reloader = Reloader(Config(), reread, applied.append, contextlib.nullcontext)
    assert reloader.reload() == "config.yaml:1: wrong (and 22 more)"
    assert len(caplog.records) == 10
    assert (reloader.status.good, reloader.config, applied) == (False, Config(), [])
