"""TLS as the web configuration words it: Go's names, put into Python's ssl."""

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
_TLS12, _TLS13 = 2, 3  # their places in it
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
"""Go can ask for a certificate and verify nothing; OpenSSL's callback for that is not in Python's ssl."""

# Go's tls.CipherSuites(): all it holds for secure. Those of TLS 1.3 are not chosen from, in Go as here.
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
# Go's name: what set_ecdh_curve() takes, what set_groups() takes.
CURVES = {
    "CurveP256": ("prime256v1", "P-256"),
    "CurveP384": ("secp384r1", "P-384"),
    "CurveP521": ("secp521r1", "P-521"),
    "X25519": ("", "X25519"),
}
_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN; ssl has the name from Python 3.10 on


class TlsError(Exception):
    """A key of tls_server_config that cannot be put into effect, and why."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(key, what)
        self.key, self.what = key, what


@dataclass(frozen=True)
class Tls:
    """tls_server_config with its defaults; certificates and keys as the PEM text that was read."""

    cert: bytes
    key: bytes
    client_ca: bytes = b""
    client_auth_type: str = "NoClientCert"
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()


def context(tls: Tls) -> ssl.SSLContext:
    """A server's context. Raises TlsError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])
    _load_certificate(made, tls)
    _set_versions(made, tls)
    if tls.curve_preferences:
        _set_curves(made, tls.curve_preferences)
    if not tls.prefer_server_cipher_suites:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if tls.client_auth_type != "NoClientCert":
        # A certificate in the file is trusted as it stands, intermediate or root, as in Go's pool.
        made.verify_flags |= _PARTIAL_CHAIN
        try:
            made.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        except ssl.SSLError as error:
            raise TlsError("client_ca", f"holds no certificate authority in PEM{_reason(error)}") from None
        except ValueError:  # nothing but that: a file that is being written
            raise TlsError("client_ca", "is empty") from None
    made.verify_mode = CLIENT_AUTH[tls.client_auth_type]
    return made


def names(certificate: Mapping[str, Any]) -> frozenset[str]:
    """The alternative names of a verified client certificate (getpeercert()): DNS, IP, e-mail and URI."""
    found = set()
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "IP Address":
            with contextlib.suppress(ValueError):
                found.add(str(ipaddress.ip_address(value.strip())))
        elif kind in ("DNS", "email", "URI"):
            found.add(value)
    return frozenset(found)


def _load_certificate(made: ssl.SSLContext, tls: Tls) -> None:
    if b"ENCRYPTED" in tls.key:  # OpenSSL would ask for the passphrase on the terminal
        raise TlsError("key", "is encrypted; allowed is a private key without a passphrase")
    # What has been read is what is loaded, whatever is renamed over the files meanwhile; ssl takes files only.
    with _as_file(tls.cert) as cert, _as_file(tls.key) as key:
        try:
            made.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            mismatch = "MISMATCH" in str(error)
            what = "does not belong to the private key" if mismatch else "or the private key is not PEM"
            raise TlsError("cert", f"{what}{_reason(error)}") from None


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    handle = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _set_versions(made: ssl.SSLContext, tls: Tls) -> None:
    low, high = list(VERSIONS).index(tls.min_version), list(VERSIONS).index(tls.max_version)
    if low > high:
        raise TlsError("min_version", f"{tls.min_version} is above max_version {tls.max_version}")
    chosen = [CIPHERS[name] for name in tls.cipher_suites if name in CIPHERS]
    if tls.cipher_suites and not chosen:  # those of TLS 1.3 alone
        low = _TLS13
        if high < low:
            raise TlsError("cipher_suites", f"has none that max_version {tls.max_version} can use")
    ciphers = ":".join(chosen) or "DEFAULT"
    # Their handshakes are signed with SHA-1, which OpenSSL 3 only does at level 0.
    made.set_ciphers(ciphers + (":@SECLEVEL=0" if low < _TLS12 else ""))
    made.minimum_version, made.maximum_version = list(VERSIONS.values())[low], list(VERSIONS.values())[high]


def _set_curves(made: ssl.SSLContext, curves: tuple[str, ...]) -> None:
    set_groups = getattr(made, "set_groups", None)  # from Python 3.15 on
    if set_groups:
        set_groups(":".join(CURVES[name][1] for name in curves))
    elif len(curves) == 1 and CURVES[curves[0]][0]:
        made.set_ecdh_curve(CURVES[curves[0]][0])
    else:
        one = ", ".join(name for name, (single, _) in CURVES.items() if single)
        what = f"needs Python 3.15 for more than one curve and for X25519; allowed is one of {one}, or to leave it out"
        raise TlsError("curve_preferences", what)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's word for it in brackets, where it has one."""
    return f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
