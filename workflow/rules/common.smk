# The study, read and checked once, and the functions that tell rules their inputs from it.
import platform
import re
from functools import cache
from importlib import metadata

from feature_lineage.devices import has_gpu
from feature_lineage.jobs.fingerprint import fingerprint
from feature_lineage.study.digests import Checksums
from feature_lineage.study.local_inputs import LocalInputs, named_files
from feature_lineage.places import on_disk
from feature_lineage.jobs.resources import ON_GPU, request
from feature_lineage.study.texts import TrainedTokenizer
from feature_lineage.study.loading import each_key_once, load_study
from feature_lineage.study.plan import Plan, places
from feature_lineage.study.types import NAME_PATTERN, StudyError
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    each_key_once(workflow.configfiles, config.get("study") if IS_MODULE else None)
    study = load_study(config)
    inputs = LocalInputs(study, Checksums(".snakemake/checksums.json", logger.info))
    if workflow.is_main_process:
        inputs.check()
        inputs.follow(os.path.join("results", study.study, "models"))
except StudyError as error:
    files = ", ".join(map(os.path.relpath, workflow.overwrite_configfiles))
    hint = f"\n(read from {files}; a target goes before --configfile, which takes all that follows)"
    if IS_MODULE:
        hint = (
            f"\n(what module {workflow.modifier.namespace} is given as its `config:`)"
        )
    raise WorkflowError(f"{error}{hint if IS_MODULE or ', ' in files else ''}")


plan = Plan(study)

if workflow.is_main_process:
    for corpus in plan.unread_corpora:
        logger.warning(
            f"corpora.{corpus} is not read: no model or tokenizer is trained on it, and flow.corpora leaves it out"
        )

PATHS = workflow.modifier  # as a module, paths may have a prefix


pathvars:
    results=f"results/{study.study}",
    logs=f"results/{study.study}/logs",
    benchmarks=f"results/{study.study}/benchmarks",


CONDA = os.path.join(CHECKOUT, "envs", "environment.yaml")
SAMPLE = "validation"  # the one sample on which all models are compared


NAME = NAME_PATTERN.strip("^$")  # never with --, which parts two names


wildcard_constraints:
    corpus=NAME,
    model=NAME,
    parent=NAME,
    child=NAME,
    seed="[0-9]+",
    sample="[a-z]+",


def code(script):
    """Hash of all the code that a script runs: as a parameter, it makes the step rerun when that code changes.

    Taken when a job asks for it: on a cluster every job reads these rules, and needs one of them.
    """
    path = os.path.join(CHECKOUT, "workflow", "scripts", f"{script}.py")
    return lambda wildcards: fingerprint(path)


def needs(step):
    """Memory and run time of a step's jobs, for `resources`; both double when a job is tried again. Run locally, they bind nobody.

    A step that computes on a GPU asks for one where this machine has one. A cluster's profile says what it asks for there.
    """

    def asked(wildcards, attempt):
        return request(study, step, wildcards.get("model"), attempt)

    gpu = {"gpu": lambda wildcards: int(has_gpu())} if step in ON_GPU else {}
    return gpu | {
        "mem_mb": lambda wildcards, attempt: asked(wildcards, attempt).mem_mb,
        "runtime": lambda wildcards, attempt: asked(wildcards, attempt).runtime,
    }


def one_of(names):
    """A pattern that matches these names; it matches nothing if there is none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def tokens(corpora, split):
    """The index files of some corpora's token directories: of a file, unlike of a directory, Snakemake sees if it was only touched."""
    return expand(
        "<results>/tokens/{corpus}/{split}/index.json", corpus=corpora, split=split
    )


CHECKPOINT = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def checkpoint_files(model):
    """The files of a model's directory that others read."""
    return expand("<results>/models/{model}/{file}", model=model, file=CHECKPOINT)


def planned(identity):
    """No files: takes an identity while the job is planned.

    An executor may ask for parameters only when the job has ended, and record those of files that were replaced meanwhile.
    """

    def take(wildcards):
        if workflow.is_main_process:
            identity(wildcards)
        return []

    return take


def autoencoder_identity(wildcards):
    return inputs.autoencoder(wildcards.model, int(wildcards.seed))


def imported_autoencoder(wildcards):
    """What the configuration says of an autoencoder that was made elsewhere."""
    return study.imported_autoencoder(wildcards.model, int(wildcards.seed))


def gate(wildcards):
    """What lets an autoencoder that was made elsewhere into the study; one that is trained here needs nothing."""
    return expand(
        f"<results>/saes/{{model}}/seed{wildcards.seed}/gate.json",
        model=(
            [wildcards.model] if wildcards.model in plan.imported_autoencoders else []
        ),
    )


def corpus_identity(wildcards):
    return inputs.corpus(wildcards.corpus)


def model_identity(wildcards):
    return inputs.model(wildcards.model)


def tokenizer_identity(wildcards):
    return inputs.tokenizer()


def corpus_files(wildcards):
    """Files on disk that a corpus is read from; one that is named and missing is reported by Snakemake."""
    kind, options = inputs.source(wildcards.corpus)
    found = named_files(options["files"]) if kind == "files" else []
    for path in found:
        if "{" in path:
            raise WorkflowError(
                f"corpora.{wildcards.corpus}.files: {path!r} has a brace in its name, which Snakemake takes for a wildcard; rename it"
            )
    # The prefix that a module may have is that of its results.
    return [local(path) for path in found]


def package_version(wildcards):
    """Version of the package that a corpus is read from, so that another one is read anew."""
    kind, options = inputs.source(wildcards.corpus)
    if kind != "package":
        return None
    if options["package"] == "python":
        return platform.python_version()
    try:
        return metadata.version(options["package"])
    except metadata.PackageNotFoundError:
        return None


def parent_files(wildcards):
    """The checkpoint that a model starts from, if it has a parent."""
    return [
        file
        for parent in study.origins(wildcards.model)
        for file in checkpoint_files(parent)
    ]


def base_files(wildcards):
    """The checkpoint whose changes a merge adds up, if its method has a base."""
    base = study.merge_base(wildcards.model)
    return checkpoint_files(base) if base is not None else []


def sweep_file(wildcards):
    """What was measured along the path between two parents, if a merge is a position on one."""
    model = wildcards.model
    return (
        [f"<results>/models/{model}/sweep.parquet"] if model in plan.on_a_path else []
    )


def parent_autoencoder(model, seed):
    """The autoencoder that a model's own starts from, if it starts from one."""
    parent = plan.starts_from(model, int(seed))
    return autoencoder_files(parent, seed) if parent is not None else []


def autoencoder_files(model, seed):
    """The files of an autoencoder that others read, its weights first; of one made elsewhere with what lets it in."""
    gates = ["gate.json"] if model in plan.imported_autoencoders else []
    return expand(
        "<results>/saes/{model}/seed{seed}/{file}",
        model=model,
        seed=seed,
        file=["sae_weights.safetensors", "cfg.json", *gates],
    )


def correlation_parts(wildcards):
    """The partial sums that make up a file of correlations, if several jobs share the work."""
    return expand(
        "<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.part{part}.parquet",
        **wildcards,
        part=range(study.flow.parts) if study.flow.parts > 1 else [],
    )


def pair_statistics(baseline, side):
    """Statistics of the features on one side of each pair that a baseline compares, seed by seed."""
    pairs = [names for _, _, *names in plan.baseline_pairs[baseline]]
    return [
        f"<results>/features/{pair[side]}/seed{seed}/{SAMPLE}/statistics.parquet"
        for pair, seed in plan.each_pair(pairs)
    ]


def seed_correlations(pairs):
    """Correlations between some pairs of autoencoders, seed by seed."""
    return [
        f"<results>/correlations/{SAMPLE}/{a}.seed{seed}--{b}.seed{seed}.parquet"
        for (a, b), seed in plan.each_pair(pairs)
    ]


def all_autoencoders(file):
    """A file of the training or evaluation of each autoencoder of the study, seed by seed."""
    return [
        f"<results>/saes/{model}/seed{seed}/{file}" for model, seed in plan.autoencoders
    ]


def all_features(file):
    """A file of each autoencoder's features, seed by seed."""
    return [
        f"<results>/features/{model}/seed{seed}/{SAMPLE}/{file}"
        for model, seed in plan.autoencoders
    ]


def verdicts(pairs, file):
    """A file of the verdicts on some pairs, seed by seed."""
    return [
        f"<results>/flows/verdicts/{SAMPLE}/{parent}--{child}.seed{seed}/{file}"
        for (parent, child), seed in plan.each_reading(pairs)
        if study.flow.bootstrap or file != "replicates.parquet"
    ]


def both_sides(path):
    """A file of the autoencoder of each side of a pair that has one which reads the other."""

    def files(w):
        models = {"parent": (w.parent, w.child), "child": (w.child, w.parent)}
        return [
            path.format(
                own=models[side][0], other=models[side][1], seed=w.seed, sample=w.sample
            )
            for side in sides(w)
        ]

    return files


def sides(w):
    """Which sides of a pair have an autoencoder that reads the other."""
    return plan.sides(w.parent, w.child, int(w.seed))


def between(w):
    """Correlations of the two autoencoders of a pair, if they are compared."""
    path = f"<results>/correlations/{w.sample}/{w.parent}.seed{w.seed}--{w.child}.seed{w.seed}.parquet"
    return [path] if len(sides(w)) == 2 else []


def with_stability(path):
    """The same as `both_sides`, if autoencoders of one model are compared with each other."""
    return both_sides(path) if "ceiling" in plan.measured else []


def shown_features(file):
    """A file of each autoencoder that a reader looks into: those of the first seed."""
    return expand(
        f"<results>/features/{{model}}/seed{plan.first_seed}/{SAMPLE}/{file}",
        model=plan.read,
    )


def case_features(file):
    """A file of each autoencoder that a case may lead to."""
    return lambda wildcards: expand(
        f"<results>/features/{{model}}/seed{plan.first_seed}/{SAMPLE}/{file}",
        model=study.case_models(wildcards.case),
    )


def control_parts(wildcards):
    """The files of a control that is measured edge by edge, on the first seed's autoencoders if it is about features."""
    neurons = wildcards.control == "neurons"
    seed = "" if neurons else f".seed{plan.first_seed}"
    return [
        f"<results>/controls/{wildcards.control}/{parent}--{child}{seed}.parquet"
        for parent, child in (study.edges() if neurons else plan.matched_edges)
    ]


def started_evaluations():
    """Evaluations of the autoencoders that start from the parent's."""
    return [
        f"<results>/controls/started/{pair}/seed{seed}/evaluation.json"
        for pair, seed in plan.each_seed(plan.started)
    ]


def other_merges(file):
    """A file of the other merge of each merged model."""
    return [
        f"<results>/controls/{method}/{name}/{file}"
        for name, method in plan.other_merges.items()
    ]


CASES = expand("<results>/cases/{case}/case.json", case=study.cases)
INTERPRETATIONS = [
    f"<results>/interpretations/{model}/seed{plan.first_seed}.parquet"
    for model in plan.read
]
CONTROLS = ["<results>/controls/summary.json"] if plan.summed_up else []
PLACEBO = ["<results>/controls/placebo.parquet"] if plan.placebos else []
BASELINES = expand("<results>/controls/{name}.parquet", name=plan.baselines)
FIGURES = {
    "verdicts": "<results>/flows/verdicts.json",
    "sankey": "<results>/flows/sankey.json",
    **{name: f"<results>/figures/{name}.json" for name in plan.figures},
}


@cache
def browser():
    """Whether there is a browser that draws images: looked for when a job needs to know, as it takes time."""
    from feature_lineage.report.export import find_browser

    return find_browser() is not None


def images(wildcards):
    """SVG and PNG of each figure, as far as they can be had.

    They are drawn where Snakemake runs. A job may run on another machine, with no browser or with one more: it takes the images that
    it finds, unless they are of an earlier figure.
    """
    found = []
    for figure, source in FIGURES.items():
        for path in (f"<results>/figures/{figure}.{kind}" for kind in ("svg", "png")):
            # Spelt out: in the rules of a workflow that imports this one, <results> is another folder.
            drawn, of = (
                PATHS.modify_path(PATHS.pathvars.apply(p)) for p in (path, source)
            )
            if (
                browser()
                if workflow.is_main_process
                else os.path.exists(drawn)
                and os.path.getmtime(drawn) >= os.path.getmtime(of)
            ):
                found.append(drawn)
    return found
