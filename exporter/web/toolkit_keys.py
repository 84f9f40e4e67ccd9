"""The keys of the web configuration file, and the values that each can hold."""

from __future__ import annotations

import re
from collections.abc import Callable

from exporter.config.values import Option, one_of
from exporter.web import go_yaml
from exporter.web.tls import CIPHERS, CIPHERS_13, CLIENT_AUTH, CURVES, UNVERIFIED, VERSIONS

_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
TLS, HEADERS = "tls_server_config", "http_server_config.headers"


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _path(text: str) -> str:
    if not text.isprintable():
        raise ValueError("is not a path")
    return text


def _client_auth(text: str) -> str:
    """Return the type, or "" for the default."""
    if text in UNVERIFIED:
        raise ValueError("accepts certificates without verification, which Python's ssl does not support")
    if text and text not in CLIENT_AUTH:
        raise ValueError("is not allowed")
    return text


def _header(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("is not printable ASCII")
    return text


def _burst(text: str) -> int:
    burst = go_yaml.integer(text)
    if burst < 0:
        raise ValueError("is out of range")
    return burst


def _hash(text: str) -> str:
    match = _BCRYPT.fullmatch(text)
    if not match:
        raise ValueError("is not a bcrypt hash")
    if not 4 <= int(match[1]) <= 18:
        raise ValueError(f"has cost {int(match[1])}: a check would take minutes")
    return text


def _string(allowed: str, parse: Callable[[str], object], *, secret: bool = False) -> Option:
    """Return an option of a key that holds a string in Go."""
    return Option(go_yaml.SCALARS, allowed, parse, secret=secret, nullable=True)


_PEM = _string("a text in PEM", str, secret=True)
_FILE = _string("the path of a file", _path)
_ANY_HEADER = _string("printable ASCII", _header)
_VERSION = one_of(*VERSIONS)._replace(nullable=True)
_BOOLEAN = Option(("bool",), "true or false", go_yaml.boolean, nullable=True)


def _list(item: Option, min_items: int) -> Option:
    return item._replace(min_items=min_items, nullable=True, repeats=True)


OPTIONS = {
    f"{TLS}.cert": _PEM,
    f"{TLS}.key": _PEM,
    f"{TLS}.client_ca": _PEM,
    f"{TLS}.cert_file": _FILE,
    f"{TLS}.key_file": _FILE,
    f"{TLS}.client_ca_file": _FILE,
    f"{TLS}.client_auth_type": _string(f"one of {', '.join(CLIENT_AUTH)}", _client_auth),
    f"{TLS}.client_allowed_sans": _list(_string("a DNS name, IP, e-mail or URI", _text), 1),
    f"{TLS}.min_version": _VERSION,
    f"{TLS}.max_version": _VERSION,
    f"{TLS}.cipher_suites": _list(one_of(*CIPHERS_13, *CIPHERS), 0),
    f"{TLS}.prefer_server_cipher_suites": _BOOLEAN,
    f"{TLS}.curve_preferences": _list(one_of(*CURVES), 0),
    "http_server_config.http2": _BOOLEAN,
    f"{HEADERS}.Content-Security-Policy": _ANY_HEADER,
    # The toolkit refuses a null for these two, although its documentation says that a blank unsets the header.
    f"{HEADERS}.X-Frame-Options": one_of("deny", "sameorigin"),
    f"{HEADERS}.X-Content-Type-Options": one_of("nosniff"),
    f"{HEADERS}.X-XSS-Protection": _ANY_HEADER,
    f"{HEADERS}.Strict-Transport-Security": _ANY_HEADER,
    "rate_limit.interval": _string("a duration of Go such as 1s or 1.5s, or 0", go_yaml.duration),
    "rate_limit.burst": Option(("int", "float"), "a whole number from 0", _burst, nullable=True),
    "basic_auth_users": Option(
        ("str",), "a bcrypt hash of cost 4 to 18", _hash, is_mapping=True, secret=True, nullable=True
    ),
}
"""The keys, with the values that yaml.v2 takes for each.

A null is the zero value of Go. For all keys here that is the default, or has the same effect.
"""
