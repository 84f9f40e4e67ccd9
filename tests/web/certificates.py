"""Make certificates with openssl: authorities, and certificates that the authorities sign."""

from __future__ import annotations

import subprocess
from pathlib import Path

_REQUEST = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_DAYS = ["-days", "9"]
# This replaces the machine's openssl.cnf. Python 3.13 verifies certificates strictly, so it needs the extensions that
# are set below.
_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"


def authority(folder: Path, name: str) -> None:
    """Write NAME.crt and NAME.key of a self-signed authority."""
    extensions = ["subjectKeyIdentifier=hash", "basicConstraints=critical,CA:true"]
    options = [word for line in (*extensions, "keyUsage=critical,keyCertSign,cRLSign") for word in ("-addext", line)]
    _request(folder, name, "-x509", *_DAYS, "-out", f"{name}.crt", *options)


def signed(folder: Path, name: str, by: str, names: str) -> None:
    """Write NAME.crt and NAME.key, signed by the authority `by`.

    `names` are the alternative names in openssl's syntax.
    """
    extensions = ["subjectKeyIdentifier=hash", "basicConstraints=critical,CA:false"]
    extensions += ["authorityKeyIdentifier=keyid:always", f"subjectAltName={names}"]
    (folder / "extensions.cnf").write_text("\n".join(extensions))
    _request(folder, name, "-new", "-out", f"{name}.csr")
    # OpenSSL 1.1 (Debian 11) signs only with this second command.
    signer = ["-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial", "-extfile", "extensions.cnf"]
    _run(folder, "openssl", "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *_DAYS, *signer)


def _request(folder: Path, name: str, *more: str) -> None:
    (folder / "openssl.cnf").write_text(_CONFIG)
    _run(folder, *_REQUEST, "-config", "openssl.cnf", "-subj", f"/CN={name}", "-keyout", f"{name}.key", *more)


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
