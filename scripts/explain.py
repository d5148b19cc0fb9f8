"""attnlib explain, from a checkout: python scripts/explain.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attnlib.cli import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
