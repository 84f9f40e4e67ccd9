"""Values of options: durations, addresses and paths, read from text and written as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import values
from exporter.config.load import with_flags
from exporter.config.options import Config, ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("15s", 15.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1us", 1e-6),
        ("1w2d3h4m5s6ms7us", 788645.006007),
        ("90m", 5400.0),
        ("1d", 86400.0),
        ("00015s", 15.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1.5s", "-1s", "30m1h", "1h 30m", "1H", "1y", "5s5s", "٣s", "1s\n", "+1s"])
def test_other_texts_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a duration$"):
        values.duration(text)


@pytest.mark.parametrize("text", ["0", "15", "1.5", "1_000", "9" * 100_000])
def test_a_number_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^has no unit \(fifteen seconds are 15s\)$"):
        values.duration(text)


@given(st.integers(0, 10**17))
def test_the_text_of_a_duration_is_exact_to_the_microsecond(us: int) -> None:
    # The durations are at most 285 years. A double cannot represent single microseconds of longer durations.
    seconds = min(us, 9 * 10**15) / 1_000_000
    assert values.duration(values.duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (15, "15s"), (5400.5, "1h30m500ms"), (604800.0, "1w"), (3e-6, "3us")]
)
def test_the_text_of_a_duration_uses_the_largest_units(seconds: float, text: str) -> None:
    assert values.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (":9939", ("", 9939)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        (":0", ("", 0)),
        ("[0:0::1]:9939", ("::1", 9939)),
        ("[fe80::1%eth0]:9939", ("fe80::1%eth0", 9939)),
        ("Node-1.example.org:9939", ("node-1.example.org", 9939)),
        ("localhost:09939", ("localhost", 9939)),
    ],
)
def test_an_address_is_split_into_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert values.host_port(text) == parts


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no port"),
        ("9939", "no port"),
        (":", "no port"),
        (":x", "no port"),
        (":-1", "no port"),
        ("localhost", "no port"),
        (":65536", "a port above 65535"),
        (":" + "9" * 100_000, "a port above 65535"),
        ("::1:9939", "an IPv6 address without brackets"),
        ("[::1:9939", "no valid host"),
        ("[::g]:1", "no valid host"),
        ("[1::2::3]:1", "no valid IP address"),
        ("[127.0.0.1]:1", "no valid IP address"),
        ("1.2.3.256:1", "no valid IP address"),
        ("1.2.3:1", "no valid IP address"),
        ("a b:1", "no valid host"),
        ("http://x:1", "an IPv6 address without brackets"),
        ("x/y:1", "no valid host"),
        ("[fe80::1% x]:1", "no valid host"),
        ("a..b:1", "no valid host"),
        ("a\n:1", "no valid host"),
        ("a" * 100_000 + ":1", "no valid host"),
    ],
)
def test_other_texts_are_not_addresses(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^has {what}$"):
        values.host_port(text)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("vsock://:9939", "is an address of vsock, which is not supported"),
        ("vsock://2:9939", "is an address of vsock, which is not supported"),
        ("[fe80::1]:9939", "has a link-local address without its interface, as in fe80::1%eth0"),
        ("[febf:0::1]:9939", "has a link-local address without its interface, as in fe80::1%eth0"),
    ],
)
def test_addresses_that_cannot_be_listened_on_are_refused(address: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_flags(Config(), {"web.listen_address": [address]})
    assert error.value.problems == (
        f'--web.listen-address: "{address}" {problem}; allowed is host:port, :port, [ipv6]:port or unix:/path, '
        "with port 1 to 65535 (0: any free one)",
    )


def test_an_interface_is_part_of_a_listen_address() -> None:
    given = ["[FE80:0::1%Eth0.7]:9939", "[fe80::1%eth0]:9939", "[::1]:9939"]
    found = with_flags(Config(), {"web.listen_address": given}).web.listen_address
    assert found == ("[fe80::1%Eth0.7]:9939", "[fe80::1%eth0]:9939", "[::1]:9939")


@pytest.mark.parametrize("path", ["/metrics", "/a/b/", "/probe;v=1", "/~x", "/-", "/-x/y", "/.well-known/x", "/..."])
def test_telemetry_paths_are_accepted(path: str) -> None:
    assert with_flags(Config(), {"web.telemetry_path": path}).web.telemetry_path == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "metrics", "/x?y", "/x#y", "/x y", "/x\n", "//x", "/x//y", "/x/../y", "/.", "/%41", "/ü"],
)
def test_other_telemetry_paths_are_refused(path: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_flags(Config(), {"web.telemetry_path": path})
    shown = path.replace("\n", "\\n")
    assert error.value.problems == (
        f'--web.telemetry-path: "{shown}" is not a valid path; '
        "allowed is a path such as /metrics, without query or white space",
    )


@pytest.mark.parametrize("path", ["/-/healthy", "/-/reload", "/-/"])
def test_the_paths_of_the_exporters_own_pages_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--web\.telemetry-path: "):
        with_flags(Config(), {"web.telemetry_path": path})
