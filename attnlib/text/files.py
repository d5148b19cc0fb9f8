"""Where a text lies, and reading it."""

from __future__ import annotations

from pathlib import Path

from attnlib.config.bundled import config_folder
from attnlib.errors import DataError, nearest


def bundled_data() -> Path:
    """The folder of texts carried with attnlib, in a wheel and in a checkout."""
    return config_folder() / "data"


def find_data(path: str | Path, relative_to: str | Path | None = None) -> Path:
    """The file named: first beside `relative_to` (a folder, or the config that names it), then in the working
    directory, then among the texts carried with attnlib. Raises DataError when it is nowhere."""
    wanted = Path(path).expanduser()
    places = [Path.cwd(), bundled_data()]
    if relative_to is not None:
        beside = Path(relative_to).expanduser()
        places.insert(0, beside.parent if beside.is_file() else beside)
    for place in places:  # an absolute path replaces the place it is joined to
        if (place / wanted).is_file():
            return place / wanted
    if any((place / wanted).is_dir() for place in places):
        raise DataError(str(path), "is a folder", "must be a file")
    near = [entry.name for place in places if place.is_dir() for entry in place.iterdir() if entry.is_file()]
    wish = f"must be a file beside the config, in the working directory, or one of attnlib's own ({_carried()})"
    raise DataError(str(path), "does not exist", wish, nearest(wanted.name, near))


def _carried() -> str:
    folder = bundled_data()
    return ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix)) if folder.is_dir() else "none"


def read_text(path: Path) -> str:
    """The file's text as it stands, line ends included, without a byte order mark. Raises DataError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "must be a readable file") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}", f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8",
                        "must be UTF-8 text", "convert it: iconv -f latin1 -t utf-8") from error  # fmt: skip
    if not text.strip():
        raise DataError(str(path), "is empty", "must hold text")
    return text
