"""Values of each kind of key, and whether exporter-toolkit takes them.

The certificates are those of this folder's tests. The file `12` has a certificate and its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_SECTIONS = ("tls_server_config", "http_server_config", "http_server_config.headers", "rate_limit", "basic_auth_users")
_STRINGS = ("cert", "key", "client_ca", "client_ca_file", "client_auth_type")
"""Keys of tls_server_config that hold a string, and that may be empty beside cert_file and key_file."""
_NULLABLE = (
    *(f"tls_server_config.{name}" for name in (*_STRINGS, "client_allowed_sans", "min_version", "max_version",
      "cipher_suites", "prefer_server_cipher_suites", "curve_preferences")),
    "http_server_config.http2", "rate_limit.interval", "rate_limit.burst",
    *(f"http_server_config.headers.{name}"
      for name in ("Content-Security-Policy", "X-XSS-Protection", "Strict-Transport-Security")),
)  # fmt: skip
_PLAIN = ("0", "1", "0x1F", "1.5", "1e3", ".inf", "true", "y", "Off", "1:30", "2026-11-28", "'0'", "=", "0o17")
_NULLS = ("", "~", "null")
_PAIR = "cert_file: server.crt, key_file: server.key"


class Row(NamedTuple):
    """A configuration. `there` and `here` say whether it is taken; `seen` is a part of the settings that it gives."""

    text: str
    there: bool = True
    here: bool | None = None
    """None: as there."""
    seen: object = None

    @property
    def taken(self) -> bool:
        return self.there if self.here is None else self.here


def nested(key: str, value: str) -> str:
    """Return a configuration with this value, beside a certificate in tls_server_config."""
    *sections, last = key.split(".")
    inner = f"{last}: {value}"
    if sections == ["tls_server_config"]:
        inner = f"{_PAIR}, {inner}"
    for section in reversed(sections):
        inner = f"{section}: {{{inner}}}"
    return inner + "\n"


def _nulls() -> Iterator[Row]:
    for null in _NULLS:
        yield from (Row(nested(key, null)) for key in _NULLABLE)
        yield from (Row(nested(key, null)) for key in _SECTIONS)
        for name in ("X-Frame-Options", "X-Content-Type-Options"):
            yield Row(nested(f"http_server_config.headers.{name}", null), there=False)
    yield from (Row(text) for text in ("", "---\n", "~\n", "null\n", "{}\n", "tls_server_config: {}\n"))
    yield Row("basic_auth_users: {alice: }\n", there=False)
    yield Row("tls_server_config:\ntls_server_config:\n", there=False)


def _empty_strings() -> Iterator[Row]:
    yield from (Row(nested(f"tls_server_config.{name}", '""')) for name in _STRINGS)
    all_empty = ", ".join(f'{name}: ""' for name in ("cert_file", "key_file", *_STRINGS))
    yield Row(f"tls_server_config: {{{all_empty}}}\n", seen=("tls", False))
    for name in ("min_version", "max_version", "client_allowed_sans", "cipher_suites", "http2"):
        yield Row(nested(f"tls_server_config.{name}", '""'), there=False)
    yield Row(nested("tls_server_config.cipher_suites", "[]"))
    yield Row(nested("tls_server_config.curve_preferences", "[]"))
    yield Row(nested("http_server_config.headers.X-Frame-Options", '""'), there=False)
    yield Row(nested("http_server_config.headers.X-XSS-Protection", '""'), seen=("headers", ()))
    yield Row('rate_limit: {interval: ""}\n', there=False)
    yield Row('rate_limit: {burst: ""}\n', there=False)


def _scalars() -> Iterator[Row]:
    for name in ("Content-Security-Policy", "X-XSS-Protection", "Strict-Transport-Security"):
        for value in _PLAIN:
            text = value.strip("'")
            yield Row(nested(f"http_server_config.headers.{name}", value), seen=("headers", ((name, text),)))
        yield Row(nested(f"http_server_config.headers.{name}", "[]"), there=False)
        yield Row(nested(f"http_server_config.headers.{name}", "{}"), there=False)
    for name in ("X-Frame-Options", "X-Content-Type-Options", "No-Such-Header"):
        yield Row(nested(f"http_server_config.headers.{name}", "0"), there=False)
    for name in ("cert_file", "key_file"):
        other = "key_file: server.key" if name == "cert_file" else "cert_file: server.crt"
        yield Row(f"tls_server_config: {{{name}: 12, {other}}}\n")  # there is a file "12" with that content
    for value in ("0", "true", "off", "1.5"):
        yield Row(nested("tls_server_config.client_auth_type", value), there=False)
    for name in ("cert", "key"):
        yield Row(f"tls_server_config: {{{name}: 12, {'key' if name == 'cert' else 'cert'}_file: server.crt}}\n",
                  there=False)  # fmt: skip
    sans = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt, client_allowed_sans"
    yield Row(f"tls_server_config: {{{_PAIR}, {sans}: [a, 1, 1.5, true, a]}}\n",
              seen=("client_sans", frozenset({"a", "1", "1.5", "true"})))  # fmt: skip
    suite = "TLS_AES_128_GCM_SHA256"
    yield Row(nested("tls_server_config.cipher_suites", f"[{suite}, {suite}]"))
    yield Row(nested("tls_server_config.curve_preferences", "[CurveP256, CurveP256]"))
    yield Row(nested("tls_server_config.min_version", "12"), there=False)
    for key in ("http_server_config.http2", "tls_server_config.prefer_server_cipher_suites"):
        for value in ("true", "True", "yes", "y", "Y", "on", "ON", "false", "no", "n", "N", "off"):
            yield Row(nested(key, value))
        for value in ("1", "0", '"true"', "tRue", "[]"):
            yield Row(nested(key, value), there=False)


def _tags() -> Iterator[Row]:
    header, http2 = "http_server_config.headers.X-XSS-Protection", "http_server_config.http2"
    for value, text in (("!!str 0", "0"), ("!foo 0", "0"), ("!!int 0", "0"), ("!!float 1", "1"), ("!!bool y", "y")):
        yield Row(nested(header, value), seen=("headers", (("X-XSS-Protection", text),)))
    for value in ("!!int x", "!!float x", "!!bool 1", "!!null x", "!!int 1.5", "!!bool ", "!!float "):
        yield Row(nested(header, value), there=False)
        yield Row(nested(http2, value), there=False)
    yield Row(nested(http2, '!!bool "y"'))
    yield Row(nested(http2, "!!str y"), there=False)
    yield Row(nested(http2, "!foo y"), there=False)
    yield Row("tls_server_config: !!null x\n", there=False)


def _rate_limits() -> Iterator[Row]:
    for text, seconds in (("1s", 1.0), ("1.5s", 1.5), ("300ms", 0.3), ("1h30m", 5400.0), ('"1s"', 1.0), (".5s", 0.5),
                          ("1.s", 1.0), ("250us", 25e-5), ("250µs", 25e-5), ("250μs", 25e-5), ("7ns", 7e-9),
                          ("1m1m", 120.0), ("30s1m", 90.0), ("+2m", 120.0), ("1.5h0.5m", 5430.0)):  # fmt: skip
        yield Row(f"rate_limit: {{interval: {text}, burst: 3}}\n", seen=("rate_limit", (seconds, 3)))
    for text in ("0", "0s", "-1s", "+0", "-0h"):
        yield Row(f"rate_limit: {{interval: {text}, burst: 3}}\n", seen=("rate_limit", None))
    for text in ("1d", "2w", "1y", "1 s", "s", "1S", "1s2", "1.5.5s", ".s", "1e3s", "true", "'1'", "[1s]", "{}"):
        yield Row(f"rate_limit: {{interval: {text}, burst: 3}}\n", there=False)
    yield Row("rate_limit: {interval: 2562048h, burst: 3}\n", there=False)  # 2**63 ns are 2562047.8 h
    for text, burst in (("1", 1), ("1_000", 1000), ("0x10", 16), ("0b11", 3), ("010", 8), ("0o17", 15), ("+5", 5),
                        ("20.0", 20), ("20.7", 20), ("1e3", 1000), ("08", 8), ("9999999999", 9999999999)):  # fmt: skip
        yield Row(f"rate_limit: {{interval: 1s, burst: {text}}}\n", seen=("rate_limit", (1.0, burst)))
    for text in ("'20'", "true", "many", "9223372036854775808", "1e30", ".inf", ".nan", "[20]", "1:30", "20s"):
        yield Row(f"rate_limit: {{interval: 1s, burst: {text}}}\n", there=False)
    yield Row("rate_limit: {burst: 20}\n", seen=("rate_limit", None))


def _exceptions() -> Iterator[Row]:
    """Yield configurations that the toolkit takes. They are refused here, and docs/web.md says why."""
    required = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt"
    for text in (
        "rate_limit: {interval: 1, burst: 3}",
        "rate_limit: {interval: 1.5, burst: 3}",
        "rate_limit: {interval: 1s, burst: 0}",
        "rate_limit: {interval: 1s, burst: -1}",
        "tls_server_config: {min_version: TLS12}",
        "tls_server_config: {client_allowed_sans: [a]}",
        f"tls_server_config: {{{_PAIR}, client_allowed_sans: [a]}}",
        f"tls_server_config: {{{_PAIR}, {required}, client_allowed_sans: []}}",
        f"tls_server_config: {{{_PAIR}, {required}, client_allowed_sans: ['']}}",
        f"tls_server_config: {{{_PAIR}, min_version: TLS13, max_version: TLS12}}",
        f"tls_server_config: {{{_PAIR}, client_auth_type: RequireAndVerifyClientCert}}",
        f"tls_server_config: {{{_PAIR}, client_auth_type: RequireClientCert}}",
        f"tls_server_config: {{{_PAIR}, client_auth_type: VerifyClientCertIfGiven, client_ca_file: server.key}}",
        f"tls_server_config: {{{_PAIR}, cert: x}}",
        f"tls_server_config: {{{_PAIR}, cipher_suites: [~]}}",
        "tls_server_config: {<<: {}}",
        "http_server_config: {headers: {X-XSS-Protection: ü}}",
        "{}\n---\n{}",
    ):
        yield Row(text + "\n", there=True, here=False)


ROWS = (*_nulls(), *_empty_strings(), *_scalars(), *_tags(), *_rate_limits(), *_exceptions())
