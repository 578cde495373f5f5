"""What every training stage shares: the tokenizer with its template, the policy, the session, the saved
model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from tuning.chat import ChatError, EncodedSequence, Template, encode_many, load_template, prove
from tuning.config import (
    PREFERENCE_STAGES,
    TRAINED_STAGES,
    DPOConfig,
    MixEntry,
    Recipe,
    RewardConfig,
    SFTConfig,
    StageConfig,
    TrainConfig,
)
from tuning.mixture import Mixture, MixtureError, built_rows, mix
from tuning.model import adapters, loading, tiny
from tuning.model.head import TargetModel
from tuning.schema import Conversation, Message, Row
from tuning.shares import Share, split
from tuning.train.live_reference import LiveReference
from tuning.train.preference_losses import PREFERENCE_LOSSES, RANKED
from tuning.train.reference import ReferenceStore, reference_key
from tuning.train.schedule import warmup_steps_of
from tuning.train.session import Session, training_arguments
from tuning.train.step_objectives import PreferenceObjective, divergence_of
from tuning.train.steps import Schedule

PROVEN_ROWS = 200
"""Rows of each source that the proof before training looks at."""


@dataclass(frozen=True)
class Paths:
    """Where a stage finds what earlier stages made."""

    start: str
    """Folder or hub id of the checkpoint that the stage starts from."""
    datasets: Mapping[str, Path]
    """Built datasets by source name."""
    folder: Path
    """The stage's own folder."""
    cache: Path
    models: Mapping[str, str] = field(default_factory=dict)
    """Folders of the models that earlier stages made, by stage."""


def open_tokenizer(recipe: Recipe, start: str) -> tuple[PreTrainedTokenizerBase, Template]:
    """The recipe's tokenizer (else the checkpoint's own) with the recipe's template installed."""
    where = start if recipe.base == "tiny" else recipe.tokenizer or start
    tokenizer = loading.load_tokenizer(where, trust_remote_code=recipe.trust_remote_code)
    template = load_template(recipe.template, tokenizer=tokenizer)
    template.check(tokenizer)
    template.install(tokenizer)
    return tokenizer, template


def template_fault(recipe: Recipe) -> str | None:
    """Why the recipe's template cannot be trained on, as far as that shows without weights: with its
    tokenizer where that lies in a folder, under `base: tiny` with one of that kind."""
    where = recipe.tokenizer or recipe.base
    try:
        if Path(where).is_dir():
            tokenizer = loading.load_tokenizer(where, trust_remote_code=recipe.trust_remote_code)
            load_template(recipe.template, tokenizer=tokenizer).check(tokenizer)
        elif recipe.base == "tiny":
            template = load_template(recipe.template)
            headers = tiny.rendered_headers(template.source)
            template.check(tiny.train_tokenizer([f"{headers} a b c"] * 20, vocab_size=400))
    except (ChatError, loading.ModelError) as error:
        return str(error)
    return None


def preview_tokenizer(
    recipe: Recipe, paths: Paths, tiny_model: Path
) -> tuple[PreTrainedTokenizerBase, Template]:
    """The tokenizer that the run will use; `base: tiny` trains it here if the base is not built yet."""
    if recipe.base != "tiny":
        return open_tokenizer(recipe, paths.start)
    if (tiny_model / "tokenizer.json").is_file():
        return open_tokenizer(recipe, str(tiny_model))
    tokenizer = tiny_tokenizer(recipe, training_texts(recipe, paths))
    template = load_template(recipe.template, tokenizer=tokenizer)
    template.install(tokenizer)
    return tokenizer, template


def preview_sequences(
    recipe: Recipe, paths: Paths, tokenizer: PreTrainedTokenizerBase, template: Template
) -> list[EncodedSequence]:
    """Every row that the recipe trains on or holds out, encoded; rows that the template refuses are left
    out.

    Of what grpo mixes only the prompts are read, so nothing of it is shown.
    """
    by_source = {
        name: rows
        for stage, sources in rows_by_stage(recipe, paths).items()
        for name, rows in sources.items()
        if stage != "grpo"
    }
    rows = [row for rows in by_source.values() for row in rows]
    results = encode_many(rows, tokenizer, template)
    return [sequence for result in results if not isinstance(result, ChatError) for sequence in result]


def training_texts(recipe: Recipe, paths: Paths) -> list[str]:
    """The plain texts of all rows that are trained on, each once.

    A text that some stage holds out is not among them, even if another source trains on the same one.
    """
    texts: dict[str, None] = {}
    held_out: set[str] = set()
    for stage, sources in rows_by_stage(recipe, paths).items():
        share = shares(getattr(recipe, stage))
        for name, rows in sources.items():
            parts = split(rows, share[name], recipe.seed, name)
            texts.update((text, None) for row in parts.train for text in plain_texts(row))
            held_out.update(text for row in parts.dev for text in plain_texts(row))
    return [text for text in texts if text not in held_out]


def plain_texts(row: Row) -> list[str]:
    """The texts of a row as a base model would meet them: question and answer as lines, without any
    template."""
    if isinstance(row, Conversation):
        return [_lines(row.messages)]
    return [_lines(row.prompt + row.chosen), _lines(row.prompt + row.rejected)]


def _lines(messages: tuple[Message, ...]) -> str:
    return "\n".join(part for message in messages for part in (message.input, message.content) if part)


def tiny_tokenizer(recipe: Recipe, texts: list[str]) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer, or one learnt from the texts and from what the template writes around
    messages."""
    if recipe.tokenizer:
        return loading.load_tokenizer(recipe.tokenizer, trust_remote_code=recipe.trust_remote_code)
    assert recipe.tiny is not None
    headers = tiny.rendered_headers(load_template(recipe.template).source)
    return tiny.train_tokenizer([*texts, *[headers] * 50], recipe.tiny.vocab_size)


def load_policy(recipe: Recipe, config: TrainConfig, start: str) -> TargetModel:
    """The model to train: the checkpoint, its adapter if the recipe asks for one, ready for packed trees."""
    set_seed(recipe.seed)
    quantize = config.lora.quantize if config.lora else None
    model = loading.load_model(start, trust_remote_code=recipe.trust_remote_code, quantize=quantize)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is None:
        return TargetModel(model)
    lora = config.lora
    return TargetModel(
        adapters.attach_lora(
            model,
            rank=lora.rank,
            alpha=lora.alpha if lora.alpha is not None else 2.0 * lora.rank,
            dropout=lora.dropout,
            targets=lora.targets or "all-linear",
            seed=recipe.seed,
        )
    )


def shares(config: StageConfig) -> dict[str, Share]:
    """What each source gives to a stage; a mix entry's own `dev_rows` is taken at its word."""

    def share(entry: MixEntry) -> Share:
        is_exact = entry.dev_rows is not None
        return Share(
            entry.weight,
            entry.dev_rows if entry.dev_rows is not None else config.dev_rows,
            dev_rows_are_exact=is_exact,
            languages=tuple(entry.languages) if entry.languages is not None else None,
            categories=tuple(entry.categories) if entry.categories is not None else None,
            max_rows=entry.max_rows,
            beta=entry.beta,
            min_margin=entry.min_margin,
            max_margin=entry.max_margin,
            dev_share=entry.dev_share,
        )

    return {name: share(entry) for name, entry in config.mix.items()}


def takes_pairs(recipe: Recipe, stage: str) -> bool | None:
    """Whether a stage mixes pairs or conversations; None if it takes both, as KTO does."""
    terms = loss_terms(recipe.dpo) if stage == "dpo" and recipe.dpo is not None else ()
    if any(PREFERENCE_LOSSES[name].takes_single for name in terms):
        return None
    return stage in PREFERENCE_STAGES


def rows_by_stage(recipe: Recipe, paths: Paths) -> dict[str, dict[str, list[Row]]]:
    """Per training stage of the recipe, the built rows of each source that it mixes."""
    return {
        stage: {
            name: built_rows(paths.datasets[name], preference=takes_pairs(recipe, stage), stage=stage)
            for name in getattr(recipe, stage).mix
        }
        for stage in TRAINED_STAGES
        if getattr(recipe, stage) is not None
    }


def open_mixture(
    recipe: Recipe,
    config: SFTConfig | DPOConfig | RewardConfig,
    paths: Paths,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    stage: str,
) -> Mixture:
    """The stage's data, encoded."""
    terms = loss_terms(config) if isinstance(config, DPOConfig) else {}
    mixture = mix(
        {name: paths.datasets[name] for name in config.mix},
        shares(config),
        tokenizer,
        template,
        preference=stage in PREFERENCE_STAGES,
        stage=stage,
        max_length=config.max_length,
        too_long=config.too_long,
        seed=recipe.seed,
        cache=paths.cache / "encoded",
        legacy=None if isinstance(config, RewardConfig) else config.legacy,
        weigh_by=config.weigh_by,
        takes_rankings=RANKED in terms,
        takes_single=any(PREFERENCE_LOSSES[name].takes_single for name in terms),
        needs_strangers=any(PREFERENCE_LOSSES[name].needs_strangers for name in terms),
    )
    losses = {name: PREFERENCE_LOSSES[name] for name in terms}
    sorting = [name for name, loss in losses.items() if loss.sees_step and not loss.takes_single]
    if sorting:
        _refuse_own_settings(mixture, sorting[0])
    return mixture


def _refuse_own_settings(mixture: Mixture, loss: str) -> None:
    """Raises `MixtureError` for a pair with a weight or beta of its own where a loss takes pairs apart."""
    for groups in mixture.order.groups.values():
        for example in (example for group in groups for example in group):
            if example.weight != 1 or example.beta is not None:
                seen = f"weight {example.weight:g}" if example.weight != 1 else f"beta {example.beta:g}"
                raise MixtureError(
                    f"dpo: row {example.id} has a {seen} of its own; {loss} sorts the answers of a step "
                    "apart and cannot use it"
                )


def proof(config: SFTConfig, paths: Paths, tokenizer: PreTrainedTokenizerBase, template: Template) -> str:
    """What was proven of the first rows of each source: that they are trained on as they will be served.

    Raises `ProofError` where they are not. Nothing can be proven of a published model's tokenisation, so for
    `legacy` it says how many rows happen to be served alike.
    """
    rows: list[Any] = [
        row
        for name in config.mix
        for row in built_rows(paths.datasets[name], preference=False, stage="sft")[:PROVEN_ROWS]
    ]
    if config.legacy is None:
        return str(prove(tokenizer, template, rows))
    published, served = (
        list(encode_many(rows, tokenizer, template, legacy=name)) for name in (config.legacy, None)
    )
    alike = sum(_same_ids(one, other) for one, other in zip(published, served, strict=True))
    return f"legacy {config.legacy}: nothing is proven; {alike} of {len(rows)} rows are served as trained"


def _same_ids(one: list[EncodedSequence] | ChatError, other: list[EncodedSequence] | ChatError) -> bool:
    if isinstance(one, ChatError) or isinstance(other, ChatError):
        return False
    return [part.input_ids.tolist() for part in one] == [part.input_ids.tolist() for part in other]


def open_reference(
    recipe: Recipe, config: DPOConfig, paths: Paths, policy: TargetModel
) -> ReferenceStore | LiveReference | None:
    """What the policy is compared with: the start's log-probs in a store that every run from it shares, or
    computed beside the policy's; None where no loss asks for a reference."""
    if not any(PREFERENCE_LOSSES[name].needs_reference for name in loss_terms(config)):
        return None
    if config.reference == "live":
        return LiveReference(policy)
    quantize = config.lora.quantize if config.lora else None
    key = reference_key(paths.start, precision=recipe.precision, quantize=quantize)
    stores = Path(config.reference_store) if config.reference_store else paths.cache / "reference"
    return ReferenceStore(stores / key[:32], key, per_token=config.ld_alpha not in (None, 1.0))


def loss_terms(config: DPOConfig) -> dict[str, float]:
    """The weight of each preference loss of the stage."""
    return {name: float(weight) for name, weight in (config.loss_terms or {config.loss: 1.0}).items()}


def preference_objective(
    config: DPOConfig, reference: ReferenceStore | LiveReference | None, *, end_token: int | None
) -> PreferenceObjective:
    """What the stage minimises: the recipe's loss, or its weighted losses, and the SFT term. `end_token` is
    the id that ends an answer, for the metrics."""
    terms = loss_terms(config)
    own = max(PREFERENCE_LOSSES[name].sft_weight for name in terms)
    options = {
        "label_smoothing": config.label_smoothing,
        "gamma": config.gamma,
        "alphapo_alpha": config.alphapo_alpha,
        "discopop_tau": config.discopop_tau,
        "desirable_weight": config.desirable_weight,
        "undesirable_weight": config.undesirable_weight,
        "divergence": config.divergence,
        "divergence_alpha": config.divergence_alpha,
    }
    return PreferenceObjective(
        terms=terms,
        store=reference,
        beta=config.beta,
        sft_weight=config.sft_weight if config.sft_weight is not None else own,
        options=divergence_of(options),
        ld_alpha=config.ld_alpha if config.ld_alpha is not None else 1.0,
        weighs_by_policy=config.weigh_by_policy,
        end_token=end_token,
    )


def open_session(
    config: TrainConfig,
    mixture: Mixture,
    paths: Paths,
    *,
    name: str,
    batch_rows: int,
    evaluate: Callable[[torch.nn.Module, Trainer], dict[str, Any]] | None = None,
) -> Session:
    """The run's steps and how they are reported.

    Raises `MixtureError` where `best_by` asks for rows that no source had to hold out.
    """
    best_by = config.best_by
    if best_by is not None:
        best_by = _held_out_figure(best_by, config, mixture, name)
    if config.max_steps is not None:
        num_rows = config.max_steps * batch_rows
    else:
        num_rows = max(1, round((config.epochs or 1.0) * mixture.rows_per_epoch))
    schedule = Schedule(mixture.order, batch_rows, num_rows, is_preference=name == "dpo")
    ratio = config.warmup_ratio
    return Session(
        name=name,
        folder=paths.folder,
        schedule=schedule,
        tokens_per_device=config.tokens_per_device,
        learning_rate=config.learning_rate,
        lr_schedule=config.schedule,
        warmup_steps=config.warmup_steps if ratio is None else warmup_steps_of(ratio, schedule.num_steps),
        min_learning_rate=config.min_learning_rate,
        hold_steps=config.hold_steps,
        share_prefix=config.share_prefix,
        log_steps=config.log_steps,
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        keep_checkpoints=config.keep_checkpoints,
        best_by=best_by,
        stop_after_evaluations=config.stop_after_evaluations,
        evaluate=evaluate,
    )


def _held_out_figure(best_by: str, config: TrainConfig, mixture: Mixture, name: str) -> str:
    """The figure of an evaluation that `best_by` asks for. Raises `MixtureError` where no row is held out
    that has it."""
    figure, _, source = best_by.rpartition("/")
    if source not in config.mix or not figure:
        figure, source = best_by, ""
    rows = mixture.dev.get(source, []) if source else mixture.dev_rows
    which = source or "any source"
    if not rows:
        raise MixtureError(
            f"{name}.best_by: no row of {which} is held out (at most a tenth of a source is, unless its "
            f"mix entry names dev_rows), so there is no {best_by} to choose by"
        )
    if name == "dpo" and figure != "loss" and all(example.desirable is not None for example in rows):
        raise MixtureError(
            f"{name}.best_by: the rows of {which} that are held out are answers judged one by one, so there "
            f"is no {best_by}; accepted: loss"
        )
    # The figures of a preference run stand by source only where there are several.
    return figure if name == "dpo" and list(mixture.dev) == [source] else best_by


def trainer_arguments(recipe: Recipe, config: TrainConfig, session: Session) -> TrainingArguments:
    """transformers' arguments for this stage: the recipe's own keys, then what `trainer:` adds."""
    return training_arguments(
        session.folder,
        precision=loading.compute_dtype(recipe.precision),
        num_steps=session.schedule.num_steps,
        settings=optimizer_settings(recipe, config, session.name),
    )


def optimizer_settings(recipe: Recipe, config: StageConfig, name: str) -> dict[str, Any]:
    """What every stage tells its trainer of seed, optimizer and trackers, then what `trainer:` adds."""
    return {
        "seed": recipe.seed,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "max_grad_norm": config.max_grad_norm or math.inf,
        "report_to": config.report_to,
        "run_name": f"{recipe.name}-{name}",
        **config.trainer,
    }


def save_stage(
    recipe: Recipe, config: TrainConfig, policy: TargetModel, tokenizer: PreTrainedTokenizerBase, paths: Paths
) -> dict[str, Any]:
    """Writes `model/`, a complete plain model, and `adapter/` beside it if one was trained; returns notes for
    the record."""
    model: Any = policy.lm
    notes: dict[str, Any] = {}
    if isinstance(model, PeftModel):
        if loading.is_first_process():
            model.save_pretrained(str(paths.folder / "adapter"))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        notes["adapter"] = "adapter"
        if config.lora is not None and config.lora.quantize:
            plain = loading.load_model(
                paths.start, trust_remote_code=recipe.trust_remote_code, for_training=False
            )
            merged = adapters.merge(PeftModel.from_pretrained(plain, str(paths.folder / "adapter")))
            notes["merge_drift_nats"] = _drift(policy, merged, tokenizer)
            model = merged
        else:
            model = adapters.merge(model)
    model.eval()
    loading.save_model(model, tokenizer, paths.folder / "model")
    return notes


@torch.no_grad()
def _drift(policy: TargetModel, merged: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """Mean absolute difference in next-token log-probs between the quantised policy and the merged model, in
    nats."""
    from tuning.forest import Sequence, grow
    from tuning.forest.batch import collate

    text = "日本の四季を、それぞれ一文で説明してください。 Describe each season of Japan in one sentence."
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int32).numpy()
    sequence = Sequence(ids, ids == ids)
    batch = collate([(grow([sequence]), [sequence])], merge_targets=False)
    device = next(policy.parameters()).device
    loading.use_forest_attention(merged)  # type: ignore[arg-type]
    _, quantised = policy(batch.to(device))
    _, plain = TargetModel(merged.to(device))(batch.to(device))
    drift = float((quantised - plain).abs().mean())
    print(f"merged into unquantised weights; log-probs drift by {drift:.4f} nats on average", flush=True)
    return drift
