"""For all suites: signals that who started them has ignored (nohup, a shell's &) are heard again, also by children."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
