"""For all suites: what the asserts of tests/support compare is printed, and signals are heard.

Whoever started the tests may have ignored signals (nohup, a shell's &); they are heard again, also by children.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("suite", deadline=None)  # no time of one example decides: a slow machine is no fault
settings.load_profile("suite")
