"""For all suites: what the asserts of tests/support compare is printed, and signals are heard.

Whoever started the tests may have ignored signals (nohup, a shell's &); they are heard again, also by children.
"""

from __future__ import annotations

import signal

import pytest

pytest.register_assert_rewrite("tests.support")

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
