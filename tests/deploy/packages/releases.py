"""The Debian releases on which the package is installed."""

from __future__ import annotations

from tests.e2e.apt import BOOKWORM, Suite

RELEASES = {suite.name: suite for suite in (Suite("bullseye"), BOOKWORM, Suite("trixie"), Suite("sid", (), False))}
