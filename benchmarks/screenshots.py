"""Pictures of a study's report for the README and the docs: `python benchmarks/screenshots.py results/demo [docs/images]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from images import IMAGES

from feature_lineage.store.formats import read_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from chromium import Page

CASE = "assignment"
SANKEY = "document.querySelector('#verdicts')"
FEATURE = "document.querySelector('#feature.shown .context')"


def main(study: str, folder: str | Path = IMAGES) -> None:
    """Photograph the first screen, light and dark, a case and one of its features, the curves, and a feature on a phone."""
    index, folder = Path(study, "report", "index.html"), Path(folder)
    case = read_json(Path(study, "cases", CASE, "case.json"))
    names = [f"#feature={node['model']}/{case['seed']}/{node['feature']}" for node in case["nodes"]]
    with tempfile.TemporaryDirectory() as profile:
        page = Page(Path(profile))

        def shoot(
            name: str, fragment: str, ready: str, target: str | None = None, phone: bool = False, dark: bool = False
        ) -> None:
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            page.send("Emulation.setEmulatedMedia", features=features)
            width, height = (380, 780) if phone else (1200, 860)
            page.send(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
            )
            page.open(index, fragment)
            page.wait(ready)
            for _ in range(2 if target else 0):  # figures above it are drawn on the way, which moves it
                page.run(f"document.querySelector({target!r}).scrollIntoView()")
                time.sleep(1.2)
            time.sleep(1)
            page.screenshot(folder / f"{name}.png")

        shoot("report", "", SANKEY)
        shoot("report-dark", "", SANKEY, dark=True)
        shoot("report-curves", "", SANKEY, target="#figure-curves, [data-figure=curves]")
        shoot("report-case", "", SANKEY, target=f"#case-{CASE}")
        shoot("report-feature", names[1], FEATURE)
        shoot("report-phone", names[0], FEATURE, target="#feature", phone=True)
        page.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
