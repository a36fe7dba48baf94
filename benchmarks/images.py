"""Where the benchmarks' plots go: docs/images/, as SVG where there is a browser to draw it; pages, which git does not keep, to results/."""

from pathlib import Path

import plotly.graph_objects as go

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
PAGES = ROOT / "results" / "benchmarks"


def write_image(figure: go.Figure, name: str, folder: Path = IMAGES) -> str:
    """Write an SVG, or a page where no browser starts; says what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"{name}.svg"
    try:
        figure.write_image(image)
        return str(image)
    except Exception as error:  # no browser, or one that does not start: these errors have nothing in common
        page = (PAGES if folder == IMAGES else folder) / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(page, include_plotlyjs=True)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"{page}; {image.name} needs a browser: {reason[0]}"
