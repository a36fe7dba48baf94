"""How far weights moved: against plain numpy, of all tensors and of the block that the hook point is in."""

import numpy as np
import pytest

from feature_lineage.models.distance import compare_weights, relative_distance


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    names = (
        "model.embed.weight",
        "model.layers.0.mlp.weight",
        "model.layers.1.mlp.weight",
        "model.layers.10.mlp.weight",
    )
    parent = {name: random.standard_normal((5, 3)).astype(np.float32) for name in names}
    return parent, {name: tensor + np.float32(0.1 * place) for place, (name, tensor) in enumerate(parent.items())}


def plain(parent, child, names):
    apart = np.concatenate([child[n].astype(np.float64).ravel() - parent[n].ravel() for n in names])
    return np.linalg.norm(apart) / np.linalg.norm(np.concatenate([parent[n].astype(np.float64).ravel() for n in names]))


@pytest.mark.parametrize(("hook", "inside"), [("blocks.1.mlp.hook_post", [2]), ("blocks.10.hook_resid_post", [3])])
def test_distance_of_all_and_of_the_hooked_block(pair, hook, inside):
    names = list(pair[0])
    found = compare_weights(*pair, hook)
    assert found["all"] == pytest.approx(plain(*pair, names), rel=1e-12)
    assert found["hooked_block"] == pytest.approx(plain(*pair, [names[i] for i in inside]), rel=1e-12)


def test_a_hook_point_outside_of_the_blocks_has_no_block(pair):
    assert compare_weights(*pair, "ln_final.hook_normalized")["hooked_block"] is None


def test_a_copy_is_at_no_distance_and_other_tensors_have_none(pair):
    assert compare_weights(pair[0], pair[0], "blocks.0.hook_resid_post") == {"all": 0.0, "hooked_block": 0.0}
    larger = pair[1] | {"model.embed.weight": np.zeros((6, 3), np.float32)}
    assert compare_weights(pair[0], larger, "blocks.0.hook_resid_post") == {"all": None, "hooked_block": None}
    assert relative_distance({"a": np.zeros(2)}, {"a": np.zeros(2)}, ["a"]) == 0.0
