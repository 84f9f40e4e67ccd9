"""The image's HEALTHCHECK. Exit status 0 if the exporter answers at $HEALTHCHECK_URL, otherwise 1 and one line of
error.

Every status below 500 is healthy: a server that asks for a password answers 401. The certificate is not verified:
it names the host that the scraper uses, and the request holds no secret.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:9939/-/healthy"
_TIMEOUT_SECONDS = 4  # less than HEALTHCHECK's own timeout, which kills this process before it can print a line


def _connect(address: str) -> http.client.HTTPConnection:
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("HEALTHCHECK_URL must be http://HOST:PORT/PATH or https://HOST:PORT/PATH")
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, url.port, timeout=_TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(url.hostname, url.port, timeout=_TIMEOUT_SECONDS, context=context)


def main() -> int:
    """Send one request; return the exit status."""
    address = os.environ.get("HEALTHCHECK_URL", DEFAULT_URL)
    try:
        connection = _connect(address)
        connection.request("GET", urlsplit(address).path or "/")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"{address}: {error or type(error).__name__}")
        return 1
    print(f"{address}: HTTP {status}")
    return int(status >= 500)


if __name__ == "__main__":
    sys.exit(main())
