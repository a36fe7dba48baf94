# Every figure for papers: its numbers, and images where there is a browser to draw them.
from feature_lineage.export import find_browser

FIGURES = {
    "sankey": "<results>/flows/sankey.json",
    **{name: f"<results>/figures/{name}.json" for name in DRAWN},
}
BROWSER = find_browser()
IMAGES = [
    f"<results>/figures/{figure}.{kind}"
    for figure in FIGURES
    for kind in ("svg", "png")
    if BROWSER
]


onstart:
    if not BROWSER:
        print("No browser: figures are left without SVG and PNG; install Chromium.")


rule tabulate_figures:
    input:
        figures=list(FIGURES.values()),
    output:
        tables=expand("<results>/figures/{figure}.csv", figure=FIGURES),
    log:
        "<logs>/tabulate_figures.log",
    benchmark:
        "<benchmarks>/tabulate_figures.tsv"
    conda:
        CONDA
    threads: 1
    params:
        code=code("tabulate_figures"),
    script:
        "../scripts/tabulate_figures.py"


rule export_figures:
    input:
        figures=list(FIGURES.values()),
    output:
        images=expand(
            "<results>/figures/{figure}.{kind}", figure=FIGURES, kind=("svg", "png")
        ),
    log:
        "<logs>/export_figures.log",
    benchmark:
        "<benchmarks>/export_figures.tsv"
    conda:
        CONDA
    threads: 1
    params:
        code=code("export_figures"),
    script:
        "../scripts/export_figures.py"
