"""Every preference loss against numbers worked out by hand, TRL's own code, and the other losses."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from tuning.config.losses import LOSSES, OPTIONS, REFERENCE_FREE, REQUIRED, SEES_STEP
from tuning.train.preference_losses import (
    DIVERGENCES,
    PREFERENCE_LOSSES,
    RANKED,
    Divergence,
    PairScores,
    apo_zero_unpaired,
    kto,
    plackett_luce,
)

LN2 = math.log(2)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# r(w) = -10 + 12 = 2, r(l) = -20 + 19 = -1, h = 3; means: 2 / 4 = 0.5 and -1 / 5 = -0.2
ONE = PairScores(t(-10), t(-20), t(-12), t(-19), t(4), t(5))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("sigmoid", {}, -log_sigmoid(0.3)),
        ("sigmoid", {"label_smoothing": 0.2}, -0.8 * log_sigmoid(0.3) - 0.2 * log_sigmoid(-0.3)),
        ("robust", {"label_smoothing": 0.2}, (-0.8 * log_sigmoid(0.3) + 0.2 * log_sigmoid(-0.3)) / 0.6),
        ("hinge", {}, 0.7),  # 1 - 0.3
        ("ipo", {}, (0.7 - 5) ** 2),  # 0.5 + 0.2 against 1 / 0.2
        ("sigmoid_norm", {}, -log_sigmoid(0.07)),
        (
            "exo_pair",
            {"label_smoothing": 0.1},
            sigmoid(0.3) * (log_sigmoid(0.3) - math.log(0.9))
            + sigmoid(-0.3) * (log_sigmoid(-0.3) - math.log(0.1)),
        ),
        ("nca_pair", {}, -log_sigmoid(0.2) - 0.5 * log_sigmoid(-0.2) - 0.5 * log_sigmoid(0.1)),
        ("bco_pair", {}, -log_sigmoid(0.2) - log_sigmoid(0.1)),
        ("sppo_hard", {}, (2 - 5) ** 2 + (-1 + 5) ** 2),
        ("apo_zero", {}, 1 - sigmoid(0.2) + sigmoid(-0.1)),
        ("apo_down", {}, sigmoid(0.2) + 1 - sigmoid(0.3)),
        ("discopop", {}, -log_sigmoid(0.3) * sigmoid(-6) + math.exp(-0.3) * sigmoid(6)),
        ("aot", {}, -log_sigmoid(0.1 * (10 - 7))),
        ("aot_unpaired", {}, -log_sigmoid(0.3)),
        ("simpo", {"gamma": 0.4}, -log_sigmoid(0.1 * (-2.5 + 4) - 0.4)),
        (  # q(w) = e^-2.5 and q(l) = e^-4
            "alphapo",
            {"alphapo_alpha": 0.5, "gamma": 0.4},
            -log_sigmoid(0.1 * ((1 - math.exp(1.25)) / 0.5 - (1 - math.exp(2)) / 0.5) - 0.4),
        ),
        ("cpo", {}, -log_sigmoid(1.0)),
        ("cpo_hinge", {}, 0.0),  # 1 - 0.1 * 10
        ("cpo_ipo", {}, (1.5 - 5) ** 2),
        (
            "orpo",
            {},
            -0.1 * log_sigmoid(1.5 - math.log(1 - math.exp(-2.5)) + math.log(1 - math.exp(-4))),
        ),
    ],
)
def test_one_pair_by_hand(name: str, options: dict[str, float], expected: float) -> None:
    loss = PREFERENCE_LOSSES[name].per_pair(ONE, beta=0.1, **options)
    assert loss.tolist() == pytest.approx([expected], abs=1e-14)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (Divergence("reverse_kl"), 2 - -1),
        (Divergence("forward_kl"), (1 - math.exp(-2)) - (1 - math.exp(1))),
        (Divergence("js_divergence"), log_sigmoid(2) - log_sigmoid(-1)),
        (Divergence("alpha_divergence", 0.5), (math.exp(-1) - 1) / -0.5 - (math.exp(0.5) - 1) / -0.5),
        (Divergence("alpha_divergence", 1.0), 3),
    ],
)
def test_a_divergence_replaces_the_log_ratios_by_hand(divergence: Divergence, expected: float) -> None:
    loss = PREFERENCE_LOSSES["sigmoid"].per_pair(ONE, beta=0.1, divergence=divergence)
    assert loss.item() == pytest.approx(-log_sigmoid(0.1 * expected), abs=1e-14)


def test_aot_compares_sorted_values_of_the_whole_step() -> None:
    """log p(w) - log p(l): 1 and -2, sorted -2, 1; under the reference 4 and 0, sorted 0, 4: differences -2
    and -3. r(w) = 0, 0 and r(l) = 3, 2, sorted 2, 3: differences -2 and -3 as well, by chance."""
    scores = PairScores(t(-1, -4), t(-2, -2), t(-1, -4), t(-5, -4), t(1, 1), t(1, 1))
    expected = [-log_sigmoid(-0.2), -log_sigmoid(-0.3)]
    for name in ("aot", "aot_unpaired"):
        assert PREFERENCE_LOSSES[name].per_pair(scores, beta=0.1).tolist() == pytest.approx(expected)


def test_a_ranking_of_two_is_dpo_and_one_of_three_is_two_choices() -> None:
    """Rewards 0.3, 0.1, -0.2: first 0.3 among all three, then 0.1 against -0.2."""
    rewards = torch.stack([t(0.3, 0.1, -0.2), t(0.3, 0.0, 9.0)]).requires_grad_()
    is_answer = torch.tensor([[True, True, True], [True, True, False]])
    loss = plackett_luce(rewards, is_answer)
    total = math.exp(0.3) + math.exp(0.1) + math.exp(-0.2)
    three = -math.log(math.exp(0.3) / total) - log_sigmoid(0.3)
    assert loss.tolist() == pytest.approx([three, -log_sigmoid(0.3)], abs=1e-14)
    [gradient] = torch.autograd.grad(loss.sum(), rewards)
    assert gradient[1].tolist() == pytest.approx([-sigmoid(-0.3), sigmoid(-0.3), 0.0], abs=1e-14)


def test_kto_by_hand() -> None:
    """beta 0.1, z = (4 - 2) / 2 = 1: a desirable answer with r = 3 loses 1 - sigmoid(0.2), another twice
    1 - sigmoid(-0.2)."""
    loss = kto(t(3, 3), torch.tensor([True, False]), t(4, -2), beta=0.1, undesirable_weight=2.0)
    assert loss.tolist() == pytest.approx([1 - sigmoid(0.2), 2 - 2 * sigmoid(-0.2)], abs=1e-14)
    far = kto(t(3), torch.tensor([True]), t(-4), beta=0.1)  # z is at least 0
    assert far.item() == pytest.approx(1 - sigmoid(0.3), abs=1e-14)


def test_apo_zero_of_single_answers_by_hand() -> None:
    """beta 0.1: a desirable answer with r = 3 loses 1 - sigmoid(0.3), another with r = -2 twice
    sigmoid(-0.2)."""
    is_desirable = torch.tensor([True, False])
    loss = apo_zero_unpaired(t(3, -2), is_desirable, beta=0.1, undesirable_weight=2.0)
    assert loss.tolist() == pytest.approx([1 - sigmoid(0.3), 2 * sigmoid(-0.2)], abs=1e-14)


def test_the_hinge_without_a_reference_ends_at_the_margin() -> None:
    loss = PREFERENCE_LOSSES["cpo_hinge"].per_pair
    assert loss(ONE, beta=0.07).item() == pytest.approx(0.3, abs=1e-14)
    assert loss(ONE, beta=0.3).item() == 0.0


def test_orpo_is_exact_where_an_answer_is_nearly_certain_and_nearly_impossible() -> None:
    near_zero, far = -1e-9, -60.0  # 1 - e^-1e-9 = 1e-9 (1 - 5e-10), 1 - e^-60 = 1
    scores = PairScores(t(near_zero), t(far), t(0), t(0), t(1), t(1))
    loss = PREFERENCE_LOSSES["orpo"].per_pair(scores, beta=1.0).item()
    log_odds = near_zero - far - math.log(1e-9)
    assert loss == pytest.approx(-log_sigmoid(log_odds), rel=1e-9)


def test_a_beta_of_its_own_for_each_pair() -> None:
    both = PairScores(*(torch.cat([value, value]) for value in vars(ONE).values()))
    for name in PREFERENCE_LOSSES.keys() - {RANKED, *SEES_STEP}:
        options = {REQUIRED[name]: 0.1} if name in REQUIRED else {}
        loss = PREFERENCE_LOSSES[name].per_pair
        alone = [loss(ONE, beta=beta, **options).item() for beta in (0.1, 0.5)]
        assert loss(both, beta=t(0.1, 0.5), **options).tolist() == pytest.approx(alone, abs=1e-14), name


class Random:
    """A padded batch of TRL's with random log-probs, and the same as sums."""

    def __init__(
        self, pairs: int = 6, length: int = 9, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        rows = 2 * pairs
        start = torch.randint(1, 4, (rows, 1), generator=random)
        size = torch.randint(1, length - 4, (rows, 1), generator=random)
        place = torch.arange(length)
        self.mask = ((place >= start) & (place < start + size)).long()
        shape = (rows, length - 1)
        kept = self.mask[:, 1:]
        self.log_probs = -torch.rand(shape, generator=random, dtype=dtype) * 3 * kept
        self.collisions = -torch.rand(shape, generator=random, dtype=dtype) * kept
        reference = (-torch.rand(shape, generator=random, dtype=dtype) * 3 * kept).sum(1)
        self.reference_chosen, self.reference_rejected = reference.chunk(2)
        self.log_probs.requires_grad_()

    def scores(self, weight: torch.Tensor | float = 1.0) -> PairScores:
        sums = (self.log_probs * weight).sum(1).chunk(2)
        counts = self.mask[:, 1:].sum(1).to(torch.float64).chunk(2)
        return PairScores(*sums, self.reference_chosen, self.reference_rejected, *counts)


def trl_loss(batch: Random, losses: dict[str, float], **settings: Any) -> torch.Tensor:
    """What TRL's own `_compute_loss` makes of these log-probs."""
    trainer: Any = object.__new__(DPOTrainer)
    same = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    defaults = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "args": SimpleNamespace(discopop_tau=0.05),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    trainer.__dict__ |= {**defaults, **settings, "accelerator": same}
    trainer.loss_types, trainer.loss_weights = list(losses), list(losses.values())
    trainer.model = SimpleNamespace(training=True)
    trainer._metrics = {"train": defaultdict(list)}
    zeros = torch.zeros_like(batch.log_probs)
    outputs = SimpleNamespace(
        log_probs=batch.log_probs,
        log_sum_sq_probs=batch.collisions,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )
    inputs = {
        "input_ids": batch.mask,
        "attention_mask": torch.ones_like(batch.mask),
        "completion_mask": batch.mask,
        "ref_chosen_logps": batch.reference_chosen,
        "ref_rejected_logps": batch.reference_rejected,
    }
    loss: torch.Tensor = trainer._compute_loss(lambda **_: outputs, inputs, False)
    return loss


SHARED_WITH_TRL = [
    name
    for name, loss in PREFERENCE_LOSSES.items()
    if loss.needs_reference and name != RANKED and not loss.takes_single
]
"""With its DPOTrainer."""


@pytest.mark.parametrize("name", SHARED_WITH_TRL)
@pytest.mark.parametrize("seed", range(3))
def test_equals_trl_on_random_log_probs(name: str, seed: int) -> None:
    options = {"label_smoothing": 0.1} if name in ("robust", "exo_pair", "aot", "aot_unpaired") else {}
    ours, theirs = Random(seed=seed), Random(seed=seed)
    loss = PREFERENCE_LOSSES[name].per_pair(ours.scores(), beta=0.1, **options).mean()
    expected = trl_loss(theirs, {name: 1.0}, **options)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for one, batch in ((loss, ours), (expected, theirs)):
        one.backward()  # type: ignore[no-untyped-call]
        assert batch.log_probs.grad is not None
    assert torch.allclose(ours.log_probs.grad, theirs.log_probs.grad, atol=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", [name for name, options in LOSSES.items() if "divergence" in options])
def test_divergences_equal_trl(name: str, divergence: str) -> None:
    options = {"label_smoothing": 0.1} if name in REQUIRED else {}
    batch = Random(seed=5, dtype=torch.float32)  # TRL's alpha divergence knows no float64
    per_pair = PREFERENCE_LOSSES[name].per_pair
    loss = per_pair(batch.scores(), beta=0.1, divergence=Divergence(divergence, 0.3), **options).mean()
    settings = {"f_divergence_type": divergence, "f_alpha_divergence_coef": 0.3, **options}
    assert loss.item() == pytest.approx(trl_loss(batch, {name: 1.0}, **settings).item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "loss_type", "options"),
    [
        ("cpo", "sigmoid", {"label_smoothing": 0.1}),
        ("cpo_hinge", "hinge", {}),
        ("cpo_ipo", "ipo", {}),
        ("simpo", "simpo", {"gamma": 0.4, "label_smoothing": 0.1}),
        ("alphapo", "simpo", {"gamma": 0.4, "label_smoothing": 0.1, "alphapo_alpha": 0.3}),
        ("alphapo", "simpo", {"gamma": 0.4, "label_smoothing": 0.1, "alphapo_alpha": -0.6}),
    ],
)
def test_losses_without_a_reference_equal_trl(name: str, loss_type: str, options: dict[str, float]) -> None:
    scores = Random(seed=2).scores()
    settings = {"beta": 0.7, "label_smoothing": 0.1, "simpo_gamma": 0.4, "loss_type": loss_type}
    alpha = options.get("alphapo_alpha", 0.0)
    stub = SimpleNamespace(**settings, alpha=alpha, accelerator=SimpleNamespace(device="cpu"))
    sides = (scores.chosen, scores.rejected)
    if loss_type in ("ipo", "simpo"):  # CPOTrainer's `average_log_prob`
        sides = (scores.chosen / scores.chosen_tokens, scores.rejected / scores.rejected_tokens)
    expected, *_ = CPOTrainer.cpo_loss(stub, *sides)
    ours = PREFERENCE_LOSSES[name].per_pair(scores, beta=0.7, **options)
    assert torch.allclose(ours, expected, atol=1e-12)


def test_alphapo_is_simpo_where_its_alpha_goes_to_zero() -> None:
    scores = Random(seed=2).scores()
    simpo = PREFERENCE_LOSSES["simpo"].per_pair(scores, beta=0.7)
    near = PREFERENCE_LOSSES["alphapo"].per_pair(scores, beta=0.7, alphapo_alpha=1e-9)
    assert torch.allclose(near, simpo, atol=1e-7)


def test_orpo_equals_trl() -> None:
    scores = Random(seed=3).scores()
    stub = SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device="cpu"))
    sides = (scores.chosen / scores.chosen_tokens, scores.rejected / scores.rejected_tokens)
    expected = -ORPOTrainer.odds_ratio_loss(stub, *sides)[0]
    ours = PREFERENCE_LOSSES["orpo"].per_pair(scores, beta=0.2)
    assert torch.allclose(ours, expected.double(), atol=1e-6)  # TRL computes in float32


def test_the_table_of_the_recipe_is_the_table_of_the_losses() -> None:
    assert list(LOSSES) == list(PREFERENCE_LOSSES)
    for name, loss in PREFERENCE_LOSSES.items():
        has = {"divergence" if option == "divergence_alpha" else option for option in LOSSES[name]}
        assert has == set(loss.options) - {"beta"}
        assert loss.sees_step is (name in SEES_STEP)
        assert loss.needs_reference is (name not in REFERENCE_FREE)
        assert set(loss.required) - {"beta"} == ({REQUIRED[name]} if name in REQUIRED else set())
    assert {option for options in LOSSES.values() for option in options} == set(OPTIONS)
