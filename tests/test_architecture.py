"""The rooms and who may know whom (DESIGN section 2), rules that hold everywhere, how light the door is."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuning.config import Recipe

ROOT = Path(__file__).parents[1]
PACKAGES = ("tuning", "data_builders", "recipes")

LIBRARY = {
    "tuning.config",
    "tuning.schema",
    "tuning.records",
    "tuning.chat",
    "tuning.forest",
    "tuning.model",
    "tuning.train",
}
BESIDE = {"torch", "transformers", "numpy", "safetensors"}

MAY_IMPORT: dict[str, set[str]] = {
    "tuning": {"tuning.config", "tuning.pipeline"},
    "tuning.__main__": {"tuning.cli"},
    "tuning.records": set(),
    "tuning.progress": {"rich"},
    "tuning.schema": set(),
    "tuning.config": {"omegaconf", "yaml"},
    "tuning.chat": {"tuning.schema", "transformers", "tokenizers", "jinja2", "numpy", "rich"},
    "tuning.forest": {"numpy"},
    "tuning.forest.mask": {"tuning.forest", "numpy", "torch"},
    "tuning.forest.batch": {"tuning.forest", "numpy", "torch"},
    "tuning.model": {"tuning.forest", "torch", "transformers", "peft", "tokenizers"},
    "tuning.train": {
        *("tuning.forest", "tuning.model", "tuning.progress", "tuning.records"),
        *("accelerate", "transformers", "torch", "safetensors", "numpy", "rich"),
    },
    "tuning.encoded": {
        *("tuning.chat", "tuning.progress", "tuning.records", "tuning.schema"),
        *("transformers", "numpy"),
    },
    "tuning.shares": {"tuning.train"},
    "tuning.shortened": {"tuning.chat", "tuning.encoded", "tuning.schema", "transformers"},
    "tuning.mixture": {
        "tuning.shares",
        "tuning.shortened",
        "tuning.chat",
        "tuning.encoded",
        "tuning.forest",
        "tuning.records",
        "tuning.schema",
        "tuning.train",
        *BESIDE,
    },
    "tuning.evaluate": {*LIBRARY, *BESIDE},
    "tuning.stage": {*LIBRARY, "tuning.mixture", "tuning.shares", "torch", "transformers", "peft"},
    "tuning.rewards": {"data_builders"},
    "tuning.prompts": {
        *("tuning.chat", "tuning.forest", "tuning.mixture", "tuning.records", "tuning.schema"),
        *("tuning.shares", "tuning.train", "transformers", "numpy"),
    },
    "tuning.reward_functions": {
        *("tuning.chat", "tuning.config", "tuning.evaluate", "tuning.model", "tuning.prompts"),
        *("tuning.rewards", "tuning.schema", "torch", "transformers"),
    },
    "tuning.borrowed_stage": {
        *("tuning.config", "tuning.model", "tuning.stage", "tuning.train"),
        *("torch", "transformers", "peft"),
    },
    "tuning.talk": {"tuning.chat", "tuning.model", "torch", "transformers"},
    "tuning.pairs": {
        *("data_builders", "tuning.chat", "tuning.model", "tuning.records", "tuning.rewards"),
        *("tuning.schema", "torch", "transformers"),
    },
    "tuning.release": {"transformers"},
    "tuning.card": {"tuning.evaluate"},
    "tuning.data_report": {
        *("data_builders", "tuning.chat", "tuning.config", "tuning.encoded", "tuning.evaluate"),
        *("tuning.forest", "tuning.pipeline", "tuning.records", "tuning.schema", "tuning.shares"),
        *("tuning.stage", "tuning.train"),
        *("jinja2", "markupsafe", "numpy", "rich", "transformers", "yaml"),
    },
    "tuning.pipeline": {
        *("recipes", "data_builders", "tuning.config", "tuning.records", "tuning.stage", "tuning.evaluate"),
        *("tuning.chat", "accelerate", "yaml"),
    },
    "tuning.pipeline.trainer_values": {"tuning.config", "transformers", "trl"},
    "tuning.cli": {
        "tuning",
        "tuning.config",
        "tuning.pairs_command",
        "tuning.pipeline",
        "tuning.report_command",
        "tuning.talk",
        "tuning.translate_command",
        "data_builders",
    },
    "tuning.pairs_command": {"data_builders", "tuning.pairs"},
    "tuning.translate_command": {"data_builders"},
    "tuning.report_command": {
        *("tuning.chat", "tuning.config", "tuning.data_report", "tuning.model", "tuning.records"),
    },
    "data_builders": {"tuning.schema", "tuning.records", "pyarrow"},
    "data_builders.dedup": {"data_builders", "tuning.schema", "numpy", "datasketch"},
    "data_builders.translation.local_models": {"data_builders", "tuning.records", "torch", "transformers"},
    "recipes": {
        *LIBRARY,
        *BESIDE,
        *(f"tuning.{name}" for name in ("mixture", "shares", "stage", "evaluate", "release", "card")),
        *(f"tuning.{name}" for name in ("borrowed_stage", "prompts", "reward_functions")),
        *("datasets", "trl"),
    },
}
"""A room -> what it may import besides the standard library and itself. The longest name that fits counts."""

LAZY = {
    "tuning.cli": {
        *("tuning", "tuning.pairs_command", "tuning.report_command", "tuning.translate_command"),
    },
    "tuning.pairs_command": set[str](),
    "tuning.report_command": set[str](),
    "tuning.translate_command": set[str](),
    "tuning.pipeline": {"data_builders", "tuning.config", "tuning.records"},
    "tuning.pipeline.trainer_values": {"tuning.config"},
    "data_builders.translation.local_models": {"data_builders", "tuning.records"},
}
"""What these import when they are imported; the rest only inside a function."""

BY_NAME = {
    "tuning.pipeline": {"recipes."},
    "tuning.config": {"data_builders"},
    "data_builders": {"data_builders.", "pyarrow"},
}
"""What a room may import through `importlib`: a name, or the beginning of one."""


def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the project with its syntax tree."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


MODULES = modules()
NAMES = {name for name, _ in MODULES}


def imports(module: str, tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """The modules that a tree imports, and whether it does so as soon as it is imported itself."""
    is_package = (ROOT / Path(*module.split("."))).is_dir()
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    inside |= {id(node) for test in ast.walk(tree) if _is_type_checking(test) for node in ast.walk(test)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            folder = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*folder, *filter(None, [node.module])])
            for alias in node.names:
                yield (
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in NAMES else base,
                    id(node) not in inside,
                )


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_within(name: str, room: str) -> bool:
    return name == room or (room != "tuning" and name.startswith(f"{room}."))


def room_of(module: str) -> str:
    """The longest room of the table that holds a module."""
    return max((room for room in MAY_IMPORT if is_within(module, room)), key=len, default="")


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_module_imports_only_what_its_room_may(module: str) -> None:
    tree, room = dict(MODULES)[module], room_of(module)
    assert room, f"{module} stands in no room of the table"
    allowed = MAY_IMPORT[room]
    for name, _ in imports(module, tree):
        is_own = is_within(name, room) and room != "recipes"
        is_known = name.split(".")[0] in sys.stdlib_module_names or any(
            is_within(name, other) for other in allowed
        )
        assert is_own or is_known, f"{module} imports {name}"


def test_the_command_line_and_the_pipeline_import_what_is_heavy_only_when_it_is_used() -> None:
    for module, tree in MODULES:
        room = room_of(module)
        if room not in LAZY:
            continue
        for name, is_at_once in imports(module, tree):
            is_light = name.split(".")[0] in sys.stdlib_module_names or any(
                is_within(name, other) for other in {room, *LAZY[room]}
            )
            assert is_light or not is_at_once, f"{module} imports {name} at once"


def test_only_three_rooms_import_by_name_and_each_only_what_the_table_says() -> None:
    for module, tree in MODULES:
        allowed = BY_NAME.get(room_of(module), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "importlib.import_module",
                "__import__",
            ):
                first = node.args[0]
                wanted = first.values[0] if isinstance(first, ast.JoinedStr) else first
                text = wanted.value if isinstance(wanted, ast.Constant) else ast.unparse(wanted)
                assert any(str(text).startswith(name) for name in allowed), f"{module}: {ast.unparse(node)}"


def test_the_table_names_no_room_that_is_gone() -> None:
    assert set(MAY_IMPORT) <= NAMES


def test_nothing_is_unpickled_and_no_remote_code_is_trusted_by_a_literal() -> None:
    for module, tree in MODULES:
        for name, _ in imports(module, tree):
            assert name.split(".")[0] not in (
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "joblib",
                "shelve",
                "marshal",
            ), module
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save"), module
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "np.save"):
                assert "allow_pickle=False" in ast.unparse(node), module
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                assert not (isinstance(node.value, ast.Constant) and node.value.value), module


def test_no_module_is_called_after_nothing() -> None:
    for name in NAMES:
        assert not {"utils", "util", "common", "helpers", "misc"} & set(name.split(".")), name


def sections(hint: Any) -> Iterator[type]:
    """The dataclasses in a type, and those in their fields."""
    if dataclasses.is_dataclass(hint):
        yield hint
        for inner in typing.get_type_hints(hint).values():
            yield from sections(inner)
    for inner in typing.get_args(hint):
        yield from sections(inner)


def test_every_setting_of_the_recipe_is_read_outside_the_room_that_defines_it() -> None:
    read = {
        node.attr
        for module, tree in MODULES
        if not is_within(module, "tuning.config")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    # `extends` and `data_root` are done with once the recipe is loaded.
    unread = {
        f"{section.__name__}.{field.name}"
        for section in sections(Recipe)
        for field in dataclasses.fields(section)
        if field.name not in read | {"extends", "data_root"}
    }
    assert not unread


def test_importing_tuning_and_loading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys, tuning; light = 'torch' not in sys.modules\n"
        "from tuning import load_recipe, run; from tuning.pipeline import check\n"
        "assert not check(load_recipe('quickstart'))\n"
        "heavy = {'torch', 'transformers', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "assert light and not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_help_answers_in_under_a_second() -> None:
    seconds = []
    for _ in range(4):  # the quickest counts: others work on this machine too
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tuning", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        seconds.append(time.perf_counter() - started)
        assert "tuning run quickstart" in done.stdout
        if min(seconds) < 1:
            return
    raise AssertionError(f"tuning --help took {min(seconds):.2f} s")
