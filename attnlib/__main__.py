"""python -m attnlib"""

import sys

from attnlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
