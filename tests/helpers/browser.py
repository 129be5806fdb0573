"""A page looked at by a real browser, headless Chromium, without a network."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# What the page looks like once everything is loaded; written into the page, where --dump-dom shows it.
LOOK = """
<script>
addEventListener("load", () => {
  const text = nodes => [...nodes].map(node => node.textContent.trim());
  const pre = document.createElement("pre");
  pre.id = "seen";
  pre.textContent = JSON.stringify({
    title: document.title,
    headings: text(document.querySelectorAll("h2")),
    tables: [...document.querySelectorAll("table")].map(table => ({
      class: table.className,
      caption: table.caption ? table.caption.textContent : "",
      rows: [...table.rows].map(row => text(row.cells)),
      height: table.getBoundingClientRect().height,
    })),
    pictures: [...document.images].map(image => ({
      alt: image.alt, width: image.naturalWidth, height: image.naturalHeight,
      shown: image.getBoundingClientRect().width, complete: image.complete,
    })),
    captions: text(document.querySelectorAll("figcaption")),
    notes: text(document.querySelectorAll(".note")),
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    page_width: document.documentElement.scrollWidth, window_width: innerWidth,
  });
  document.body.append(pre);
});
</script>
"""


class Browser:
    """Chromium with a profile of its own below `folder`; the test is skipped where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = next((path for name in NAMES if (path := shutil.which(name))), None)
        if self.program is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (apt-get install chromium)")

    def look(self, page: Path, width: int = 1280) -> dict[str, Any]:
        """What the loaded page shows, in a window of that width (Chromium's narrowest is 500)."""
        copy = self.folder / "looked_at.html"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", LOOK + "</body>"), encoding="utf-8")
        dom = self._run(copy, "--dump-dom", f"--window-size={width},900").stdout
        (seen,) = re.findall(r'<pre id="seen">(.*?)</pre>', dom, flags=re.DOTALL)
        return json.loads(seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    def screenshot(self, page: Path, width: int, height: int) -> np.ndarray:
        """The window's pixels, RGB in 0 … 1."""
        picture = self.folder / "screenshot.png"
        self._run(page, f"--screenshot={picture}", "--hide-scrollbars", f"--window-size={width},{height}")
        return imread(picture)[..., :3]

    def _run(self, page: Path, *options: str) -> subprocess.CompletedProcess:
        profile = self.folder / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        # fmt: off
        return subprocess.run(
            [
                self.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
                f"--user-data-dir={profile}", *options, page.as_uri(),
            ],
            capture_output=True, encoding="utf-8", timeout=120, check=True,
        )
        # fmt: on
