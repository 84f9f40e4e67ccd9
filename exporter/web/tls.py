"""Translates tls_server_config, with Go's names, into a context of Python's ssl."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_TLS12, _TLS13 = 2, 3
"""Positions in VERSIONS."""
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
"""With these types, Go asks for a certificate but does not verify it. Python's ssl lacks OpenSSL's callback for it."""

# The suites of Go's tls.CipherSuites(), which Go considers secure. The suites of TLS 1.3 cannot be switched off in Go,
# nor here.
CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CIPHERS = {
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
}
_DEFAULT_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"
"""The suites without `cipher_suites`. With others, a key that is stolen later opens recorded connections."""
CURVES = {
    "CurveP256": ("prime256v1", "P-256"),
    "CurveP384": ("secp384r1", "P-384"),
    "CurveP521": ("secp521r1", "P-521"),
    "X25519": ("", "X25519"),
}
"""Go's name of a curve -> its name for set_ecdh_curve() ("" if unknown there), its name for set_groups()."""
_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN; ssl has the name from Python 3.10 on


class TlsError(Exception):
    """The value of a key of tls_server_config cannot be used; `problem` says why."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key, self.problem = key, problem


@dataclass(frozen=True)
class TlsOptions:
    """tls_server_config with its defaults. Certificates and keys are PEM texts."""

    cert: bytes
    key: bytes
    client_ca: bytes | None = None
    """None means the authorities of the system, as in Go."""
    client_auth_type: str = "NoClientCert"
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Return the context of a server. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, options)
    _set_versions_and_ciphers(context, options)
    if options.curve_preferences:
        _set_curves(context, tuple(dict.fromkeys(options.curve_preferences)))
    if not options.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if options.client_auth_type != "NoClientCert":
        _load_authorities(context, options.client_ca)
    context.verify_mode = CLIENT_AUTH[options.client_auth_type]
    return context


def alternative_names(certificate: Mapping[str, Any]) -> frozenset[str]:
    """Return the alternative names of a verified client certificate (getpeercert()): DNS, IP, e-mail and URI."""
    names = set()
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "IP Address":
            with contextlib.suppress(ValueError):
                names.add(str(ipaddress.ip_address(value.strip())))
        elif kind in ("DNS", "email", "URI"):
            names.add(value)
    return frozenset(names)


def _load_certificate(context: ssl.SSLContext, options: TlsOptions) -> None:
    if b"ENCRYPTED" in options.key:  # OpenSSL would ask for the passphrase on the terminal
        raise TlsError("key", "is encrypted; allowed is a private key without a passphrase")
    # ssl loads files only. Files in memory keep the texts that were read, even if the files on disk change meanwhile.
    with _as_file(options.cert) as cert, _as_file(options.key) as key:
        try:
            context.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            mismatch = "MISMATCH" in str(error)
            problem = "does not belong to the private key" if mismatch else "is not PEM, or the private key is not"
            raise TlsError("cert", f"{problem}{_openssl_reason(error)}") from None


def _load_authorities(context: ssl.SSLContext, client_ca: bytes | None) -> None:
    """Load the authorities that verify clients."""
    if client_ca is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    # Each certificate in the file is trusted, intermediate or root, as in Go's pool.
    context.verify_flags |= _PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=client_ca.decode("ascii", "replace"))
    except ssl.SSLError as error:
        # OpenSSL 1.1 says "no start line" where later versions say nothing: the file is not PEM at all.
        reason = "" if error.reason == "NO_START_LINE" else _openssl_reason(error)
        raise TlsError("client_ca", f"contains no certificate authority in PEM{reason}") from None
    except ValueError:  # the text is empty; another program may be writing the file
        raise TlsError("client_ca", "is empty") from None


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory with this content."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _set_versions_and_ciphers(context: ssl.SSLContext, options: TlsOptions) -> None:
    low, high = list(VERSIONS).index(options.min_version), list(VERSIONS).index(options.max_version)
    if low > high:
        raise TlsError("min_version", f"{options.min_version} is above max_version {options.max_version}")
    ciphers = [CIPHERS[name] for name in options.cipher_suites if name in CIPHERS]
    if options.cipher_suites and not ciphers:  # only suites of TLS 1.3
        low = _TLS13
        if high < low:
            raise TlsError("cipher_suites", f"has no suite that max_version {options.max_version} can use")
    # Handshakes of TLS 1.0 and 1.1 are signed with SHA-1, which OpenSSL 3 allows at security level 0 only.
    context.set_ciphers((":".join(ciphers) or _DEFAULT_SUITES) + (":@SECLEVEL=0" if low < _TLS12 else ""))
    context.minimum_version, context.maximum_version = list(VERSIONS.values())[low], list(VERSIONS.values())[high]


def _set_curves(context: ssl.SSLContext, curves: tuple[str, ...]) -> None:
    set_groups = getattr(context, "set_groups", None)  # from Python 3.15 on
    if set_groups:
        set_groups(":".join(CURVES[name][1] for name in curves))
    elif len(curves) == 1 and CURVES[curves[0]][0]:
        context.set_ecdh_curve(CURVES[curves[0]][0])
    else:
        single = ", ".join(name for name, (single_name, _) in CURVES.items() if single_name)
        problem = (
            f"needs Python 3.15 for more than one curve and for X25519; allowed is one of {single}, or no such key"
        )
        raise TlsError("curve_preferences", problem)


def _openssl_reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for an error, in brackets; "" if it has none."""
    return f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
