"""Basic authentication against bcrypt hashes. A client that guesses passwords delays only itself."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

_MAX_VERIFIED = 128
"""How many right pairs of name and password are remembered."""
_MAX_QUEUED_PER_ADDRESS, _MAX_QUEUED = 8, 256
"""Limits of the checks that wait or run. Each such check keeps a connection open."""
_MAX_PASSWORD_BYTES = 72
"""bcrypt ignores further bytes of a password. Newer versions of Python's bcrypt refuse a longer one; Go accepts it."""


class QueueFullError(Exception):
    """A password was not checked, because too many checks wait already."""


class Passwords:
    """Checks names and passwords.

    One thread runs bcrypt, which takes some 70 ms for a hash of cost 10. At most one check of each client address waits
    for this thread, so a client that guesses delays only itself. A correct pair of name and password is remembered as
    an HMAC with a key of this process, and never in plain text. So a scraper is checked only once.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "bcrypt")
        self._key = secrets.token_bytes(32)
        self._verified: dict[bytes, None] = {}  # digests, the least recently used first
        self._queues: dict[str, _Queue] = {}  # by client address

    def close(self) -> None:
        """Start no more checks."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def check(self, users: Mapping[str, str], authorization: str, peer: str) -> bool:
        """Return whether an Authorization header has the name of a user (name to hash) and the right password.

        `peer` is the address of the client. Raises QueueFullError.
        """
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        name, password = credentials
        known = name in users
        # An unknown name is checked against another user's hash: the time of a check must not reveal which names exist.
        hashed = users[name] if known else next(iter(users.values()))
        digest = self._digest(name, hashed, password)
        if digest in self._verified:
            self._verified[digest] = self._verified.pop(digest)
            return known
        queue = self._queues.get(peer) or _Queue()
        if queue.length >= _MAX_QUEUED_PER_ADDRESS or sum(each.length for each in self._queues.values()) >= _MAX_QUEUED:
            raise QueueFullError
        self._queues[peer] = queue
        queue.length += 1
        try:
            async with queue.lock:
                if digest in self._verified:  # an earlier check in this queue had the same password
                    return known
                loop = asyncio.get_running_loop()
                matches = await loop.run_in_executor(self._executor, _matches, password, hashed)
        finally:
            queue.length -= 1
            if not queue.length:
                self._queues.pop(peer, None)
        if not (known and matches):
            return False
        self._verified[digest] = None
        if len(self._verified) > _MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        return True

    def _digest(self, name: str, hashed: str, password: bytes) -> bytes:
        parts = (name.encode(), hashed.encode(), password)
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(self._key, message, hashlib.sha256).digest()


class _Queue:
    """The checks of one client address. The one that holds the lock runs; the others wait."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


def _credentials(authorization: str) -> tuple[str, bytes] | None:
    """Return name and password of a header `Basic BASE64(name:password)` (RFC 7617), or None for another header."""
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
    import bcrypt  # noqa: PLC0415 - needed only if there are users; toolkit.py has imported it already

    if b"\0" in password:  # a hash of such a password cannot exist
        return False
    return bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], hashed.encode())
