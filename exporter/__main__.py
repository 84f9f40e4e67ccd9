"""The entry point of `python3 -m exporter` and of the installed command."""

from __future__ import annotations

import signal
import sys

_INTERRUPTED = 130


def main() -> int | str:
    """Run the command line. Returns an exit status or an error text for sys.exit()."""
    try:
        from exporter.commands import cli  # noqa: PLC0415 - Ctrl-C during this import must not print a traceback

        return cli.main()
    except KeyboardInterrupt:
        # A second Ctrl-C while Python shuts down must not print a traceback either.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return _INTERRUPTED
    except ModuleNotFoundError as error:
        # This is probably not the distribution's Python. Only the distribution's Python finds its packages.
        return (
            f"{sys.executable} has no module {error.name}: "
            "install the packages that README.md lists, or use /usr/bin/python3"
        )


if __name__ == "__main__":
    sys.exit(main())
