"""Run as python3 -m exporter, and by the installed command."""

from __future__ import annotations

import signal
import sys

_INTERRUPTED = 130


def main() -> int | str:
    """Run the command line; returns what sys.exit() takes."""
    try:
        from exporter.commands import cli  # noqa: PLC0415 - Ctrl-C while it imports is no traceback either

        return cli.main()
    except KeyboardInterrupt:
        # A second one while Python takes itself down would be a traceback again.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return _INTERRUPTED
    except ModuleNotFoundError as error:
        # Most likely another Python than the distribution's, which is the one that its packages are for.
        return f"{sys.executable} has no module {error.name}: see README.md for the packages, or try /usr/bin/python3"


if __name__ == "__main__":
    sys.exit(main())
