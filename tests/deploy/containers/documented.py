"""Commands as deploy/README.md gives them, so that what is documented is what is tested."""

from __future__ import annotations

import re
import shlex

from tests.support.paths import ROOT

README = ROOT / "deploy/README.md"


def docker_run() -> list[str]:
    """The documented `docker run`: its options, and the image last."""
    blocks = re.findall(r"^```sh\n(docker run .*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "deploy/README.md has one docker run"
    return shlex.split(blocks[0].replace("\\\n", " "))[2:]


def without(arguments: list[str], *options: str) -> list[str]:
    """The arguments without these options and their values."""
    left = list(arguments)
    for option in options:
        where = left.index(option)
        del left[where : where + 2]
    return left


def capabilities(arguments: list[str]) -> list[str]:
    """What --cap-add adds."""
    return [value for option, value in zip(arguments, arguments[1:]) if option == "--cap-add"]
