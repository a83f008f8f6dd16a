"""Every command: its main path, and what it says to wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graphc.cli import main

IR = """graph g(%x: f32[4]) {
  %0: f32[4] = neg(%x)
  %1: f32[4] = neg(%0)
  %2: f32[4] = exp(%1)
  return y = %2
}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of one command."""
    code: int | str | None = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return int(code or 0), captured.out, captured.err


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    file = tmp_path / "g.ir"
    file.write_text(IR)
    return file


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("demo", "draw", "bench", "opt", "build", "doctor"):
        assert command in out
        assert run(capsys, command, "--help")[0] == 0


def test_demo_trains_reports_and_ends_with_the_accuracy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "demo", "--out", str(tmp_path / "report"), "--epochs", "2")
    assert code == 0
    last = out.strip().splitlines()[-1]
    found = re.fullmatch(r"validation accuracy (\d+\.\d)%", last)
    assert found, last
    assert float(found[1]) > 75
    for word in ("interpreter", "JIT", "numpy by hand", "speed-up", "agreement", "report"):
        assert word in out
    report = tmp_path / "report"
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r'(src|href)="https?:', page)
    for source in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (report / source).exists(), source
    assert "from demo.py:" in page
    assert not re.search(r"from (?!demo\.py)\w+\.py:", page), "a kernel leads back to a line that is not the model's"
    for stage in ("declared", "expand", "simplify", "fuse", "lower", "schedule"):
        assert list((report / "passes").glob(f"*{stage}*.txt")), stage
    assert list((report / "kernels").glob("*.ll"))
    assert "graphc_step" in (report / "kernels" / "program.cu").read_text(encoding="utf-8")


def test_demo_refuses_a_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    code, _, err = run(capsys, "demo", "--out", str(tmp_path / "taken"), "--epochs", "1")
    assert code == 1
    assert "cannot write the report" in err
    assert "Traceback" not in err


def test_opt_simplifies_and_explains(capsys: pytest.CaptureFixture[str], ir: Path) -> None:
    code, out, err = run(capsys, "opt", str(ir), "--passes", "simplify", "--explain")
    assert code == 0
    assert "neg" not in out
    assert "exp(%x)" in out
    assert "neg_neg x1" in err


@pytest.mark.parametrize(
    ("emit", "word"),
    [("fusion", "group 0"), ("loops", "kernel k0"), ("llvm", "define"), ("asm", "graphc_entry"), ("cuda", "__global__"), ("trace", "simplify")],
)  # fmt: skip
def test_opt_emits_every_stage(capsys: pytest.CaptureFixture[str], ir: Path, emit: str, word: str) -> None:
    code, out, _ = run(capsys, "opt", str(ir), "--emit", emit)
    assert code == 0
    assert word in out


def test_opt_lists_passes_with_their_rules(capsys: pytest.CaptureFixture[str], ir: Path) -> None:
    _, out, _ = run(capsys, "opt", str(ir), "--list")
    assert "neg(neg(x)) -> x [exact]" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("opt", "missing.ir"), "missing.ir"),
        (("opt", "{ir}", "--passes", "simplfy"), "no pass is named 'simplfy'"),
        (("opt", "{ir}", "--emit", "ptx"), "cannot emit 'ptx'"),
        (("opt", "{bad}"), "bad.ir"),
        (("opt", "{tmp}"), "Is a directory"),
        (("opt", "{binary}"), "is no IR text"),
        (("draw", "{binary}", "{tmp}/x.svg"), "is no IR text"),
        (("draw", "{raises}:x", "{tmp}/x.svg"), "raises.py cannot be run (line 2): ZeroDivisionError"),
        (("draw", "{syntax}:x", "{tmp}/x.svg"), "syntax.py cannot be run (line 1): SyntaxError"),
        (("build", "mlp", "--size", "batch=2", "--out", "{tmp}"), "Is a directory"),
        (("draw", "nothing", "{tmp}/x.svg"), "no model is named 'nothing'"),
        (("draw", "mlp", "{tmp}/x.gif"), ".gif"),
        (("draw", "{py}:lost", "{tmp}/x.svg"), "has no 'lost'"),
        (("draw", "mlp", "{tmp}/x.html", "--profile"), "there is nothing to time"),
        (("draw", "scalar", "{tmp}/x.svg", "--profile"), "a profile is a part of the page"),
        (("build", "mlp"), "the size of batch is open"),
        (("build", "mlp", "--size", "batch=many"), "no size"),
        (("build", "mlp", "--size", "batch=2", "--size", "rows=4"), "has no open size rows"),
        (("build", "mlp", "--size", "batch=2", "--out", "{tmp}/no/x.cu"), "there is no folder"),
        (("build", "mlp", "--target", "wasm"), "unknown target 'wasm'"),
        (("bench", "--executors", "fortran"), "unknown executor 'fortran'"),
        (("bench", "--models", "abc"), "unknown workload 'abc'"),
    ],
)
def test_mistakes_end_in_one_clear_error(
    capsys: pytest.CaptureFixture[str], ir: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "bad.ir").write_text(IR.replace("exp(", "exq("))
    (tmp_path / "m.py").write_text("import graphc\nx = graphc.input('x', (2,))\n")
    (tmp_path / "binary.ir").write_bytes(b"\xff\xfe")
    (tmp_path / "raises.py").write_text("x = 1\nx / 0\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    files = {"binary": "binary.ir", "raises": "raises.py", "syntax": "syntax.py"}
    places = {name: tmp_path / file for name, file in files.items()} | {
        "ir": ir,
        "tmp": tmp_path,
        "bad": tmp_path / "bad.ir",
        "py": tmp_path / "m.py",
    }
    code, _, err = run(capsys, *(a.format(**places) for a in arguments))
    assert code == 1
    flat = "".join(err.split())  # a narrow terminal breaks lines anywhere
    assert flat.startswith("error:")
    assert words.replace(" ", "") in flat or "exq" in flat
    assert "Traceback" not in err


def test_draw_a_file_s_value(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import graphc\nx = graphc.input('x', (2,))\nloss = graphc.sum(graphc.tanh(x))\n")
    code, out, _ = run(capsys, "draw", str(tmp_path / "m.py"), str(tmp_path / "m.svg"), "--backward")
    assert code == 0
    assert "wrote" in out
    assert "tanh" in (tmp_path / "m.svg").read_text(encoding="utf-8")


def test_draw_where_the_gradient_vanishes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, _ = run(capsys, "draw", "scalar", str(tmp_path / "p.svg"), "--backward", "--flow", "--values", "a=2,b=-3,c=10")
    assert code == 0 and "vanishes" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    code, _, _ = run(capsys, "draw", "scalar", str(tmp_path / "p.html"), "--backward", "--flow", "--values", "a=2,b=-3,c=10")
    assert code == 0 and "vanishes" in (tmp_path / "p.html").read_text(encoding="utf-8")
    code, _, err = run(capsys, "draw", "scalar", str(tmp_path / "p.html"), "--flow", "--values", "a=2,b=-3,c=10")
    assert code == 1 and "flow of gradients" in err
    code, _, err = run(capsys, "draw", "scalar", str(tmp_path / "q.svg"), "--backward", "--flow")
    assert code == 1 and "values=" in err


def test_draw_a_page_with_a_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "p.html"
    code, out, _ = run(capsys, "draw", "scalar", str(file), "--backward", "--profile", "--values", "a=2,b=-3,c=10")
    assert code == 0 and "wrote" in out
    text = file.read_text(encoding="utf-8")
    assert 'data-pane="profile"' in text and "gradient of b" not in text.partition("<script")[0], "the picture is the loss's"


def test_build_writes_one_cuda_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, _ = run(capsys, "build", "mlp", "--size", "batch=17", "--out", str(tmp_path / "mlp.cu"))
    assert code == 0
    assert 'extern "C" int graphc_step' in (tmp_path / "mlp.cu").read_text(encoding="utf-8")


def test_bench_checks_times_and_records(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    arguments = ("bench", "--tiny", "--quick", "--models", "mlp-inference", "--executors", "graphc,numpy", "--threads", "1")
    code, out, _ = run(capsys, *arguments, "--json", str(file), "--picture", str(picture))
    assert code == 0
    assert "of the time of numpy" in out
    row = json.loads(file.read_text())["rows"]["mlp-inference"]
    assert row["best_peer"] == "numpy"
    assert row["results"]["graphc"]["median"] > 0
    assert row["ratio"] == pytest.approx(row["results"]["graphc"]["median"] / row["results"]["numpy"]["median"])
    assert "<svg" in picture.read_text(encoding="utf-8")
    code, out, _ = run(capsys, "bench", "--list")
    assert "mlp-inference" in out and "torch eager" in out


def test_doctor_tells_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for word in ("Python", "LLVM", "Graphviz", "CUDA", "numpy", "vectors"):
        assert word in out
