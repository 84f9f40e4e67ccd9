"""Opens listening sockets for addresses: TCP over IPv4 and IPv6, and unix sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from exporter.config.values import UNIX_PREFIX, host_port

_BACKLOG = 4096
"""The kernel cuts this to net.core.somaxconn.

If a flood fills the backlog, the kernel drops the SYN of a scrape, and the client repeats the SYN only a second later.
"""


class ListenError(Exception):
    """The exporter cannot listen on an address. The text is one line with the address and the reason."""


class Listener(NamedTuple):
    """A listening socket. A unix socket has the `path` of its file; `inode` (device, inode) identifies that file."""

    socket: socket.socket
    path: Path | None = None
    inode: tuple[int, int] = (0, 0)

    @property
    def address(self) -> str:
        """host:port with the real port, or unix:/path."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return UNIX_PREFIX + os.fsdecode(name)
        return f"[{name[0]}{_zone(name[3])}]:{name[1]}" if len(name) == 4 else f"{name[0]}:{name[1]}"

    def chown(self, uid: int, gid: int) -> None:
        """Change the owner of a unix socket's file, which root created. Raises ListenError.

        The group stays if the file has it from a setgid folder: the operator has chosen it.
        """
        if not self.path:
            return
        try:
            # Use a descriptor: it keeps the same file, even if another file replaces it at this path meanwhile.
            fd = os.open(self.path, os.O_PATH | os.O_NOFOLLOW)
            try:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) == self.inode and status.st_nlink == 1:
                    os.chown(f"/proc/self/fd/{fd}", uid, gid if status.st_gid == os.getegid() else -1)
            finally:
                os.close(fd)
        except OSError as error:
            problem = f"cannot change the owner of {self.address} to user {uid}: {error.strerror}"
            raise ListenError(problem) from error

    def close(self) -> None:
        """Stop listening. Removes the file of a unix socket, unless another process has replaced it."""
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == self.inode:
                    self.path.unlink()


def listen(address: str) -> Listener:
    """Listen on an address of config.yaml. Raises ListenError."""
    try:
        if address.startswith(UNIX_PREFIX):
            return _listen_unix(Path(address[len(UNIX_PREFIX) :]))
        return Listener(_listen_tcp(*host_port(address)))
    except OSError as error:
        # create_server() repeats the address in the text of its error.
        reason = (error.strerror or str(error)).split(" (while", 1)[0]
        raise ListenError(f"cannot listen on {address}: {reason}") from error


def inherited_listener(inherited: socket.socket) -> Listener:
    """Return the listener of a socket that another process opened, for example systemd. Raises ListenError.

    The file of an inherited unix socket belongs to that process, and is never removed here.
    """
    with contextlib.suppress(OSError):
        if inherited.type == socket.SOCK_STREAM and inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            inherited.setblocking(False)
            return Listener(inherited)
    problem = f"cannot serve on the inherited descriptor {inherited.fileno()}: it is not a listening stream socket"
    raise ListenError(problem)


def _listen_tcp(host: str, port: int) -> socket.socket:
    if ":" in host:
        address, _, zone = host.partition("%")
        # Of an address with two items, Python would drop the zone.
        ipv6 = (address, port, 0, _scope_id(zone) if zone else 0)
        listening = socket.create_server(ipv6, family=socket.AF_INET6, backlog=_BACKLOG)
    elif host:
        listening = socket.create_server((host, port), backlog=_BACKLOG)
    elif socket.has_dualstack_ipv6():
        # Listen on every address, including IPv4: ":9939" has this meaning for a Go server.
        listening = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    else:
        listening = socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - the operator chose it
    listening.setblocking(False)
    return listening


def _scope_id(zone: str) -> int:
    """Return the index of an interface. `zone` is its name, or else its index. Raises OSError."""
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        if zone.isdecimal() and len(zone) <= 9:
            return int(zone)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


def _zone(scope_id: int) -> str:
    """Return the zone of an IPv6 address, with its percent sign; "" for an address that needs none."""
    if not scope_id:
        return ""
    try:
        return f"%{socket.if_indextoname(scope_id)}"
    except OSError:  # the interface was removed
        return f"%{scope_id}"


def _listen_unix(path: Path) -> Listener:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The umask sets the mode. chmod() could follow a link, if the owner of the folder replaces the file with a
        # link.
        umask = os.umask(0o117)
        try:
            listening.bind(str(path))
        finally:
            os.umask(umask)
        status = path.lstat()
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            problem = "another file was put in its place; check who can write to its folder"
            raise ListenError(f"cannot listen on {UNIX_PREFIX}{path}: {problem}")
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except (OSError, ListenError):
        listening.close()
        raise
    return Listener(listening, path, (status.st_dev, status.st_ino))


def _remove_stale(path: Path) -> None:
    """Remove the socket of an instance that was killed.

    Raises ListenError if the socket is in use, or if the file is not a socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        problem = "the file exists and is not a socket; remove it or choose another path"
        raise ListenError(f"cannot listen on {UNIX_PREFIX}{path}: {problem}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # if its backlog is full, connect() fails with EAGAIN: the socket is in use
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise ListenError(f"cannot listen on {UNIX_PREFIX}{path}: Address already in use")
