"""The web configuration file, in the format that Prometheus' exporters share (exporter-toolkit).

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md; docs/web.md lists the differences.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.config.reader import Reader
from exporter.config.values import BOOLEAN, Option, duration, one_of
from exporter.config.yaml_file import read_text
from exporter.web.files import Stamp, read_start, stamp
from exporter.web.rate_limit import TokenBucket
from exporter.web.tls import (
    CIPHERS,
    CIPHERS_13,
    CLIENT_AUTH,
    CURVES,
    UNVERIFIED,
    VERSIONS,
    TlsError,
    TlsOptions,
    server_context,
)

_MAX_PEM = 1 << 20
"""Limit of a certificate or key file, in bytes."""
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_TLS, _HEADERS = "tls_server_config", "http_server_config.headers"


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _path(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("is not a path")
    return text


def _client_auth(text: str) -> str:
    if text in UNVERIFIED:
        raise ValueError("accepts certificates without verification, which Python's ssl does not support")
    if text not in CLIENT_AUTH:
        raise ValueError("is not allowed")
    return text


def _header(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("is not printable ASCII")
    return text


def _interval(text: str) -> float:
    return 0.0 if text == "0" else duration(text)


def _burst(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is out of range")
    return int(text)


def _hash(text: str) -> str:
    match = _BCRYPT.fullmatch(text)
    if not match:
        raise ValueError("is not a bcrypt hash")
    if not 4 <= int(match[1]) <= 18:
        raise ValueError(f"has cost {int(match[1])}: a check would take minutes")
    return text


_PEM = Option(("str",), "a text in PEM", _text, secret=True)
_FILE = Option(("str",), "the path of a file", _path)
_ANY_HEADER = Option(("str",), "printable ASCII", _header)

_OPTIONS = {
    f"{_TLS}.cert": _PEM,
    f"{_TLS}.key": _PEM,
    f"{_TLS}.client_ca": _PEM,
    f"{_TLS}.cert_file": _FILE,
    f"{_TLS}.key_file": _FILE,
    f"{_TLS}.client_ca_file": _FILE,
    f"{_TLS}.client_auth_type": Option(("str",), f"one of {', '.join(CLIENT_AUTH)}", _client_auth),
    f"{_TLS}.client_allowed_sans": Option(("str",), "a DNS name, IP, e-mail or URI", _text, min_items=1),
    f"{_TLS}.min_version": one_of(*VERSIONS),
    f"{_TLS}.max_version": one_of(*VERSIONS),
    f"{_TLS}.cipher_suites": one_of(*CIPHERS_13, *CIPHERS)._replace(min_items=0),
    f"{_TLS}.prefer_server_cipher_suites": BOOLEAN,
    f"{_TLS}.curve_preferences": one_of(*CURVES)._replace(min_items=0),
    "http_server_config.http2": BOOLEAN,
    f"{_HEADERS}.Content-Security-Policy": _ANY_HEADER,
    f"{_HEADERS}.X-Frame-Options": one_of("deny", "sameorigin"),
    f"{_HEADERS}.X-Content-Type-Options": one_of("nosniff"),
    f"{_HEADERS}.X-XSS-Protection": _ANY_HEADER,
    f"{_HEADERS}.Strict-Transport-Security": _ANY_HEADER,
    "rate_limit.interval": Option(("str", "int"), "a duration such as 1s, or 0", _interval),
    "rate_limit.burst": Option(("int",), "a whole number up to 999999999", _burst),
    "basic_auth_users": Option(("str",), "a bcrypt hash of cost 4 to 18", _hash, is_mapping=True, secret=True),
}


@dataclass(frozen=True)
class Settings:
    """The web configuration. Without a file, the server speaks plain HTTP and asks for no password."""

    tls: ssl.SSLContext | None = None
    client_sans: frozenset[str] = frozenset()
    users: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    rate_limit: TokenBucket | None = None


class WebConfigFile:
    """Reads the file once. `stamps` has the stamp of each file that was read, taken before the file was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps: dict[Path, Stamp] = {path: stamp(path)}
        place = f"{path}:{{}}: {{}}".format
        self.reader = Reader(_OPTIONS, place, lambda _: "is null (leave the key out for its default)")

    def settings(self) -> Settings:
        """Read the file and the files that it names. Raises ConfigError with all problems."""
        reader = self.reader
        reader.read_file(read_text(self.path, read_start), str(self.path))
        tls = self._tls()
        users: Any = reader.values.get("basic_auth_users", {})
        for name in users:
            if ":" in name:
                self._add_problem(f"basic_auth_users.{name}", "has a colon, which ends a name in HTTP")
        if users:
            try:
                # Now, with root's rights: the next user may not be able to read the module.
                import bcrypt  # noqa: F401, PLC0415 - needed only if there are users
            except ImportError:
                self._add_problem("basic_auth_users", "needs Python's bcrypt: install python3-bcrypt")
        interval: Any = reader.values.get("rate_limit.interval", 0.0)
        burst: Any = reader.values.get("rate_limit.burst", 0)
        if interval and not burst:
            problem = "refuses every request without rate_limit.burst; allowed is a burst from 1"
            self._add_problem("rate_limit.interval", problem)
        headers = {
            key: str(reader.values[key]) for key in _OPTIONS if key.startswith(_HEADERS) and key in reader.values
        }
        reader.check()
        return Settings(
            tls=tls,
            client_sans=frozenset(self._tls_value("client_allowed_sans", ())),
            users=users,
            headers=tuple((key[len(_HEADERS) + 1 :], value) for key, value in headers.items() if value),
            rate_limit=TokenBucket(interval, burst) if interval else None,
        )

    def _tls_value(self, name: str, default: Any) -> Any:
        return self.reader.values.get(f"{_TLS}.{name}", default)

    def _add_problem(self, key: str, problem: str) -> None:
        """Add a problem of a key. If the file lacks the key, the problem has the first line of tls_server_config."""
        lines = self.reader.lines
        line = lines.get(key) or min((at for name, at in lines.items() if name.startswith(_TLS)), default=1)
        self.reader.add_problem(line, key, problem)

    def _tls(self) -> ssl.SSLContext | None:
        if not any(key.startswith(_TLS) for key in self.reader.lines):
            return None
        pem = {name: self._pem(name) for name in ("cert", "key", "client_ca")}
        client_auth = self._tls_value("client_auth_type", "NoClientCert")
        key = f"{_TLS}.client_auth_type"
        if key in self.reader.values or key not in self.reader.lines:
            self._check_client_auth(client_auth)
        for name in ("cert", "key"):
            if not {f"{_TLS}.{name}", f"{_TLS}.{name}_file"} & self.reader.lines.keys():
                self._add_problem(f"{_TLS}.{name}_file", f"is missing; allowed is {name}_file or {name}")
        if self.reader.problems:
            return None
        names = ("min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences")
        chosen = {name: self._tls_value(name, None) for name in names}
        try:
            return server_context(
                TlsOptions(
                    pem["cert"],
                    pem["key"],
                    pem["client_ca"],
                    client_auth,
                    **{name: value for name, value in chosen.items() if value is not None},
                )
            )
        except TlsError as error:
            key = f"{_TLS}.{error.key}"
            self._add_problem(f"{key}_file" if f"{key}_file" in self.reader.lines else key, error.problem)
            return None

    def _check_client_auth(self, client_auth: str) -> None:
        authorities = [name for name in ("client_ca_file", "client_ca") if f"{_TLS}.{name}" in self.reader.lines]
        if authorities and client_auth == "NoClientCert":
            self._add_problem(f"{_TLS}.{authorities[0]}", "is not used with client_auth_type NoClientCert")
        if not authorities and client_auth != "NoClientCert":
            self._add_problem(f"{_TLS}.client_auth_type", f"{client_auth} needs client_ca_file")
        if f"{_TLS}.client_allowed_sans" in self.reader.lines and client_auth != "RequireAndVerifyClientCert":
            problem = "needs client_auth_type RequireAndVerifyClientCert: else a client can have no certificate"
            self._add_problem(f"{_TLS}.client_allowed_sans", problem)

    def _pem(self, name: str) -> bytes:
        inline, file = self._tls_value(name, ""), self._tls_value(f"{name}_file", "")
        if inline and file:
            self._add_problem(f"{_TLS}.{name}", f"is set together with {name}_file; allowed is one of them")
        if not file:
            return str(inline).encode(errors="replace")  # a YAML text can have lone surrogates; PEM is ASCII
        path = self.path.parent / file
        self.stamps[path] = stamp(path)
        try:
            return read_start(path, _MAX_PEM)
        except OSError as error:
            self._add_problem(f"{_TLS}.{name}_file", f'"{file}" cannot be read: {error.strerror}')
            return b""
