"""The head of a request is taken to the letter."""

from __future__ import annotations

import pytest

from exporter.web.syntax import is_head


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics?a[]=b HTTP/1.1\nHost:x\n\n",
        b"GET http://[::1]:9939/ HTTP/1.1\r\nHOST: \t[::1]:9939 \r\nX-!#$%&'*+.^_`|~9: \xe9 \x80\t\r\nY:\r\n\r\n",
        b"OPTIONS * HTTP/1.9\r\n\r\n",
    ],
)
def test_a_head_after_the_grammar_is_taken(head: bytes) -> None:
    assert is_head(head)


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length : 3",  # blanks before the colon
        b"Content-Length\t: 3",
        b"Content Length: 3",  # no token
        b"Content-L\xe9ngth: 3",
        b"Content(Length): 3",
        b"Content-Length\0: 3",
        b": 3",
        b"Content-Length",
        b" Content-Length: 3",  # continues the line before
        b"\tContent-Length: 3",
        b"\x85Content-Length: 3",
        b"X: a\rContent-Length: 3",  # a lone CR
        b"X: a\r\r",
        b"\rX: a",
        b"X: a\0b",
        b"X: a\x0bb",
        b"X: a\x7fb",
    ],
)
def test_a_field_outside_the_grammar_is_refused(field: bytes) -> None:
    for end in (b"\r\n", b"\n"):
        assert not is_head(b"POST / HTTP/1.1" + end + b"Host: x" + end + field + end + end)
        assert not is_head(b"POST / HTTP/1.1" + end + field + end + b"Host: x" + end + end)


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /\r HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET / HTTP/1.10",
        b"GET / HTTP/2.0",
        b"GET / http/1.1",
        b"GET /",
        b"",
    ],
)
def test_a_request_line_outside_the_grammar_is_refused(line: bytes) -> None:
    assert not is_head(line + b"\r\nHost: x\r\n\r\n")
