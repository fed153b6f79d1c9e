"""How large a report of 1,000 units is, how long it takes to make, and to open in chromium.

    PYTHONPATH=. python benchmarks/report.py            # the bounds: 10 MB and 3 s

Opening is timed from the address to the drawn plot, with processor time of the page's main thread
beside the clock: on a busy machine the clock says little.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from mixq.report.report import write_report
from mixq.report.run import Run
from tests.report.runs import names, write_run

READY = "document.documentElement.dataset.ready === 'yes'"


def main() -> None:
    """Make one and open it several times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", names(asked.units), plans=300)
        busy = time.process_time()
        report = write_report(Run.load(run))
        made = time.process_time() - busy
        print(f"{asked.units} units, 300 frontier plans: {report.stat().st_size:,} bytes")
        print(f"made in {made:.2f} s CPU")
        walls, drawn = [], []
        with sync_playwright() as playwright:
            chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for _ in range(asked.times):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                client = page.context.new_cdp_session(page)
                client.send("Performance.enable", {"timeDomain": "threadTicks"})
                start = time.perf_counter()
                page.goto(report.resolve().as_uri())
                page.wait_for_function(READY)
                walls.append(time.perf_counter() - start)
                figures = client.send("Performance.getMetrics")["metrics"]
                drawn.append(next(m["value"] for m in figures if m["name"] == "TaskDuration"))
                page.close()
            browser.close()
        print(
            f"opened {asked.times} times, median (most): clock {median(walls):.2f} s "
            f"({max(walls):.2f}), main thread {median(drawn):.2f} s ({max(drawn):.2f}), "
            f"load of the machine {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
