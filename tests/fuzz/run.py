"""Fuzz one target or all, guided by coverage: python -m tests.fuzz.run [TARGET ...], with atheris installed.

Each target runs for FUZZ_SECONDS (60) and starts from the seeds in corpus/TARGET. New inputs are kept in a folder
(FUZZ_CORPUS, by default ~/.cache/kvm-exit-exporter/fuzz), and the next run continues from them. A finding is written to
crash-TARGET-*: minimise it, fix the defect, and add the input to corpus/TARGET.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SEEDS = Path(__file__).parent / "corpus"
SLOW_SECONDS = 5
"""An input that takes longer than this is a finding. Inputs have at most 64 KiB."""


def _fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["exporter", "yaml"]):
        from tests.fuzz.targets import TARGETS

    atheris.Setup([name, *arguments], TARGETS[name])
    atheris.Fuzz()


def _run(name: str, seconds: int, kept: Path) -> bool:
    """Run one target in a process of its own. Return True if it found nothing."""
    grown = kept / name
    grown.mkdir(parents=True, exist_ok=True)
    words = [f"-max_total_time={seconds}", f"-timeout={SLOW_SECONDS}", "-max_len=65536", "-rss_limit_mb=2048"]
    words += [f"-artifact_prefix=crash-{name}-", "-print_final_stats=1", str(grown), str(SEEDS / name)]
    child = [sys.executable, "-m", "tests.fuzz.run", "--one", name, *words]
    said = subprocess.run(child, capture_output=True, text=True, errors="replace", check=False)
    tried = re.search(r"number_of_executed_units: (\d+)", said.stderr)
    covered = re.findall(r"cov: (\d+)", said.stderr)
    print(
        f"{name}: inputs tried {tried[1] if tried else '?'}, edges covered {covered[-1] if covered else '?'}, "
        f"{'nothing found' if said.returncode == 0 else 'FOUND:'}",
        flush=True,
    )
    if said.returncode:
        print(said.stdout[-4000:] + said.stderr[-4000:])
    return said.returncode == 0


def main() -> int:
    """Run the named targets, or all targets. Return 1 if any of them found something."""
    if sys.argv[1:2] == ["--one"]:
        _fuzz(sys.argv[2], sys.argv[3:])
        return 0
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvm-exit-exporter" / "fuzz"
    kept = Path(os.environ.get("FUZZ_CORPUS") or cache)
    names = sys.argv[1:] or sorted(path.name for path in SEEDS.iterdir())
    results = [_run(name, int(os.environ.get("FUZZ_SECONDS", "60")), kept) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
