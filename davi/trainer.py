"""Algorithm 1: amortized variational inference with a diffusion prior."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge
from davi.ema import Ema
from davi.generator import ImplicitGenerator
from davi.learning_rate import RateShape
from davi.losses import data_consistency, fake_score_loss, ikl_surrogate, l2_regulariser
from davi.measurement import ForwardModel, lift
from davi.metrics import psnr, ssim
from davi.operators.svd import SVDOperator
from davi.panel import image_grid
from davi.runtime import draw_each, keyed_rng, normal_each
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How the terms of Algorithm 1 are weighed.

    Attributes:
        gamma: of the data consistency L_C.
        ikl: of the score distillation L_IKL; 0 switches the prior off (Table 5, A).
        reg: of the l2 regulariser.
        t_ikl: T, the exclusive upper bound of the diffusion index.
        ikl_weight: name of w(t), see `Schedule.ikl_weight`.
    """

    gamma: float
    ikl: float
    reg: float
    t_ikl: int
    ikl_weight: str


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """Everything random of one iteration: lines 2-4 and 7-8 of Algorithm 1.

    Attributes:
        x0: (B, C, H, W) clean images.
        y: (B, *measurement_shape) measurements, by `operator`.
        a: (B,) bridge index.      z: (B, C, H, W) noise of the bridge.
        t: (B,) diffusion index.   eps: (B, C, H, W) noise of the diffusion.
    """

    x0: Tensor
    y: Tensor
    operator: SVDOperator
    a: Tensor
    z: Tensor
    t: Tensor
    eps: Tensor


class DaviTrainer:
    """Learner of `training_loop` for the generator.

    Args:
        generator: I_phi,a, initialised from the prior.
        fake_score: s_psi, initialised from the prior.
        prior: s_theta.
        forward_model: operator and noise.
        bridge: the Perturbed Posterior Bridge.
        schedule: the diffusion of x0_hat.
        weights: of the loss terms.
        seed: run seed; draws are keyed by (seed, iteration, position in the batch).
        learning_rate, fake_score_learning_rate, weight_decay: of the two AdamW.
        rate_shape: of both learning rates over the run.
        ema_decay: of the averaged generator, which is the result.
        validation: (B, C, H, W) images in [-1, 1] never trained on.
    """

    def __init__(
        self,
        *,
        generator: ImplicitGenerator,
        fake_score: ScoreModel,
        prior: FrozenPrior,
        forward_model: ForwardModel,
        bridge: PosteriorBridge,
        schedule: Schedule,
        weights: LossWeights,
        seed: int,
        learning_rate: float,
        fake_score_learning_rate: float,
        weight_decay: float,
        rate_shape: RateShape,
        ema_decay: float,
        validation: Tensor,
    ) -> None:
        self.generator = generator
        self.fake_score = fake_score
        self.prior = prior
        self.forward_model = forward_model
        self.bridge = bridge
        self.schedule = schedule
        self.weights = weights
        self.seed = seed
        self.ema = Ema(generator, ema_decay)
        self.generator_optimizer = torch.optim.AdamW(
            generator.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        self.fake_score_optimizer = torch.optim.AdamW(
            fake_score.parameters(), lr=fake_score_learning_rate, weight_decay=weight_decay
        )
        self.learning_rate = learning_rate
        self.fake_score_learning_rate = fake_score_learning_rate
        self.rate_shape = rate_shape
        self.device = next(generator.parameters()).device
        self.validation = validation.to(self.device)

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Draws what iteration `iteration` needs and takes one step of Algorithm 1."""
        self.rate_shape.apply(self.generator_optimizer, self.learning_rate, iteration)
        self.rate_shape.apply(self.fake_score_optimizer, self.fake_score_learning_rate, iteration)
        return self.step(self.draw(x0.to(self.device, non_blocking=True), "train", iteration))

    def draw(self, x0: Tensor, *key: int | str) -> StepInputs:
        """Returns the random inputs of a step, a function of seed, key and position only."""
        measurement_rngs = self._rngs(len(x0), *key, "measurement")
        y, operator = self.forward_model.measure(x0, measurement_rngs)
        rngs = self._rngs(len(x0), *key, "step")
        limit = self.weights.t_ikl
        return StepInputs(
            x0=x0,
            y=y,
            operator=operator,
            a=self.bridge.sample_time(rngs),
            z=normal_each(x0.shape[1:], rngs),
            t=draw_each(
                lambda rng: torch.randint(limit, (), generator=rng, device=rng.device), rngs
            ),
            eps=normal_each(x0.shape[1:], rngs),
        )

    def _rngs(self, count: int, *key: int | str) -> list[torch.Generator]:
        return [keyed_rng(self.device, self.seed, *key, position) for position in range(count)]

    def step(self, inputs: StepInputs) -> dict[str, Tensor]:
        """One iteration of Algorithm 1; returns the detached loss terms.

        The generator runs once; its sample serves both turns.
        """
        x0, y, t, eps = inputs.x0, inputs.y, inputs.t, inputs.eps
        y_image = lift(y, x0.shape[1:])
        y_a = self.bridge.perturb(x0, y_image, inputs.a, inputs.z)  # line 4
        x0_hat = self.generator(y_a, inputs.a)  # line 5
        x_t = self.schedule.add_noise(x0_hat, t, eps)  # line 8

        # The turn of psi, lines 10-11.
        score_loss = fake_score_loss(self.fake_score.eps(x_t.detach(), t), eps)
        _descend(self.fake_score_optimizer, score_loss)

        # The turn of phi, lines 13-15.
        weight = self.forward_model.noise.consistency_weight(y)
        consistency = data_consistency(y, inputs.operator.A(x0_hat), weight)
        with torch.no_grad():
            delta_s = self.fake_score.score(x_t, t) - self.prior.score(x_t, t)
        w_t = self.schedule.ikl_weight(self.weights.ikl_weight, t, x_t)
        ikl = ikl_surrogate(x_t, delta_s, w_t)
        regulariser = l2_regulariser(x0_hat, x0)
        total = (
            self.weights.gamma * consistency
            + self.weights.ikl * ikl
            + self.weights.reg * regulariser
        )
        _descend(self.generator_optimizer, total)
        self.ema.update(self.generator)
        return {
            "fake_score_loss": score_loss.detach(),
            "consistency": consistency.detach(),
            "regulariser": regulariser.detach(),
            "score_gap": (w_t * delta_s).square().mean(),
        }

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns PSNR and SSIM on the validation images, and a picture.

        Its rows are measurement, pseudo-inverse, restoration, truth.
        """
        inputs = self.draw(self.validation, "validation")
        y_image = lift(inputs.y, self.validation.shape[1:])
        restored = posterior_sample(self.ema.module, self.bridge, y_image, inputs.z)
        scores = {
            "psnr": psnr(restored, self.validation).mean().item(),
            "ssim": ssim(restored, self.validation).mean().item(),
        }
        rows = [y_image, inputs.operator.A_dagger(inputs.y), restored, self.validation]
        return scores, image_grid(rows)

    def state_dict(self) -> dict[str, Any]:
        """Returns networks, average and optimiser states; the prior never changes."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator": self.generator.network,
            "ema": self.ema,
            "fake_score": self.fake_score.network,
            "generator_optimizer": self.generator_optimizer,
            "fake_score_optimizer": self.fake_score_optimizer,
        }


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
