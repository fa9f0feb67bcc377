"""Algorithm 1: amortized variational inference with a diffusion prior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge
from davi.generator import ConditionalGenerator, ImplicitGenerator
from davi.likelihood import PosteriorTarget
from davi.losses import energy_surrogate, ikl_surrogate
from davi.operators.measurement import ForwardModel, image_of
from davi.score import FrozenPrior, PosteriorDenoiser, ScoreModel
from davi.system.errors import InputError
from davi.system.parallel import unwrapped
from davi.terms import (
    consistency_term,
    fake_score_term,
    generate,
    ikl_term,
    posterior_term,
    regulariser_term,
    teacher_term,
)
from davi.training.adversary import Adversary, compared_weight
from davi.training.inputs import InputDraws, StepInputs, time_draws
from davi.training.learner import Learner
from davi.training.network_optimizer import NetworkOptimizer
from davi.training.validation import validate_generator


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How the terms of Algorithm 1 are weighed, and in which form they are taken.

    Attributes:
        gamma: of the data consistency L_C; like `reg` and `ikl_weight` unused with a target.
        ikl: of the score distillation L_IKL; 0 switches the prior off (Table 5, A).
        reg: of the l2 regulariser.
        t_ikl: T, the exclusive upper bound of the diffusion index.
        ikl_weight: name of w(t), see `Schedule.ikl_weight`.
        reduction: see `losses.reduce`.
        regulariser: "everywhere" or "kept_pixels", see `terms.regulariser_term`.
        variational_bound: see `terms.fake_score_term`.
        noise_range: bounds of the noise of x_t, log-uniform between them; None: t is uniform
            below t_ikl.
        energy: of the energy score of two samples, see `losses.energy_surrogate`.
        energy_patches: sides of the patches of which it is taken.
    """

    gamma: float
    ikl: float
    reg: float
    t_ikl: int
    ikl_weight: str
    reduction: str = "mean"
    regulariser: str = "everywhere"
    variational_bound: bool = False
    noise_range: tuple[float, float] | None = None
    energy: float = 0.0
    energy_patches: tuple[int, ...] = (1,)


@dataclass(kw_only=True, eq=False)
class DaviTrainer(Learner):
    """Learner of `run_training` for the generator, whose average is the result.

    Attributes:
        generator: I_phi,a, initialised from the prior.
        fake_score: s_psi, initialised from the prior.
        prior: s_theta; None where a teacher is the target.
        generator_optimizer, fake_score_optimizer: of their networks.
        forward_model: operator and noise.
        bridge: the Perturbed Posterior Bridge.
        weights: of the loss terms.
        target: the posterior as what samples are to be distributed like, as prior and likelihood
            or as a teacher; None: the prior is, and L_C pulls towards y, as in the paper.
        adversary: the release's discriminator.
        shared_sample: one sample of the generator serves both turns, as in Algorithm 1; otherwise
            each turn draws its own, as in the release.
        draws: "per_image", or "per_process": every process draws the same, as in the release.
        Further ones are those of `Learner`.
    """

    generator: ImplicitGenerator | ConditionalGenerator
    fake_score: ScoreModel | PosteriorDenoiser
    prior: FrozenPrior | None
    generator_optimizer: NetworkOptimizer
    fake_score_optimizer: NetworkOptimizer
    forward_model: ForwardModel
    bridge: PosteriorBridge
    weights: LossWeights
    target: PosteriorTarget | PosteriorDenoiser | None = None
    adversary: Adversary | None = None
    shared_sample: bool = True
    draws: str = "per_image"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inputs = InputDraws(
            forward_model=self.forward_model,
            bridge=self.bridge,
            draw_time=time_draws(
                self.fake_score.schedule, self.weights.t_ikl, self.weights.noise_range
            ),
            rngs=self.rngs,
        )

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Draws what iteration `iteration` needs and takes one step of Algorithm 1."""
        for part in self.parts().values():
            if isinstance(part, NetworkOptimizer):
                part.begin(iteration)
        # Positions in the global batch, or in this process's part of it.
        first = 0 if self.draws == "per_image" else self.shares[0].start
        positions = [range(share.start - first, share.stop - first) for share in self.shares]
        inputs = [
            self.inputs.draw(piece, places, "train", iteration)
            for piece, places in zip(self.micro_batches(x0), positions, strict=True)
        ]
        if self.shared_sample:
            return self.step(inputs)
        again = [
            self.inputs.redraw(one, places, "train", iteration)
            for one, places in zip(inputs, positions, strict=True)
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
        directions: list[Tensor | None] = []
        for inputs in micro_batches:  # lines 4, 5, 10
            with torch.set_grad_enabled(keep_graph):
                x0_hat = self._generate(inputs)
            last = inputs is micro_batches[-1]
            parts, direction = self._score_turn(inputs, x0_hat, last)
            self._add_scaled(terms, parts, inputs)
            directions.append(direction)
        norms = {}
        if self.weights.ikl:
            norms["fake_score"] = self.fake_score_optimizer.step()  # line 11
        if self.adversary is not None:
            norms["discriminator"] = self.adversary.optimizer.step()

        own_turn = second or micro_batches
        for inputs, direction in zip(own_turn, directions, strict=True):  # lines 13, 14
            with self.generator_optimizer.exchange(inputs is own_turn[-1]):
                x0_hat = x0_hat if keep_graph else self._generate(inputs)
                loss, parts = self._generator_loss(inputs, x0_hat, direction)
                self.generator_optimizer.backward(self._scaled(loss, inputs))
            self._add_scaled(terms, parts, inputs)
        norms["generator"] = self.generator_optimizer.step()  # line 15
        self.ema.update(self.generator)
        gradients = {f"{name}_gradient": norm / self.world.size for name, norm in norms.items()}
        return terms | gradients

    def _generate(self, inputs: StepInputs) -> Tensor:
        y_image = self._y_image(inputs)
        return generate(self.generator, self.bridge, inputs.x0, y_image, inputs.a, inputs.z)

    def _y_image(self, inputs: StepInputs) -> Tensor:
        return image_of(inputs.y, inputs.operator, self.bridge.resize)

    def _seen(self, inputs: StepInputs) -> Tensor | None:
        """The measurements on the image grid, if s_psi is shown them."""
        return None if self.fake_score.sees is None else self._y_image(inputs)

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

    def _score_turn(
        self, inputs: StepInputs, x0_hat: Tensor, last: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Gradients of s_psi, where L_IKL counts, and of the discriminator if there is one.

        Returns their losses, and the direction of L_IKL if there is a target.
        """
        parts: dict[str, Tensor] = {}
        direction = None
        if self.weights.ikl:
            with self.fake_score_optimizer.exchange(last):
                loss, direction = self._fake_score_loss(inputs, x0_hat)
                self.fake_score_optimizer.backward(self._scaled(loss, inputs))
            parts["fake_score_loss"] = loss
        if self.adversary is not None:
            with self.adversary.optimizer.exchange(last):
                loss = self.adversary.discriminator_term(inputs.x0, x0_hat)
                self.adversary.optimizer.backward(self._scaled(loss, inputs))
            parts["discriminator_loss"] = loss
        return parts, direction

    def _fake_score_loss(self, inputs: StepInputs, x0_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        """L_S, and the direction of L_IKL if there is a target."""
        reduction = self.weights.reduction
        draws, seen = (inputs.t, inputs.eps), self._seen(inputs)
        if self.target is None:
            loss = fake_score_term(
                self.fake_score,
                x0_hat,
                *draws,
                y_image=seen,
                with_bound=self.weights.variational_bound,
                reduction=reduction,
            )
            return loss, None
        if isinstance(self.target, PosteriorDenoiser):
            return teacher_term(self.fake_score, self.target, x0_hat, *draws, seen, reduction)
        measured = (inputs.y, inputs.operator, inputs.sigma)
        return posterior_term(
            self.fake_score, self.target, x0_hat, *measured, *draws, seen, reduction
        )

    def _generator_loss(
        self, inputs: StepInputs, x0_hat: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of line 15 and its terms.

        A target, and the energy score, hold what the terms of measurement and truth are for.
        """
        weights, reduction = self.weights, self.weights.reduction
        counts = self.target is None and not weights.energy
        with torch.set_grad_enabled(counts):  # otherwise it is only told
            consistency = consistency_term(
                inputs.y, inputs.operator, self.forward_model.noise, x0_hat, reduction
            )
        regulariser = regulariser_term(
            x0_hat, inputs.x0, inputs.operator, where=weights.regulariser, reduction=reduction
        )
        parts = {"consistency": consistency, "regulariser": regulariser}
        total = x0_hat.new_zeros(())
        if counts:
            total = weights.gamma * consistency + weights.reg * regulariser
        if weights.ikl:
            ikl, parts["score_gap"] = self._ikl(inputs, x0_hat, direction)
            total = total + weights.ikl * ikl
        if weights.energy:
            with torch.no_grad():
                other = self._generate(replace(inputs, z=inputs.other_z))
            energy = energy_surrogate(x0_hat, other, inputs.x0, weights.energy_patches, reduction)
            parts["energy"] = energy
            total = total + weights.energy * energy
        if self.adversary is not None:
            compared = compared_weight(unwrapped(self.generator.network))
            adversarial, weight = self.adversary.generator_term(
                inputs.x0, x0_hat, regulariser, compared, self.generator_optimizer.loss_scale()
            )
            parts |= {"adversarial": adversarial, "adversarial_weight": weight}
            total = total + weight * adversarial
        return total, parts

    def _ikl(
        self, inputs: StepInputs, x0_hat: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """L_IKL and how far s_psi is from its target; without a direction, that of Algorithm 1."""
        reduction = self.weights.reduction
        if direction is not None:
            return ikl_surrogate(x0_hat, direction, reduction), direction.square().mean()
        return ikl_term(
            self.fake_score,
            self.prior,
            x0_hat,
            inputs.t,
            inputs.eps,
            y_image=self._seen(inputs),
            ikl_weight=self.weights.ikl_weight,
            reduction=reduction,
        )

    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores of the validation images and a picture, see `validate_generator`."""
        return validate_generator(
            self.ema.module, self.bridge, self.validation, self.inputs, self.world
        )

    def quality(self, scores: dict[str, float]) -> float:
        """Returns what the best checkpoint has the most of."""
        return scores["psnr"]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Learner.load_state_dict`.

        Raises:
            InputError: it has no discriminator, which this run trains.
        """
        if self.adversary is not None and "discriminator" not in state:
            raise InputError(
                "adversarial.enabled: the checkpoint holds no discriminator; begin a new run to "
                "train with one"
            )
        super().load_state_dict(state)

    def parts(self) -> dict[str, nn.Module | NetworkOptimizer]:
        """See `Learner.parts`; the prior never changes."""
        adversary = self.adversary
        return {
            "generator": unwrapped(self.generator.network),
            "ema": self.ema,
            "fake_score": unwrapped(self.fake_score.network),
            **({"discriminator": unwrapped(adversary.network)} if adversary else {}),
            "generator_optimizer": self.generator_optimizer,
            "fake_score_optimizer": self.fake_score_optimizer,
            **({"discriminator_optimizer": adversary.optimizer} if adversary else {}),
        }
