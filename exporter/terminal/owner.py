"""Finds out whose process is at the other end of a connection on this host."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from pathlib import Path

_UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid"""
_LINE = re.compile(r"\s*\d+: ([0-9A-F]+:[0-9A-F]{4}) ([0-9A-F]+:[0-9A-F]{4}) (?:\S+ ){4}\s*(\d+)\s+\d+\s+([1-9]\d*) ")
"""A line of /proc/net/tcp: local and remote address, state, queues, timer, retransmits, uid, probes, inode.

A connection that its process has closed has no inode, and root seems to own it (net/ipv4/tcp_ipv4.c, tcp4_seq_show()).
"""


def owner(connected: socket.socket, proc: Path = Path("/proc")) -> int | None:
    """Return the uid of the process that listens (unix socket) or has accepted the connection (TCP).

    None: the process is on another host, or it has closed the connection. Call it after the process has answered:
    before it has accepted, the connection has no owner. Raises OSError.
    """
    if connected.family == socket.AF_UNIX:
        return int(_UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])
    theirs, ours = _written(connected.getpeername()), _written(connected.getsockname())
    for name in ("tcp", "tcp6"):
        # The file has a line for each connection of this network namespace, so it is not read at once.
        with (proc / "net" / name).open() as lines:
            for line in lines:
                match = _LINE.match(line)
                if match and (_mapped(match[1]), _mapped(match[2])) == (theirs, ours):
                    return int(match[3])
    return None


def _written(address: tuple[str, int, int, int] | tuple[str, int]) -> str:
    """Return an address as /proc/net/tcp6 writes it: words of 32 bits in the byte order of the host."""
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    packed = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    words = struct.unpack(">4I" if sys.byteorder == "big" else "<4I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def _mapped(written: str) -> str:
    """Return an address of /proc/net/tcp in the form of /proc/net/tcp6 (a mapped IPv4 address)."""
    prefix = "0000FFFF" if sys.byteorder == "big" else "FFFF0000"
    return written if len(written) > 13 else f"{'0' * 16}{prefix}{written}"
