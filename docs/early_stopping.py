"""Makes docs/early_stopping.png: DMPlug on noise of unknown kind, and where it stops by itself.

Run it as `python docs/early_stopping.py [ITERATIONS]`. One crop of the embedded photographs, of
32x32 so that a CPU gets far, with the low level of each kind of noise of
`configs/photos_denoising_noise_kinds.yaml`.
It prints a table: PSNR of the measurement, of the image that early stopping keeps, of the best
image of all (which only the truth can name), and of the last one.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from davi.build import build_noise
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.data.batches import open_images
from davi.metrics.scores import psnr
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.dmplug import Dmplug
from davi.solvers.prior import CountedPrior
from davi.solvers.windowed_variance import WindowedVariance
from davi.system.runtime import keyed_rng, normal_each
from davi.system.shipped import CONFIGS, shipped_folder

PICTURE = Path(__file__).with_suffix(".png")
SIDE, CROP = 32, 242
LEARNING_RATE, WINDOW, PATIENCE, MIN_ITERATIONS = 0.02, 30, 100, 50
KINDS = ("Gaussian", "impulse", "shot", "speckle")


def main(iterations: str = "500") -> None:
    """Runs DMPlug on all kinds at once, draws one column a kind, and prints the table."""
    config = load_config(shipped_folder(CONFIGS) / "photos_denoising_noise_kinds.yaml", RunConfig)
    truth = open_images("photos:tuning", SIDE)[CROP][None]
    noises = build_noise(config.noise).kinds[::2]  # the low ones
    y = torch.cat([noise.sample(truth, [keyed_rng("cpu", 0, "noise")])[0] for noise in noises])
    scores, variances, ends = watch(y, truth.expand_as(y), config, int(iterations))
    draw(scores, variances, ends)
    report(psnr(y, truth.expand_as(y)), scores, ends)


def watch(
    y: Tensor, truth: Tensor, config: RunConfig, iterations: int
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Runs DMPlug for denoising, without an end, and notes what early stopping would do.

    Returns:
        PSNR and windowed variance of all iterations, (T, B); for each image the iteration whose
        image is kept, and the one after which it stops.
    """
    file = read_prior_file(config.prior.path)
    schedule, prediction = Schedule.named(file.schedule), file.prediction
    prior = CountedPrior(ScoreModel(file.network(), schedule, "bf16", prediction=prediction))
    solver = Dmplug()
    seed = normal_each(y.shape[1:], [keyed_rng("cpu", 0, "seed")])
    z = seed.expand_as(y).clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=LEARNING_RATE)
    watcher = WindowedVariance(y, WINDOW, PATIENCE, MIN_ITERATIONS)
    scores, variances = [], []
    kept, stopped = torch.zeros(len(y), dtype=torch.int64), torch.full((len(y),), iterations - 1)
    for iteration in range(iterations):
        x = solver.reconstruct(z, prior)
        (z.grad,) = torch.autograd.grad((x - y).square().flatten(1).mean(dim=1).sum(), z)
        adam.step()
        least, ended = watcher.least, watcher.stopped
        watcher.push(x.detach())
        kept[watcher.least < least] = iteration
        stopped[watcher.stopped & ~ended] = iteration
        scores.append(psnr(x.detach(), truth))
        variances.append(watcher.variance)
    ends = list(zip(kept.tolist(), stopped.tolist(), strict=True))
    return torch.stack(scores), torch.stack(variances), ends


def draw(scores: Tensor, variances: Tensor, ends: list[tuple[int, int]]) -> None:
    """Draws PSNR above the variance, with what is kept as a line, and the stop as a dotted one."""
    figure, plots = plt.subplots(2, len(KINDS), figsize=(2.6 * len(KINDS), 4.5), sharex=True)
    for column, (kept, stopped) in enumerate(ends):
        above, below = plots[:, column]
        above.plot(scores[:, column], linewidth=1)
        below.semilogy(variances[:, column], linewidth=1)
        above.set_title(KINDS[column])
        below.set_xlabel("iteration")
        for plot in (above, below):
            plot.axvline(kept, color="tab:red", linewidth=1)
            plot.axvline(stopped, color="tab:red", linewidth=1, linestyle=":")
            plot.grid(alpha=0.3)
    plots[0, 0].set_ylabel("PSNR [dB]")
    plots[1, 0].set_ylabel("windowed variance")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=70)
    print(f"written to {PICTURE}")


def report(measured: Tensor, scores: Tensor, ends: list[tuple[int, int]]) -> None:
    """Prints one line a kind."""
    print("| noise | measurement | stopped | best (oracle) | gap | last | kept, stopped, best at |")
    print("|---|---|---|---|---|---|---|")
    for column, (kept, stopped) in enumerate(ends):
        values = scores[:, column]
        best, ours = values.max().item(), values[kept].item()
        numbers = (measured[column].item(), ours, best, best - ours, values[-1].item())
        at = f"{kept + 1}, {stopped + 1}, {int(values.argmax()) + 1}"
        print(f"| {KINDS[column]} | {' | '.join(f'{number:.2f}' for number in numbers)} | {at} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
