"""Commands taken from deploy/README.md, so that the tests run exactly the documented commands."""

from __future__ import annotations

import re
import shlex

from tests.support.paths import ROOT

README = ROOT / "deploy/README.md"


def docker_run() -> list[str]:
    """Return the arguments of the documented `docker run`: its options, then the image."""
    blocks = re.findall(r"^```sh\n(docker run .*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "deploy/README.md has one docker run"
    return shlex.split(blocks[0].replace("\\\n", " "))[2:]


def without(arguments: list[str], *options: str) -> list[str]:
    """Return the arguments without these options and their values."""
    left = list(arguments)
    for option in options:
        where = left.index(option)
        del left[where : where + 2]
    return left


def capabilities(arguments: list[str]) -> list[str]:
    """Return the capabilities that --cap-add adds."""
    return [value for option, value in zip(arguments, arguments[1:]) if option == "--cap-add"]
