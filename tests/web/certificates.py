"""Make certificates with openssl: authorities, and certificates that the authorities sign."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]
# This replaces the machine's openssl.cnf. Python 3.13 verifies certificates strictly, so it needs the extensions that
# are set below.
_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"


def authority(folder: Path, name: str) -> None:
    """Write NAME.crt and NAME.key of a self-signed authority."""
    _make(folder, name, ["basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign,cRLSign"], [])


def signed(folder: Path, name: str, by: str, names: str) -> None:
    """Write NAME.crt and NAME.key, signed by the authority `by`.

    `names` are the alternative names in openssl's syntax.
    """
    extensions = [
        "basicConstraints=critical,CA:false",
        "authorityKeyIdentifier=keyid:always",
        f"subjectAltName={names}",
    ]
    _make(folder, name, extensions, ["-CA", f"{by}.crt", "-CAkey", f"{by}.key"])


def _make(folder: Path, name: str, extensions: list[str], more: list[str]) -> None:
    (folder / "openssl.cnf").write_text(_CONFIG)
    command = [*_NEW, "-config", "openssl.cnf", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    for extension in ("subjectKeyIdentifier=hash", *extensions):
        command += ["-addext", extension]
    subprocess.run([*command, *more], cwd=folder, check=True, capture_output=True)
