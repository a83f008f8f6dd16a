"""``python -m bench``: the same command as ``graphc bench``, from a checkout."""

from __future__ import annotations

import sys

from graphc.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
