"""The example of a reader in docs/recording-format.md works."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from exporter.recording import recording
from exporter.recording.events import Kind
from tests.support.paths import ROOT


def test_the_example_reads_the_same_events_as_the_exporter(tmp_path: Path) -> None:
    """Therefore the page contains all that is needed to write another reader."""
    page = ROOT / "docs" / "recording-format.md"
    code = textwrap.dedent(page.read_text().split("## Reading one\n")[1])
    (tmp_path / "web-1.kvmrec").write_bytes(recording.DEFAULT.read_bytes())
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [tuple(map(int, line.split())) for line in said.stdout.splitlines() if not line.startswith("{")]
    found = [line for line in lines if line[1] != Kind.THREAD]
    expected = [
        (ns, event.kind, event.tid, event.tgid, event.space, event.code, event.vcpu_id)
        for runs in recording.read(recording.DEFAULT).runs()
        for run in runs
        for ns, event in zip(run.times, run.events)
    ]
    assert len(lines) == len(found) + 5
    assert sorted(found) == sorted(expected)
