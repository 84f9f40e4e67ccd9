"""Run the tests against wrong changes of the code: python3 -m tests.mutants [PATTERN] (as root).

PATTERN is a regular expression. Only changes with a match in their name or file are run.
"""

from __future__ import annotations

import re
import sys

from tests.mutants.run import MutantsError, run
from tests.mutants.table import CHANGES
from tests.support.paths import ROOT
from tests.support.requirements import missing


def main() -> int:
    """Return 0 if every change was noticed, 1 if one was not, and 2 for a wrong pattern."""
    try:
        pattern = re.compile(" ".join(sys.argv[1:]))
    except re.error as error:
        print(f"mutants: the pattern is no regular expression: {error}", file=sys.stderr)
        return 2
    selected = [change for change in CHANGES if pattern.search(change.name) or pattern.search(change.file)]
    if not selected:
        print(f"mutants: no change matches {pattern.pattern!r}", file=sys.stderr)
        return 2
    if lacks := missing():
        print(f"mutants: {lacks}", file=sys.stderr)
        return 1
    try:
        return run(ROOT, selected)
    except MutantsError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
