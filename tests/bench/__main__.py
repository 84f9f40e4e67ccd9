"""Run all benches and print the tables of docs/performance.md: python3 -m tests.bench (as root, about five minutes)."""

from __future__ import annotations

import os
import platform
import sys

from tests.bench import overhead, readout, scrape, service

_PARTS = (
    ("What an exit costs in the kernel", overhead.main),
    ("Reading the counters", readout.main),
    ("Rendering a page", scrape.main),
    ("The running service", service.main),
)


def main() -> int:
    """Print the machine, then each part under its heading."""
    if os.geteuid() != 0:
        print("bench: root is needed to load BPF programs", file=sys.stderr)
        return 1
    print(
        f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    )
    for heading, part in _PARTS:
        print(f"\n### {heading}\n", flush=True)
        try:
            part()
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
