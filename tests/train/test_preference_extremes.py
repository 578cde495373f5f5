"""Log-probs at the ends of what a model can say: losses and gradients stay numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tuning.train.preference_losses import (
    DIVERGENCES,
    PREFERENCE_LOSSES,
    RANKED,
    Divergence,
    PairScores,
)

REQUIRED = {
    "robust": {"label_smoothing": 0.1},
    "exo_pair": {"label_smoothing": 1e-3},
    "alphapo": {"alphapo_alpha": 0.25},
}
EXTREMES = (-20_000.0, -900.0, -50.0, -1e-12, 0.0)
CASES = [
    (name, divergence)
    for name, loss in PREFERENCE_LOSSES.items()
    if name != RANKED and not loss.takes_single
    for divergence in (DIVERGENCES if "divergence" in loss.options else DIVERGENCES[:1])
]


@pytest.mark.parametrize(("name", "divergence"), CASES)
def test_losses_and_gradients_are_numbers_however_certain_the_model_is(name: str, divergence: str) -> None:
    loss = PREFERENCE_LOSSES[name]
    options = {**REQUIRED.get(name, {})}
    if "divergence" in loss.options:
        options["divergence"] = Divergence(divergence)
    cases = torch.tensor(list(itertools.product(EXTREMES, repeat=4)), dtype=torch.float64)
    columns = [column.clone().requires_grad_(place < 2) for place, column in enumerate(cases.unbind(1))]
    tokens = torch.full((len(cases),), 5.0, dtype=torch.float64)
    losses = loss.per_pair(PairScores(*columns, tokens, tokens), beta=0.1, **options)
    gradients = torch.autograd.grad(losses.sum(), columns[:2])
    assert losses.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_forward_kl_pushes_hardest_where_the_chosen_answer_was_lost() -> None:
    """f'(p / p_ref) = 1 - exp(-r): at r = -200 the slope is e^200, which goes on as that of e^80."""
    chosen = torch.tensor([-200.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    scores = PairScores(chosen, zero, zero, zero, zero + 5, zero + 5)
    loss = PREFERENCE_LOSSES["sigmoid"].per_pair(scores, beta=0.1, divergence=Divergence("forward_kl"))
    [gradient] = torch.autograd.grad(loss.sum(), chosen)
    assert gradient.item() == pytest.approx(-0.1 * math.exp(80))


def test_odds_ratio_of_a_certain_answer_is_that_of_the_largest_float32_below_one() -> None:
    """odds(1 - 2^-24) = 2^24 - 1, odds(1/2) = 1: the ratio is sigmoid^-1 of nearly 1, its loss 2^-24."""
    one, half = torch.zeros(1, dtype=torch.float64), torch.tensor([math.log(0.5)], dtype=torch.float64)
    count = torch.ones(1, dtype=torch.float64)
    loss = PREFERENCE_LOSSES["orpo"].per_pair(PairScores(one, half, one, one, count, count), beta=1.0)
    assert loss.item() == pytest.approx(2.0**-24, rel=1e-6)
