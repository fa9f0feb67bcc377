"""Times A, its adjoint and its pseudo-inverse of every task, in turns with deepinv's operators."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from davi.benchmarks.ladders import OPERATORS, benchmark_config
from davi.benchmarks.measuring import cells, markdown_table, now
from davi.build import build_operator, image_shape
from davi.config.problem import (
    ColorizationConfig,
    DenoisingConfig,
    GaussianBlurConfig,
    InpaintingConfig,
    OperatorConfig,
    SuperResolutionConfig,
)
from davi.operators.gaussian_blur import gaussian_kernel
from davi.operators.svd import SVDOperator

METHODS = ("A", "A_adjoint", "A_dagger")
MAX_SECONDS = 5.0  # for one line; deepinv's pseudo-inverse of a blur iterates for seconds
NOTE = (
    "\nThe fastest call of each; the two take turns. deepinv's pseudo-inverses of super-resolution "
    "and of the blur iterate to a tolerance; ours of the blur inverts only singular values of at "
    "least 0.03 of its sides.\n"
)


@dataclass(frozen=True)
class OperatorTime:
    """A line of the table.

    Attributes:
        task: name of the operator.
        method: one of `METHODS`.
        fastest_s: seconds of one call.
        deepinv_s: the same of deepinv's operator; None where it is not installed.
        ratio: the first over the second.
    """

    task: str
    method: str
    fastest_s: float
    deepinv_s: float | None
    ratio: float | None


def time_operators(
    preset: str, batch_size: int, device: torch.device, repeats: int
) -> list[OperatorTime]:
    """Returns the times of every task and method, for a batch of random images."""
    found, with_deepinv = [], find_spec("deepinv") is not None
    for task in tqdm(OPERATORS, desc="measuring", unit="operator"):
        config = benchmark_config(preset, batch_size, task)
        shape = image_shape(config)
        operator = build_operator(config.operator, shape)
        both = [operator.to(device)]
        if with_deepinv:
            both.append(deepinv_counterpart(config.operator, operator).to(device))
        x = torch.rand(batch_size, *shape, device=device, dtype=torch.float32)
        y = operator.A(x)
        for method, argument in zip(METHODS, (x, y, y), strict=True):
            works = [partial(getattr(each, method), argument) for each in both]
            own, *others = time_in_turns(works, device, repeats)
            their = others[0] if others else None
            ratio = None if their is None else own / their
            found.append(OperatorTime(task, method, own, their, ratio))
    return found


def time_in_turns(
    works: Iterable[Callable[[], Any]], device: torch.device, repeats: int
) -> list[float]:
    """Returns the seconds of the fastest call of each work, so that other processes count little.

    No further calls are made after `MAX_SECONDS`.
    """
    seconds = [[] for _ in works]
    begin = now(device)
    for _ in range(repeats):
        for work, own in zip(works, seconds, strict=True):
            start = now(device)
            work()
            own.append(now(device) - start)
        if now(device) - begin > MAX_SECONDS:
            break
    return [min(own) for own in seconds]


def deepinv_counterpart(config: OperatorConfig, operator: SVDOperator) -> nn.Module:
    """Returns deepinv's operator with the A of one of the `OPERATORS`; needs deepinv.

    Its blur goes by FFT, which deepinv recommends for large kernels.
    """
    from deepinv import physics

    shape = operator.image_shape
    match config:
        case DenoisingConfig():
            return physics.Denoising()
        case InpaintingConfig():
            return physics.Inpainting(shape, operator.kept.expand(1, *shape))
        case SuperResolutionConfig(factor=factor):
            means = torch.full((1, 1, factor, factor), factor**-2.0, dtype=torch.float32)
            return physics.Downsampling(shape, means, factor, padding="valid")
        case GaussianBlurConfig():
            kernel = gaussian_kernel(config.kernel_size, config.sigma).float()
            filter = torch.outer(kernel, kernel)[None, None]
            return physics.Blur(filter, padding="constant", use_fft=True)
        case ColorizationConfig():
            return physics.Decolorize(shape[0], list(operator.weights))


def operator_table(found: list[OperatorTime]) -> str:
    """Returns the Markdown table."""
    columns = ("operator", "method", "davi [ms]", "deepinv [ms]", "davi / deepinv")
    rows = [
        [
            each.task,
            each.method,
            *cells("{:.3g}", 1000 * each.fastest_s),
            *cells("{:.3g}", None if each.deepinv_s is None else 1000 * each.deepinv_s),
            *cells("{:.2g}", each.ratio),
        ]
        for each in found
    ]
    return markdown_table(columns, rows) + NOTE
