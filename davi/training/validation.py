"""Looks at a generator while it trains: scores and a picture of fixed images."""

from functools import partial

import torch
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.data.panel import image_grid
from davi.generator import ImplicitGenerator
from davi.metrics.scores import psnr, ssim
from davi.operators.measurement import image_of
from davi.sampler import posterior_sample
from davi.system.world import World
from davi.training.inputs import InputDraws


@torch.no_grad()
def validate_generator(
    generator: ImplicitGenerator,
    bridge: PosteriorBridge,
    images: Tensor,
    draws: InputDraws,
    world: World,
) -> tuple[dict[str, float], Tensor]:
    """Returns PSNR and SSIM, and a picture.

    Its rows are measurement, pseudo-inverse, restoration, truth.

    Args:
        generator: the averaged one.
        bridge: as in sampling.
        images: (B, C, H, W) in [-1, 1], never trained on.
        draws: of the measurements and z, always the same.
        world: the processes, which share the work.
    """
    inputs = draws.draw(images, range(len(images)), "validation")
    y_image = image_of(inputs.y, inputs.operator, bridge.resize)
    restored = world.map_rows(partial(posterior_sample, generator, bridge), y_image, inputs.z)
    scores = {
        "psnr": psnr(restored, images).mean().item(),
        "ssim": ssim(restored, images).mean().item(),
    }
    rows = [y_image, inputs.operator.A_dagger(inputs.y), restored, images]
    return scores, image_grid(rows)
