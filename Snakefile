# One study, from corpora to report. What depends on what is in workflow/rules/, one step each in workflow/scripts/, the science in
# src/feature_lineage/.
import os
import sys
import time

from snakemake.utils import min_version

min_version("9.27")

BEGAN = time.time()

# Jobs run this checkout's library, in whatever environment they are deployed to.
SOURCE = os.path.join(workflow.basedir, "src")
sys.path.insert(0, SOURCE)
theirs = [p for p in os.getenv("PYTHONPATH", "").split(os.pathsep) if p != SOURCE]
os.environ.update(PYTHONPATH=os.pathsep.join([SOURCE, *filter(None, theirs)]))

# A config file given on the command line replaces the demo's, it is not laid over it.
if not workflow.overwrite_configfiles:

    configfile: os.path.join(workflow.basedir, "config", "config.yaml")


report: "workflow/report/workflow.rst"


# What limits `gpu` (profiles/default) counts the jobs of one machine, not those of a cluster.
resource_scopes:
    gpu="local",


include: "workflow/rules/common.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/correlations.smk"
include: "workflow/rules/flows.smk"
include: "workflow/rules/controls.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/cases.smk"
include: "workflow/rules/interpretation.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    models,
    saes,
    flows,
    controls,
    cases,
    figures,
    interpretations,


# Seconds each, whatever the study; the images need a browser. On a cluster they run where Snakemake does.
localrules:
    summarise_flows,
    count_categories,
    compare_transfers,
    join_control,
    draw_sankey,
    draw_curves,
    draw_sweep,
    draw_training,
    draw_autoencoders,
    draw_scores,
    tabulate_figures,
    export_figures,


# What `python -m feature_lineage.report` prints; of a run that did not make the report, the warnings alone.
onsuccess:
    from feature_lineage import report

    report.main(f"results/{study.study}", since=BEGAN)


rule models:
    input:
        expand("<results>/models/{model}/evaluation.json", model=study.models),


rule saes:
    input:
        expand(
            "<results>/saes/{model}/seed{seed}/evaluation.json",
            model=study.models,
            seed=study.autoencoder.seeds,
        ),


rule flows:
    input:
        "<results>/flows/summary.json",
        "<results>/flows/sankey.json",
        "<results>/flows/categories.parquet",


rule controls:
    input:
        CONTROLS,
        BASELINES,


rule cases:
    input:
        CASES,


rule figures:
    input:
        expand("<results>/figures/{figure}.csv", figure=FIGURES),
        images,


rule interpretations:
    input:
        INTERPRETATIONS,
        "<results>/figures/scores.json",


rule all:
    default_target: True
    input:
        "<results>/report/index.html",
        rules.models.input,
        rules.saes.input,
        rules.flows.input,
        rules.controls.input,
        rules.cases.input,
        rules.figures.input,
        rules.interpretations.input,
