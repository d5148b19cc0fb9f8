"""attnlib embed: one vector for each line of a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlib.cli.common import Loaded, count, model_argument, open_model, read_lines, runtime_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from attnlib.tasks import Embeddings, SentenceSpec

HELP = "a vector for each line of a file, as .npy or .safetensors, in the order of the lines"
ENDINGS = (".npy", ".safetensors")
CHECKED = 32  # lines that a half-precision run is compared on with float32
NAMED = 5  # lines that a note names


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("file", metavar="FILE", help="a text a line; - = stdin")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write: .npy or .safetensors")
    parser.add_argument("--pooling", choices=("mean", "first", "last"), help="default: as its files say, or mean")
    parser.add_argument("--normalise", action=argparse.BooleanOptionalAction, default=None,
                        help="vectors of length 1 or as they are (default: as its files say, or length 1)")  # fmt: skip
    parser.add_argument("--max-tokens", type=count, metavar="N", help="cut longer lines (default: as the model's files say)")
    parser.add_argument("--prompt", metavar="TEXT", help="goes before each line (default: as the model's files say)")
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.cli.progress import counter
    from attnlib.errors import UsageError
    from attnlib.tasks import embed

    out = Path(args.out)
    if out.suffix not in ENDINGS:
        raise UsageError("--out", f"ends in {out.suffix or 'nothing'}", f"must end in {' or '.join(ENDINGS)}")
    if not out.parent.is_dir() or out.is_dir():
        raise UsageError("--out", f"{args.out} cannot be written", "wish a file in a folder that is there")
    lines = read_lines(args.file)
    loaded = open_model(args)
    ready, spec = loaded.ready(), _spec(args, loaded)
    with counter(sys.stderr, "lines") as told:
        found = embed(ready, lines, spec=spec, report=told)
    _write(out, found.vectors)
    print(f"{args.out}: {found.vectors.shape[0]:,} vectors of {found.vectors.shape[1]}")
    for numbers, what in ((found.cut, "cut to the model's length"), (found.empty, "without a token, zeros in the file")):
        if numbers:
            named = ", ".join(str(number + 1) for number in numbers[:NAMED]) + (", ..." if len(numbers) > NAMED else "")
            print(f"note: {len(numbers):,} lines {what}: {named}", file=sys.stderr)
    if args.dtype not in (None, "float32"):
        print(_deviation(args, lines, spec, found), file=sys.stderr)
    return 0


def _spec(args: argparse.Namespace, loaded: Loaded) -> SentenceSpec:
    """How vectors are made: what the folder says, and the options over it."""
    from attnlib.tasks.embedding import recipe_of

    spec = recipe_of(loaded.ready())
    head = {"pooling": args.pooling, "normalise": args.normalise}
    spec = replace(spec, head=spec.head.replace(**{name: value for name, value in head.items() if value is not None}))
    given = {"max_length": args.max_tokens, "prompt": args.prompt}
    return replace(spec, **{name: value for name, value in given.items() if value is not None})


def _deviation(args: argparse.Namespace, lines: Sequence[str], spec: SentenceSpec, found: Embeddings) -> str:
    """How far the vectors of some lines, spread over the file, are from those of float32."""
    from attnlib.tasks import embed

    chosen = list(range(0, len(lines), max(len(lines) // CHECKED, 1)))[:CHECKED]
    exact = embed(open_model(argparse.Namespace(**{**vars(args), "dtype": "float32"})).ready(),
                  [lines[i] for i in chosen], spec=spec)  # fmt: skip
    off = float((found.vectors[chosen] - exact.vectors).abs().max())
    return f"{args.dtype}: at most {off:.1e} from float32 in any number, on {len(chosen)} of the lines"


def _write(path: Path, vectors: Tensor) -> None:
    """The file whole or not at all."""
    from attnlib.pretrained.files import write_file

    write_file(path, _npy(vectors) if path.suffix == ".npy" else _safetensors(vectors))


def _npy(vectors: Tensor) -> Callable[[Path], None]:
    import numpy as np

    def write(path: Path) -> None:
        with path.open("wb") as file:  # np.save would add an ending to the name
            np.save(file, vectors.numpy(), allow_pickle=False)

    return write


def _safetensors(vectors: Tensor) -> Callable[[Path], None]:
    from attnlib.pretrained.source import InMemory
    from attnlib.pretrained.tensors import write_tensors

    def write(path: Path) -> None:
        tensors = {"embeddings": vectors}
        write_tensors(path, InMemory(tensors).facts, tensors.items())

    return write
