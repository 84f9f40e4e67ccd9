"""The page as bytes: a constant part (head, links, style, script), and a fragment that changes.

The fragment is made at most once a second.
"""

from __future__ import annotations

import base64
import hashlib
import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from exporter import __version__
from exporter.common.text import printable
from exporter.page.markup import fragment
from exporter.page.totals import History
from exporter.page.view import Health, view
from exporter.readings import document
from exporter.readings.reading import Reading

PATH = "/-/overview"
"""Path of the fragment; the script requests it."""

_FRESH_SECONDS = 1.0
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Cpath d='M1 8V5m2 3V1m2 7V3m2 5V6' stroke='%232f6fd0' stroke-width='1.4'/%3E%3C/svg%3E"
)
_FOLDER = Path(__file__).parent
_STYLE, _SCRIPT = (
    "\n".join(line.strip() for line in (_FOLDER / name).read_text("utf-8").splitlines())
    for name in ("page.css", "page.js")
)


def _sha256(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src {_sha256(_STYLE)}; script-src {_sha256(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
"""Headers of the page and of the fragment. They allow only the style and the script of the page, and no other host."""


class PageData(NamedTuple):
    """The data of the page at one time."""

    reading: Reading
    health: Health


class HtmlPage:
    """Makes the page, and keeps the totals that rates are computed from while the page is requested."""

    def __init__(
        self,
        collect: Callable[[], PageData],
        clock: Callable[[], float],
        *,
        kernel: str,
        telemetry_path: str,
        notice: str = "",
    ) -> None:
        """`clock` is monotonic, in seconds. `notice` is shown at the top of the page, escaped."""
        self._collect, self._clock = collect, clock
        self._history = History()
        self._lock = threading.Lock()
        self._fragment: bytes | None = None
        self._made_at = 0.0
        before, after = _around(kernel, telemetry_path, notice)
        self._before, self._after = before.encode(errors="replace"), after.encode()

    def page(self) -> bytes:
        """The whole page."""
        return self._before + self.fragment() + self._after

    def fragment(self) -> bytes:
        """The part that changes. It stays the same for one second. All clients get the same fragment."""
        with self._lock:
            if self._fragment is None or not 0 <= self._clock() - self._made_at < _FRESH_SECONDS:
                data = self._collect()
                now = self._clock()
                shown = view(data.reading, self._history.add(data.reading, now), data.health)
                # `errors` is set because a name may contain a lone surrogate, which cannot be encoded.
                self._fragment = fragment(shown).encode(errors="replace")
                self._made_at = now
            return self._fragment

    def forget(self) -> None:
        """Free the totals and the fragment if the page was not requested for a minute. Call this from time to time."""
        with self._lock:
            self._history.forget(self._clock())
            if not self._history:
                self._fragment = None


def _around(kernel: str, telemetry_path: str, notice: str) -> tuple[str, str]:
    """The HTML before the fragment, and the HTML after it."""
    # The links are relative, so that the page works below a path of a reverse proxy.
    links = "".join(
        f'<li><a href=".{html.escape(quote(path, errors="replace"))}">{html.escape(name)}</a></li>'
        for path, name in (
            (telemetry_path, telemetry_path),
            (document.PATH, document.PATH),
            ("/-/healthy", "/-/healthy"),
        )
    )
    before = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>kvm-exit-exporter</title>
<link rel="icon" href="{_ICON}">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>kvm-exit-exporter <small>{html.escape(__version__)}</small></h1>
<p>Linux {html.escape(printable(kernel))} · <span id="live"><noscript>reloads every 5 s</noscript></span></p>
<nav aria-label="Other pages"><ul>{links}</ul></nav>
</header>
{f'<p class="box note">{html.escape(printable(notice))}</p>' if notice else ""}
<p class="box bad" id="stale" role="status" hidden></p>
<main id="overview">"""
    after = f"""</main>
<footer><p>Lost: time from an exit until the guest runs again, in vCPUs. Exits in progress are included. Idle reasons
(dimmed) are not included. Histograms: exits by this time, one bar per octave, 1 µs to 16 s.</p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""
    return before, after
