"""Tells clients apart by their address, so that one of them takes nothing away from the others."""

from __future__ import annotations

import ipaddress

_HOST_BITS = 64
"""One customer, and often one machine, has all addresses of an IPv6 network of this size (RFC 4291, 2.5.1)."""


def client_of(address: str) -> str:
    """Return the address of an IPv4 client, or the /64 network of an IPv6 client. Another text stays as it is."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # a unix socket has no address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:  # an IPv4 client of a socket that serves both
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
