"""What the tests share: recorded numbers, the sine image they belong to, tiny networks."""

import errno
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.commands.program import main

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent
# Files of configs/solvers/ that evaluate no network, draw no samples, and are for one task.
CLASSICAL = {
    "bicubic",
    "biharmonic",
    "bm3d",
    "lanczos",
    "non_local_means",
    "richardson_lucy",
    "total_variation",
    "wiener",
}
# Those that find the kernel of a convolution, and are for no other task.
BLIND = {"blind_dps", "dmplug_blind"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what scans remember out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_draws_in_every_order() -> None:
    """Lets what a test draws without a generator depend on no other test."""
    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler() -> None:
    """Forgets earlier compilations; what has been compiled too often is not compiled any more."""
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, fresh_compiler: None) -> list[torch.fx.GraphModule]:
    """Graphs of the networks that the compiler traced and differentiated.

    It does not turn them into C++, which takes minutes: tests/guided_diffusion/test_unet.py.
    """
    traced, compile_module = [], torch.nn.Module.compile
    run = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        traced.append(graph)
        return run(graph, inputs)

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend=backend)
    )
    return traced


@pytest.fixture
def rng() -> torch.Generator:
    """A generator that starts the same in every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tmp_path/closed, which nobody may read, beside the pictures a.png and z.png."""
    folder = tmp_path / "closed"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "closed/b.png", "z.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    original = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path) == folder:  # a mode would not keep root out
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> object:
    """Returns run(name, *arguments) -> (exit code, what it printed), of a file in scripts/."""

    def run(name: str, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(REPOSITORY / f"scripts/{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out + captured.err

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> object:
    """Returns run(name, *arguments) -> (exit code, what it printed), of a command of `davi`."""

    def run(name: str, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["davi", name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out + captured.err

    return run


@pytest.fixture(scope="session")
def golden_operators() -> dict[str, np.ndarray]:
    """Recorded results of the release's operators."""
    return dict(np.load(GOLDEN / "operators.npz"))


@pytest.fixture(scope="session")
def golden_schedules() -> dict[str, np.ndarray]:
    """Recorded schedules of the release."""
    return dict(np.load(GOLDEN / "schedules.npz"))


@pytest.fixture(scope="session")
def golden_unet() -> dict[str, np.ndarray]:
    """Recorded outputs of a small ADM UNet."""
    return dict(np.load(GOLDEN / "unet_small.npz"))


@pytest.fixture(scope="session")
def golden_shapes() -> dict[str, dict[str, list[int]]]:
    """State-dict keys and shapes of the two ADM priors."""
    names = {"ffhq_256": "ffhq", "imagenet_256": "imagenet"}
    return {
        preset: json.loads((GOLDEN / f"adm_state_dict_{name}.json").read_text())
        for preset, name in names.items()
    }


def sine_image(channels: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    """The input of the recorded results, (B, C, H, W) float32."""
    c, i, j = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    x = np.sin(0.37 * c + 0.011 * i * (1 + 0.003 * j) + 0.017 * j)
    return torch.tensor(x, dtype=torch.float32).expand(batch, -1, -1, -1).contiguous()


def contents(folder: Path) -> dict[str, bytes]:
    """Every picture below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior file for configs/tiny.yaml."""
    from tests.tiny import write_tiny_prior

    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "prior.safetensors")


@pytest.fixture(scope="session")
def tiny_prior_with_variance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with channels for a learned variance."""
    from tests.tiny import write_tiny_prior

    path = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    return write_tiny_prior(path, "network.out_channels=6")
