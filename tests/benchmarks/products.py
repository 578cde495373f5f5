"""How long the matrix products of an optimizer step take by themselves, at the shapes in which the step runs
them.

Counted are the three products of every linear layer (output, both gradients), the four of the vocabulary
projection tile by tile (logits twice, both gradients), and of attention the two forward and five backward
products of every run, over the keys that its queries see and no others. Everything else is what a step adds
to them: softmax and norms, embeddings, gathering, the loss, clipping, AdamW, the host's work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tuning.model.head import causal_lm, decoder, tile_shape
from tuning.train.steps import Step

Product = Callable[[], Any]


def print_products(trainer: Any, store: Any, rounds: int) -> None:
    """Prints the seconds of the run's first step and of its products, measured in turns, first round not
    counted."""
    trainer.compute_reference(store, [])
    trainer.create_optimizer()
    model, optimizer = trainer.policy, trainer.optimizer
    [step, *_] = trainer.session.schedule.steps(trainer.division)
    products = products_of(model.lm, step)

    def whole() -> None:
        [again, *_] = trainer.session.schedule.steps(trainer.division)
        trainer.training_step(model, again)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def alone() -> None:
        for product in products:
            product()

    # CPU seconds do not count what other processes of the machine take; a GPU is ours alone.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    taken: dict[str, list[float]] = {"step": [], "products": []}
    for number in range(rounds + 1):
        for name, run in (("step", whole), ("products", alone)):
            _synchronise()
            started = clock()
            run()
            _synchronise()
            if number:
                taken[name].append(clock() - started)
    unit = "seconds" if torch.cuda.is_available() else "CPU seconds"
    print(f"| | {unit} (median) | all |\n| --- | ---: | --- |")
    for name, seconds in taken.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {' '.join(f'{s:.2f}' for s in seconds)} |")
    ratio = statistics.median(
        one / other for one, other in zip(taken["step"], taken["products"], strict=True)
    )
    print(
        f"\nA step of {step.num_rows} pairs, {step.num_tokens} tokens and {step.num_targets} targets takes "
        f"{ratio:.2f} times its matrix products (median over rounds)."
    )


def products_of(lm: nn.Module, step: Step) -> list[Product]:
    """The matrix products of the step, each to be called on tensors of its own shape."""
    base = causal_lm(lm)
    head = base.get_output_embeddings().weight
    layers = [layer for layer in decoder(base).modules() if isinstance(layer, nn.Linear)]
    dtype = torch.bfloat16 if head.is_cuda else head.dtype
    config = base.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def filled(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.01, device=head.device, dtype=dtype)

    weights = {tuple(layer.weight.shape): filled(*layer.weight.shape) for layer in layers}
    vocabulary, made = filled(*head.shape), []
    for micro_batch in step.micro_batches:
        forest = micro_batch.forest
        tokens, targets = len(forest.input_ids), len(forest.target_token)
        for layer in layers:
            weight = weights[tuple(layer.weight.shape)]
            made += _three(filled(tokens, weight.shape[1]), weight, filled(tokens, weight.shape[0]))
        rows, columns = tile_shape(targets, head)
        for first in range(0, targets, rows):
            hidden = filled(min(rows, targets - first), head.shape[1])
            for start in range(0, len(head), columns):
                words = vocabulary[start : start + columns]
                if not start or len(words) != columns:
                    logits = filled(len(hidden), len(words))
                made += [_product(hidden, words.T), *_three(hidden, words, logits)]
        for first, last, first_key, last_key in forest.layout.bounds:
            queries = last - first
            seen = (last_key - first_key) - (queries - 1) / 2  # on average, causal
            query, keys = filled(heads, queries, size), filled(heads, max(1, round(seen)), size)
            scores = filled(heads, queries, keys.shape[1])
            by_keys, by_queries = _product(scores, keys), _product(scores.transpose(1, 2), query)
            forward = [_product(query, keys.transpose(1, 2)), by_keys]
            made += [*forward, *forward, by_keys, by_queries, by_queries] * config.num_hidden_layers
    return made


def _three(states: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> list[Product]:
    """Output, gradient of the states, gradient of the weight."""
    return [_product(states, weight.T), _product(out, weight), _product(out.T, states)]


def _product(left: torch.Tensor, right: torch.Tensor) -> Product:
    return lambda: left @ right


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
