"""The web configuration file, in the format that Prometheus' exporters share (exporter-toolkit).

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md; docs/web.md lists the differences.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.common.files import Stamp, read_start, stamp
from exporter.config.reader import Reader
from exporter.config.yaml_file import read_text
from exporter.web import go_yaml
from exporter.web.rate_limit import TokenBucket
from exporter.web.tls import TlsError, TlsOptions, server_context
from exporter.web.toolkit_keys import HEADERS, OPTIONS, TLS

_MAX_PEM = 1 << 20
"""Limit of a certificate or key file, in bytes."""


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
        self.reader = Reader(
            OPTIONS,
            place,
            lambda _: "is null (leave the key out for its default)",
            null_sections=True,
            loader_class=go_yaml.GoLoader,
        )

    def settings(self) -> Settings:
        """Read the file and the files that it names. Raises ConfigError with all problems."""
        reader = self.reader
        reader.read_file(read_text(self.path), str(self.path))
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
        if interval > 0 and not burst:
            problem = "refuses every request without rate_limit.burst; allowed is a burst from 1"
            self._add_problem("rate_limit.interval", problem)
        headers = {key: str(reader.values[key]) for key in OPTIONS if key.startswith(HEADERS) and key in reader.values}
        reader.check()
        return Settings(
            tls=tls,
            client_sans=frozenset(self._tls_value("client_allowed_sans", ())),
            users=users,
            headers=tuple((key[len(HEADERS) + 1 :], value) for key, value in headers.items() if value),
            rate_limit=TokenBucket(interval, burst) if interval > 0 else None,
        )

    def _tls_value(self, name: str, default: Any) -> Any:
        return self.reader.values.get(f"{TLS}.{name}", default)

    def _add_problem(self, key: str, problem: str) -> None:
        """Add a problem of a key. If the file lacks the key, the problem has the first line of tls_server_config."""
        lines = self.reader.lines
        line = lines.get(key) or min((at for name, at in lines.items() if name.startswith(TLS)), default=1)
        self.reader.add_problem(line, key, problem)

    def _is_set(self, name: str) -> bool:
        """Return True if a key of tls_server_config has a value, valid or not. An empty string is no value in Go."""
        key = f"{TLS}.{name}"
        return key in self.reader.lines and self.reader.values.get(key) != ""

    def _tls(self) -> ssl.SSLContext | None:
        if not any(key.startswith(TLS) and self._is_set(key[len(TLS) + 1 :]) for key in self.reader.lines):
            return None
        pem = {name: self._pem(name) for name in ("cert", "key", "client_ca")}
        client_auth = self._tls_value("client_auth_type", "") or "NoClientCert"
        key = f"{TLS}.client_auth_type"
        if key in self.reader.values or key not in self.reader.lines:
            self._check_client_auth(client_auth)
        for name in ("cert", "key"):
            if not self._is_set(name) and not self._is_set(f"{name}_file"):
                self._add_problem(f"{TLS}.{name}_file", f"is missing; allowed is {name}_file or {name}")
        if self.reader.problems:
            return None
        names = ("min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences")
        chosen = {name: self._tls_value(name, None) for name in names}
        try:
            return server_context(
                TlsOptions(
                    pem["cert"],
                    pem["key"],
                    pem["client_ca"] if self._authorities() else None,
                    client_auth,
                    **{name: value for name, value in chosen.items() if value is not None},
                )
            )
        except TlsError as error:
            file = f"{error.key}_file"
            self._add_problem(f"{TLS}.{file if self._is_set(file) else error.key}", error.problem)
            return None

    def _authorities(self) -> list[str]:
        """Return the keys that name authorities of client certificates."""
        return [name for name in ("client_ca_file", "client_ca") if self._is_set(name)]

    def _check_client_auth(self, client_auth: str) -> None:
        authorities = self._authorities()
        if authorities and client_auth == "NoClientCert":
            self._add_problem(f"{TLS}.{authorities[0]}", "is not used with client_auth_type NoClientCert")
        if not authorities and client_auth == "RequireAndVerifyClientCert":
            # Every certificate that any authority of the system has signed would let its owner in.
            self._add_problem(f"{TLS}.client_auth_type", f"{client_auth} needs client_ca_file")
        if f"{TLS}.client_allowed_sans" in self.reader.lines and client_auth != "RequireAndVerifyClientCert":
            problem = "needs client_auth_type RequireAndVerifyClientCert: else a client can have no certificate"
            self._add_problem(f"{TLS}.client_allowed_sans", problem)

    def _pem(self, name: str) -> bytes:
        inline, file = self._tls_value(name, ""), self._tls_value(f"{name}_file", "")
        if inline and file:
            self._add_problem(f"{TLS}.{name}", f"is set together with {name}_file; allowed is one of them")
        if not file:
            return str(inline).encode(errors="replace")  # a YAML text can have lone surrogates; PEM is ASCII
        path = self.path.parent / file
        self.stamps[path] = stamp(path)
        try:
            return read_start(path, _MAX_PEM)
        except OSError as error:
            self._add_problem(f"{TLS}.{name}_file", f'"{file}" cannot be read: {error.strerror}')
            return b""
