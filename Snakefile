# One study, from corpora to report. What depends on what is in workflow/rules/, one step each in workflow/scripts/, the science in
# src/feature_lineage/.
import os
import sys
import time

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")

BEGAN = time.time()

# Another workflow may use this one as a module: `workflow.basedir` is that one's folder.
CHECKOUT = workflow.current_basedir.get_path_or_uri(secret_free=True)
IS_MODULE = not workflow.modifier.is_main_snakefile()

# Jobs run this checkout's library, in whatever environment they are deployed to.
SOURCE = os.path.join(CHECKOUT, "src")
sys.path.insert(0, SOURCE)
theirs = [p for p in os.getenv("PYTHONPATH", "").split(os.pathsep) if p != SOURCE]
os.environ.update(PYTHONPATH=os.pathsep.join([SOURCE, *filter(None, theirs)]))
import feature_lineage

LIBRARY = os.path.realpath(feature_lineage.__path__[0])
OWN = os.path.join(SOURCE, "feature_lineage")
if os.path.isdir(OWN) and LIBRARY != os.path.realpath(OWN):
    raise WorkflowError(
        f"{CHECKOUT}: Python has imported {LIBRARY} before; the modules of a workflow must be of one checkout of Feature Lineage"
    )

from feature_lineage.jobs.memory import KEPT

for name, value in KEPT.items():
    os.environ.setdefault(name, value)

# A config file given on the command line replaces the demo's, it is not laid over it. A module is given its config.
if not workflow.overwrite_configfiles and not IS_MODULE:

    configfile: os.path.join(CHECKOUT, "config", "config.yaml")


report: "workflow/report/workflow.rst"


# What limits `gpu` (profiles/default) counts the jobs of one machine, not those of a cluster.
resource_scopes:
    gpu="local",


include: "workflow/rules/common.smk"
include: "workflow/rules/text.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/autoencoders.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/flow.smk"
include: "workflow/rules/meaning.smk"
include: "workflow/rules/controls.smk"
include: "workflow/rules/explanations.smk"
include: "workflow/rules/report.smk"


# A workflow that uses this one as a module keeps its own target.
IS_DEFAULT = workflow.default_target is None


# What `python -m feature_lineage.report` prints; of a run that did not make the report, the warnings alone.
onsuccess:
    from feature_lineage.report import page

    page.main(f"results/{study.study}", since=BEGAN)


rule models:
    input:
        expand("<results>/models/{model}/evaluation.json", model=study.models),


rule saes:
    input:
        all_autoencoders("evaluation.json"),


rule flows:
    input:
        "<results>/flows/summary.json",
        "<results>/flows/verdicts.json",
        "<results>/flows/sankey.json",
        "<results>/flows/categories.parquet",


rule controls:
    input:
        CONTROLS,
        BASELINES,
        PLACEBO,
        started_evaluations(),
        [
            f"<results>/saes/{model}/seed{seed}/evaluation.json"
            for model, seed in plan.each_seed(plan.beside)
        ],


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
    default_target: IS_DEFAULT
    input:
        "<results>/report/index.html",
        rules.models.input,
        rules.saes.input,
        rules.flows.input,
        rules.controls.input,
        rules.cases.input,
        rules.figures.input,
        rules.interpretations.input,
