"""The configurations of exporter-toolkit's own test data, and whether the toolkit takes them.

The toolkit's folder web/testdata (commit 19a7c2d, July 2026) has 41 configurations. Each row here sets the same keys as
the file that it names, with the certificates of this folder's tests. `there` is what the toolkit's Validate() says,
which `promtool check web-config` calls.
"""

from __future__ import annotations

from typing import NamedTuple

_FILES = "cert_file: server.crt, key_file: server.key"
_GIVEN = f"{_FILES}, client_auth_type: VerifyClientCertIfGiven"
_REQUIRED = f"{_FILES}, client_auth_type: RequireAndVerifyClientCert"
_HASH = "$2y${}$6MZ6HvjRvuxSbYPNMJQJFOxw9R4ZS2ZdzXBMaBRYWkAMkhVMTTvhq"
_USERS = "basic_auth_users:\n" + "".join(
    f"  {name}: {_HASH.format(cost)}\n" for name, cost in (("alice", 12), ("bob", 18), ("carol", 10), ("dave", 10))
)
_GCM_SHA384, _GCM_SHA256 = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
_ALL_SUITES = ", ".join(
    [f"TLS_ECDHE_{key}_WITH_{rest}" for key in ("ECDSA", "RSA")
     for rest in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256", "AES_128_CBC_SHA",
                  "AES_256_CBC_SHA")]
    + ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
)  # fmt: skip


def _tls(keys: str, more: str = "") -> str:
    return f"tls_server_config: {{{keys}}}\n{more}"


def _headers(keys: str) -> str:
    return f"http_server_config: {{headers: {{{keys}}}}}\n"


class File(NamedTuple):
    """A file of the toolkit. In `text`, {server.crt} stands for the PEM text of that file as a YAML string."""

    name: str
    text: str
    there: bool
    """True if the toolkit takes it."""
    problem: str = ""
    """The problem that is reported here, without place and key; "" if the file is taken."""


_UNVERIFIED = (
    '"RequireAnyClientCert" accepts certificates without verification, which Python\'s ssl does not support; '
    "allowed is one of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
)
_NO_CERT, _NO_KEY = "is missing; allowed is cert_file or cert", "is missing; allowed is key_file or key"
_NO_CA = "RequireAndVerifyClientCert needs client_ca_file"
_NO_FILE = '"somefile" cannot be read: No such file or directory'
_UNUSED_CA = "is not used with client_auth_type NoClientCert"
CURVES_PROBLEM = (
    "needs Python 3.15 for more than one curve and for X25519; allowed is one of CurveP256, CurveP384, CurveP521, "
    "or no such key"
)
_SUITES = (
    "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, "
    + ", ".join(f"TLS_ECDHE_{key}_WITH_{rest}" for key in ("ECDSA", "RSA")
                for rest in ("AES_128_CBC_SHA", "AES_256_CBC_SHA", "AES_128_GCM_SHA256", "AES_256_GCM_SHA384",
                             "CHACHA20_POLY1305_SHA256"))
)  # fmt: skip
_KEYS = (
    "tls_server_config.cert, tls_server_config.key, tls_server_config.client_ca, tls_server_config.cert_file, "
    "tls_server_config.key_file, tls_server_config.client_ca_file, tls_server_config.client_auth_type, "
    "tls_server_config.client_allowed_sans, tls_server_config.min_version, tls_server_config.max_version, "
    "tls_server_config.cipher_suites, tls_server_config.prefer_server_cipher_suites, "
    "tls_server_config.curve_preferences, http_server_config.http2, "
    "http_server_config.headers.Content-Security-Policy, http_server_config.headers.X-Frame-Options, "
    "http_server_config.headers.X-Content-Type-Options, http_server_config.headers.X-XSS-Protection, "
    "http_server_config.headers.Strict-Transport-Security, rate_limit.interval, rate_limit.burst, basic_auth_users"
)

FILES = (
    File("tls_config_noAuth.requireandverifyclientcert.good.yml", _tls(f"{_REQUIRED}, client_ca_file: ca.crt"), True),
    File("tls_config_noAuth.requireanyclientcert.good.yml",
         _tls(f"{_FILES}, client_auth_type: RequireAnyClientCert"), True, _UNVERIFIED),
    File("tls_config_noAuth.requireanyclientcertkeyinline.good.yml",
         _tls("cert_file: server.crt, key: {server.key}, client_auth_type: RequireAnyClientCert"), True, _UNVERIFIED),
    File("web_config_auth_clientCAs_invalid.bad.yml", _tls(f"{_FILES}, client_ca_file: somefile"), False,
         f"{_NO_FILE}\n{_UNUSED_CA}"),
    File("web_config_auth_clientCAs_missing.bad.yml", _tls(_REQUIRED), True, _NO_CA),
    File("web_config_auth_client_san.bad.yaml",
         _tls(f"{_REQUIRED}, client_ca_file: ca.crt, client_allowed_sans: [bad]"), True),
    File("web_config_auth_client_san.good.yaml",
         _tls(f"{_REQUIRED}, client_ca_file: ca.crt, client_allowed_sans: [one, test3, two]"), True),
    File("web_config_auth_user_list_invalid.bad.yml", _tls(_FILES, "basic_auth_users: {john: doe}\n"), False,
         "is not a bcrypt hash; allowed is a bcrypt hash of cost 4 to 18"),
    File("web_config_empty.yml", "", True),
    File("web_config_headers.good.yml",
         _headers("X-Frame-Options: deny, Strict-Transport-Security: max-age=31536000; includeSubDomains, "
                  "X-Content-Type-Options: nosniff, X-XSS-Protection: 1, "
                  "Content-Security-Policy: \"default-src 'self' *.test.example.net\""), True),
    File("web_config_headers_content_type_options.bad.yml", _headers("X-Content-Type-Options: sniff"), False,
         '"sniff" is not allowed; allowed is one of nosniff'),
    File("web_config_headers_extra_header.bad.yml", _headers("Content-Type: foo"), False,
         "unknown key, did you mean http_server_config.headers.X-Content-Type-Options?"),
    File("web_config_headers_frame_options.bad.yml", _headers("X-Frame-Options: foo"), False,
         '"foo" is not allowed; allowed is one of deny, sameorigin'),
    File("web_config_junk.yml", "hWkNKCp3fvIx\nTuEjdwNS8A2v\n", False,
         f'"hWkNKCp3fvIx TuEjdwNS8A2v" is a string; allowed is a mapping with {_KEYS}'),
    File("web_config_junk_key.yml", _tls("cert_filse: server.crt"), False,
         "unknown key, did you mean tls_server_config.cert_file?"),
    File("web_config_noAuth.bad.yml", _tls(f"{_FILES}, client_ca_file: /dev/null"), False,
         '"/dev/null" cannot be read: it is not a regular file\n' + _UNUSED_CA),
    File("web_config_noAuth.good.blocking.yml", _tls(_REQUIRED), True, _NO_CA),
    File("web_config_noAuth.good.yml", _tls(_GIVEN), True),
    File("web_config_noAuth_allCiphers.good.yml", _tls(f"{_GIVEN}, cipher_suites: [{_ALL_SUITES}]"), True),
    File("web_config_noAuth_allCurves.good.yml",
         _tls(f"{_GIVEN}, curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]"), True, CURVES_PROBLEM),
    File("web_config_noAuth_certPath_empty.bad.yml", _tls('cert_file: "", key_file: server.key'), False, _NO_CERT),
    File("web_config_noAuth_certPath_invalid.bad.yml", _tls("cert_file: somefile, key_file: server.key"), False,
         _NO_FILE),
    File("web_config_noAuth_certPath_keyPath_empty.bad.yml",
         _tls('cert_file: "", key_file: "", client_auth_type: "x"'), False,
         '"x" is not allowed; allowed is one of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert\n'
         f"{_NO_CERT}\n{_NO_KEY}"),
    File("web_config_noAuth_certPath_keyPath_invalid.bad.yml", _tls("cert_file: somefile, key_file: somefile"), False,
         f"{_NO_FILE}\n{_NO_FILE}"),
    File("web_config_noAuth_cert_empty.bad.yml", _tls('cert: "", key_file: server.key'), False, _NO_CERT),
    File("web_config_noAuth_inventedCiphers.bad.yml",
         _tls(f"{_GIVEN}, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]"), False,
         f'"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048" is not allowed; allowed is one of {_SUITES}'),
    File("web_config_noAuth_inventedCurves.bad.yml", _tls(f"{_GIVEN}, curve_preferences: [CurveP257]"), False,
         '"CurveP257" is not allowed; allowed is one of CurveP256, CurveP384, CurveP521, X25519'),
    File("web_config_noAuth_keyPath_empty.bad.yml", _tls('cert_file: server.crt, key_file: ""'), False, _NO_KEY),
    File("web_config_noAuth_keyPath_invalid.bad.yml", _tls("cert_file: server.cert, key_file: somefile"), False,
         '"server.cert" cannot be read: No such file or directory\n' + _NO_FILE),
    File("web_config_noAuth_key_empty.bad.yml", _tls('cert_file: server.crt, key: ""'), False, _NO_KEY),
    File("web_config_noAuth_noHTTP2.good.yml",
         _tls(f"{_GIVEN}, cipher_suites: [{_GCM_SHA384}], max_version: TLS12", "http_server_config: {http2: false}\n"),
         True),
    File("web_config_noAuth_noHTTP2Cipher.bad.yml",
         _tls(f"{_GIVEN}, cipher_suites: [{_GCM_SHA384}], max_version: TLS12"), True),
    File("web_config_noAuth_someCiphers.good.yml",
         _tls(f"{_GIVEN}, cipher_suites: [{_GCM_SHA256}, {_GCM_SHA384}], min_version: TLS12, max_version: TLS12"),
         True),
    File("web_config_noAuth_someCiphers_noOrder.good.yml",
         _tls(f"{_GIVEN}, cipher_suites: [{_GCM_SHA384}, {_GCM_SHA256}], prefer_server_cipher_suites: false, "
              "min_version: TLS12, max_version: TLS12"), True),
    File("web_config_noAuth_someCurves.good.yml",
         _tls(f"{_GIVEN}, min_version: TLS13, curve_preferences: [CurveP521]"), True),
    File("web_config_noAuth_tlsInline.good.yml", _tls("cert: {server.crt}, key: {server.key}"), True),
    File("web_config_noAuth_wrongTLSVersion.bad.yml", _tls(f"{_GIVEN}, min_version: TLS111"), False,
         '"TLS111" is not allowed; allowed is one of TLS10, TLS11, TLS12, TLS13'),
    File("web_config_rate_limiter_nonblocking.yaml", "rate_limit: {interval: 0, burst: 0}\n", True),
    File("web_config_rate_limiter_one_second.yaml", 'rate_limit: {interval: "1s", burst: 0}\n', True,
         "refuses every request without rate_limit.burst; allowed is a burst from 1"),
    File("web_config_users.good.yml", _tls(_FILES, _USERS), True),
    File("web_config_users_noTLS.good.yml", _USERS, True),
)  # fmt: skip
