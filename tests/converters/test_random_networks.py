"""Random networks from a grammar: a handful of those of ``benchmarks/random_networks.py``."""

from __future__ import annotations

import pytest

from benchmarks.random_networks import SIZE, judged
from converters.analysis.network import traced_network
from converters.analysis.received import working_copy
from converters.rewriting.proof import noise_case
from converters.trunks import proven_trunks
from tests.grammar import LAYERS, STRAYING, GrammarNetwork


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 8])
def test_every_trunk_is_pytorch(seed: int) -> None:
    row = judged(seed)
    assert row["outcome"] == "equal", row["why"]
    assert row["largest_error"] <= 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (32, "flip mixes entries of the batch"),
        (206, r"body.2.body.1 (body_2_body_1) mixes entries of the batch"),
        (57, "gives other logits each time it sees the same image"),
        (89, "gives other logits each time it sees the same image"),
    ],
)
def test_what_strays_is_refused(seed: int, why: str) -> None:
    row = judged(seed)
    assert row["outcome"] == "refused"
    assert why in row["why"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(31))
def test_every_rewrite_is_the_network(seed: int) -> None:
    """The proof compares each form, phase by phase, with the network as it was handed over."""
    traced = traced_network(working_copy(GrammarNetwork(seed)), SIZE)
    forms = list(proven_trunks(noise_case(traced)))
    assert {form.looped.levels for form in forms} == set(range(traced.most_levels + 1))


def test_networks_use_most_of_the_grammar() -> None:
    used = {name for seed in range(120) for name in GrammarNetwork(seed).used}
    assert len(used & LAYERS.keys()) > 0.9 * len(LAYERS)
    assert used & STRAYING.keys()
