"""Autoencoders made elsewhere: taken over once, and let into the study only if they read its model as a dictionary should."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from feature_lineage.autoencoders.autoencoder import save_autoencoder
from feature_lineage.autoencoders.formats.reading import read_release, release_files, wanted_files
from feature_lineage.autoencoders.gate import MOST_DEAD
from feature_lineage.errors import InputError
from feature_lineage.places import is_path, on_disk, wrong_folder
from feature_lineage.progress import logger
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import write_json

# Lower than `gate.LEAST_EXPLAINED`, which says on what a finding can rest: a dictionary that was hardly trained is poor, and one below these
# most likely reads another model, place or scale.
LEAST_EXPLAINED = 0.3
LEAST_RECOVERED = 0.2
SMALL_LOSS = 0.05  # nats: where zeros cost the model less, the share of it that is recovered is noise
MOST_ACTIVE = 0.5  # with more than half of its features active, a token is in no sense sparse
L0_MISS = 0.25  # of what the release says, from which on it is remarked
SIGNS = ("l0", "variance_explained", "loss_recovered", "dead_share")


class Source(NamedTuple):
    """Where an autoencoder is from.

    Attributes:
        pretrained: name on the hub, or directory.
        folder: folder in there.
        revision: commit, tag or branch on the hub.
        format: one of `reading.FORMATS`, or `auto`.
        key: of the configuration, for messages.
    """

    pretrained: str
    folder: str | None = None
    revision: str | None = None
    format: str = "auto"
    key: str = "autoencoders"


class Place(NamedTuple):
    """What the study reads: the hook point, the elements of an activation there (None if not known) and the tokens of a window."""

    hook: str
    elements: int | None
    context: int


def import_autoencoder(
    source: Source, path: str | Path, place: Place, record: dict[str, Any], *, accept: bool = False
) -> None:
    """Write a published autoencoder in this project's form, and `import.json`: what its release says, what was changed, and hashes.

    Args:
        source: where it is from.
        path: folder that it is written to.
        place: what the study reads.
        record: provenance.
        accept: whether another hook point is no reason to refuse it.

    Raises:
        InputError: it cannot be had or read (`reading.read_release`), says that it reads another hook point, or reads activations of another
            width.
    """
    folder = fetched(source)
    release = read_release(folder, source.format)
    if release.hook is not None and not same_place(release.hook, place.hook):
        said = f"{folder}: it reads {release.hook}, and autoencoder.hook is {place.hook}"
        if not accept:
            raise InputError(f"{said}; set autoencoder.hook to {release.hook}, or {source.key}.accept to true")
        logger.warning("%s; %s.accept is true", said, source.key)
    width = release.autoencoder.W_enc.shape[0]
    if place.elements not in (None, width):
        raise InputError(
            f"{release.autoencoder.source}: its encoder reads {width} elements, and {place.hook} gives {place.elements}: it was trained on another "
            f"model or hook point; set autoencoder.hook to that one, or name another autoencoder at {source.key}"
        )
    files = {file.relative_to(folder).as_posix(): sha256(file) for file in release_files(folder, source.format)}
    save_autoencoder(release.autoencoder, path, place.hook, place.context, record)
    said = {name: getattr(release, name) for name in ("format", "hook", "model", "context", "window_start")}
    said |= {"claims": dict(release.claims), "changes": list(release.changes)}
    name = {"pretrained": source.pretrained, "folder": source.folder, "revision": source.revision}
    write_json(Path(path) / "import.json", name | said | {"files": files}, record)


def fetched(source: Source) -> Path:
    """The folder of an autoencoder: on disk, or in the hub's cache, where what is missing of it is downloaded.

    Raises:
        InputError: there is no such folder, or it cannot be downloaded.
    """
    name = source.pretrained
    if is_path(name, source.revision):
        folder = Path(on_disk(name), source.folder or "")
        if problem := wrong_folder(folder):
            raise InputError(f"{source.key}: found {str(folder)!r}, {problem} (in {Path.cwd()}); name a folder")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    inside = f"{source.folder.strip('/')}/" if source.folder else ""
    patterns = [inside + pattern for pattern in wanted_files(source.format)]
    try:
        found = Path(snapshot_download(name, revision=source.revision, allow_patterns=patterns), inside)
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        why = " ".join(str(error).split())
        raise InputError(
            f"{source.key}.pretrained: {name!r} (revision {source.revision}) cannot be downloaded ({why}); check the name, the revision and the "
            "network, or name a folder on disk"
        ) from error
    if not found.is_dir():
        raise InputError(
            f"{source.key}.folder: {name!r} has no {source.folder!r} with a file of an autoencoder; name the folder as the hub shows it"
        )
    return found


def same_place(one: str, other: str) -> bool:
    """Whether two hook points give the same activations: what goes into a block is what the one before gives."""
    return _plain(one) == _plain(other)


def _plain(hook: str) -> str:
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", hook)
    return f"blocks.{int(found[1]) - 1}.hook_resid_post" if found and int(found[1]) else hook


def check_autoencoder(
    evaluation: Mapping[str, Any],
    release: Mapping[str, Any],
    hook: str,
    window_start: bool,
    key: str,
    *,
    accept: bool = False,
) -> dict[str, Any]:
    """Say whether a published autoencoder reads this study's model as a dictionary should.

    Args:
        evaluation: on the study's text (`evaluation.evaluate_autoencoder`).
        release: `import.json` of `import_autoencoder`.
        hook: the study's hook point.
        window_start: whether the study puts a token before each window.
        key: of the configuration, for messages.
        accept: whether implausible numbers are no reason to stop.

    Returns:
        `source`, `format`, `measured` and `claimed` (of `SIGNS` those that there are), `problems` (what is implausible), `causes` (the likeliest ones, if there
        are problems), `remarks` (what is missed, but no reason to stop) and `accepted`.

    Raises:
        InputError: something is implausible, and not accepted; with the numbers and the causes.
    """
    measured = {name: evaluation[name] for name in SIGNS}
    claimed = dict(release["claims"])
    problems = list(_implausible(evaluation))
    causes = list(_causes(release, measured, hook, window_start)) if problems else []
    if problems and not accept:
        numbered = " ".join(f"({place}) {cause}" for place, cause in enumerate(causes, start=1))
        raise InputError(
            f"{key}: {release['pretrained']}{'/' + release['folder'] if release['folder'] else ''} does not read this model as a dictionary "
            f"should. {' '.join(problems)} Measured: {_numbers(measured)}; the release says: {_numbers(claimed) or 'nothing'}. Likeliest "
            f"causes: {numbered} Mend it, or set {key}.accept to true to use it all the same"
        )
    return {
        "source": "/".join(filter(None, (release["pretrained"], release["folder"]))),
        "format": release["format"],
        "measured": measured,
        "claimed": claimed,
        "problems": problems,
        "causes": causes,
        "remarks": list(_remarks(measured, claimed)),
        "accepted": bool(problems),
    }


def _implausible(evaluation: Mapping[str, Any]) -> Iterator[str]:
    explained, l0, features = evaluation["variance_explained"], evaluation["l0"], len(evaluation["densities"])
    if explained is None or not explained >= LEAST_EXPLAINED:
        found = "cannot be measured" if explained is None else f"is {explained:.3g}, below {LEAST_EXPLAINED:g}"
        yield f"Variance explained {found}."
    recovered, clean, zero = (evaluation[name] for name in ("loss_recovered", "loss_clean", "loss_zero"))
    if zero - clean > SMALL_LOSS and not (recovered is not None and recovered >= LEAST_RECOVERED):
        yield f"Loss recovered is {recovered if recovered is None else format(recovered, '.3g')}, below {LEAST_RECOVERED:g}."
    if not 0 < l0 <= MOST_ACTIVE * features:
        yield f"L0 is {l0:.4g} of {features:,} features."


def _causes(release: Mapping[str, Any], measured: Mapping[str, Any], hook: str, window_start: bool) -> Iterator[str]:
    """What may be wrong, what is known to differ first."""
    if release["hook"] is not None and not same_place(release["hook"], hook):
        yield f"Hook: it reads {release['hook']}, and autoencoder.hook is {hook}."
    if release["window_start"] is not None and release["window_start"] != window_start:
        here = "has one" if window_start else "has none"
        there = "had a BOS token" if release["window_start"] else "had none"
        yield f"BOS: in its training each window {there} at its head, and this study {here}; see tokenizer.window_start."
    if (said := release["claims"].get("l0")) and (off := measured["l0"] / said) and not 0.5 <= off <= 2:
        yield (
            f"Scaling: L0 is {off:.3g} times what the release says, as if it had been trained on activations of another scale, or a threshold "
            "were missing."
        )
    elif not said:
        yield "Scaling: it may have been trained on activations of another scale."
    named = f", which is {release['model']} as it says" if release["model"] else ", which it does not say"
    yield f"Model: it may have been trained on another one{named}."
    if release["hook"] is None:
        yield f"Hook: it does not say which hook point it reads; this study reads {hook}."
    if release["window_start"] is None and not window_start:
        yield "BOS: it may have been trained on windows with a BOS token at the head; see tokenizer.window_start."


def _remarks(measured: Mapping[str, Any], claimed: Mapping[str, float]) -> Iterator[str]:
    said, l0 = claimed.get("l0"), measured["l0"]
    if said and not abs(l0 / said - 1) <= L0_MISS:
        yield f"L0 is {l0:.3g}, and {said:g} by the release."
    if measured["dead_share"] > MOST_DEAD:
        yield f"{measured['dead_share']:.1%} of the features fire on none of the tokens."


def _numbers(found: Mapping[str, Any]) -> str:
    names = {name: name.replace("_", " ").replace("l0", "L0") for name in SIGNS}
    known = {names[name]: found.get(name) for name in SIGNS}
    return ", ".join(f"{name} {_number(value)}" for name, value in known.items() if value is not None)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else str(value)
