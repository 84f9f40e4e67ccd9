"""A web site cannot use somebody's browser against the exporter."""

from __future__ import annotations

import pytest

from exporter.web.origin import HostNames, is_cross_site

TO = {"Host": "hypervisor-1:9939"}


@pytest.mark.parametrize(
    ("headers", "cross"),
    [
        ({}, False),  # no browser
        ({"Origin": "http://hypervisor-1:9939"}, False),
        ({"Origin": "https://Hypervisor-1:9939"}, False),
        ({"Origin": "http://hypervisor-1"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
        ({"Origin": "http://["}, True),
        ({"Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://hypervisor-1:9939"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"}, False),  # a proxy has changed Host
    ],
)
def test_a_browser_says_which_site_makes_a_request(headers: dict[str, str], cross: bool) -> None:
    assert is_cross_site({**TO, **headers}) == cross


ADDRESSES = ["127.0.0.1", "127.0.0.1:9939", "[::1]", "[::1]:9939", "192.0.2.1:9939", "[fe80::1%eth0]:9939", "", " "]
OWN = ["localhost", "LocalHost:9939", "localhost.:9939", "web-1.example.org", "web-1:9939"]
OTHERS = ["evil.example", "evil.example:9939", "localhost.evil.example", "127.0.0.1.evil.example", "web-1.evil.example",
          "1.2.3", "x:y:z", "[evil]", "[::1].evil.example"]  # fmt: skip


@pytest.mark.parametrize("local", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_on_a_loopback_address_only_the_names_of_this_host_are_known(local: str) -> None:
    names = HostNames((), "Web-1.example.org")
    assert all(names.know(host, local) for host in ADDRESSES + OWN)
    assert not any(names.know(host, local) for host in OTHERS)


@pytest.mark.parametrize("local", ["", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1"])
def test_on_other_addresses_every_name_is_taken_unless_there_is_a_list(local: str) -> None:
    names = HostNames((), "web-1")
    assert all(names.know(host, local) for host in ADDRESSES + OWN + OTHERS)


@pytest.mark.parametrize("local", ["127.0.0.1", "192.0.2.1", "2001:db8::1"])
def test_a_list_of_names_holds_for_each_address(local: str) -> None:
    names = HostNames(["proxy.example", "Other.example."], "web-1.example.org")
    assert all(names.know(host, local) for host in (*ADDRESSES, *OWN, "proxy.example", "other.EXAMPLE:80"))
    assert not any(names.know(host, local) for host in OTHERS)
    assert names.know("evil.example", "")  # a unix socket
