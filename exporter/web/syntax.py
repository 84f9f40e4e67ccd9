"""The grammar of a request's head (RFC 9112). A head that only some parsers accept is refused.

tornado takes more than the grammar: field names with blanks, lines that continue the line before, lone CRs. A proxy
that reads such a head in another way would see another request.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TARGET = rb"[\x21-\x7e]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
_LINE_END = rb"\r?\n"  # RFC 9112, 2.2: a lone LF may end a line
_HEAD = re.compile(
    rb"(?:%b)?%b %b HTTP/1\.[0-9]%b(?:%b:%b%b)*%b"
    % (_LINE_END, _TOKEN, _TARGET, _LINE_END, _TOKEN, _VALUE, _LINE_END, _LINE_END)
)


def is_head(data: bytes) -> bool:
    """Return whether these bytes are the request line and the fields of a request, with the empty line after them."""
    return _HEAD.fullmatch(data) is not None
