"""Refuses requests that another web site makes in the browser of somebody who can reach the exporter.

A site can send a POST to any address (request forgery). A site can also give its own name the exporter's address, and
then read the answers (DNS rebinding). The browser tells both: in Origin and Sec-Fetch-Site, and in Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

_OWN_SITE = {"same-origin", "none"}  # "none": the user has typed the address


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that another site makes this request. Other clients send neither header."""
    if "Sec-Fetch-Site" in headers:
        return headers["Sec-Fetch-Site"].lower() not in _OWN_SITE
    if "Origin" not in headers:
        return False
    try:
        return urlsplit(headers["Origin"]).netloc.lower() != headers.get("Host", "").lower()
    except ValueError:
        return True


class HostNames:
    """The names that the Host header of a request may have.

    An address is always allowed: no site can choose it as its name. Without `configured` names, only connections to a
    loopback address are checked, because only there the names are known: localhost, and the name of this host.
    """

    def __init__(self, configured: Iterable[str], own: str) -> None:
        self._configured = bool(configured)
        own = own.lower()
        # Debian's /etc/hosts gives the address 127.0.1.1 to the host's own name.
        self._names = {"localhost", own, own.partition(".")[0], *(name.lower().rstrip(".") for name in configured)}

    def know(self, host: str, local_address: str) -> bool:
        """Return whether a Host header is allowed. `local_address` is the server's; "" for a unix socket."""
        if not local_address or not (self._configured or _is_loopback(local_address)):
            return True
        name = host.strip().lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name
        return not name or name.rstrip(".") in self._names or _address(name.strip("[]")) is not None


def _is_loopback(text: str) -> bool:
    address = _address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(address and (mapped or address).is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
