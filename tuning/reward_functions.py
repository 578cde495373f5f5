"""A recipe's rewards as functions of answers, as GRPO's trainer and the held-out evaluation call them.

    reward of an answer = sum over `grpo.rewards` of weight * value, each value from a rule or a reward model

A reward model reads prompt and answer under its own tokenizer and template, as it will be served: as whole
messages, so an answer that was cut at the limit is read as if it had ended there. The rule `stops` is what
tells those apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tuning.chat import Template, encode, load_template
from tuning.config import RuleConfig
from tuning.evaluate.answers import Answer, answer_of
from tuning.model.loading import load_tokenizer
from tuning.model.scoring import load_reward_model, scores
from tuning.prompts import Prompt
from tuning.rewards import exact_match, length_band, loop_free, pattern_found, same_script, stopped
from tuning.schema import Message

Judge = Callable[[Sequence[Prompt], Sequence[Answer]], list[float]]
"""One value for each answer, before its weight."""


def judges(
    rewards: Mapping[str, RuleConfig],
    reward_model: str | None,
    *,
    device: torch.device | str,
    trust_remote_code: bool = False,
) -> dict[str, Judge]:
    """The recipe's rewards by their names; `reward_model` is what its own reward stage made."""
    made: dict[str, Judge] = {}
    for name, config in rewards.items():
        if config.rule == "model":
            folder = config.model or reward_model
            assert folder is not None
            made[name] = RewardModel.load(folder, device, trust_remote_code)
        else:
            made[name] = partial(_by_rule, config)
    return made


def _by_rule(config: RuleConfig, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
    return [_value(config, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _value(config: RuleConfig, prompt: Prompt, answer: Answer) -> float:
    if config.rule == "length":
        return length_band(answer.num_tokens, shortest=config.min_tokens, longest=config.max_tokens)
    if config.rule == "stops":
        return stopped(answer.stopped)
    if config.rule == "language":
        return same_script(prompt.messages[-1].content, answer.text)
    if config.rule == "no_loop":
        return loop_free(answer.text)
    if config.rule == "exact":
        return exact_match(answer.text, prompt.answer)
    assert config.rule == "regex" and config.pattern is not None
    return pattern_found(answer.text, config.pattern)


@dataclass
class RewardModel:
    """A reward model with the tokenizer and template of its own folder."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template

    @classmethod
    def load(cls, folder: str, device: torch.device | str, trust_remote_code: bool = False) -> RewardModel:
        """Raises `ModelError` for a folder that holds no reward model, `ChatError` for one without a
        template that can be encoded."""
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        template = load_template("base", tokenizer=tokenizer)
        template.check(tokenizer)
        template.install(tokenizer)
        pad: Any = tokenizer.pad_token_id
        model: Any = load_reward_model(folder, pad_token_id=pad, trust_remote_code=trust_remote_code)
        return cls(model.to(device).eval(), tokenizer, template)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
        """The model's number for each prompt with its answer."""
        sequences = []
        for prompt, answer in zip(prompts, answers, strict=True):
            messages = [*prompt.messages, Message("assistant", answer.text)]
            sequences.append(encode(messages, self.tokenizer, self.template)[-1].input_ids)
        found: list[float] = scores(self.model, sequences).tolist()
        return found


def for_trl(
    name: str, judge: Judge, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase
) -> Callable[..., list[float]]:
    """The judge as TRL calls it, with the completions' ids and the column `number` of the rows, which counts
    `prompts`. TRL reports it as `rewards/<name>/mean`."""
    end: Any = tokenizer.eos_token_id

    def reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        answers = [answer_of(ids, tokenizer, end) for ids in completion_ids]
        return judge([prompts[index] for index in number], answers)

    reward.__name__ = name
    return reward


def held_out_rewards(
    made: Mapping[str, Judge],
    weights: Mapping[str, float],
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
) -> dict[str, float]:
    """Means over the answers: `reward` is the weighted sum, `rewards/<name>` each value before its weight."""
    means = {name: sum(judge(prompts, answers)) / len(answers) for name, judge in made.items()}
    return {
        "prompts": len(prompts),
        "reward": sum(weights[name] * mean for name, mean in means.items()),
        **{f"rewards/{name}": mean for name, mean in means.items()},
        "stops": sum(answer.stopped for answer in answers) / len(answers),
        "mean_length": sum(answer.num_tokens for answer in answers) / len(answers),
    }
