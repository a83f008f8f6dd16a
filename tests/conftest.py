"""Options and fixtures that every test shares.

``--update-golden`` rewrites the golden files instead of comparing with them. It is refused where the environment
variable ``CI`` is set: a golden file is changed by a person who reads the difference, never by the machine it guards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", default=False, help="rewrite golden files (refused when CI is set)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused in CI: run it on your machine and read the difference")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Machine code that tests compile is kept in a folder of the session, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHC_CACHE_DIR", str(tmp_path_factory.mktemp("object_cache")))
        yield


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def golden(update_golden: bool) -> Callable[[str, Path], None]:
    """``golden(text, path)`` compares a text with the golden file at ``path``, or rewrites it if asked to.

    A missing file fails the test unless ``--update-golden`` is given: a new golden must be made on purpose.
    """

    def check(text: str, path: Path) -> None:
        if update_golden:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"no golden file {path}; make it with --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check
