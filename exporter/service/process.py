"""Runs the daemon: sets the privileges, signals and heap of the process, and returns its exit status."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter.common.logs import event
from exporter.config.options import Config, ConfigError, UnreadableError
from exporter.kernel import privileges, program
from exporter.kernel.privileges import Account
from exporter.service import sandbox
from exporter.service.attach import ProgramSource, StartError
from exporter.service.daemon import Daemon
from exporter.service.systemd import Systemd
from exporter.web.listen import ListenError

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_FALLBACK = "nobody"


def keep_heap_small() -> None:
    """Make glibc use only one heap, and return large blocks to the kernel.

    By default each thread that answers a scrape has a separate heap, which never shrinks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 1 << 17)


def _account(run_as: str) -> Account | None:
    """Return the account that this process must change to; None means the present account. Raises ConfigError."""
    if os.geteuid() != 0:
        return None  # systemd's User= or the user who started the exporter sets the account
    if not run_as:
        event(log, "warn", "running as root, without capabilities", remedy="name a user in run_as")
        return None
    if not privileges.may_change_user():
        remedy = "give the container CAP_SETUID and CAP_SETGID, or start it as another user"
        event(log, "warn", "running as root, without capabilities: the user cannot be changed", remedy=remedy)
        return None
    account = privileges.account(run_as)
    if account:
        if account.uid == 0:
            event(log, "warn", "running as root, without capabilities", remedy="name another user in run_as")
        return account
    if run_as == Config().run_as:
        account = privileges.account(_FALLBACK)
        if account:
            remedy = f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {run_as}"
            event(log, "warn", f"running as {_FALLBACK}: there is no user {run_as}", remedy=remedy)
            return account
    raise ConfigError(f'run_as: there is no user "{run_as}"; allowed is the name of a user of this host, or ""')


def _drop(account: Account | None) -> None:
    """Drop all privileges, and run as `account`. Raises StartError."""
    try:
        kept = privileges.drop(account)
    except OSError as error:
        raise StartError(f"cannot run as {account.name if account else 'this user'}: {error.strerror}") from error
    event(log, "info", "privileges dropped", user=privileges.user(), capabilities=" ".join(kept) or "none")


def _refused(error: ConfigError) -> int:
    """Log each problem. Returns the exit status."""
    for problem in error.problems:
        event(log, "error", problem)
    return 1 if isinstance(error, UnreadableError) else 2


def _failure(error: Exception) -> str:
    if isinstance(error, program.LoadError):
        return error.explained()
    if isinstance(error, OSError):  # for example, no descriptors or no memory
        return f"cannot start: {error.strerror or error}"
    return str(error)


def run(
    config: Config,
    *,
    replay: Callable[[Account | None], ProgramSource] | None = None,
    reread: Callable[[], Config] | None = None,
    files: Sequence[Path] = (),
) -> int:
    """Serve until SIGTERM or SIGINT, and reload on SIGHUP. Returns the exit status.

    `replay` makes the source of a replay, whose stand-ins run as the account; it raises StartError and LoadError.
    `reread` reads the configuration again from `files`, and raises ConfigError.
    """
    keep_heap_small()
    systemd = Systemd(os.environ, os.getpid())
    sandbox.close_inherited(fd for _, fd in systemd.passed)
    sandbox.leave_terminal()
    try:
        daemon = Daemon(config, systemd=systemd, reread=reread)
    except ListenError as error:
        event(log, "error", str(error))
        return 1
    except ConfigError as error:
        return _refused(error)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    signal.signal(signal.SIGHUP, lambda *_: daemon.ask_reload())
    # Python runs signal handlers in the main thread, but the kernel may interrupt another thread. This descriptor wakes
    # the main thread.
    signal.set_wakeup_fd(daemon.wake_fd, warn_on_full_buffer=False)
    try:
        account = _account(config.run_as)
        daemon.prepare(replay(account) if replay else None)
        if account:
            daemon.give_sockets_to(account)
        _drop(account)
        sandbox.enter([*files, *daemon.files], daemon.socket_paths)  # before the first thread is started
        daemon.start()
        daemon.attach()
        daemon.wait()
    except ConfigError as error:
        return _refused(error)
    except (StartError, ListenError, program.LoadError, OSError) as error:
        event(log, "error", _failure(error))
        return 1
    finally:
        signal.set_wakeup_fd(-1)
        daemon.close()
    return 0
