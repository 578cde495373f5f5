"""Stages, fingerprints, reuse: one recipe from raw data to a released model, each step done once.

    data -> screening (if the recipe has it) -> base (only for `tiny`)
         -> sft -> dpo -> reward -> grpo -> evaluate -> release

A stage's fingerprint is made of everything that changes its result: contents of data, template and tokenizer
files, the recipe's keys, the version of each room, the fingerprint of the stage before. Same fingerprint and
finished: reused. Same and unfinished: resumed. Different: the old folder is renamed `sft@<hash8>`, never
deleted, and taken up again if the recipe returns to it. This room imports no torch until a stage has work to
do, so that a run with nothing to do is over at once.
"""

from tuning.pipeline.checks import check, warnings
from tuning.pipeline.preview import preview
from tuning.pipeline.run import StageError, run, stages_of

__all__ = ["StageError", "check", "preview", "run", "stages_of", "warnings"]
