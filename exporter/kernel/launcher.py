"""The parent of the loader: starts it, and receives its answer and the descriptors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporter.kernel import remedies
from exporter.kernel.exit_check import ExitCheck
from exporter.kernel.program import Loaded, LoadError, LoadRequest, layouts

_COMPILE_SECONDS = 120  # on an emulated machine, compiling takes ten seconds
_EXIT_SECONDS = 5
_MESSAGE_SIZE = 1 << 18  # two tracepoint formats with all their names take about 15 KB
_MORE_FILES = "raise the limit of open files (LimitNOFILE in the unit, ulimit -n)"
_ROOT = str(Path(__file__).resolve().parents[2])


def isolated(module: str) -> list[str]:
    """Return the command of a child that runs `module` of this package.

    A child has the privileges of its parent. So it must not import from the current directory or PYTHONPATH, as
    `python3 -m` would.
    """
    start = f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-I", "-c", start]


class Launcher:
    """A running loader. It waits for KVM if necessary, builds the program, sends its answer and exits.

    It also exits when this process exits.
    """

    def __init__(self, request: LoadRequest) -> None:
        """Start the loader. Raises LoadError."""
        self.waiting = False
        """True while the loader waits for KVM, whose tracepoints do not exist yet."""
        self._deadline = time.monotonic() + _COMPILE_SECONDS
        with contextlib.ExitStack() as opened:
            try:
                self._output = opened.enter_context(os.fdopen(os.memfd_create("loader"), "w+b"))
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                opened.enter_context(self._socket)
                with theirs:
                    self._child = subprocess.Popen(
                        [*isolated("exporter.kernel.loader"), json.dumps(asdict(request))],
                        stdin=theirs.fileno(),
                        stdout=self._output,
                        stderr=self._output,
                        start_new_session=True,  # Ctrl-C ends the daemon, which then closes the descriptors
                    )
            except OSError as error:  # no free descriptor, process or memory
                remedy = _MORE_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else ""
                raise LoadError(f"cannot run the loader: {error.strerror or error}", remedy) from error
            opened.pop_all()

    def choose(self, front: str) -> None:
        """Name the front of a late replay request: see program.LoadRequest. Raises OSError."""
        self._deadline = time.monotonic() + _COMPILE_SECONDS
        self._socket.send(front.encode())

    def receive(self, timeout: float) -> Loaded | None:
        """Return the loaded program; None if the loader has not finished after `timeout` seconds. Raises LoadError."""
        if not select.select([self._socket], [], [], timeout)[0]:
            if not self.waiting and time.monotonic() > self._deadline:
                raise LoadError(f"the compiler did not finish within {_COMPILE_SECONDS} s")
            return None
        message, fds, flags, _ = socket.recv_fds(self._socket, _MESSAGE_SIZE, 64)
        if flags & socket.MSG_CTRUNC:  # the kernel passes only as many descriptors as RLIMIT_NOFILE allows
            for fd in fds:
                os.close(fd)
            raise LoadError(f"the loader's descriptors: {os.strerror(errno.EMFILE)}", _MORE_FILES)
        answer = json.loads(message) if message else {}
        if "waiting" in answer:
            self.waiting = answer["waiting"]
            self._deadline = time.monotonic() + _COMPILE_SECONDS
            return None
        self._child.wait()
        if "error" in answer or not answer:
            self._output.seek(0)
            output = self._output.read().decode(errors="replace")
            error = answer.get("error", f"the loader ended with status {self._child.returncode}")
            raise _explain(error, output, answer)
        names = iter(fds)
        return Loaded(
            maps={name: next(names) for name in answer["maps"]},
            programs={name: next(names) for name in answer["programs"]},
            attachments={name: next(names) for name in answer["attachments"]},
            layouts=layouts(answer["layouts"]),
            formats=answer["formats"],
            vcpu_ids=answer["vcpu_ids"],
            classic_reason=answer["classic_reason"],
            unsplit_reason=answer["unsplit_reason"],
            check=ExitCheck({name: next(names) for name in answer["check"]}),
        )

    def wait(self) -> Loaded:
        """Wait for the loaded program. A check of kvm_exit that the loader could not finish ends. Raises LoadError."""
        while True:
            loaded = self.receive(_COMPILE_SECONDS)
            if loaded:
                loaded.check.close()
                return loaded

    def close(self) -> None:
        """End the loader if it still runs. It may have more rights than this process, which then cannot kill it."""
        self._socket.close()  # the loader then exits by itself
        try:
            self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):
                self._child.kill()
                self._child.wait()
        self._output.close()


def load(request: LoadRequest) -> Loaded:
    """Run the loader and wait for it; returns the loaded program. Raises LoadError.

    A check of kvm_exit that the loader could not finish ends.
    """
    with contextlib.closing(Launcher(request)) as loader:
        return loader.wait()


_BUILTIN = f"{remedies.BUILTIN_HEADERS} in the configuration"

# Output of bcc and clang, the error for an operator, and the remedy. {} is the matched text.
_KNOWN_OUTPUT = (
    (
        re.compile(r"^could not open bpf map: (\S+), error: (.*)$", re.M),
        "the kernel refused the BPF map {}: {}",
        "",
    ),
    (re.compile(r"^chdir\((.*)\): (.*)$", re.M), "no kernel headers in {}: {}", _BUILTIN),
    (
        re.compile(r"^.*:\d+:\d+: (?:fatal )?error: (.*)$", re.M),
        "cannot compile the BPF program: {}",
        _BUILTIN,
    ),
    # The verifier's reason is the line before its statistics.
    (re.compile(r"^(.*)\nprocessed \d+ insns", re.M), "the verifier refused the BPF program: {}", ""),
)


def _explain(error: str, output: str, answer: Mapping[str, Any]) -> LoadError:
    """Return one error for the output of the loader, of clang and of the verifier."""
    for pattern, what, remedy in _KNOWN_OUTPUT:
        match = pattern.search(output)
        if match:
            return LoadError(what.format(*match.groups()), remedy, answer.get("lacks", ()))
    code = answer.get("errno", 0)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    reason = os.strerror(code) if code else last
    return LoadError(f"{error}: {reason}" if reason else error, answer.get("remedy", ""), answer.get("lacks", ()))
