"""The house: imports run only downward, the library is silent, no family is named outside its table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "attnlib"
FLOORS = [  # a part may import from its own line's parts no other, and from the lines below
    {"__main__"},
    {"cli"},
    {"train"},
    {"building", "inspect", "tasks", "__init__"},
    {"generate", "pretrained", "runtime"},
    {"models"},
    {"attention"},
    {"nn"},
    {"layout", "text", "audio"},
    {"config"},
    {"spec"},
    {"errors"},
]


@cache
def modules() -> dict[str, ast.Module]:
    return {str(p.relative_to(PACKAGE)): ast.parse(p.read_text(encoding="utf-8")) for p in PACKAGE.rglob("*.py")}


def part_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def floor_of(part: str) -> int:
    return next(i for i, parts in enumerate(FLOORS) if part in parts)


def test_imports_run_only_downward() -> None:
    wrong = []
    for path, tree in modules().items():
        here = part_of(path)
        if here == "__init__":
            continue
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnlib."):
                there = (node.module or "").split(".")[1]
                if there != here and floor_of(there) <= floor_of(here):
                    wrong.append(f"{path} imports {node.module}")
    assert not wrong


def test_files_import_one_another_in_no_circle() -> None:
    """Imports for types alone included; one inside a function runs when all files are there."""
    graph: dict[str, set[str]] = {}
    for path, tree in modules().items():
        graph[path] = set()
        for node in [one for top in tree.body for one in (top.body if isinstance(top, ast.If) else [top])]:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnlib."):
                there = (node.module or "").removeprefix("attnlib.").replace(".", "/")
                within = {f"{there}/{name.name}.py" for name in node.names} & modules().keys()
                graph[path] |= within or {f"{there}.py", f"{there}/__init__.py"} & modules().keys()
    list(TopologicalSorter(graph).static_order())  # CycleError names the files of a circle


def test_nothing_under_models_knows_training_yaml_or_checkpoints() -> None:
    known = {"train", "config", "pretrained", "cli", "generate", "inspect"}
    for path, tree in modules().items():
        if part_of(path) in ("models", "attention", "nn"):
            imports = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
            assert not {name.split(".")[1] for name in imports if name.startswith("attnlib.")} & known, path


def test_no_family_is_named_outside_its_table() -> None:
    """Docstrings may: a paper's name says what a part is."""
    from attnlib.pretrained.family import families

    ours = [family for family in families() if type(family).__module__.startswith("attnlib.")]  # not those of other tests
    names = "|".join(re.escape(name) for family in ours for name in (family.name, *family.model_types))
    named = re.compile(rf"(?<![\w-])({names})(?![\w-])", re.IGNORECASE)
    for path, tree in modules().items():
        if part_of(path) == "pretrained":
            continue
        bodies = [n.body for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        said = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in said]
        assert not [text for text in texts if isinstance(text, str) and named.search(text)], f"{path} names a family"


def test_importing_prints_nothing_and_leaves_optional_packages_alone() -> None:
    code = (
        "import sys, attnlib; "
        "late = {'tokenizers', 'matplotlib', 'rich', 'ruamel', 'transformers', 'tensorboard'} & set(sys.modules); "
        "assert not late, late"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_files_of_tests_have_names_of_their_own() -> None:
    """Tests are no package: two files of one name cannot be collected together."""
    counts = Counter(path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in counts.items() if count > 1] == []
