"""No two draws of a study come from one stream of random numbers."""

import ast
from itertools import product

import numpy as np
import pytest

from feature_lineage.explanations.excerpts import halves
from feature_lineage.flow.bootstrap import sample_documents
from feature_lineage.streams import Stream, entropy, torch_seed

SEEDS = (0, 1, 5, 2**32 - 1)
FEW = (0, 1, 2, 3, 5, 6, 7, 600)  # corpora, features, halves and steps: the numbers of streams among them


def places(stream):
    numbers = FEW if stream is not Stream.POOL else FEW[1:]
    return product(*[numbers] * stream.value[1])


def state(words):
    return tuple(np.random.SeedSequence(words).generate_state(4, np.uint64).tolist())


def test_no_two_draws_begin_alike():
    """Over seeds, streams and coordinates, zeros among them: numpy takes [0, 5], [0, 5, 0] and [0, 5, 0, 0] for one."""
    assert state([0, 5]) == state([0, 5, 0]) == state([0, 5, 0, 0]), "or nothing of this is needed"
    draws = [(seed, stream, place) for seed in SEEDS for stream in Stream for place in places(stream)]
    assert len({state(entropy(seed, stream, *place)) for seed, stream, place in draws}) == len(draws) > 300


def test_torchs_streams_are_apart():
    """New features of any step, and the weights, which are drawn from the autoencoder's seed itself."""
    seeds = [torch_seed([seed, step]) for seed in SEEDS for step in range(1, 2000)]
    assert len({*seeds, *SEEDS}) == len(seeds) + len(SEEDS)


@pytest.mark.parametrize(
    ("seed", "stream", "place"),
    [
        (0, Stream.BOOTSTRAP, (0,)),
        (0, Stream.SIDES, ()),
        (0, Stream.EXCERPTS, (3,)),
        (0, Stream.POOL, (0,)),
        (2**32, Stream.SAMPLE, ()),
        (0, Stream.SIDES, (2**32,)),
        (-1, Stream.SAMPLE, ()),
    ],
)
def test_what_would_be_another_stream_is_refused(seed, stream, place):
    with pytest.raises(ValueError, match=stream.name):
        entropy(seed, stream, *place)


def test_every_stream_of_the_project_is_one_of_these(project):
    """`Windows.sample` takes what it is given."""
    found = {}
    for path in [*(project / "src").rglob("*.py"), *(project / "workflow").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name.endswith(("default_rng", "SeedSequence", "RandomState")):
                found.setdefault(f"{path.parent.name}/{path.stem}", set()).add(ast.unparse(call.args[0]).split("(")[0])
            if name.endswith("windows.sample"):
                found.setdefault(f"{path.parent.name}/{path.stem}", set()).add(ast.unparse(call.args[1]).split("(")[0])
    assert found.pop("text/windows") == {"seed"} and found.pop("feature_lineage/streams") == {"words"}
    assert set(found) == {
        "models/training", "autoencoders/training", "text/sample", "controls/alignment_null", "flow/bootstrap", "explanations/excerpts",
        "models/task_vectors",
    }  # fmt: skip
    assert all(words == {"entropy"} for words in found.values()), found


def test_the_two_halves_of_a_sample_are_not_the_bootstraps_draw(monkeypatch):
    """The first corpus's halves were drawn from the very numbers that the bootstrap draws its documents from."""
    states, real = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda words: states.append(state(words)) or real(words))
    sample_documents(np.zeros(4, int), 2, seed=3)
    halves(np.zeros(4, int), np.arange(4)[:, None], seed=3)
    assert len(set(states)) == len(states) == 2
