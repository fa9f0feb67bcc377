"""The variance-preserving diffusion: alpha_bar_t, forward noising, and x0 / eps / score.

x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, t = 0 .. num_steps - 1 (Sec. 3).
Times are integer indices; tables are float64 and values are cast on use.
"""

import math

import torch
from torch import Tensor

NUM_STEPS = 1000  # both ADM priors
BETA_START, BETA_END = 1e-4, 2e-2  # Ho et al. 2020, linear schedule


def linear_betas(start: float = BETA_START, end: float = BETA_END) -> Tensor:
    """Returns (1000,) float64 betas; by default those the ADM priors were trained with."""
    return torch.linspace(start, end, NUM_STEPS, dtype=torch.float64)


def quadratic_betas(start: float = BETA_START, end: float = BETA_END) -> Tensor:
    """Returns (1000,) float64 betas; by default those the authors' release uses for everything.

    They are linear in sqrt(beta), and begin and, by default, end as those of the linear schedule.
    """
    return torch.linspace(start**0.5, end**0.5, NUM_STEPS, dtype=torch.float64) ** 2


def cosine_betas() -> Tensor:
    """Returns the (1000,) float64 betas of Nichol & Dhariwal 2021, Eq. 17, none above 0.999."""
    t = torch.linspace(0, 1, NUM_STEPS + 1, dtype=torch.float64)
    alpha_bar = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


BETAS = {"linear": linear_betas, "quadratic": quadratic_betas, "cosine": cosine_betas}


class Schedule:
    """A VP noise schedule and its conversions.

    Args:
        betas: (T,) noise added per step.

    Attributes:
        betas, alpha_bar: (T,) float64 tables.
        posterior_variance: of q(x_{t-1} | x_t, x_0); 0 at t = 0.
        posterior_log_variance: its logarithm, at t = 0 that of t = 1.
        posterior_weight_x0, posterior_weight_x_t: of the mean of q(x_{t-1} | x_t, x_0).
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = betas.double()
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)
        # Ho et al. 2020, Eqs. 6 and 7.
        previous = torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])
        self.posterior_variance = self.betas * (1 - previous) / (1 - self.alpha_bar)
        second_twice = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]])
        self.posterior_log_variance = second_twice.log()
        self.posterior_weight_x0 = self.betas * previous.sqrt() / (1 - self.alpha_bar)
        self.posterior_weight_x_t = (1 - self.betas).sqrt() * (1 - previous) / (1 - self.alpha_bar)
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    @classmethod
    def named(cls, name: str) -> "Schedule":
        """Returns the schedule of a name in `BETAS`, or of one with the ends of its betas.

        Args:
            name: such as "linear", or "linear:0.0015:0.0195".

        Raises:
            ValueError: it is neither.
        """
        kind, *ends = name.split(":")
        try:
            start, end = map(float, ends or (BETA_START, BETA_END))
        except ValueError:
            start = end = -1.0
        if kind not in BETAS or (ends and kind == "cosine") or not 0 < start <= end < 1:
            raise ValueError(
                f"{name!r:.80} is no schedule; allowed: {', '.join(BETAS)}, and with the first and "
                "the last beta linear:0.0001:0.02 and quadratic:0.0001:0.02"
            )
        return cls(BETAS[kind](start, end) if ends else BETAS[kind]())

    def __len__(self) -> int:
        return len(self.betas)

    def at(self, table: str, t: Tensor, like: Tensor) -> Tensor:
        """Returns a table at each t, shaped (B, 1, ..., 1) to broadcast against `like`.

        Args:
            table: name of one of the attributes.
            t: (B,) int64 index.
            like: gives dtype and number of dimensions.
        """
        key = table, t.device
        if key not in self._on_device:  # one copy per device, not one per call
            self._on_device[key] = getattr(self, table).to(t.device)
        return self._on_device[key][t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))

    def alpha_bar_t(self, t: Tensor, like: Tensor) -> Tensor:
        """Returns alpha_bar at each t, shaped (B, 1, ..., 1) to broadcast against `like`."""
        return self.at("alpha_bar", t, like)

    def noise_ratio(self, t: Tensor, like: Tensor) -> Tensor:
        """Returns s = (1 - alpha_bar) / alpha_bar, the variance of the noise in x_t / sqrt(abar).

        Shaped (B, 1, ..., 1) to broadcast against `like`.
        """
        alpha_bar = self.alpha_bar_t(t, like)
        return (1 - alpha_bar) / alpha_bar

    def index_of_noise(self, deviation: Tensor) -> Tensor:
        """Returns the first t at which sqrt((1 - abar) / abar) is not below a deviation, int64."""
        table = ((1 - self.alpha_bar) / self.alpha_bar).sqrt().to(deviation.device)
        return torch.searchsorted(table, deviation).clamp(max=len(self) - 1)

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Returns x_t ~ q(x_t | x_0) for the given noise.

        Source: Sec. 3, transition kernel.

        Args:
            x0: (B, ...) clean images in [-1, 1].
            t: (B,) int64 index.
            eps: standard normal, shape as x0.
        """
        alpha_bar = self.alpha_bar_t(t, x0)
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps

    def x0_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Returns the clean image that x_t and eps imply (Tweedie if eps is predicted)."""
        alpha_bar = self.alpha_bar_t(t, x_t)
        return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()

    def eps_from_x0(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """Returns the noise that x_t and the clean image x0 imply."""
        alpha_bar = self.alpha_bar_t(t, x_t)
        return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()

    def v(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Returns v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, shape as x0.

        Like the noise at low noise and like the clean image at high noise, whichever is hard to
        see in x_t. Source: Salimans & Ho 2022, Progressive Distillation, Appendix D.
        """
        alpha_bar = self.alpha_bar_t(t, x0)
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0

    def eps_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """Returns the noise that x_t and v imply."""
        alpha_bar = self.alpha_bar_t(t, x_t)
        return alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * x_t

    def eps_of(self, prediction: str, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """Returns the noise that a network's output implies, shape as x_t.

        Args:
            prediction: what the output is: "eps", "v" or "x0".
            x_t: what the network saw.
            t: (B,) int64 index.
            output: what it said, shape as x_t.
        """
        if prediction == "eps":
            return output
        return {"v": self.eps_from_v, "x0": self.eps_from_x0}[prediction](x_t, t, output)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the mean of q(x_{t-1} | x_t, x_0), shape as x_t."""
        weight_x0 = self.at("posterior_weight_x0", t, x_t)
        return weight_x0 * x0 + self.at("posterior_weight_x_t", t, x_t) * x_t

    def learned_log_variance(self, output: Tensor, t: Tensor) -> Tensor:
        """Returns the log-variance of p(x_{t-1} | x_t) that a network's variance channels mean.

        Source: Nichol & Dhariwal 2021, Eq. 15: between posterior variance (-1) and beta (1).
        """
        low, high = self.at("posterior_log_variance", t, output), self.at("betas", t, output).log()
        return low + (output + 1) / 2 * (high - low)

    def score_from_eps(self, eps: Tensor, t: Tensor) -> Tensor:
        """Returns grad log q(x_t) = -eps / sqrt(1 - alpha_bar_t)."""
        return -eps / (1 - self.alpha_bar_t(t, eps)).sqrt()

    def eps_from_score(self, score: Tensor, t: Tensor) -> Tensor:
        """Returns eps = -sqrt(1 - alpha_bar_t) * score."""
        return -(1 - self.alpha_bar_t(t, score)).sqrt() * score

    def ikl_weight(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Returns w(t) of Eq. 9, shaped to broadcast against `like`.

        sigma_over_alpha: sqrt((1 - alpha_bar) / alpha_bar), what the release's loss amounts to;
            the gradient with respect to x0_hat is then the plain gap eps_theta - eps_psi.
        constant: 1, the only choice here with the paper's w(0) = 1.
        variance: 1 - alpha_bar, the usual weighting of score matching.
        """
        alpha_bar = self.alpha_bar_t(t, like)
        return {
            "sigma_over_alpha": lambda: ((1 - alpha_bar) / alpha_bar).sqrt(),
            "constant": lambda: torch.ones_like(alpha_bar),
            "variance": lambda: 1 - alpha_bar,
        }[name]()
