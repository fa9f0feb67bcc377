"""A trained generator as an ONNX file: Algorithm 2 without PyTorch."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from davi.operators.measurement import image_of
from davi.restorer import Restorer
from davi.system.errors import InputError
from davi.system.files import atomic_path

INPUTS, OUTPUT = ("measurement", "noise"), "restoration"
MAX_BYTES = 2**31 - 2**24  # of a file of protobuf, less what is no weight


class OneSample(nn.Module):
    """x = I_phi(y + h z), clipped, from a measurement and standard normal noise.

    Args:
        restorer: on the CPU in fp32.
    """

    def __init__(self, restorer: Restorer) -> None:
        super().__init__()
        self.generator, self.bridge = restorer.generator, restorer.bridge
        self.operator = restorer.operator
        self.shape, self.measurement_shape = restorer.image_shape, restorer.measurement_shape

    def forward(self, measurement: Tensor, noise: Tensor) -> Tensor:
        """Returns (B, C, H, W) in [-1, 1].

        Args:
            measurement: (B, *measurement_shape) on the [-1, 1] scale.
            noise: standard normal, (B, C, H, W).
        """
        y = self.operator.project(measurement)
        y_image = image_of(y, self.operator, self.bridge.resize)
        a = torch.full((1,), self.bridge.END, device=noise.device)  # the same for all images
        return self.generator(self.bridge.endpoint(y_image, noise), a, y_image).clamp(-1, 1)

    def example(self) -> tuple[Tensor, Tensor]:
        """Returns inputs for two images."""
        return torch.zeros(2, *self.measurement_shape), torch.zeros(2, *self.shape)


def write_onnx(restorer: Restorer, path: Path) -> None:
    """Writes a generator, float32, for any number of images at once.

    Args:
        restorer: on the CPU in fp32.
        path: of the file.

    Raises:
        InputError: a package is missing, the network is too large for one file, or something of
            the generator has no counterpart in ONNX.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx needs the package {error.name}: pip install 'davi[onnx]'"
        ) from error
    size = sum(4 * parameter.numel() for parameter in restorer.generator.parameters())
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes of weights; an ONNX file holds {MAX_BYTES} at most")
    sample = OneSample(restorer).eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                sample,
                sample.example(),
                dynamo=True,
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes={name: {0: "batch"} for name in INPUTS},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"{path}: this generator cannot become ONNX ({reason:.200})") from error
    program.model.metadata_props.update(
        task=restorer.task, weights_sha256=restorer.origin["weights_sha256"]
    )
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter from telling of its own inside."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
