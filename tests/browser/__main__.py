"""Write docs/images/page.png, the demo's page. With FOLDER, write pictures of all widths, light and dark, to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.browser.chromium import browser
from tests.support.paths import ROOT
from tests.support.prometheus.exporters import Demo

_ALL = tuple((width, scheme) for width in (320, 768, 1280, 1920) for scheme in ("light", "dark"))
_SECONDS = 8.0
"""After this number of seconds, the page shows rates over the last seconds."""


def main(folder: Path | None) -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        demo = Demo(scratch, speed=1)
        try:
            with browser(scratch / "chromium") as chromium:
                chromium.size(1280)
                chromium.scheme("light")
                time.sleep(2)
                chromium.open(f"http://{demo.address}/")
                time.sleep(_SECONDS)
                if folder:
                    for width, scheme in _ALL:
                        chromium.size(width)
                        chromium.scheme(scheme)
                        chromium.picture(folder / f"page-{width}-{scheme}.png")
                else:
                    # Remove the kernel's version: it is that of the machine that takes the picture.
                    chromium.run("document.querySelector('header p').firstChild.data = ''")
                    picture = ROOT / "docs/images/page.png"
                    picture.parent.mkdir(exist_ok=True)
                    chromium.picture(picture)
                    subprocess.run(["pngquant", "--force", "--strip", "--output", picture, picture], check=True)
        finally:
            demo.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
