"""Algorithm 1: amortized variational inference with a diffusion prior."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge
from davi.ema import Ema
from davi.generator import ImplicitGenerator
from davi.losses import data_consistency, fake_score_loss, ikl_surrogate, l2_regulariser
from davi.measurement import ForwardModel, lift
from davi.metrics import psnr, ssim
from davi.network_optimizer import NetworkOptimizer
from davi.operators.svd import SVDOperator
from davi.panel import image_grid
from davi.parallel import full_state, load_full_state, unwrapped
from davi.runtime import draw_each, keyed_rng, normal_each
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.world import World

Item = TypeVar("Item")


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


class _Sample(NamedTuple):
    """x0_hat = I_phi(y_a, a) and its noised x_t."""

    x0_hat: Tensor
    x_t: Tensor


class DaviTrainer:
    """Learner of `training_loop` for the generator.

    Args:
        generator: I_phi,a, initialised from the prior.
        fake_score: s_psi, initialised from the prior.
        prior: s_theta.
        ema: average of the generator, which is the result.
        generator_optimizer, fake_score_optimizer: of their networks.
        forward_model: operator and noise.
        bridge: the Perturbed Posterior Bridge.
        schedule: the diffusion of x0_hat.
        weights: of the loss terms.
        seed: run seed; draws are keyed by (seed, iteration, position in the global batch).
        batch_size: of all processes together.
        num_micro_batches: pieces in which this process goes through its share.
        validation: (B, C, H, W) images in [-1, 1] never trained on.
        world: the processes; the networks are distributed over them already.
    """

    def __init__(
        self,
        *,
        generator: ImplicitGenerator,
        fake_score: ScoreModel,
        prior: FrozenPrior,
        ema: Ema,
        generator_optimizer: NetworkOptimizer,
        fake_score_optimizer: NetworkOptimizer,
        forward_model: ForwardModel,
        bridge: PosteriorBridge,
        schedule: Schedule,
        weights: LossWeights,
        seed: int,
        batch_size: int,
        num_micro_batches: int,
        validation: Tensor,
        world: World,
    ) -> None:
        self.generator = generator
        self.fake_score = fake_score
        self.prior = prior
        self.ema = ema
        self.generator_optimizer = generator_optimizer
        self.fake_score_optimizer = fake_score_optimizer
        self.forward_model = forward_model
        self.bridge = bridge
        self.schedule = schedule
        self.weights = weights
        self.seed = seed
        self.batch_size = batch_size
        self.shares = world.share(batch_size, num_micro_batches)
        self.world = world
        self.device = world.device
        self.validation = validation.to(self.device)

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Draws what iteration `iteration` needs and takes one step of Algorithm 1."""
        self.generator_optimizer.begin(iteration)
        self.fake_score_optimizer.begin(iteration)
        pieces = x0.to(self.device, non_blocking=True).split([len(share) for share in self.shares])
        return self.step(
            [
                self.draw(piece, share, "train", iteration)
                for piece, share in zip(pieces, self.shares, strict=True)
            ]
        )

    def draw(self, x0: Tensor, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the random inputs of images, a function of seed, key and position only.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            positions: of these images in the global batch.
            key: what the draws are for.
        """
        measurement_rngs = self._rngs(positions, *key, "measurement")
        y, operator = self.forward_model.measure(x0, measurement_rngs)
        rngs = self._rngs(positions, *key, "step")
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

    def _rngs(self, positions: Sequence[int], *key: int | str) -> list[torch.Generator]:
        return [keyed_rng(self.device, self.seed, *key, position) for position in positions]

    def step(self, micro_batches: Sequence[StepInputs]) -> dict[str, Tensor]:
        """One iteration of Algorithm 1 on this process's share of the global batch.

        The generator runs once; its sample serves both turns. With several micro-batches it runs
        once more in its own turn, since keeping all their graphs would save no memory.

        Returns:
            Detached scalars: this process's part of each loss term and gradient norm. The sum over
            the processes is the mean over the global batch.
        """
        with_graph = len(micro_batches) == 1
        score_losses, samples = [], []
        for inputs, last in _marking_the_last(micro_batches):  # the turn of psi, lines 10-11
            with torch.set_grad_enabled(with_graph):
                samples.append(self._sample(inputs))
            x_t = samples[-1].x_t.detach()
            with self.fake_score_optimizer.exchange(last):
                loss = fake_score_loss(self.fake_score.eps(x_t, inputs.t), inputs.eps)
                score_losses.append(loss.detach() * self._weight(inputs))
                self.fake_score_optimizer.backward(self.world.size * self._weight(inputs) * loss)
        score_gradient = self.fake_score_optimizer.step()

        terms = []
        for inputs, last in _marking_the_last(micro_batches):  # the turn of phi, lines 13-15
            sample = samples.pop(0)
            with self.generator_optimizer.exchange(last):
                loss, parts = self._generator_loss(
                    inputs, sample if with_graph else self._sample(inputs)
                )
                terms.append({name: self._weight(inputs) * part for name, part in parts.items()})
                self.generator_optimizer.backward(self.world.size * self._weight(inputs) * loss)
        generator_gradient = self.generator_optimizer.step()
        self.ema.update(self.generator)
        return {
            "fake_score_loss": sum(score_losses),
            **{name: sum(part[name] for part in terms) for name in terms[0]},
            "fake_score_gradient": score_gradient / self.world.size,
            "generator_gradient": generator_gradient / self.world.size,
        }

    def _weight(self, inputs: StepInputs) -> float:
        """The share of the global batch, which a mean over these images counts with."""
        return len(inputs.x0) / self.batch_size

    def _sample(self, inputs: StepInputs) -> _Sample:
        y_image = lift(inputs.y, inputs.x0.shape[1:])
        y_a = self.bridge.perturb(inputs.x0, y_image, inputs.a, inputs.z)  # line 4
        x0_hat = self.generator(y_a, inputs.a)  # line 5
        return _Sample(x0_hat, self.schedule.add_noise(x0_hat, inputs.t, inputs.eps))  # line 8

    def _generator_loss(
        self, inputs: StepInputs, sample: _Sample
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of line 15 and its terms, detached."""
        x_t, t, y = sample.x_t, inputs.t, inputs.y
        weight = self.forward_model.noise.consistency_weight(y)
        consistency = data_consistency(y, inputs.operator.A(sample.x0_hat), weight)
        with torch.no_grad():
            delta_s = self.fake_score.score(x_t, t) - self.prior.score(x_t, t)
        w_t = self.schedule.ikl_weight(self.weights.ikl_weight, t, x_t)
        regulariser = l2_regulariser(sample.x0_hat, inputs.x0)
        total = (
            self.weights.gamma * consistency
            + self.weights.ikl * ikl_surrogate(x_t, delta_s, w_t)
            + self.weights.reg * regulariser
        )
        return total, {
            "consistency": consistency.detach(),
            "regulariser": regulariser.detach(),
            "score_gap": (w_t * delta_s).square().mean(),
        }

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns PSNR and SSIM on the validation images, and a picture.

        Its rows are measurement, pseudo-inverse, restoration, truth.
        """
        inputs = self.draw(self.validation, range(len(self.validation)), "validation")
        y_image = lift(inputs.y, self.validation.shape[1:])
        restored = self.world.map_rows(
            partial(posterior_sample, self.ema.module, self.bridge), y_image, inputs.z
        )
        scores = {
            "psnr": psnr(restored, self.validation).mean().item(),
            "ssim": ssim(restored, self.validation).mean().item(),
        }
        rows = [y_image, inputs.operator.A_dagger(inputs.y), restored, self.validation]
        return scores, image_grid(rows)

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return scores["psnr"]

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns networks, average and optimisers, see `full_state`; the prior never changes."""
        networks = {name: full_state(part, keep) for name, part in self._networks().items()}
        optimizers = {name: part.state_dict(keep) for name, part in self._optimizers().items()}
        return networks | optimizers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        for name, part in self._networks().items():
            load_full_state(part, state[name])
        for name, part in self._optimizers().items():
            part.load_state_dict(state[name])

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": unwrapped(self.generator.network),
            "ema": self.ema,
            "fake_score": unwrapped(self.fake_score.network),
        }

    def _optimizers(self) -> dict[str, NetworkOptimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "fake_score_optimizer": self.fake_score_optimizer,
        }


def _marking_the_last(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Yields (item, whether it is the last)."""
    for number, item in enumerate(items, start=1):
        yield item, number == len(items)
