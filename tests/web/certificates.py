"""Certificates as a site would have them, made by openssl: two authorities, and what they signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]


def authority(folder: Path, name: str) -> None:
    """Write NAME.crt and NAME.key of a self-signed authority."""
    _make(folder, name, "basicConstraints=critical,CA:true", [])


def signed(folder: Path, name: str, by: str, names: str) -> None:
    """Write NAME.crt and NAME.key; `names` are the alternative names, as openssl writes them."""
    _make(folder, name, f"subjectAltName={names}", ["-CA", f"{by}.crt", "-CAkey", f"{by}.key"])


def _make(folder: Path, name: str, extension: str, more: list[str]) -> None:
    command = [*_NEW, "-subj", f"/CN={name}", "-addext", extension, "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    subprocess.run([*command, *more], cwd=folder, check=True, capture_output=True)
