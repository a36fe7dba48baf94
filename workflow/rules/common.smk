# The study, read and checked once, and what several rule files say about it.
from feature_lineage.fingerprint import fingerprint
from feature_lineage.study import (
    TrainedModel,
    FineTunedModel,
    MergedModel,
    PretrainedModel,
    StudyError,
    TrainedTokenizer,
    load_study,
)
from snakemake.exceptions import WorkflowError

try:
    study = load_study(config)
except StudyError as error:
    raise WorkflowError(str(error))

R = f"results/{study.study}"
CONDA = os.path.join(workflow.basedir, "envs", "environment.yaml")
SAMPLE = "validation"  # the one sample on which all models are compared


wildcard_constraints:
    corpus="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    seed="[0-9]+",
    split="train|validation",
    sample="[a-z]+",


def code(script):
    """Hash of all the code that a script runs: as a parameter, it makes the step rerun when that code changes."""
    path = os.path.join(workflow.basedir, "workflow", "scripts", script + ".py")
    return fingerprint(path)


def names(*kinds):
    """A pattern of the models of these kinds; it matches nothing if there is none."""
    found = [name for name, block in study.models.items() if isinstance(block, kinds)]
    return "|".join(found) or "(?!)"


def tokens(corpora, split):
    """Token directories of some corpora."""
    return expand(R + "/tokens/{corpus}/{split}", corpus=corpora, split=split)


CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def checkpoint_files(model):
    """The files of a model's directory that others read."""
    return expand(R + "/models/{model}/{file}", model=model, file=CHECKPOINT)
