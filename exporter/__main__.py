"""Run as python3 -m exporter."""

import sys

try:
    from exporter.cli import main

    sys.exit(main())
except ModuleNotFoundError as error:
    # Most likely another Python than the distribution's, which is the one that its packages are for.
    sys.exit(f"{sys.executable} has no module {error.name}: see README.md for the packages, or try /usr/bin/python3")
