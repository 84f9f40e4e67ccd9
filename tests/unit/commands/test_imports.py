"""The parser imports no code that counts, replays or serves. Therefore --help and usage errors are fast."""

from __future__ import annotations

import subprocess
import sys

ROOMS = {"commands", "common", "config", "model", "readings", "terminal"}
SLOW = ("bcc", "curses", "http.client", "prometheus_client", "socket", "subprocess", "tornado")


def test_the_parser_imports_only_these_rooms_and_no_slow_module() -> None:
    code = (
        "import sys\n"
        "from exporter.commands.cli import command_line\n"
        "command_line()\n"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('exporter.')}))\n"
        f"print(*[name for name in {SLOW!r} if name in sys.modules])\n"
    )
    # With -S, Python runs no .pth files, which may import modules. The child gets the sys.path of this process, so it
    # finds yaml.
    path = f"import sys; sys.path = {sys.path!r}\n"
    said = subprocess.run([sys.executable, "-S", "-c", path + code], capture_output=True, text=True, check=True)
    assert said.stdout == " ".join(sorted(ROOMS)) + "\n\n"
