"""docs/operations.md explains every warning and error in the log. Every series that it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.paths import ROOT
from tests.support.rules import KNOWN

TEXT = (ROOT / "docs/operations.md").read_text()

_NO_METRICS = {"kvm_intel", "kvm_amd", "kvm_exit", "kvm_exit_exporter_"}


def _logged() -> Iterator[tuple[str, str]]:
    """Yield level and message of every event(log, "warn" or "error", ...).

    Of an f-string, yield only its longest constant part.
    """
    for path in sorted((ROOT / "exporter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event"):
                continue
            _, level, message = node.args[:3]
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            if isinstance(level, ast.Constant) and level.value in ("warn", "error") and texts:
                yield level.value, max(texts, key=len).strip()


def test_every_warning_and_error_is_explained() -> None:
    """A new warning or error needs a row in the table of its level. The row has its meaning and its remedy."""
    found = list(_logged())
    assert len(found) >= 5
    for level, message in found:
        _, _, section = TEXT.partition(f"\n### {level}\n")
        rows = [line for line in section.split("\n#")[0].splitlines() if line.startswith("| `")]
        assert any(message in row.split(" | ")[0] for row in rows), f"docs/operations.md, {level}: {message}"


def test_every_series_that_the_page_names_exists() -> None:
    words = set(re.findall(r"\b(?:instance\w*:|kvm_)[\w:]+", TEXT))
    assert {word for word in words if word.startswith("instance")}
    assert words - _NO_METRICS <= KNOWN.keys()


def test_each_link_leads_to_a_file_and_a_heading() -> None:
    for file, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", TEXT):
        text = TEXT if not file else (ROOT / "docs" / file).read_text()
        headings = {
            re.sub(r"[^\w -]", "", line.lstrip("#").strip()).lower().replace(" ", "-")
            for line in re.findall(r"^#+ .*", text, re.M)
        }
        assert anchor in headings, (file, anchor)
    for file in re.findall(r"\]\(([\w./]+)\)", TEXT):
        assert (ROOT / "docs" / file).exists(), file
