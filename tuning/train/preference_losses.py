"""The losses that learn from a preference: pure functions of log-probs, one number per pair.

    loss = preference_loss("simpo").per_pair(scores, beta=2.0, gamma=1.0)        # (pairs,)

In the formulas below log p(y) is the sum over an answer's scored tokens under the policy, r(y) = log p(y) -
log p_ref(y) is its log-ratio to the reference, |y| its number of scored tokens, w the chosen answer, l the
rejected one, and h = r(w) - r(l). Names are TRL's where TRL has the loss. Arithmetic is float64, as the
sums are. `beta` is a number or one for each pair.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Beta = float | Tensor

RANKED = "plackett_luce"
"""The loss that takes any number of ranked answers to a prompt; the others take two."""
CERTAIN = 2.0**-24
"""-log of the largest float32 below 1, in nats: odds are infinite for an answer that is more certain."""
STEEPEST = 80.0
"""Exponent beyond which an exponential goes on as its tangent: e^80 is still a float32."""


@dataclass(frozen=True)
class PairScores:
    """What a loss sees of its pairs: float64, (pairs,) each. Log-probs in nats, summed over scored tokens."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    """Number of scored tokens."""
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """r(w)"""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """r(l)"""
        return self.rejected - self.reference_rejected


@dataclass(frozen=True)
class Divergence:
    """The f-divergence that holds the policy near the reference, by f'(p / p_ref) as a function of the
    log-ratio.

    Wang et al. 2023 (arXiv:2309.16240), table 1; `reverse_kl` is DPO's own. `alpha` is that of
    alpha_divergence: f'(t) = (t^(alpha - 1) - 1) / (alpha - 1), whose limit at 1 is the reverse KL.
    """

    name: str = "reverse_kl"
    alpha: float = 0.5

    def __call__(self, ratio: Tensor) -> Tensor:
        if self.name == "forward_kl":
            return -_expm1(-ratio)
        if self.name == "js_divergence":
            return math.log(2) + logsigmoid(ratio)
        if self.name == "alpha_divergence" and self.alpha != 1:
            return _expm1((self.alpha - 1) * ratio) / (self.alpha - 1)
        return ratio


DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
REVERSE_KL = Divergence()


def sigmoid(
    scores: PairScores, *, beta: Beta, label_smoothing: float = 0.0, divergence: Divergence = REVERSE_KL
) -> Tensor:
    """-log sigmoid(beta h): DPO, equation 7 of Rafailov et al. 2023 (arXiv:2305.18290).

    `label_smoothing` is the share of pairs assumed to be labelled the wrong way round: the conservative DPO
    of Mitchell 2023, -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
    """
    return _smoothed(beta * _margin(scores, divergence), label_smoothing)


def robust(
    scores: PairScores, *, beta: Beta, label_smoothing: float, divergence: Divergence = REVERSE_KL
) -> Tensor:
    """(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e): unbiased where a share e of the
    labels is flipped; equation 3.3 of Chowdhury et al. 2024 (arXiv:2403.00409)."""
    logits = beta * _margin(scores, divergence)
    loss = -(1 - label_smoothing) * logsigmoid(logits) + label_smoothing * logsigmoid(-logits)
    return loss / (1 - 2 * label_smoothing)


def hinge(scores: PairScores, *, beta: Beta, divergence: Divergence = REVERSE_KL) -> Tensor:
    """max(0, 1 - beta h): SLiC's loss on DPO's margin; Zhao et al. 2023 (arXiv:2305.10425), as in RSO, Liu et
    al. 2023 (arXiv:2309.06657), equation 8."""
    return torch.relu(1 - beta * _margin(scores, divergence))


def ipo(scores: PairScores, *, beta: Beta, divergence: Divergence = REVERSE_KL) -> Tensor:
    """(r(w) / |w| - r(l) / |l| - 1 / (2 beta))^2: equation 17 of Azar et al. 2023 (arXiv:2310.12036).

    Each answer's log-ratio is its mean over tokens, which its authors confirm as what the paper's figures
    were made with; beta is their tau.
    """
    return (_mean_margin(scores, divergence) - 1 / (2 * beta)).square()


def sigmoid_norm(scores: PairScores, *, beta: Beta, divergence: Divergence = REVERSE_KL) -> Tensor:
    """-log sigmoid(beta (r(w) / |w| - r(l) / |l|)): length-normalised DPO, as Tülu 3 trains; section 5.1.2 of
    Lambert et al. 2024 (arXiv:2411.15124)."""
    return -logsigmoid(beta * _mean_margin(scores, divergence))


def exo_pair(
    scores: PairScores, *, beta: Beta, label_smoothing: float, divergence: Divergence = REVERSE_KL
) -> Tensor:
    """KL(q || p) of q = (sigmoid(beta h), sigmoid(-beta h)) to p = (1 - e, e): EXO with two answers, equation
    16 of Ji et al. 2024 (arXiv:2402.00856), who take e = 0.001."""
    logits = beta * _margin(scores, divergence)
    towards_chosen = torch.sigmoid(logits) * (logsigmoid(logits) - math.log1p(-label_smoothing))
    towards_rejected = torch.sigmoid(-logits) * (logsigmoid(-logits) - math.log(label_smoothing))
    return towards_chosen + towards_rejected


def nca_pair(scores: PairScores, *, beta: Beta) -> Tensor:
    """-log sigmoid(beta r(w)) - (log sigmoid(-beta r(w)) + log sigmoid(-beta r(l))) / 2: NCA with two
    answers, Chen et al. 2024 (arXiv:2402.05369), section 4."""
    chosen, rejected = beta * scores.chosen_ratio, beta * scores.rejected_ratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(scores: PairScores, *, beta: Beta) -> Tensor:
    """-log sigmoid(beta r(w)) - log sigmoid(-beta r(l)): a classifier of single answers; Jung et al. 2024
    (arXiv:2404.04656), equation 6 without its reward shift."""
    return -logsigmoid(beta * scores.chosen_ratio) - logsigmoid(-beta * scores.rejected_ratio)


def sppo_hard(scores: PairScores, *, beta: Beta) -> Tensor:
    """(r(w) - 1 / (2 beta))^2 + (r(l) + 1 / (2 beta))^2: SPPO where the winner wins with certainty; equation
    4.7 of Wu et al. 2024 (arXiv:2405.00675), beta being 1 / eta."""
    return (scores.chosen_ratio - 0.5 / beta).square() + (scores.rejected_ratio + 0.5 / beta).square()


def apo_zero(scores: PairScores, *, beta: Beta) -> Tensor:
    """1 - sigmoid(beta r(w)) + sigmoid(beta r(l)): for answers better than the model's own; equation 7 of
    D'Oosterlinck et al. 2024 (arXiv:2408.06266)."""
    return torch.sigmoid(-beta * scores.chosen_ratio) + torch.sigmoid(beta * scores.rejected_ratio)


def apo_down(scores: PairScores, *, beta: Beta) -> Tensor:
    """sigmoid(beta r(w)) + 1 - sigmoid(beta h): for answers worse than the model's own; equation 8 of
    D'Oosterlinck et al. 2024 (arXiv:2408.06266)."""
    return torch.sigmoid(beta * scores.chosen_ratio) + torch.sigmoid(-beta * _margin(scores, REVERSE_KL))


def discopop(
    scores: PairScores, *, beta: Beta, discopop_tau: float = 0.05, divergence: Divergence = REVERSE_KL
) -> Tensor:
    """(1 - m) (-log sigmoid(beta h)) + m exp(-beta h) with m = sigmoid(beta h / tau): equation 5 of Lu et al.
    2024 (arXiv:2406.08414)."""
    logits = beta * _margin(scores, divergence)
    modulation = logits / discopop_tau
    exponential = torch.exp(logsigmoid(modulation) - logits)  # m exp(-beta h), whose factors are 0 and inf
    return -logsigmoid(logits) * torch.sigmoid(-modulation) + exponential


def aot(scores: PairScores, *, beta: Beta, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta d) with d the differences of the sorted log p(w) - log p(l) and of the sorted same
    under the reference: paired AOT, Melnyk et al. 2024 (arXiv:2406.05882), algorithm 1.

    It sorts over all pairs that it is given, so it has to be given a whole optimizer step.
    """
    policy, _ = torch.sort(scores.chosen - scores.rejected)
    reference, _ = torch.sort(scores.reference_chosen - scores.reference_rejected)
    return _smoothed(beta * (policy - reference), label_smoothing)


def aot_unpaired(scores: PairScores, *, beta: Beta, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta d) with d the differences of the sorted r(w) and the sorted r(l): unpaired AOT,
    Melnyk et al. 2024 (arXiv:2406.05882), algorithm 1. It needs a whole optimizer step, as `aot` does."""
    chosen, _ = torch.sort(scores.chosen_ratio)
    rejected, _ = torch.sort(scores.rejected_ratio)
    return _smoothed(beta * (chosen - rejected), label_smoothing)


def simpo(scores: PairScores, *, beta: Beta, gamma: float = 0.5, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta (log p(w) / |w| - log p(l) / |l|) - gamma): equation 6 of Meng et al. 2024
    (arXiv:2405.14734); no reference."""
    margin = scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens
    return _smoothed(beta * margin - gamma, label_smoothing)


def alphapo(
    scores: PairScores,
    *,
    beta: Beta,
    alphapo_alpha: float,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log sigmoid(beta (s(w) - s(l)) - gamma) with s(y) = (1 - q^-a) / a and log q = log p(y) / |y|: SimPO
    with another shape of reward, AlphaPO of Gupta et al. 2025 (arXiv:2501.03884); no reference. At a = 0 it
    would be SimPO."""
    chosen, rejected = scores.chosen / scores.chosen_tokens, scores.rejected / scores.rejected_tokens
    margin = (_expm1(-alphapo_alpha * rejected) - _expm1(-alphapo_alpha * chosen)) / alphapo_alpha
    return _smoothed(beta * margin - gamma, label_smoothing)


def cpo(scores: PairScores, *, beta: Beta, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta (log p(w) - log p(l))): the preference part of CPO, equation 3 of Xu et al. 2024
    (arXiv:2401.08417); no reference. Their other part is an SFT term of weight 1."""
    return _smoothed(beta * (scores.chosen - scores.rejected), label_smoothing)


def cpo_hinge(scores: PairScores, *, beta: Beta) -> Tensor:
    """max(0, 1 - beta (log p(w) - log p(l))): the rank calibration of SLiC-HF, equation 1 of Zhao et al. 2023
    (arXiv:2305.10425), whose margin is 1 / beta; no reference. Their regularisation is an SFT term."""
    return torch.relu(1 - beta * (scores.chosen - scores.rejected))


def cpo_ipo(scores: PairScores, *, beta: Beta) -> Tensor:
    """(log p(w) / |w| - log p(l) / |l| - 1 / (2 beta))^2: `ipo` without a reference, as TRL's CPOTrainer has
    it, with an SFT term."""
    margin = scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens
    return (margin - 1 / (2 * beta)).square()


def orpo(scores: PairScores, *, beta: Beta) -> Tensor:
    """-beta log sigmoid(log odds(w) - log odds(l)) with odds(y) = q / (1 - q) and log q = log p(y) / |y|: the
    odds-ratio part of ORPO, equation 7 of Hong et al. 2024 (arXiv:2403.07691), whose lambda is beta; no
    reference. Their other part, equation 6, is an SFT term of weight 1 on the chosen answer given its prompt.

    TRL's ORPOTrainer counts the prompt's tokens in that term as well, as the authors' code does unless
    `disable_prompt_loss` is set. Ours never does: the odds-ratio part equals TRL's, the SFT term does not.
    """
    chosen = (scores.chosen / scores.chosen_tokens).clamp(max=-CERTAIN)
    rejected = (scores.rejected / scores.rejected_tokens).clamp(max=-CERTAIN)
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -beta * logsigmoid(log_odds)


def plackett_luce(rewards: Tensor, is_answer: Tensor) -> Tensor:
    """-sum_i log(exp R_i / sum_(j >= i) exp R_j) of each ranking, (rankings,): the likelihood that answers
    are ranked as they are; equation 20 of Rafailov et al. 2023 (arXiv:2305.18290). With two answers it is
    DPO.

    `rewards`: beta r(y), best first, float64 (rankings, answers); `is_answer`: bool, the same shape, False
    where a ranking has fewer answers than the longest.
    """
    masked = rewards.masked_fill(~is_answer, -1e30)  # not -inf, whose gradient is not a number
    rest = torch.stack([masked[:, place:].logsumexp(1) for place in range(masked.shape[1])], dim=1)
    return (rest - rewards).masked_fill(~is_answer, 0.0).sum(1)


def kto(
    ratio: Tensor,
    is_desirable: Tensor,
    stranger_ratio: Tensor,
    *,
    beta: Beta,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Of single answers, (answers,): 1 - sigmoid(beta (r(y) - z)) of a desirable one, 1 - sigmoid(beta (z -
    r(y))) of another, each times its weight: equation 8 of Ethayarajh et al. 2024 (arXiv:2402.01306).

    z estimates KL(p || p_ref): the mean of `stranger_ratio`, the log-ratios of other rows' answers to these
    prompts, but at least 0; it carries no gradient. It needs a whole optimizer step.
    """
    kl = stranger_ratio.detach().mean().clamp(min=0) if len(stranger_ratio) else ratio.new_zeros(())
    sign = torch.where(is_desirable, 1.0, -1.0).to(ratio.dtype)
    weight = torch.where(is_desirable, desirable_weight, undesirable_weight).to(ratio.dtype)
    return weight * torch.sigmoid(-sign * beta * (ratio - kl))


def apo_zero_unpaired(
    ratio: Tensor,
    is_desirable: Tensor,
    *,
    beta: Beta,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Of single answers, (answers,): 1 - sigmoid(beta r(y)) of a desirable one, sigmoid(beta r(y)) of
    another, each times its weight: the two halves of `apo_zero`, or KTO with a KL of 0."""
    return kto(
        ratio,
        is_desirable,
        ratio[:0],
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss and what it asks for."""

    per_pair: Callable[..., Tensor]
    needs_reference: bool = True
    sees_step: bool = False
    """Whether it compares or counts the answers of an optimizer step, and so must see all of them."""
    takes_single: bool = False
    """Whether it takes answers one by one, each found good or bad."""
    needs_strangers: bool = False
    """Whether it asks how likely other rows' answers are."""
    sft_weight: float = 0.0
    """Weight of the SFT term that belongs to the method."""
    rewards_per_token: bool = False
    """Whether what it calls an answer's reward is beta times the mean log-prob per token, not the sum."""

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Names of its settings."""
        kinds = inspect.signature(self.per_pair).parameters.values()
        return tuple(item.name for item in kinds if item.kind is item.KEYWORD_ONLY)

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Those that have no default."""
        kinds = inspect.signature(self.per_pair).parameters.values()
        return tuple(
            item.name for item in kinds if item.kind is item.KEYWORD_ONLY and item.default is item.empty
        )


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": PreferenceLoss(sigmoid),
    "robust": PreferenceLoss(robust),
    "hinge": PreferenceLoss(hinge),
    "ipo": PreferenceLoss(ipo),
    "sigmoid_norm": PreferenceLoss(sigmoid_norm),
    "exo_pair": PreferenceLoss(exo_pair),
    "nca_pair": PreferenceLoss(nca_pair),
    "bco_pair": PreferenceLoss(bco_pair),
    "sppo_hard": PreferenceLoss(sppo_hard),
    "apo_zero": PreferenceLoss(apo_zero),
    "apo_down": PreferenceLoss(apo_down),
    "discopop": PreferenceLoss(discopop),
    "aot": PreferenceLoss(aot, sees_step=True),
    "aot_unpaired": PreferenceLoss(aot_unpaired, sees_step=True),
    "simpo": PreferenceLoss(simpo, needs_reference=False, rewards_per_token=True),
    "alphapo": PreferenceLoss(alphapo, needs_reference=False, rewards_per_token=True),
    "cpo": PreferenceLoss(cpo, needs_reference=False, sft_weight=1.0),
    "cpo_hinge": PreferenceLoss(cpo_hinge, needs_reference=False, sft_weight=1.0),
    "cpo_ipo": PreferenceLoss(cpo_ipo, needs_reference=False, sft_weight=1.0, rewards_per_token=True),
    "orpo": PreferenceLoss(orpo, needs_reference=False, sft_weight=1.0, rewards_per_token=True),
    RANKED: PreferenceLoss(plackett_luce),
    "kto": PreferenceLoss(kto, sees_step=True, takes_single=True, needs_strangers=True),
    "apo_zero_unpaired": PreferenceLoss(apo_zero_unpaired, sees_step=True, takes_single=True),
}


def _smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    if label_smoothing == 0:
        return -logsigmoid(logits)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def _margin(scores: PairScores, divergence: Divergence) -> Tensor:
    return divergence(scores.chosen_ratio) - divergence(scores.rejected_ratio)


def _mean_margin(scores: PairScores, divergence: Divergence) -> Tensor:
    chosen = divergence(scores.chosen_ratio) / scores.chosen_tokens
    return chosen - divergence(scores.rejected_ratio) / scores.rejected_tokens


def _expm1(exponent: Tensor) -> Tensor:
    """exp(x) - 1, and its tangent beyond `STEEPEST`: finite, and with a gradient where it is largest."""
    beyond = (exponent - STEEPEST).clamp(min=0)
    return torch.expm1(exponent.clamp(max=STEEPEST)) + math.exp(STEEPEST) * beyond


def _log1mexp(log_prob: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, with all digits near 0 and far below."""
    near_zero = log_prob > -math.log(2)
    safe = torch.where(near_zero, log_prob, torch.full_like(log_prob, -1.0))
    other = torch.where(near_zero, torch.full_like(log_prob, -1.0), log_prob)
    return torch.where(near_zero, torch.log(-torch.expm1(safe)), torch.log1p(-torch.exp(other)))
