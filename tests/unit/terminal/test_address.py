"""The URL of an exporter: which URLs are accepted, and the errors for others."""

from __future__ import annotations

import pytest

from exporter.terminal import address
from exporter.terminal.address import Address
from tests.support.command import refused


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        *((url, "only http://, https:// and unix:/ are supported") for url in ("ftp://x", "x:9939", "")),
        *((url, "allowed is https://HOST:PORT") for url in ("https://", "https://a/?b", "https://u:p@a")),
        ("unix:run/x", "has no absolute path"),
        ("unix:/" + "x" * 108, "has a path of more than 107 bytes"),
        *((url, "allowed is http://HOST:PORT") for url in ("http://", "http://:80", "http://a/?b", "http://u:p@a")),
        *(
            (url, "allowed is http://HOST:PORT")
            for url in ("http://a/b c", "http://a/\xe9", "http://x\x1b", "http://a\n")
        ),
        ("http://a:b", "b"),
        ("http://a:99999", "Port out of range 0-65535"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://a..b", "the host is no valid name"),
        ("http://a:0", "port 0 is no port to connect to"),
    ],
)
def test_other_urls_are_refused_with_the_reason(url: str, problem: str) -> None:
    last = refused("top", "--source", "exporter", f"--url={url}", "1").splitlines()[-1]
    assert last.startswith("kvm-exit-exporter top: error: argument --url: ")
    assert problem in last
    assert last.isprintable()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://localhost:9939", Address("localhost", 9939)),
        ("http://a", Address("a", 80)),
        ("https://a", Address("a", 443, scheme="https")),
        ("https://a:9939/b", Address("a", 9939, "/b", "https")),
        ("unix:/run/x", Address("localhost", 0, socket="/run/x")),
        ("http://[fe80::1]:81/", Address("fe80::1", 81)),
        ("http://A:1/proxy/kvm//", Address("a", 1, "/proxy/kvm")),
        ("http://b\xfccher.example:2", Address("b\xfccher.example", 2)),
    ],
)
def test_a_url_is_split_into_host_port_and_path(url: str, found: Address) -> None:
    assert address.parse(url) == address.parse(str(found)) == found
