"""Users and passwords."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import bcrypt
import pytest

from exporter.web import auth
from exporter.web.auth import Passwords, QueueFullError
from tests.web.client import BODY, ask
from tests.web.conftest import Serve
from tests.web.inside import passwords, until

GOOD = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
LONG = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_every_path_needs_a_user_and_a_password(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {GOOD}\n  bob: {GOOD.replace('$2b$', '$2y$')}\n")
    web = serve(path)
    for asked in ("/metrics", "/", "/-/healthy", "/no-such-path"):
        got = ask(web, asked)
        assert (got.status, got.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
        assert got.body == b"Unauthorized\n"
    for user in (("alice", "wrong"), ("carol", "secret"), ("alice", ""), ("", "secret"), ("alice", "sec\0ret")):
        assert ask(web, user=user).status == 401
    for name in ("alice", "bob", "alice"):
        assert ask(web, user=(name, "secret")).body == BODY


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The list of the passwords that bcrypt has checked."""
    asked: list[bytes] = []
    matches = auth._matches

    def counted(password: bytes, hashed: str) -> bool:
        asked.append(password)
        return matches(password, hashed)

    monkeypatch.setattr(auth, "_matches", counted)
    return asked


def test_only_correct_passwords_are_cached(checks: list[bytes]) -> None:
    async def main() -> None:
        passwords, users = Passwords(), {"alice": GOOD, "long": LONG}
        for _ in range(23):
            assert await passwords.check(users, basic("alice:secret"), "::1")
        assert checks == [b"secret"]
        for _ in range(3):
            assert not await passwords.check(users, basic("alice:guess"), "::1")
            assert not await passwords.check(users, basic("nobody:secret"), "::1")
        # A wrong pair costs one bcrypt check, for a known and for an unknown user. This is also true after alice
        # has given the right password.
        assert checks[1:] == [b"guess", b"secret"] * 3
        assert await passwords.check(users, basic("long:" + "x" * 99), "::1")
        # After a change of a password or the removal of a user, the old pair is refused at once.
        assert not await passwords.check({"alice": LONG}, basic("alice:secret"), "::1")
        assert not await passwords.check({"long": LONG}, basic("alice:secret"), "::1")
        assert not any(b"secret" in digest for digest in passwords._verified)
        passwords.close()

    asyncio.run(main())


@pytest.mark.parametrize("header", ["", "Basic", "Basic !!!", "Bearer x", "Basic " + "=" * 8, basic("no colon"),
                                    "Basic " + base64.b64encode(b"\xff:\xff").decode()])  # fmt: skip
def test_malformed_headers_are_refused_without_a_check(header: str, checks: list[bytes]) -> None:
    passwords = Passwords()
    assert not asyncio.run(passwords.check({"alice": GOOD}, header, "::1"))
    assert checks == []
    passwords.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[bytes], threading.Event]]:
    """Each check waits for the event. The list has the checked passwords in the order of the checks."""
    order: list[bytes] = []
    go_on = threading.Event()

    def slow(password: bytes, hashed: str) -> bool:
        assert go_on.wait(20)
        order.append(password)
        return password == b"secret"

    monkeypatch.setattr(auth, "_matches", slow)
    yield order, go_on
    go_on.set()


def test_guesses_from_one_address_do_not_delay_another_address(held: tuple[list[bytes], threading.Event]) -> None:
    """Seven guesses from one address wait.

    Then a scraper at another address comes. Its check is the next one, not the last.
    """
    order, go_on = held

    async def main() -> None:
        passwords, users = Passwords(), {"alice": GOOD}
        check = partial(passwords.check, users)
        guesses = [asyncio.ensure_future(check(basic(f"alice:{n}"), "192.0.2.1")) for n in range(7)]
        await asyncio.sleep(0.01)
        scraper = asyncio.ensure_future(check(basic("alice:secret"), "192.0.2.2"))
        await asyncio.sleep(0.01)
        go_on.set()
        assert await scraper
        assert order[:2] == [b"0", b"secret"]
        assert await asyncio.gather(*guesses) == [False] * 7
        assert len(order) == 8
        assert not passwords._queues
        passwords.close()

    asyncio.run(main())


def test_the_number_of_waiting_checks_is_limited(held: tuple[list[bytes], threading.Event]) -> None:
    """At most eight checks of one address may wait, and 256 checks in all.

    Further checks are refused at once. A user whose password is cached does not wait.
    """
    _, go_on = held

    async def main() -> None:
        passwords, users = Passwords(), {"alice": GOOD}
        check = partial(passwords.check, users)
        known = asyncio.ensure_future(check(basic("alice:secret"), "192.0.2.1"))
        await asyncio.sleep(0.01)
        go_on.set()
        assert await known
        go_on.clear()
        waiting = []
        for host in range(40):
            for n in range(11):
                waiting.append(asyncio.ensure_future(check(basic(f"alice:{n}"), f"198.51.100.{host}")))
        await asyncio.sleep(0.01)
        assert await check(basic("alice:secret"), "198.51.100.7")
        go_on.set()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert ended.count(False) == 256
        assert sum(isinstance(one, QueueFullError) for one in ended) == 440 - 256
        assert sum(isinstance(one, QueueFullError) for one in ended[:11]) == 11 - 8
        passwords.close()

    asyncio.run(main())


def test_guesses_do_not_delay_a_known_scraper(
    serve: Serve, tmp_path: Path, checks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes have cost 11, so each check takes about 0.15 s. Seven guesses wait for their checks."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {bcrypt.hashpw(b'secret', bcrypt.gensalt(11)).decode()}\n")
    web = serve(path)
    assert ask(web, user=("alice", "secret")).status == 200
    go_on, matches = threading.Event(), auth._matches

    def later(password: bytes, hashed: str) -> bool:
        assert go_on.wait(60)
        return matches(password, hashed)

    monkeypatch.setattr(auth, "_matches", later)
    guessers = [threading.Thread(target=ask, args=(web,), kwargs={"user": ("alice", str(n))}) for n in range(7)]
    for guesser in guessers:
        guesser.start()
    lines = passwords(web)._queues
    until(lambda: [line.length for line in lines.values()] == [7])
    go_on.set()
    assert ask(web, user=("alice", "secret")).status == 200
    assert len(checks) < 1 + 7, "the check of the last guess must not have started yet"
    for guesser in guessers:
        guesser.join()
    assert len(checks) == 1 + 7
