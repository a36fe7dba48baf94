"""Snakemake's own report of the study."""

from __future__ import annotations

import re
import zipfile


def test_snakemake_reports_on_the_study_in_pages_that_open_offline(copy):
    run = copy.snakemake("--report", "report.zip")
    assert run.code == 0, run
    with zipfile.ZipFile(copy.root / "report.zip") as archive:
        pages = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".html")}
    figures = {name.rsplit("/", 1)[-1] for name in pages}
    assert {
        "sankey.html",
        "curves.html",
        "training.html",
        "autoencoders.html",
        "sweep-both.html",
    } <= figures
    asked = {
        name: re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="([^"]*)"', page) for name, page in pages.items()
    }
    asked = {name: [url for url in urls if not url.startswith("data:")] for name, urls in asked.items()}
    assert {name: urls for name, urls in asked.items() if urls} == {}, "pages ask for files that are not in the report"


def test_the_report_is_one_html_file_too(copy):
    run = copy.snakemake("--report", "report.html")
    assert run.code == 0, run
    page = (copy.root / "report.html").read_text()
    assert "Feature flow" in page and "train_autoencoder" in page
