"""Trains an I2SB network: the slope of the bridge, by least squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.data.panel import image_grid
from davi.metrics.scores import psnr
from davi.operators.measurement import ForwardModel
from davi.solvers.i2sb_bridge import LAST, I2SBModel, degraded_end, known_pixels, with_known
from davi.system.runtime import draw_each, normal_each
from davi.training.regression_trainer import RegressionTrainer


class BridgeDraw(NamedTuple):
    """What the loss of some images needs.

    Attributes:
        x1: (B, C, H, W) degraded images on the image grid.
        x_k: (B, C, H, W) points of the bridge.
        k: (B,) int64, where on it.
        slope: (B, C, H, W), what the network is to say.
        known: what inpainting keeps, see `known_pixels`; the loss leaves it out.
    """

    x1: Tensor
    x_k: Tensor
    k: Tensor
    slope: Tensor
    known: Tensor | None


@dataclass(kw_only=True, eq=False)
class I2SBTrainer(RegressionTrainer):
    """Minimises |(x_k - x_0) / f_k - net(x_k)|^2 over uniform k. Its models are I2SB models.

    In known pixels of inpainting the bridge goes from x_1 to x_1, as it does in sampling, and the
    loss is 0. (The two clean ends are the same where a measurement has no noise, as in I2SB.)

    Attributes:
        forward_model: operator and noise. The noise is part of x_1; I2SB's own networks were
            trained without.
        Further ones are those of `RegressionTrainer`.
    """

    model: I2SBModel
    averaged_model: I2SBModel
    forward_model: ForwardModel

    def loss(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> Tensor:
        """See `RegressionTrainer.loss`."""
        drawn = self.draw(x0, positions, *key)
        return _mean_square(self.model.slope(drawn.x_k, drawn.k), drawn)

    def draw(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> BridgeDraw:
        """Returns points of the bridges of images, a function of seed, key and position only."""
        y, operator = self.forward_model.measure(x0, self.rngs(positions, *key, "measurement"))
        rngs = self.rngs(positions, *key, "step")
        k = draw_each(
            lambda rng: torch.randint(LAST + 1, (), generator=rng, device=rng.device), rngs
        )
        z, hole = (normal_each(x0.shape[1:], rngs) for _ in range(2))
        x1, known = degraded_end(y, operator, hole), known_pixels(operator)
        target = with_known(x0, x1, known)
        x_k = self.model.bridge.between(target, x1, k, z)
        return BridgeDraw(x1, x_k, k, self.model.bridge.slope(x_k, target, k), known)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns the loss and the PSNR of one step on the validation images, and a picture.

        Its rows are degraded image, restoration in one step, truth.
        """
        model, x0 = self.averaged_model, self.validation
        drawn = self.draw(x0, range(len(x0)), "validation")
        slope = self.world.map_rows(model.slope, drawn.x_k, drawn.k)
        end = torch.full_like(drawn.k, LAST)
        restored = with_known(self.world.map_rows(model.x0, drawn.x1, end), drawn.x1, drawn.known)
        scores = {
            "validation_loss": _mean_square(slope, drawn).item(),
            "psnr": psnr(restored, x0).mean().item(),
        }
        return scores, image_grid([drawn.x1, restored, x0])


def _mean_square(slope: Tensor, drawn: BridgeDraw) -> Tensor:
    """The mean over all entries of the squared error, which counts as 0 where a pixel is known."""
    return F.mse_loss(with_known(slope, drawn.slope, drawn.known), drawn.slope)
