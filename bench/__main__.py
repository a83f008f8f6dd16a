"""``python -m bench``: the same command as ``graphc bench``, from a checkout."""

from __future__ import annotations

import typer

from bench.options import bench, err
from graphc.errors import GraphcError


def main() -> None:
    """Run the command; a user's mistake ends with its own text."""
    try:
        typer.run(bench)
    except GraphcError as error:
        err.print(f"error: {error}", markup=False, highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
