"""Train the three toys (GPT-, BERT- and T5-style), show what they say, and write their attention maps.

    python scripts/toys.py [FOLDER] [key=value ...]

Takes under six minutes on two cores. FOLDER (default runs/toys) gets a run folder and a page of maps for each toy;
overrides such as train.seconds=10 go to each config.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on a busy machine spinning threads starve each other

from attnlib.cli import main

TOYS = {
    "gpt": "The whale rose slowly out of the sea,",
    "bert": "Call me Ishmael. Some years ago I went to sea.",
    "t5": "the sailor loves the sea",
}


def run(folder: Path, overrides: list[str]) -> int:
    """Train and look at each toy; the first exit code that is not zero ends it."""
    for name, text in TOYS.items():
        print(f"\n== tiny/{name} ==", flush=True)
        here = folder / name
        code = main(["train", f"tiny/{name}", *overrides, "--folder", str(here)])
        if code == 0:
            maps = ["--html", str(here / "attention.html"), "--png", str(here / "attention.png")]
            code = main(["attend", str(here), text, *maps])
        if code:
            return code
    print(f"\nattention maps: {folder}/*/attention.html and .png; loss curves: {folder}/*/loss.png")
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    target = given.pop(0) if given and "=" not in given[0] else "runs/toys"
    sys.exit(run(Path(target), given))
