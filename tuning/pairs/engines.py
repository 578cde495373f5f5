"""Two ways in which transformers writes answers: continuous batching, and plain `generate`.

Continuous batching keeps many answers of all lengths under way at once. It works on CPU too, where it is the
slower of the two (a Llama of 15M parameters on one core, 32 answers of 64 tokens: 16.7 s against 10.1 s). So
a GPU uses it, and a CPU uses `generate`, with the answers of one prompt together: they need no padding.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.continuous_batching import cb_logits_processors

from tuning.pairs.sampling import Sampling, Wanted, noise_key, perturbed

POLL_SECONDS = 0.2


class PlainEngine:
    """`generate`, one prompt at a time."""

    def __init__(self, model: Any, num_tokens: int, ends: tuple[int, ...], sampling: Sampling) -> None:
        self.model, self.num_tokens, self.ends, self.sampling = model, num_tokens, ends, sampling

    def ids(self, requests: Sequence[Wanted]) -> list[list[int]]:
        """New tokens of each request, in order, the end token included where there is one."""
        found: dict[int, list[int]] = {}
        alike = dict.fromkeys((request.prompt, request.limit) for request in requests)
        for prompt, limit in alike:
            at = [
                index
                for index, request in enumerate(requests)
                if (request.prompt, request.limit) == (prompt, limit)
            ]
            found.update(zip(at, self._ids([requests[index] for index in at]), strict=True))
        return [found[index] for index in range(len(requests))]

    def _ids(self, requests: Sequence[Wanted]) -> list[list[int]]:
        seeds = [request.seed(self.sampling.seed) for request in requests]
        prompt = torch.tensor([requests[0].prompt] * len(requests), device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=_config(self.ends, requests[0].limit),
                logits_processor=LogitsProcessorList([_Noise(seeds, self.sampling, self.num_tokens)]),
            )
        return [_cut(row, self.ends) for row in output[:, prompt.shape[1] :].tolist()]

    def close(self) -> None:
        pass


class ContinuousEngine:
    """Continuous batching; many threads may ask at once, and each gets its answer when it is done."""

    def __init__(self, model: Any, num_tokens: int, ends: tuple[int, ...], sampling: Sampling) -> None:
        self.ends, self.sampling = ends, sampling
        self._names, self._lock = itertools.count(), threading.Lock()
        self._waiting: dict[str, Future[list[int]]] = {}
        self._is_closed = False
        self._stack = contextlib.ExitStack()
        noise = _Noise((), sampling, num_tokens)
        # A manager takes its processors from the model and has no argument for others.
        model._get_logits_processor = lambda *_, **__: LogitsProcessorList([noise])
        try:
            self._manager = self._stack.enter_context(
                model.continuous_batching_context_manager(
                    generation_config=_config(ends, sampling.max_new_tokens),
                    continuous_batching_config=ContinuousBatchingConfig(per_request_processors=True),
                )
            )
        finally:
            del model._get_logits_processor
        self._router = threading.Thread(target=self._route, name="answers", daemon=True)
        self._router.start()

    def ids(self, requests: Sequence[Wanted]) -> list[list[int]]:
        """New tokens of each request, in order, the end token included where there is one."""
        futures = []
        for request in requests:
            name, future = f"answer-{next(self._names)}", Future[list[int]]()
            with self._lock:
                self._waiting[name] = future
            self._manager.add_request(
                list(request.prompt),
                request_id=name,
                max_new_tokens=request.limit,
                eos_token_id=list(self.ends),
                noise_seed=request.seed(self.sampling.seed),
            )
            futures.append(future)
        return [_cut(future.result(), self.ends) for future in futures]

    def close(self) -> None:
        self._is_closed = True
        self._router.join()
        self._stack.close()

    def _route(self) -> None:
        """Hands finished answers to those who wait for them; when the engine dies, its error."""
        while not self._is_closed:
            result = self._manager.get_result(timeout=POLL_SECONDS)
            if result is None:
                if not self._manager.is_running():
                    self._fail(RuntimeError("continuous batching stopped; its error stands above"))
                continue
            if not result.is_finished():
                continue
            with self._lock:
                future = self._waiting.pop(result.request_id)
            if result.error is None:
                future.set_result(list(result.generated_tokens))
            else:
                future.set_exception(RuntimeError(f"continuous batching: {result.error}"))

    def _fail(self, error: Exception) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(error)


class _Noise(LogitsProcessor):
    """For `generate`: the noise of each row at the position that is drawn."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling, num_tokens: int) -> None:
        self.seeds, self.sampling, self.num_tokens = seeds, sampling, num_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        keys = [noise_key(seed, input_ids.shape[1]) for seed in self.seeds]
        return perturbed(scores, torch.tensor(keys, device=scores.device), self.sampling, self.num_tokens)


class _ContinuousNoise(cb_logits_processors.ContinuousBatchingLogitsProcessor):
    """The same for continuous batching, which carries one int32 for each row to the device."""

    def __init__(self, noise: _Noise) -> None:
        self.supported_kwargs: dict[str, type] = {"noise_seed": int}
        self.ignored_kwargs: tuple[str, ...] = ()
        self.sampling, self.num_tokens = noise.sampling, noise.num_tokens

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: Any) -> torch.Tensor:
        # `position_offset` counts what is in the cache after this step: where the new token will stand.
        states = [request.state for request in requests_with_new_token]
        keys = [
            noise_key(state.logit_processor_kwargs.get("noise_seed", 0), state.position_offset)
            for state in states
        ]
        return torch.tensor(keys, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return perturbed(scores, tensor_arg[: scores.shape[0]], self.sampling, self.num_tokens)


cb_logits_processors.CLASSIC_TO_CB_PROCESSORS_MAP[_Noise] = _ContinuousNoise
"""The library's table of processors that know one row from another; what is in it gets its integer a row."""


def _config(ends: tuple[int, ...], limit: int) -> GenerationConfig:
    """Greedy: the noise is in the scores."""
    return GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=list(ends), pad_token_id=ends[0]
    )


def _cut(ids: list[int], ends: tuple[int, ...]) -> list[int]:
    """The ids up to the first end token and with it; `generate` pads rows that ended before others."""
    end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]
