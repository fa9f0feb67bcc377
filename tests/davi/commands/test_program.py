"""The command `davi`: light, complete, and the same as the scripts."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import davi
from davi.commands.program import COMMANDS, load_command, main
from davi.metrics import protocols
from davi.system import choices
from davi.system.runtime import AUTOCAST_DTYPES
from davi.weights.layouts import KINDS
from davi.weights.network_file import DTYPES
from tests.conftest import REPOSITORY
from tests.processes import environment

HEAVY = {"torch", "torchvision", "pydantic", "numpy", "scipy", "PIL", "yaml"}
HELP = f"""
import contextlib, io, sys
from davi.commands.program import main
for command in sys.argv[1:]:
    sys.argv = ["davi", *command.split(), "--help"]
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            main()
    except SystemExit as done:
        assert not done.code, (command, done.code)
    assert text.getvalue().startswith("usage: davi"), command
    assert len(text.getvalue().splitlines()) > 5, command
    assert not {HEAVY!r} & set(sys.modules), command
"""


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP, "", *COMMANDS], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_davi_imports_nothing_heavy() -> None:
    program = f"import sys, davi; assert not {HEAVY!r} & set(sys.modules); davi.load; import torch"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_attributes_of_davi_are_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'restore'"):
        davi.restore  # noqa: B018
    assert {"load", "Restorer", "__version__"} <= set(dir(davi))


def test_every_file_of_a_command_is_a_command() -> None:
    files = {path.stem for path in (REPOSITORY / "davi/commands").glob("*.py")}
    assert files - {"__init__", "options", "program", "training"} == set(COMMANDS.values())
    for name in COMMANDS:
        assert load_command(name).__doc__


def test_every_script_names_a_command() -> None:
    """Each script is `run_command` of a command; of each but two there is one."""
    named = set()
    for path in (REPOSITORY / "scripts").glob("*.py"):
        calls = [
            node.args[0].value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command"
        ]
        assert calls, path
        named |= set(calls)
    assert set(COMMANDS) - named == {"app", "info", "push"}


def test_an_unknown_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["davi", "exprt"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: no command 'exprt'; did you mean export? there are demo,")


@pytest.mark.parametrize("words", ["", "--version", "sample --help", "info"])
def test_a_reader_that_has_left_ends_it_quietly(words: str) -> None:
    """As behind `| head`: nobody reads the pipe when the first line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "davi", *words.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (result.returncode in (0, 1), result.stderr) == (True, "")  # argparse takes it for 0


def test_it_works_without_an_output() -> None:
    program = f"exec {sys.executable} -m davi info >&-"
    result = subprocess.run(["sh", "-c", program], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_choices_are_those_of_the_code() -> None:
    """The command line knows names without importing the code behind them."""
    assert tuple(AUTOCAST_DTYPES) == choices.PRECISIONS
    assert tuple(DTYPES) == choices.STORED_DTYPES
    assert tuple(KINDS) == choices.NETWORK_PARTS
    assert tuple(protocols.LPIPS_VARIANTS) == choices.LPIPS_VARIANTS
    assert tuple(protocols.CALIBRATION) == choices.CALIBRATION
    assert set(choices.ROUNDINGS) <= set(protocols.SAVED_AS)


def test_info_says_versions_devices_and_weights(command: object, tmp_path: Path) -> None:
    code, output = command("info")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["davi"].startswith(f"{davi.__version__}, in {REPOSITORY / 'davi'}")
    assert lines["ffhq_prior"].split() == ["absent", "checkpoints/ffhq_10m.pt"]
    assert "photos_denoising" in output
    assert "fp32" in output


def test_shipped_configs_and_networks_are_found_by_name(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = command("train", "photos_inpainting", "--print-config")
    assert code == 0
    assert "checkpoint: checkpoints/photos_prior.safetensors" in output
    assert davi.load("photos_denoising").task == "denoising"
    assert davi.load("checkpoints/photos_denoising.safetensors").task == "denoising"


def test_a_file_of_the_user_comes_before_the_shipped_one(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = REPOSITORY / "configs/photos_inpainting.yaml"
    Path("photos_inpainting").write_text(f"extends: {shipped}\nseed: 123\n")
    code, output = command("train", "photos_inpainting", "--print-config")
    assert code == 0
    assert "seed: 123" in output


def test_a_config_that_is_not_there_is_said_with_the_nearest_name(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = command("train", "photos_inpaintin")
    assert code == 2
    assert "photos_inpaintin: cannot read this config (no such file; did you mean" in output
    assert "photos_inpainting, which davi ships?" in output


def test_a_reader_that_leaves_is_no_traceback() -> None:
    words = [sys.executable, "-m", "davi", "info"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_network_that_is_not_there_is_said_with_the_nearest_name(command: object) -> None:
    code, output = command("export", "photo_denoising", "--output", "w.safetensors")
    assert code == 2
    assert "did you mean photos_denoising, which davi ships?" in output


PRINTING = """
import sys
from davi.commands import program, info
info.run = lambda _: print("gr\\udcfc\\u00dfe")
sys.argv = ["davi", "info"]
program.main()
"""


@pytest.mark.parametrize(
    ("encoding", "printed"), [("utf-8", "gr\\udcfcße\n"), ("ascii", "gr\\udcfc\\xdfe\n")]
)
def test_names_of_any_bytes_are_printed_on_a_strict_terminal(encoding: str, printed: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PRINTING],
        capture_output=True,
        env=environment() | {"PYTHONIOENCODING": f"{encoding}:strict"},
    )
    assert result.stdout.decode() == printed, result.stderr
    assert result.returncode == 0


def test_output_that_fills_the_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", PRINTING], stdout=full, stderr=subprocess.PIPE, env=environment()
        )
    assert result.stderr.decode() == "error: the output: No space left on device\n"
    assert result.returncode == 2
