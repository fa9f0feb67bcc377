"""Algorithm 1: amortized variational inference with a diffusion prior."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge
from davi.data.panel import image_grid
from davi.generator import ImplicitGenerator
from davi.metrics.scores import psnr, ssim
from davi.operators.linear import LinearOperator
from davi.operators.measurement import ForwardModel, lift
from davi.operators.svd import SVDOperator
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.system.errors import InputError
from davi.system.parallel import full_state, load_full_state, unwrapped
from davi.system.runtime import draw_each, keyed_rng, normal_each
from davi.system.world import World
from davi.terms import (
    consistency_term,
    fake_score_term,
    generate,
    ikl_term,
    regulariser_term,
)
from davi.training.adversary import Adversary, compared_weight
from davi.training.ema import Ema
from davi.training.network_optimizer import NetworkOptimizer

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How the terms of Algorithm 1 are weighed, and in which form they are taken.

    Attributes:
        gamma: of the data consistency L_C.
        ikl: of the score distillation L_IKL; 0 switches the prior off (Table 5, A).
        reg: of the l2 regulariser.
        t_ikl: T, the exclusive upper bound of the diffusion index.
        ikl_weight: name of w(t), see `Schedule.ikl_weight`.
        reduction: see `losses.reduce`.
        regulariser: "everywhere" or "kept_pixels", see `terms.regulariser_term`.
        variational_bound: see `terms.fake_score_term`.
    """

    gamma: float
    ikl: float
    reg: float
    t_ikl: int
    ikl_weight: str
    reduction: str = "mean"
    regulariser: str = "everywhere"
    variational_bound: bool = False


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
    operator: LinearOperator
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
        adversary: the release's discriminator.
        shared_sample: one sample of the generator serves both turns, as in Algorithm 1; otherwise
            each turn draws its own, as in the release.
        draws: "per_image", or "per_process": every process draws the same, as in the release.
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
        adversary: Adversary | None = None,
        shared_sample: bool = True,
        draws: str = "per_image",
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
        self.adversary = adversary
        self.shared_sample = shared_sample
        self.draws = draws
        self.world = world
        self.device = world.device
        self.validation = validation.to(self.device)

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Draws what iteration `iteration` needs and takes one step of Algorithm 1."""
        for optimizer in self._optimizers().values():
            optimizer.begin(iteration)
        pieces = x0.to(self.device, non_blocking=True).split([len(share) for share in self.shares])
        # Positions in the global batch, or in this process's part of it.
        first = 0 if self.draws == "per_image" else self.shares[0].start
        positions = [range(share.start - first, share.stop - first) for share in self.shares]
        pairs = list(zip(pieces, positions, strict=True))
        inputs = [self.draw(piece, places, "train", iteration) for piece, places in pairs]
        if self.shared_sample:
            return self.step(inputs)
        again = [
            self.redraw(one, places, "train", iteration)
            for one, (_, places) in zip(inputs, pairs, strict=True)
        ]
        return self.step(inputs, again)

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
        return StepInputs(x0=x0, y=y, operator=operator, **self._step_draws(x0, rngs))

    def redraw(self, inputs: StepInputs, positions: Sequence[int], *key: int | str) -> StepInputs:
        """Returns the same images and measurements with bridge and diffusion drawn anew."""
        rngs = self._rngs(positions, *key, "second step")
        return replace(inputs, **self._step_draws(inputs.x0, rngs))

    def _step_draws(self, x0: Tensor, rngs: list[torch.Generator]) -> dict[str, Tensor]:
        limit = self.weights.t_ikl
        return {
            "a": self.bridge.sample_time(rngs),
            "z": normal_each(x0.shape[1:], rngs),
            "t": draw_each(
                lambda rng: torch.randint(limit, (), generator=rng, device=rng.device), rngs
            ),
            "eps": normal_each(x0.shape[1:], rngs),
        }

    def _rngs(self, positions: Sequence[int], *key: int | str) -> list[torch.Generator]:
        return [keyed_rng(self.device, self.seed, *key, position) for position in positions]

    def step(
        self, micro_batches: Sequence[StepInputs], second: Sequence[StepInputs] | None = None
    ) -> dict[str, Tensor]:
        """One iteration of Algorithm 1 on this process's share of the global batch.

        Unless `second` is given the generator runs once; its sample serves both turns. With several
        micro-batches it runs once more in its own turn, since keeping all their graphs would save
        no memory.

        Args:
            micro_batches: the inputs.
            second: other inputs for the generator's turn, as in the release.

        Returns:
            Detached scalars: this process's part of each loss term and gradient norm. The sum over
            the processes is the mean over the global batch.
        """
        keep_graph = second is None and len(micro_batches) == 1
        terms: dict[str, Tensor] = {}
        for inputs, last in _marking_the_last(micro_batches):  # lines 4, 5, 10
            with torch.set_grad_enabled(keep_graph):
                x0_hat = self._generate(inputs)
            self._add_scaled(terms, self._score_turn(inputs, x0_hat, last), inputs)
        norms = {"fake_score": self.fake_score_optimizer.step()}  # line 11
        if self.adversary is not None:
            norms["discriminator"] = self.adversary.optimizer.step()

        for inputs, last in _marking_the_last(second or micro_batches):  # lines 13, 14
            with self.generator_optimizer.exchange(last):
                x0_hat = x0_hat if keep_graph else self._generate(inputs)
                loss, parts = self._generator_loss(inputs, x0_hat)
                self.generator_optimizer.backward(self._scaled(loss, inputs))
            self._add_scaled(terms, parts, inputs)
        norms["generator"] = self.generator_optimizer.step()  # line 15
        self.ema.update(self.generator)
        gradients = {f"{name}_gradient": norm / self.world.size for name, norm in norms.items()}
        return terms | gradients

    def _generate(self, inputs: StepInputs) -> Tensor:
        return generate(self.generator, self.bridge, inputs.x0, inputs.y, inputs.a, inputs.z)

    def _share(self, inputs: StepInputs) -> float:
        """The share of the global batch, which a mean over these images counts with."""
        return len(inputs.x0) / self.batch_size

    def _scaled(self, loss: Tensor, inputs: StepInputs) -> Tensor:
        """What to differentiate: gradients are averaged over the processes later."""
        return self.world.size * self._share(inputs) * loss

    def _add_scaled(
        self, terms: dict[str, Tensor], parts: dict[str, Tensor], inputs: StepInputs
    ) -> None:
        for name, part in parts.items():
            terms[name] = terms.get(name, 0) + self._share(inputs) * part.detach()

    def _score_turn(self, inputs: StepInputs, x0_hat: Tensor, last: bool) -> dict[str, Tensor]:
        """Gradients of s_psi, and of the discriminator if there is one; returns their losses."""
        with self.fake_score_optimizer.exchange(last):
            loss = fake_score_term(
                self.fake_score,
                self.schedule,
                x0_hat,
                inputs.t,
                inputs.eps,
                with_bound=self.weights.variational_bound,
                reduction=self.weights.reduction,
            )
            self.fake_score_optimizer.backward(self._scaled(loss, inputs))
        parts = {"fake_score_loss": loss}
        if self.adversary is not None:
            with self.adversary.optimizer.exchange(last):
                loss = self.adversary.discriminator_term(inputs.x0, x0_hat)
                self.adversary.optimizer.backward(self._scaled(loss, inputs))
            parts["discriminator_loss"] = loss
        return parts

    def _generator_loss(
        self, inputs: StepInputs, x0_hat: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of line 15 and its terms."""
        weights, reduction = self.weights, self.weights.reduction
        consistency = consistency_term(
            inputs.y, inputs.operator, self.forward_model.noise, x0_hat, reduction
        )
        ikl, score_gap = ikl_term(
            self.fake_score,
            self.prior,
            self.schedule,
            x0_hat,
            inputs.t,
            inputs.eps,
            ikl_weight=weights.ikl_weight,
            reduction=reduction,
        )
        regulariser = regulariser_term(
            x0_hat, inputs.x0, inputs.operator, where=weights.regulariser, reduction=reduction
        )
        parts = {"consistency": consistency, "regulariser": regulariser, "score_gap": score_gap}
        total = weights.gamma * consistency + weights.ikl * ikl + weights.reg * regulariser
        if self.adversary is not None:
            compared = compared_weight(unwrapped(self.generator.network))
            adversarial, weight = self.adversary.generator_term(
                inputs.x0, x0_hat, regulariser, compared, self.generator_optimizer.loss_scale()
            )
            parts |= {"adversarial": adversarial, "adversarial_weight": weight}
            total = total + weight * adversarial
        return total, parts

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns PSNR and SSIM on the validation images, and a picture.

        Its rows are measurement, pseudo-inverse (of an operator that has one), restoration, truth.
        """
        inputs = self.draw(self.validation, range(len(self.validation)), "validation")
        y_image = lift(inputs.y, self.validation.shape[1:], self.bridge.resize)
        restored = self.world.map_rows(
            partial(posterior_sample, self.ema.module, self.bridge), y_image, inputs.z
        )
        scores = {
            "psnr": psnr(restored, self.validation).mean().item(),
            "ssim": ssim(restored, self.validation).mean().item(),
        }
        rows = [y_image, restored, self.validation]
        if isinstance(inputs.operator, SVDOperator):
            rows.insert(1, inputs.operator.A_dagger(inputs.y))
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
        """Restores `state_dict`.

        Raises:
            InputError: it has no discriminator, which this run trains.
        """
        if self.adversary is not None and "discriminator" not in state:
            raise InputError(
                "adversarial.enabled: the checkpoint holds no discriminator; begin a new run to "
                "train with one"
            )
        for name, part in self._networks().items():
            load_full_state(part, state[name])
        for name, part in self._optimizers().items():
            part.load_state_dict(state[name])

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": unwrapped(self.generator.network),
            "ema": self.ema,
            "fake_score": unwrapped(self.fake_score.network),
            **({"discriminator": unwrapped(self.adversary.network)} if self.adversary else {}),
        }

    def _optimizers(self) -> dict[str, NetworkOptimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "fake_score_optimizer": self.fake_score_optimizer,
            **({"discriminator_optimizer": self.adversary.optimizer} if self.adversary else {}),
        }


def _marking_the_last(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Yields (item, whether it is the last)."""
    for number, item in enumerate(items, start=1):
        yield item, number == len(items)
