"""Write both dashboards' JSON: python3 -m deploy.grafana.source [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.source import fleet, vm

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"


def text(board: Dashboard) -> str:
    """Return a dashboard's JSON as it is committed. Keys are sorted, so a diff shows only real changes."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board) + "\n"


def dashboards() -> dict[str, str]:
    """Return a dict from each dashboard's file name to its JSON."""
    return {f"{board.uid}.json": text(board) for board in (fleet.build(), vm.build())}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, content in dashboards().items():
        (folder / name).write_text(content)
