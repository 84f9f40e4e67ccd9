"""Addresses to listening sockets: TCP over IPv4 and IPv6, and unix sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from exporter.config.values import UNIX_PREFIX, host_port

_BACKLOG = 4096
"""The kernel cuts it to net.core.somaxconn. A flood must not push a scrape's SYN out: it comes again a second later."""


class ListenError(Exception):
    """An address cannot be listened on; one line says which and why."""


class Listener(NamedTuple):
    """A listening socket; a unix socket's file is `path`, and `inode` tells whether it still is ours."""

    socket: socket.socket
    path: Path | None = None
    inode: tuple[int, int] = (0, 0)

    @property
    def address(self) -> str:
        """host:port with the real port, or unix:/path."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return UNIX_PREFIX + os.fsdecode(name)
        return f"[{name[0]}]:{name[1]}" if len(name) == 4 else f"{name[0]}:{name[1]}"

    def give_to(self, uid: int, gid: int) -> None:
        """Make this user and group the owners of a unix socket's file, for root did bind it. Raises ListenError.

        A group that the folder gave it (setgid) stays: somebody has chosen it.
        """
        if not self.path:
            return
        try:
            # By descriptor: nobody can put another file in its place meanwhile.
            handle = os.open(self.path, os.O_PATH | os.O_NOFOLLOW)
            try:
                found = os.fstat(handle)
                if (found.st_dev, found.st_ino) == self.inode and found.st_nlink == 1:
                    os.chown(f"/proc/self/fd/{handle}", uid, gid if found.st_gid == os.getegid() else -1)
            finally:
                os.close(handle)
        except OSError as error:
            raise ListenError(f"cannot give {self.address} to user {uid}: {error.strerror}") from error

    def close(self) -> None:
        """Stop listening, and remove the file of a unix socket, unless another process has put its own there."""
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):
                found = self.path.lstat()
                if (found.st_dev, found.st_ino) == self.inode:
                    self.path.unlink()


def listen(address: str) -> Listener:
    """Bind an address of config.yaml and listen. Raises ListenError."""
    try:
        if address.startswith(UNIX_PREFIX):
            return _listen_unix(Path(address[len(UNIX_PREFIX) :]))
        return Listener(_listen_tcp(*host_port(address)))
    except OSError as error:
        # create_server repeats the address in the text of its error
        reason = (error.strerror or str(error)).split(" (while", 1)[0]
        raise ListenError(f"cannot listen on {address}: {reason}") from error


def inherited(given: socket.socket) -> Listener:
    """A socket that somebody else opened, such as systemd, and whose file is theirs. Raises ListenError."""
    with contextlib.suppress(OSError):
        if given.type == socket.SOCK_STREAM and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            given.setblocking(False)
            return Listener(given)
    raise ListenError(f"cannot serve on the inherited descriptor {given.fileno()}: it is no listening stream socket")


def _listen_tcp(host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    elif socket.has_dualstack_ipv6():
        # Every address, IPv4 included, as a Go server's ":9939" does.
        bound = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    else:
        bound = socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - asked for
    bound.setblocking(False)
    return bound


def _listen_unix(path: Path) -> Listener:
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode by umask, and not by chmod(): whoever owns the folder could have put a link in its place.
        umask = os.umask(0o117)
        try:
            bound.bind(str(path))
        finally:
            os.umask(umask)
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise ListenError(f"cannot listen on {UNIX_PREFIX}{path}: another file was put in its place")
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except (OSError, ListenError):
        bound.close()
        raise
    return Listener(bound, path, (found.st_dev, found.st_ino))


def _remove_stale(path: Path) -> None:
    """Remove what an instance that was killed left behind, but no socket that is listened on, and no other file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"cannot listen on {UNIX_PREFIX}{path}: the file is there, and is no socket; remove it or choose another"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog says EAGAIN: somebody listens there too
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise ListenError(f"cannot listen on {UNIX_PREFIX}{path}: Address already in use")
