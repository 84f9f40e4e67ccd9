"""Which options a reload changes, and which take a restart."""

from __future__ import annotations

from dataclasses import replace

from exporter.config.load import option_text, reloaded
from exporter.config.options import LIVE, OPTIONS, Config, Level, Limits, Web

WAITING = {
    *("web.listen_address", "web.config_file", "web.max_requests", "limits.vcpus", "limits.cells", "bpf_stats"),
    *("kernel_headers", "lock_file", "run_as"),
}


def test_every_option_is_live_or_takes_a_restart() -> None:
    """A new option takes a restart, until it is in LIVE and daemon.py applies it."""
    assert OPTIONS.keys() - LIVE == WAITING
    assert OPTIONS.keys() >= LIVE


def test_an_option_that_takes_a_restart_keeps_its_old_value() -> None:
    old = Config(limits=Limits(23, 29), run_as="a")
    new = replace(Config(), web=Web(gzip=False, max_requests=7), level=Level("vm", "off"), linger=9.0, run_as="b")
    config, waiting = reloaded(old, new)
    assert waiting == ["web.max_requests", "limits.vcpus", "limits.cells", "run_as"]
    assert config == replace(new, web=Web(gzip=False), limits=Limits(23, 29), run_as="a")
    assert [option_text(config, key) for key in ("linger", "run_as", "limits.vcpus")] == ["9s", '"a"', "23"]
    assert reloaded(old, old) == (old, [])
