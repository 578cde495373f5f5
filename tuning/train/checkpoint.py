"""Checkpoints that survive a kill at any moment and resume bit for bit: safetensors and JSON, no pickle.

A checkpoint is written beside its final name, synced, then renamed, so a name that exists is whole; its
manifest of hashes is verified before it is used, and an older whole one is taken when the newest is damaged.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tuning.records import read_json, sha256_of_file, sync_folder, write_json

STATE = "state.json"


def save(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: Any,
    scheduler: Any,
    random_states: list[dict[str, Any]],
    keep: int,
    keep_step: int | None = None,
) -> Path:
    """Writes `folder/step-<step>` and removes all but the newest `keep` and that of step `keep_step`. Returns
    the new path."""
    final = path_of(folder, step)
    temporary = folder / f".writing-{step:08d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, rest = _flatten_optimizer(optimizer.state_dict())
    save_file(trained_tensors(model), temporary / "model.safetensors")
    save_file(tensors, temporary / "optimizer.safetensors")
    files = {}
    for path in sorted(temporary.iterdir()):
        _sync(path)
        files[path.name] = sha256_of_file(path)
    state = {
        "step": step,
        "files": files,
        "optimizer": rest,
        "scheduler": {key: scheduler.state_dict()[key] for key in ("last_epoch", "_step_count", "_last_lr")},
        "random": random_states,
    }
    write_json(temporary / STATE, state)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    sync_folder(folder)
    kept = None if keep_step is None else path_of(folder, keep_step)
    for old in checkpoints(folder)[:-keep]:
        if old != kept:
            shutil.rmtree(old, ignore_errors=True)
    return final


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint behind `step` stands, if there is one."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a stage, oldest first, whole or not."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files match their hashes, and a line for each damaged one passed over."""
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is None:
            return path, damaged
        damaged.append(f"{path}: {problem}")
    return None, damaged


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = read_json(checkpoint / STATE)
    except (OSError, ValueError) as error:
        return str(error)
    for name, digest in state["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of_file(path) != digest:
            return f"{name} differs from its hash"
    return None


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(read_json(checkpoint / STATE)["step"])


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts the trained tensors back into the model."""
    saved = load_file(checkpoint / "model.safetensors")
    current: dict[str, Tensor] = {name: item for name, item in model.named_parameters() if name in saved}
    if set(current) != set(saved):
        raise ValueError(
            f"{checkpoint}: tensors that this model lacks: {sorted(set(saved) - set(current))[:3]}"
        )
    with torch.no_grad():
        for name, tensor in saved.items():
            current[name].copy_(tensor)


def load_optimizer(checkpoint: Path, optimizer: Any, scheduler: Any) -> None:
    """Puts moments, step counts and the schedule's place back."""
    state = read_json(checkpoint / STATE)
    tensors = load_file(checkpoint / "optimizer.safetensors")
    optimizer.load_state_dict(_unflatten_optimizer(tensors, state["optimizer"]))
    scheduler.load_state_dict({**scheduler.state_dict(), **state["scheduler"]})


def load_random(checkpoint: Path, rank: int) -> None:
    """Puts this rank's random generators back; a rank that did not exist keeps its own."""
    states = read_json(checkpoint / STATE)["random"]
    if rank < len(states):
        restore_random_state(states[rank])


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Named tensors that training changes: trainable parameters, shared ones once."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }


def random_state() -> dict[str, Any]:
    """The states of this process's random generators as JSON."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes_tensor(state["cuda"]))


def _bytes_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, {"scalars": scalars, "param_groups": state["param_groups"]}


def _unflatten_optimizer(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["scalars"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
