"""The recipe: one YAML that says how a base checkpoint becomes a released chat model, as typed dataclasses.

The dataclasses below are the only description of what a recipe may say. `tuning.config.walk` reads the YAML
against them and keeps line numbers, `tuning.config.checks` asks what no single setting can answer (does that
file exist, is that source defined), and OmegaConf turns what is left into these types. `load_recipe` is the
door; it raises one `RecipeError` that lists every mistake.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from tuning.config.checks import CHAT_STAGES, Draft, check_recipe
from tuning.config.course import check_course
from tuning.config.errors import Problem, RecipeError, in_order
from tuning.config.files import read_layers, shipped_recipes
from tuning.config.losses import DIVERGENCES, LOSSES, check_loss
from tuning.config.methods import check_methods
from tuning.config.screening import check_screening
from tuning.config.types import REQUIRED, fill_in_defaults, setting, settings_of
from tuning.config.walk import missing_settings

__all__ = [
    "DPOConfig",
    "EvaluateConfig",
    "GRPOConfig",
    "LoraConfig",
    "MixEntry",
    "Problem",
    "Recipe",
    "RecipeError",
    "ReleaseConfig",
    "RewardConfig",
    "RuleConfig",
    "SFTConfig",
    "ScreeningConfig",
    "SourceConfig",
    "StageConfig",
    "TermsConfig",
    "TinyConfig",
    "TrainConfig",
    "load_recipe",
    "shipped_recipes",
]

LEGACY_SFT = ("llm-jp-v1.1", "llm-jp-instruct3", "llm-jp-ft2026", "llm-jp-instruct4")
LEGACY_DPO = ("llm-jp-dpo-v1.1", "llm-jp-instruct3")
"""Published tokenisations, as `tuning.chat.legacy` names them."""
RULES = ("length", "stops", "language", "no_loop", "exact", "regex", "model")
"""What GRPO can reward: `tuning.rewards` and a reward model."""
STAGES = ("base", *CHAT_STAGES)
"""Models that an evaluation can compare."""


@dataclass(kw_only=True)
class TermsConfig:
    """What a licence of your own (`LicenseRef-...`, `proprietary`) allows and asks."""

    commercial: bool = setting(REQUIRED, "whether commercial use is allowed")
    redistribution: bool = setting(REQUIRED, "whether it may be passed on")
    derivatives: bool = setting(True, "whether what is made of it may be passed on")
    share_alike: bool = setting(False, "whether what is made of it must carry the same terms")
    purpose: str | None = setting(None, "the only purpose allowed; null = any")
    name: str | None = setting(None, "full name of the licence; null = its id")
    url: str | None = setting(None, "where its text stands")


@dataclass(kw_only=True)
class SourceConfig:
    """One named source of rows."""

    builder: str = setting(REQUIRED, "module of data_builders that reads the raw files")
    input: list[str] = setting(
        REQUIRED, "raw files or folders, relative to the recipe file (or to data_root)"
    )
    on_bad_row: str = setting(
        "strict", "strict stops at a malformed row; quarantine counts it", choices=("strict", "quarantine")
    )
    options: dict[str, Any] = setting({}, "the builder's own named options, such as leaf_policy")
    licence: str | None = setting(
        None, "licence id (CC-BY-4.0, proprietary); holds beside the one that the builder knows"
    )
    licence_reason: str | None = setting(
        None, "why `licence` holds instead of the builder's: rows of your own, a permission in writing"
    )
    terms: TermsConfig | None = setting(None, "terms of a licence of your own (LicenseRef-..., proprietary)")
    attribution: str | None = setting(None, "whom to name, besides those that the builder names")
    language: str | None = setting(None, "language code (ja, en), where the builder does not know it")
    revision: str | None = setting(None, "version of the published data, for the record and the card")


@dataclass(kw_only=True)
class MixEntry:
    """How much of one source a stage takes."""

    weight: float = setting(
        1.0,
        "passes over the source in one epoch; 0.5 = a seeded half. With weigh_by, its share of the epoch",
        above=0,
    )
    languages: list[str] | None = setting(None, "only rows in one of these languages; null = all")
    categories: list[str] | None = setting(None, "only rows of one of these categories; null = all")
    max_rows: int | None = setting(
        None, "rows trained on before weighting, a seeded sample; null = all", minimum=1
    )
    dev_rows: int | None = setting(
        None, "rows held out of this source; null = the stage's dev_rows", minimum=0
    )
    beta: float | None = setting(None, "dpo's beta for pairs of this source; null = the stage's", above=0)
    min_margin: float | None = setting(
        None, "only pairs whose answers' scores differ by at least this; null = all"
    )
    max_margin: float | None = setting(
        None, "only pairs whose answers' scores differ by at most this; null = all"
    )
    dev_share: float | None = setting(
        None, "share of this source's rows held out, rounded down, instead of dev_rows", above=0, below=1
    )


@dataclass(kw_only=True)
class LoraConfig:
    """A low-rank adapter, trained instead of the full weights and merged when the stage ends."""

    rank: int = setting(REQUIRED, "width of the adapter's bottleneck", minimum=1)
    alpha: float | None = setting(
        None, "scale: the update is multiplied by alpha / rank; null = 2 * rank", above=0
    )
    dropout: float = setting(0.0, "share of the adapter's inputs dropped", minimum=0, below=1)
    targets: list[str] | str | None = setting(
        "all-linear",
        "names of the linear layers that get one; all-linear = all but the head; null = peft's choice",
    )
    quantize: str | None = setting(None, "nf4 keeps the frozen weights in 4 bits (QLoRA)", choices=("nf4",))

    def __post_init__(self) -> None:
        if self.alpha is None:
            self.alpha = 2.0 * self.rank


@dataclass(kw_only=True)
class StageConfig:
    """What every training stage shares."""

    mix: dict[str, MixEntry] = setting(REQUIRED, "sources of this stage, by their names under data")
    weigh_by: str = setting(
        "passes",
        "what a weight counts: passes over the source, or shares of the epoch's rows or target tokens",
        choices=("passes", "rows", "target_tokens"),
    )
    dev_rows: int = setting(100, "rows held out per source before weighting, at most 10 % of it", minimum=0)
    max_length: int = setting(4096, "tokens; a longer row is too long", minimum=2)
    too_long: str = setting(
        "drop",
        "what happens to a row over max_length: dropped and counted, whole turns left out, or an error",
        choices=("drop", "cut", "error"),
    )
    epochs: float | None = setting(
        None, "passes over the mixture; 1 when max_steps is not given either", above=0
    )
    max_steps: int | None = setting(None, "optimizer steps, instead of epochs", minimum=1)
    learning_rate: float = setting(REQUIRED, "peak learning rate", minimum=0)
    schedule: str = setting(
        "cosine", "how the learning rate falls after warm-up", choices=("cosine", "linear", "constant")
    )
    warmup_steps: int = setting(0, "optimizer steps in which the learning rate rises from 0", minimum=0)
    min_learning_rate: float = setting(0.0, "learning rate that the schedule ends at", minimum=0)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay", minimum=0)
    adam_beta1: float = setting(0.9, "AdamW's decay of the mean gradient", minimum=0, below=1)
    adam_beta2: float = setting(0.999, "AdamW's decay of the mean squared gradient", minimum=0, below=1)
    adam_epsilon: float = setting(1e-8, "AdamW's term against division by zero", above=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 = no clipping", minimum=0)
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    lora: LoraConfig | None = setting(
        None, "train an adapter instead of the full weights; null = full weights"
    )
    log_steps: int = setting(1, "optimizer steps between two lines on the terminal", minimum=1)
    eval_steps: int | None = setting(
        None, "optimizer steps between evaluations; null = at the end", minimum=1
    )
    save_steps: int | None = setting(
        None, "optimizer steps between checkpoints; null = ten times over the run", minimum=1
    )
    keep_checkpoints: int = setting(2, "checkpoints kept on disk, the newest", minimum=1)
    report_to: list[str] = setting([], "experiment trackers", choices=("wandb", "tensorboard"))
    trainer: dict[str, Any] = setting(
        {}, "any other key of transformers.TrainingArguments, under its own spelling"
    )

    def __post_init__(self) -> None:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps both say when to stop; give one")
        if self.epochs is None and self.max_steps is None:
            self.epochs = 1.0


@dataclass(kw_only=True)
class TrainConfig(StageConfig):
    """What SFT and DPO share: they train on packed trees."""

    tokens_per_device: int = setting(
        16384, "tokens in one micro-step of one device; memory, not meaning", minimum=1
    )
    share_prefix: bool = setting(True, "rows of a group compute their common beginning once")
    warmup_ratio: float | None = setting(
        None, "warmup_steps as a share of the run's steps, rounded up; instead of them", above=0, below=1
    )
    hold_steps: int = setting(
        0, "last optimizer steps, held at min_learning_rate (NeMo's constant_steps)", minimum=0
    )
    best_by: str | None = setting(
        None, "evaluation metric whose best step becomes the stage's model; null = the last step does"
    )
    stop_after_evaluations: int | None = setting(
        None, "evaluations without improvement of best_by after which the stage ends; null = never", minimum=1
    )


@dataclass(kw_only=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: imitate the assistant turns."""

    batch_rows: int = setting(64, "rows in one optimizer step, over all devices", minimum=1)
    legacy: str | None = setting(
        None,
        "tokenise as a published model was, quirks included, instead of by the template",
        choices=LEGACY_SFT,
    )


@dataclass(kw_only=True)
class DPOConfig(TrainConfig):
    """Preference optimisation: prefer the chosen answer over the rejected one."""

    batch_pairs: int = setting(256, "pairs in one optimizer step, over all devices", minimum=1)
    loss: str = setting("sigmoid", "preference loss, by TRL's name", choices=tuple(LOSSES))
    loss_terms: dict[str, Any] | None = setting(
        None, "several losses instead, each with its weight: {sigmoid: 0.8, bco_pair: 0.2}"
    )
    sft_weight: float | None = setting(
        None,
        "weight of an SFT term, mean nats per chosen target token of the step (RPO); null = the method's own",
        minimum=0,
    )
    beta: float = setting(0.1, "strength of the pull towards the reference (1 / nats)", above=0)
    legacy: str | None = setting(
        None,
        "tokenise as a published model was, quirks included, instead of by the template",
        choices=LEGACY_DPO,
    )
    reference: str = setting(
        "store",
        "log-probs of the start: computed once and stored, or live beside the policy's",
        choices=("store", "live"),
    )
    label_smoothing: float | None = setting(
        None, "assumed share of pairs labelled the wrong way round; null = 0", minimum=0, below=0.5
    )
    gamma: float | None = setting(None, "target margin of SimPO and AlphaPO; null = 0.5", minimum=0)
    alphapo_alpha: float | None = setting(None, "shape of AlphaPO's reward, not 0; at 0 it is SimPO's")
    desirable_weight: float | None = setting(None, "KTO: weight of good answers; null = 1", minimum=0)
    undesirable_weight: float | None = setting(None, "KTO: weight of bad answers; null = 1", minimum=0)
    discopop_tau: float | None = setting(None, "DiscoPOP's temperature; null = 0.05", above=0)
    divergence: str | None = setting(
        None, "f-divergence to the reference; null = reverse_kl", choices=DIVERGENCES
    )
    divergence_alpha: float | None = setting(None, "alpha of alpha_divergence; null = 0.5", minimum=0)
    ld_alpha: float | None = setting(
        None,
        "LD-DPO: weight of an answer's tokens beyond the length of the shorter one; null = 1",
        minimum=0,
        maximum=1,
    )
    weigh_by_policy: bool = setting(
        False, "WPO: pairs that the policy would write itself weigh more, without gradient"
    )
    reference_store: str | None = setting(
        None,
        "folder of reference log-probs for several runs, relative to the working directory; "
        "null = the run's own cache",
    )


@dataclass(kw_only=True)
class RewardConfig(StageConfig):
    """A reward model, by TRL's trainer: one number for a conversation, larger for the preferred answer."""

    batch_pairs: int = setting(64, "pairs in one optimizer step, over all devices", minimum=1)
    pairs_per_device: int = setting(
        8, "pairs in one forward pass of one device; memory, not meaning", minimum=1
    )


@dataclass(kw_only=True)
class RuleConfig:
    """One reward of GRPO: a number for an answer, added to the others by its weight."""

    rule: str = setting(
        REQUIRED, "what is rewarded; see tuning/rewards.py, model = a reward model's number", choices=RULES
    )
    weight: float = setting(1.0, "factor of this reward in the sum; below 0 = a penalty")
    min_tokens: int | None = setting(
        None, "length: tokens of the shortest answer with full reward", minimum=1
    )
    max_tokens: int | None = setting(None, "length: tokens of the longest answer with full reward", minimum=1)
    pattern: str | None = setting(None, "regex: Python's expression that is searched for in the answer")
    model: str | None = setting(
        None, "model: a reward model's folder or hub id; null = what this recipe's reward stage makes"
    )


@dataclass(kw_only=True)
class GRPOConfig(StageConfig):
    """Reinforcement learning on the model's own answers, by TRL's trainer (GRPO)."""

    rewards: dict[str, RuleConfig] = setting(REQUIRED, "what answers are rewarded for, under names of yours")
    weigh_by: str = setting(
        "passes",
        "what a weight counts: passes over the source, or shares of the epoch's rows",
        choices=("passes", "rows"),
    )
    batch_prompts: int = setting(16, "prompts in one optimizer step, over all devices", minimum=1)
    num_generations: int = setting(8, "answers to each prompt, which are compared with each other", minimum=2)
    answers_per_device: int = setting(8, "answers in one forward pass of one device", minimum=1)
    max_new_tokens: int = setting(
        256, "tokens that an answer may have; max_length holds prompt and answer", minimum=1
    )
    temperature: float = setting(1.0, "of the sampling: above 1 more random, below 1 less", above=0)
    beta: float = setting(0.0, "weight of the KL term that pulls towards the start; 0 = none", minimum=0)
    num_iterations: int = setting(1, "optimizer steps on the same answers", minimum=1)


POLICIES = ("drop", "flag", "ignore")
"""What is done with a row that screening finds something in; not `off`, which YAML takes for false."""


@dataclass(kw_only=True)
class ScreeningConfig:
    """Which rows of the mixes are left out, or noted, before any stage trains on them."""

    against: list[str] = setting([], "evaluation files or built datasets; paths as those of inputs")
    contamination: str = setting(
        "refuse",
        "rows that hold evaluation items: refuse stops the run and names them",
        choices=("refuse", *POLICIES),
    )
    duplicates: str = setting("drop", "rows equal to an earlier one", choices=POLICIES)
    near_duplicates: str = setting("flag", "rows like an earlier one", choices=POLICIES)
    similarity: float = setting(0.5, "Jaccard index of near duplicates", above=0, maximum=1)
    quality: dict[str, Any] = setting(
        {}, "policies of single codes, such as {citation_mark: drop}; see data_builders/findings.py"
    )
    safety: list[str] = setting([], "sources in which refusals are wanted, besides AnswerCarefully")


@dataclass(kw_only=True)
class EvaluateConfig:
    """What is measured before and after."""

    questions: list[str] = setting(
        [], "sources whose questions were taught and are asked for the exact answer"
    )
    max_new_tokens: int = setting(64, "tokens that an answer may have", minimum=1)
    stages: list[str] | None = setting(
        None, "models to compare; null = all that the recipe makes", choices=STAGES
    )
    answers: int = setting(
        50, "held-out prompts answered to measure how many answers stop by themselves", minimum=0
    )


@dataclass(kw_only=True)
class ReleaseConfig:
    """The folder that others load."""

    from_: str | None = setting(
        None, "stage that is released; null = the last that makes a chat model", choices=CHAT_STAGES
    )
    dtype: str = setting(
        "auto", "type of the weights; auto = as trained", choices=("auto", "bfloat16", "float32")
    )
    licence: str | None = setting(
        None, "licence id of the released model; null = the card states what its sources ask"
    )
    licence_reason: str | None = setting(
        None, "why `licence` may allow more than the sources do, for the card: a permission, legal advice"
    )
    terms: TermsConfig | None = setting(None, "terms of a licence of your own (LicenseRef-...)")
    language: list[str] = setting([], "language codes for the card; empty = those of the sources")


@dataclass(kw_only=True)
class TinyConfig:
    """The small Llama that `base: tiny` builds, pretrained on the sources' text."""

    hidden_size: int = setting(192, "width of the hidden states", minimum=8)
    layers: int = setting(4, "transformer blocks", minimum=1)
    heads: int = setting(4, "attention heads; twice their number divides hidden_size", minimum=1)
    key_value_heads: int = setting(2, "heads of keys and values; divides heads", minimum=1)
    vocab_size: int = setting(4096, "upper bound of the vocabulary; the text may yield less", minimum=300)
    pretrain_epochs: float = setting(3.0, "passes over the sources' text; 0 = random weights", minimum=0)
    batch_rows: int = setting(32, "texts in one pretraining step", minimum=1)
    learning_rate: float = setting(1e-3, "peak learning rate of the pretraining", minimum=0)


@dataclass(kw_only=True)
class Recipe:
    """A whole run. A stage that is null is skipped.

    Beside the settings it knows how it was loaded. `origin` maps a dotted key to where its value was written:
    `my.yaml:14`, or `override 2 'sft.epochs=1'`; a default has no entry. `warnings` lists what is legal but
    odd, `files` the YAML files read, the recipe's own first.
    """

    name: str = setting(REQUIRED, "what the run and the released model are called; also a folder name")
    base: str = setting(REQUIRED, "checkpoint to start from: a folder, a hub id, or tiny")
    template: str = setting(REQUIRED, "chat template: a shipped name, a .jinja file, or base")
    extends: str | None = setting(
        None, "recipe whose values hold where this one says nothing, relative to this file"
    )
    seed: int = setting(42, "decides order, samples and initial adapters", minimum=0, maximum=2**32 - 1)
    use: str = setting(
        "research", "what the model may be used for; sources forbid some", choices=("research", "commercial")
    )
    output: str = setting("runs/${name}", "folder of the run, relative to the working directory")
    data_root: str | None = setting(None, "folder that inputs are relative to, instead of the recipe file's")
    tokenizer: str | None = setting(None, "tokenizer folder or hub id; null = the base's own")
    precision: str = setting(
        "auto", "arithmetic; auto = bf16 on CUDA, float32 elsewhere", choices=("auto", "bf16", "fp32")
    )
    trust_remote_code: bool = setting(False, "run model code that lies in the base's folder or repository")
    data: dict[str, SourceConfig] = setting({}, "every source once, by name")
    screening: ScreeningConfig | None = setting(
        None, "duplicates, evaluation items and artefacts in the mixes; null = not looked for"
    )
    sft: SFTConfig | None = setting(None, "supervised fine-tuning; null = skipped")
    dpo: DPOConfig | None = setting(None, "preference optimisation; null = skipped")
    reward: RewardConfig | None = setting(None, "reward model, by TRL's trainer; null = skipped")
    grpo: GRPOConfig | None = setting(None, "GRPO, by TRL's trainer; null = skipped")
    evaluate: EvaluateConfig | None = setting(None, "measurements before and after; null = skipped")
    release: ReleaseConfig | None = setting(None, "the folder that others load; null = skipped")
    tiny: TinyConfig | None = setting(None, "size of the model that `base: tiny` builds")

    def __post_init__(self) -> None:
        self.origin: dict[str, str] = {}
        self.warnings: list[Problem] = []
        self.files: list[str] = []
        self.output = self.output.replace("${name}", self.name)
        if self.base == "tiny" and self.tiny is None:
            self.tiny = TinyConfig()

    def as_dict(self) -> dict[str, Any]:
        """The whole recipe as plain values by their YAML names, defaults included; loads back as itself."""
        values: dict[str, Any] = _as_dict(self)
        del values["extends"]  # its values are all here
        return values


def load_recipe(
    path_or_name: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    templates: Collection[str] | None = None,
    builders: Collection[str] | None = None,
) -> Recipe:
    """The checked recipe in a file, or the one shipped under that name (`quickstart`).

    `overrides` are `key=value` with dotted keys and YAML values; a later one wins. In the result inputs,
    `data_root` and local models are absolute paths; `output` stays relative to the working directory.
    `templates` and `builders` are the known names, by default those of this installation.

    Raises `RecipeError` with every mistake found.
    """
    problems: list[Problem] = []
    files, merged = read_layers(Recipe, os.fspath(path_or_name), overrides, problems)
    missing_settings(Recipe, merged, problems)
    draft = Draft(files[0], merged.plain(), dict(merged.places()), problems, warnings=[])
    fill_in_defaults(Recipe, draft.values, draft.places)
    check_recipe(draft, templates, builders)
    check_screening(draft)
    check_loss(draft)
    check_course(draft)
    check_methods(draft)
    if problems:
        raise RecipeError(in_order(problems, files))
    recipe = _typed(draft.values)
    recipe.origin = {key: str(place) for key, place in draft.places.items()}
    recipe.warnings, recipe.files = draft.warnings, files
    return recipe


def _typed(values: dict[str, Any]) -> Recipe:
    """Checked plain values as the dataclasses; OmegaConf converts and checks the types once more."""
    if "from" in (values.get("release") or {}):
        release = dict(values["release"])
        values = values | {"release": release | {"from_": release.pop("from")}}
    return cast(Recipe, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), values)))


def _as_dict(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = settings_of(type(value)).items()
        return {name: _as_dict(getattr(value, item.name)) for name, item in names}
    if isinstance(value, dict):
        return {key: _as_dict(item) for key, item in value.items()}
    return [_as_dict(item) for item in value] if isinstance(value, list) else value
