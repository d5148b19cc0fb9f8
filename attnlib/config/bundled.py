"""The configs that come with attnlib, found by name from a wheel and from a checkout."""

from __future__ import annotations

from pathlib import Path

from attnlib.errors import SpecError, nearest

SUFFIXES = (".yaml", ".yml")


def config_folder() -> Path:
    """Where the bundled configs lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside, checkout = package / "configs", package.parent / "configs"
    # beside an installed package lies site-packages, whose `configs` would be somebody else's
    return checkout if not inside.is_dir() and (package.parent / "pyproject.toml").is_file() else inside


def config_names() -> list[str]:
    """The names that `config_path` knows, such as `tiny/gpt`."""
    folder = config_folder()
    found = (p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in found)


def config_path(name: str) -> Path:
    """The file of a bundled config. SpecError with the nearest name when there is none."""
    plain = name.removesuffix(".yml").removesuffix(".yaml")
    known = config_names()
    if plain in known:
        return next(p for suffix in SUFFIXES if (p := config_folder() / (plain + suffix)).is_file())
    raise SpecError(ascii(name)[1:-1], "no such config", "wish a file or a bundled name", nearest(plain, known))
