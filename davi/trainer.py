"""Algorithm 1: amortized variational inference with a diffusion prior."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge
from davi.generator import ImplicitGenerator
from davi.operators.measurement import ForwardModel
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.system.errors import InputError
from davi.system.parallel import unwrapped
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
from davi.training.inputs import InputDraws, StepInputs
from davi.training.network_optimizer import NetworkOptimizer
from davi.training.state import load_state, state_of
from davi.training.validation import validate_generator

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


@dataclass(kw_only=True, eq=False)
class DaviTrainer:
    """Learner of `training_loop` for the generator.

    Attributes:
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

    generator: ImplicitGenerator
    fake_score: ScoreModel
    prior: FrozenPrior
    ema: Ema
    generator_optimizer: NetworkOptimizer
    fake_score_optimizer: NetworkOptimizer
    forward_model: ForwardModel
    bridge: PosteriorBridge
    schedule: Schedule
    weights: LossWeights
    seed: int
    batch_size: int
    num_micro_batches: int
    validation: Tensor
    world: World
    adversary: Adversary | None = None
    shared_sample: bool = True
    draws: str = "per_image"

    def __post_init__(self) -> None:
        self.shares = self.world.share(self.batch_size, self.num_micro_batches)
        self.device = self.world.device
        self.validation = self.validation.to(self.device)
        self.inputs = InputDraws(
            forward_model=self.forward_model,
            bridge=self.bridge,
            t_ikl=self.weights.t_ikl,
            seed=self.seed,
            device=self.device,
        )

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Draws what iteration `iteration` needs and takes one step of Algorithm 1."""
        for optimizer in self._optimizers().values():
            optimizer.begin(iteration)
        pieces = x0.to(self.device, non_blocking=True).split([len(share) for share in self.shares])
        # Positions in the global batch, or in this process's part of it.
        first = 0 if self.draws == "per_image" else self.shares[0].start
        positions = [range(share.start - first, share.stop - first) for share in self.shares]
        pairs = list(zip(pieces, positions, strict=True))
        inputs = [self.inputs.draw(piece, places, "train", iteration) for piece, places in pairs]
        if self.shared_sample:
            return self.step(inputs)
        again = [
            self.inputs.redraw(one, places, "train", iteration)
            for one, (_, places) in zip(inputs, pairs, strict=True)
        ]
        return self.step(inputs, again)

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

    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores of the validation images and a picture, see `validate_generator`."""
        return validate_generator(
            self.ema.module, self.bridge, self.validation, self.inputs, self.world
        )

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return scores["psnr"]

    def state_dict(self, keep: bool) -> dict[str, Any]:
        """Returns networks, average and optimisers, see `state_of`; the prior never changes."""
        return state_of(self._parts(), keep)

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
        load_state(self._parts(), state)

    def _optimizers(self) -> dict[str, NetworkOptimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "fake_score_optimizer": self.fake_score_optimizer,
            **({"discriminator_optimizer": self.adversary.optimizer} if self.adversary else {}),
        }

    def _parts(self) -> dict[str, nn.Module | NetworkOptimizer]:
        return {
            "generator": unwrapped(self.generator.network),
            "ema": self.ema,
            "fake_score": unwrapped(self.fake_score.network),
            **({"discriminator": unwrapped(self.adversary.network)} if self.adversary else {}),
            **self._optimizers(),
        }


def _marking_the_last(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Yields (item, whether it is the last)."""
    for number, item in enumerate(items, start=1):
        yield item, number == len(items)
