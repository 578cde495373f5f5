"""A released model: a folder that plain transformers loads, checked in a clean process before it gets its
name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ReleaseError(RuntimeError):
    """The folder does not do what a released model must do; nothing was released."""


def check_in_clean_process(
    folder: Path,
    conversations: Sequence[tuple[list[dict[str, Any]], list[int]]],
    question: str,
    max_new_tokens: int,
) -> dict[str, Any]:
    """What a new Python process saw that had only transformers and the folder: ids, the answer, how it ended.

    `conversations` are messages with the ids they were trained as. Raises `ReleaseError` when a rendering
    differs from its training ids, the answer is empty, or generation has no token to stop at.
    """
    request = json.dumps(
        {
            "folder": str(folder),
            "conversations": conversations,
            "question": question,
            "max_new_tokens": max_new_tokens,
        }
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-m", "tuning.release"],
        input=request,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ReleaseError(f"{folder} does not load in a clean process: {last[0]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if seen["differing"]:
        raise ReleaseError(
            f"{folder}: conversations {seen['differing'][:5]} render to other ids than trained on"
        )
    if not seen["eos"] or seen["pad"] is None or seen["pad"] in seen["eos"]:
        raise ReleaseError(f"{folder}: generation_config has eos {seen['eos']} and pad {seen['pad']}")
    if not seen["answer"].strip():
        raise ReleaseError(f"{folder}: the answer to {question!r} is empty")
    return seen


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    """The clean process's part; uses nothing of this library."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(request["folder"])
    model: Any = AutoModelForCausalLM.from_pretrained(request["folder"], use_safetensors=True)
    differing = [
        number
        for number, (messages, ids) in enumerate(request["conversations"])
        if tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"] != ids
    ]
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": request["question"]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=request["max_new_tokens"])
    new = output[0, inputs["input_ids"].shape[1] :].tolist()
    eos = model.generation_config.eos_token_id
    stops = eos if isinstance(eos, list) else [eos] if eos is not None else []
    return {
        "differing": differing,
        "compared": len(request["conversations"]),
        "answer": tokenizer.decode(new, skip_special_tokens=True),
        "stopped": bool(new) and new[-1] in stops,
        "eos": stops,
        "pad": model.generation_config.pad_token_id,
    }


if __name__ == "__main__":
    print(json.dumps(_serve(json.load(sys.stdin))))
