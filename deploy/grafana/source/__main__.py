"""Write both dashboards' JSON: python3 -m deploy.grafana.source [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.source import fleet, vm

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"


def text(board: Dashboard) -> str:
    """Return a dashboard as it is committed: sorted keys, so that a diff shows what has changed and nothing else."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board) + "\n"


def dashboards() -> dict[str, str]:
    """Return the text of every dashboard by its file's name."""
    return {f"{board.uid}.json": text(board) for board in (fleet.build(), vm.build())}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, content in dashboards().items():
        (folder / name).write_text(content)
