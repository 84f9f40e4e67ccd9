"""Basic authentication against bcrypt hashes, so that guessing costs the guesser and not the scrapes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

_REMEMBERED = 128
_LINE, _LINES = 8, 256
"""Checks in line for one address, and for all: whoever waits keeps a connection."""
_MAX_BYTES = 72
"""What bcrypt looks at of a password; its newer versions refuse a longer one, Go's takes it."""


class CrowdedError(Exception):
    """So many checks are in line that this one is not made."""


class Passwords:
    """Checks names and passwords.

    One thread does the work of bcrypt, some 70 ms for each check of cost 10, and every address has one check in line
    for it at a time: whoever guesses waits for himself. A pair that was right is remembered (as an HMAC under a key
    of this process, never as it came), so that a scraper is checked once and does not wait again.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "bcrypt")
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}  # the oldest first
        self._lines: dict[str, _Line] = {}

    def close(self) -> None:
        """Let no check begin any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def allowed(self, users: Mapping[str, str], authorization: str, peer: str) -> bool:
        """Whether an Authorization header names one of the users (name to hash) and gives the password.

        Raises CrowdedError.
        """
        given = _credentials(authorization)
        if given is None:
            return False
        name, password = given
        known = name in users
        # Somebody unknown is checked against a hash all the same: the time it takes tells nothing about names.
        hashed = users[name] if known else next(iter(users.values()))
        remembered = self._digest(name, hashed, password)
        if remembered in self._right:
            self._right[remembered] = self._right.pop(remembered)
            return known
        line = self._lines.get(peer) or _Line()
        if line.length >= _LINE or sum(each.length for each in self._lines.values()) >= _LINES:
            raise CrowdedError
        self._lines[peer] = line
        line.length += 1
        try:
            async with line.lock:
                if remembered in self._right:  # what the one before in this line has just shown
                    return known
                loop = asyncio.get_running_loop()
                matches = await loop.run_in_executor(self._pool, _matches, password, hashed)
        finally:
            line.length -= 1
            if not line.length:
                self._lines.pop(peer, None)
        if not (known and matches):
            return False
        self._right[remembered] = None
        if len(self._right) > _REMEMBERED:
            del self._right[next(iter(self._right))]
        return True

    def _digest(self, name: str, hashed: str, password: bytes) -> bytes:
        parts = (name.encode(), hashed.encode(), password)
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(self._key, message, hashlib.sha256).digest()


class _Line:
    """The checks of one address: one at work, the others behind it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


def _credentials(authorization: str) -> tuple[str, bytes] | None:
    """Name and password of a header `Basic BASE64(name:password)` (RFC 7617), else None."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
        name, colon, password = decoded.partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt  # noqa: PLC0415 - only where there are users; toolkit.py has seen that it is there

    if b"\0" in password:  # no such password can have been hashed
        return False
    return bcrypt.checkpw(password[:_MAX_BYTES], hashed.encode())
