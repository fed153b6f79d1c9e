"""Pictures of a report as a browser shows it: light, dark, narrow and on paper.

    python benchmarks/screenshot.py mixq-run/report.html --output pictures
    python benchmarks/screenshot.py mixq-run/report.html --only docs/images/report.png

Chromium is Debian's (`apt-get install chromium`), or what CHROMIUM names; the page is opened from
its file and may ask nobody for anything: a request, or an error in the console, is an error here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "narrow": (400, "light")}
README_SIZE = (1180, 1240)
READY = "document.documentElement.dataset.ready === 'yes' || !document.getElementById('data')"


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--output", type=Path, default=Path("pictures"))
    parser.add_argument("--only", type=Path, help="one picture of the top, for the README")
    asked = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("error: no chromium; apt-get install chromium, or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if asked.only:
            page = opened(browser, asked.report, *README_SIZE, "light")
            page.screenshot(path=asked.only)
            print(asked.only, f"{asked.only.stat().st_size:,} bytes")
            return
        asked.output.mkdir(parents=True, exist_ok=True)
        for look, (width, scheme) in LOOKS.items():
            page = opened(browser, asked.report, width, 900, scheme)
            page.screenshot(path=asked.output / f"{look}.png", full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth")
            print(look, f"{width} px asked, {wide} px wide")
            if look == "light":
                page.pdf(path=asked.output / "paper.pdf", format="A4", print_background=True)
            page.close()
        browser.close()


def opened(browser: Browser, report: Path, width: int, height: int, scheme: str) -> Page:
    """The report in a browser of that size, drawn.

    Raises:
        SystemExit: if it asked for anything, or an error was said.
    """
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    faults: list[str] = []
    address = report.resolve().as_uri()
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: faults.append(r.url) if r.url != address else None)
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(READY)
    print(f"{report}: drawn in {time.perf_counter() - start:.2f} s")
    page.wait_for_timeout(200)
    if faults:
        raise SystemExit(f"error: {report}: {faults[:3]}")
    return page


if __name__ == "__main__":
    main()
