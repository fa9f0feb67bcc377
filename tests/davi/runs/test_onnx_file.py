"""Generators as ONNX files: the same restorations by another runtime."""

import sys
from pathlib import Path

import pytest
import torch

import davi
from davi.operators.measurement import image_of
from davi.runs.onnx_file import write_onnx
from davi.sampler import posterior_sample
from davi.system.errors import InputError
from tests.tiny import write_tiny_generator

POSTERIOR = ("recipe=posterior", "noise.sigma=0.05")
INPAINTING = "operator={name: inpainting, mask: centred_box, box_size: 8}"


def sampled(restorer: davi.Restorer, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What `restore` returns for given noise."""
    y_image = image_of(restorer.operator.project(y), restorer.operator, restorer.bridge.resize)
    return posterior_sample(restorer.generator, restorer.bridge, y_image, z).clamp(-1, 1)


def draws(restorer: davi.Restorer, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.rand(count, *restorer.measurement_shape) * 2 - 1
    return y, torch.randn(count, *restorer.image_shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [(), (INPAINTING,), POSTERIOR, ("bridge.resize=adjoint",)],
    ids=["x4", "hole", "mmse", "adjoint"],
)
def test_onnxruntime_gives_the_same_restorations(
    command: object, tiny_prior: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs pip install 'davi[onnx]'")
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, *overrides)
    code, text = command("export", path, "--format", "onnx", "--output", tmp_path / "g.onnx")
    assert code == 0, text
    assert len(text.splitlines()) == 1
    session = runtime.InferenceSession(tmp_path / "g.onnx")
    restorer = davi.load(path, "cpu")
    for count in (1, 3):
        y, z = draws(restorer, count)
        (found,) = session.run(None, {"measurement": y.numpy(), "noise": z.numpy()})
        expected = sampled(restorer, y, z)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)
    import onnx

    kinds = {node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node}
    assert not kinds & {"Sin", "Cos", "Gemm"}  # nothing is left of the time embedding


def test_without_the_packages_the_message_says_how_to_get_them(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'davi\[onnx\]'"):
        write_onnx(davi.load(path, "cpu"), tmp_path / "g.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--dtype", "int8", "--output", "g.onnx"), "an ONNX file has float32"),
        (("--format", "onnx", "--output", "g.safetensors"), "must end in .onnx"),
        (("--set", "operator.file=a.py", "--output", "g.safetensors"), "is for --format onnx"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    command: object, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, text = command("export", tmp_path, *arguments)
    assert (code, len(text.splitlines())) == (2, 1)
    assert message in text
