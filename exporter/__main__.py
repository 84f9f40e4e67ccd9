"""Run as python3 -m exporter."""

import sys

from exporter.cli import main

sys.exit(main())
