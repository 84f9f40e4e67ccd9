"""For all suites: restore the default handlers of SIGINT and SIGHUP, which nohup and a shell's & ignore."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
