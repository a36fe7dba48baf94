"""Trainings with all their options in one list, as tests vary them, values that no configuration may have included."""

from dataclasses import fields

from feature_lineage.autoencoders import training
from feature_lineage.models import training as models
from feature_lineage.study.keys import Training
from feature_lineage.study.measures import Autoencoder, Resampling


def _taken(kind, options):
    names = [field.name for field in fields(kind)]
    return kind(**{name: options.pop(name) for name in names if name in options})


def autoencoder_options(**changes):
    """An `Autoencoder` block whose values are not checked."""
    if "resampling" in changes:
        changes["resampling"] = Resampling().model_copy(update=changes["resampling"])
    unknown = changes.keys() - Autoencoder.model_fields.keys()
    assert not unknown, unknown
    return Autoencoder().model_copy(update=changes)


def train_on_activations(batches, pool, sample, checkpoint, seed=0, parent=None, **options):
    length, watch = _taken(training.Length, options), _taken(training.Watch, options)
    data = training.Data(batches, pool, sample)
    return training.train_on_activations(data, checkpoint, autoencoder_options(**options), length, seed, parent, watch)


def train_autoencoder(bridge, train, validation, checkpoint, seed=0, parent=None, **options):
    watch = _taken(training.Watch, options)
    block = autoencoder_options(**options)
    return training.train_autoencoder(bridge, train, validation, checkpoint, block, seed, parent, watch)


def train_model(model, train, validation, checkpoints, name="m", seed=0, stop=lambda: False, **options):
    data = models.Data(train, validation, options.pop("balance"), options.pop("evaluation_tokens"))
    unknown = options.keys() - Training.model_fields.keys()
    assert not unknown, unknown
    block = Training().model_copy(update=options)
    return models.train_model(model, data, checkpoints, block, name, seed, stop)
