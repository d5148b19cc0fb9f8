"""What the commands share: options, configs and models as people name them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attnlib.errors import CheckpointError, SpecError, UsageError, nearest

if TYPE_CHECKING:
    import torch

    from attnlib.models.spec import ModelSpec
    from attnlib.runtime import RuntimeSpec
    from attnlib.spec import Marks
    from attnlib.tasks import Ready
    from attnlib.text.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")


def runtime_arguments(parser: argparse.ArgumentParser, *, dtypes: Sequence[str] = DTYPES, unless: str = "float32") -> None:
    """--device and --dtype; None = not given."""
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="auto (the default): cuda where there is one")
    parser.add_argument("--dtype", choices=dtypes, help=f"of weights and activations (default: {unless})")


def model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder, ours or of a known family, or a run's folder")


def config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file, a bundled config's name, or a model's folder")
    overrides_argument(parser)


def overrides_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="values that replace the config's")


def count(text: str) -> int:
    """A whole number of at least 1 that a tensor's size can be, for argparse."""
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from 1 to 10^18")
    return int(text)


class Loaded(NamedTuple):
    """A model in evaluation mode, and where it came from."""

    model: Any
    folder: Path
    device: torch.device

    def tokenizer(self) -> Tokenizer:
        from attnlib.text import tokenizer_of

        return tokenizer_of(self.folder)

    def ready(self) -> Ready:
        """The model with its tokenizer, as tasks take it."""
        from attnlib.tasks import Ready

        return Ready(self.model, self.tokenizer(), self.folder)


def find_device(name: str | None) -> torch.device:
    from attnlib.runtime import RuntimeSpec

    return RuntimeSpec(device=name or "auto").find_device()  # type: ignore[arg-type]


def open_model(args: argparse.Namespace) -> Loaded:
    """The model that `args.model` names, on the device and in the dtype asked for; where a manifest lies, bytes compared."""
    import torch

    from attnlib.pretrained import load

    folder, device = model_folder(args.model), find_device(args.device)
    dtype, whole = getattr(torch, args.dtype or "float32"), (folder / "manifest.json").exists()
    return Loaded(load(folder, device=device, dtype=dtype, verify=whole), folder, device)


def model_folder(name: str) -> Path:
    """The checkpoint folder of a model or of a run."""
    from attnlib.train import checkpoint_of

    if not name or not Path(name).is_dir():
        raise CheckpointError(name or "MODEL", "is no folder", "wish a model's folder, or the folder of a run")
    return checkpoint_of(name)


def read_config(name: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Marks, Path | None]:
    """The tree of a config, its marks, and the folder that its relative paths start from.

    A folder stands for its config.yaml, or, if it is of another family, for the model that its config.json describes.
    """
    from attnlib.config import config_names, config_path, load_tree, parse_tree, to_yaml
    from attnlib.pretrained import read_spec
    from attnlib.spec import write

    path = Path(name)
    if name and path.is_dir() and name.rstrip("/") not in config_names():
        folder = model_folder(name)
        if (folder / "config.yaml").exists():
            return *load_tree(folder / "config.yaml", overrides), None
        return *parse_tree(to_yaml({"model": write(read_spec(folder))}), str(folder), overrides), None
    tree, marks = load_tree(name, overrides)
    files = [path, *(path.with_name(path.name + suffix) for suffix in (".yaml", ".yml"))] if name else []
    base = next((file.parent for file in files if file.is_file()), None)
    return tree, marks, base or config_path(name).parent


def read_model(name: str, overrides: Sequence[str] = (), *, layers: int | None = None) -> ModelSpec:
    """The model section of a config; `layers`: at most so many in each stack."""
    from attnlib.models.spec import ModelSpec
    from attnlib.spec import read

    tree, marks, _ = read_config(name, overrides)
    if "model" not in tree:
        near = [key for key in tree if nearest(str(key), ["model"])]
        raise SpecError(name, "no section model", "wish model: {kind: ...}", f"is {near[0]!r} it?" if near else "")
    _known_sections(tree, marks)
    spec: ModelSpec = read(ModelSpec, tree["model"], path="model", marks=marks)
    return spec if layers is None else shortened(spec, layers)


def _known_sections(tree: dict[str, Any], marks: Marks) -> None:
    """Refuse a section that no config has, which may be a misspelt one."""
    from attnlib.spec.base import keys_of
    from attnlib.spec.places import PlacedError
    from attnlib.train import Config

    known = keys_of(Config)
    for key in (key for key in tree if key not in known):
        raise PlacedError((str(key),), "unknown section", f"wish one of {', '.join(known)}", nearest(str(key), known),
                          mark=marks.at((key,), key=True))  # fmt: skip


def read_runtime(name: str, overrides: Sequence[str] = ()) -> RuntimeSpec:
    """The runtime section of a config, its threads set."""
    from attnlib.runtime import RuntimeSpec
    from attnlib.spec import read

    tree, marks, _ = read_config(name, overrides)
    runtime = read(RuntimeSpec, tree.get("runtime") or {}, path="runtime", marks=marks)
    runtime.set_threads()
    return runtime


def shortened(spec: ModelSpec, layers: int) -> ModelSpec:
    """The spec with at most `layers` layers in each of its stacks."""
    from attnlib.models.stack import StackSpec

    stacks = {name: stack for name in type(spec).model_fields if isinstance(stack := getattr(spec, name), StackSpec)}
    return spec.replace(**{n: s.replace(num_layers=min(s.num_layers, layers)) for n, s in stacks.items()})


def read_lines(name: str) -> list[str]:
    """The lines of a file, or of stdin where it is `-`; a line end at the end begins no other line."""
    from attnlib.text import read_text

    text = read_input("-") if name == "-" else read_text(Path(name))
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def text_arguments(parser: argparse.ArgumentParser) -> None:
    """TEXT... and --file, for a command that takes many texts."""
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the texts; - = stdin")
    parser.add_argument("--file", metavar="FILE", help="a file with a text a line")


def given_texts(args: argparse.Namespace, command: str) -> list[str]:
    """The texts of the command line and of its file, one at least."""
    texts = [read_input(text) for text in args.texts] + (read_lines(args.file) if args.file is not None else [])
    if not texts:
        raise UsageError(command, "neither TEXT nor --file is given", "wish a text")
    return texts


def read_input(text: str) -> str:
    """The text given, or what is on stdin where it is `-`."""
    import sys

    if text != "-":
        return text
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError("stdin", f"is no {error.encoding}: {error.reason}", "wish text") from None
