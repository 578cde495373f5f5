"""Preference pairs out of a model's own answers: sample, score, choose, write.

    prompts        data/dolly: everything up to a row's last user turn, in the encoding that training uses
    answers        k of them, by a model in a folder or behind an OpenAI-compatible server
    scores         rules, a reward model, a judge: one number each, and their weighted sum
    pairs          best against worst of a prompt; every prompt without a pair is counted with its reason

    from tuning.pairs import LocalModel, build_pairs
    build_pairs("data/dolly", "data/pairs", LocalModel("runs/mine/sft/model"), score=["rules:length,stops"])

Every answer and every judgment is kept by content as soon as it is there: a killed command goes on where it
was. The output is a built dataset, which a recipe reads with the `files` builder.
"""

from .build import build_pairs
from .local_model import LocalModel
from .sampling import Sampling
from .scorers import scorers_of
from .served_model import ServedModel

__all__ = ["LocalModel", "Sampling", "ServedModel", "build_pairs", "scorers_of"]
