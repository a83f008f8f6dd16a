"""The documents' Python blocks run, in order, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/convolution.md", "docs/fusion.md", "docs/page.md", "docs/running.md", "docs/sequences.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import graphc.nn
    import graphc.ops
    import graphc.random  # noqa: F401  every op is registered before the document adds its own
    from graphc.ir import REGISTRY

    monkeypatch.chdir(tmp_path)
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    namespace: dict[str, Any] = {"__name__": "document"}
    before = set(REGISTRY)
    try:
        for number, block in enumerate(blocks):
            code = compile(block, f"{document} block {number}", "exec")
            exec(code, namespace)
    finally:
        for name in set(REGISTRY) - before:
            del REGISTRY[name]
    if document == "README.md":
        assert {p.name for p in tmp_path.iterdir()} >= {"forward.svg", "backprop.png", "digits.safetensors", "history.svg"}


def test_links_and_pictures_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), f"{document} points to {target}"
