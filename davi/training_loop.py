"""The loop that every training shares: batches in, statistics, panels and checkpoints out.

What a step is, the learner decides; the loop only counts. All randomness of a step is keyed by
its iteration, so that a resumed run repeats the unbroken one.
"""

import time
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from davi.config import DataConfig, LoopConfig
from davi.data import training_batches
from davi.errors import InputError
from davi.run_folder import RunFolder


class Learner(Protocol):
    """What the loop needs to know of a method."""

    def train_step(self, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        """Updates the networks on clean images (B, C, H, W); returns detached scalars."""

    def validate(self) -> tuple[dict[str, float], Tensor]:
        """Returns scores and a (3, H, W) picture in [-1, 1] for the fixed validation batch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


def run_training(
    learner: Learner,
    images: Dataset,
    run: RunFolder,
    *,
    seed: int,
    data: DataConfig,
    settings: LoopConfig,
) -> None:
    """Trains up to `settings.num_iterations`, going on from the newest checkpoint of the run."""
    start, last = _resume(learner, run), settings.num_iterations
    if start >= last:
        print(f"{run.path}: already at iteration {start}, nothing to do")
        return
    batches = training_batches(
        images,
        batch_size=settings.batch_size,
        seed=seed,
        flip=data.flip,
        num_workers=data.num_workers,
        first_iteration=start,
        num_iterations=last,
        on_error=data.on_error,
    )
    with tqdm(total=last, initial=start, desc="training", unit="it") as bar:
        log = _Log(run, bar, settings.batch_size)
        for iteration, batch in enumerate(batches, start=start):
            losses = learner.train_step(batch.x0, iteration)
            done = iteration + 1
            bar.update()
            log_now, validate_now, save_now = (
                done % every == 0 or done == last
                for every in (settings.log_every, settings.validate_every, settings.save_every)
            )
            if log_now or save_now:
                _require_finite(losses, done, run)
            if log_now:
                log.losses(done, losses)
            if validate_now:
                log.validation(done, *learner.validate())
            if save_now:
                run.save(done, learner.state_dict(), settings.keep_checkpoints)
    run.close()


def _require_finite(losses: dict[str, Tensor], done: int, run: RunFolder) -> None:
    """Stops a diverged run before it writes a checkpoint."""
    broken = [name for name, value in losses.items() if not torch.isfinite(value)]
    if broken:
        raise InputError(
            f"{run.path}: {', '.join(broken)} not finite after iteration {done}; checkpoints up to "
            "the last one are sound. Try a lower train.learning_rate in a new run"
        )


class _Log:
    """Numbers and pictures on their way to the run folder and the progress bar."""

    def __init__(self, run: RunFolder, bar: tqdm, batch_size: int) -> None:
        self.run, self.bar, self.batch_size = run, bar, batch_size
        self._last = bar.n, time.perf_counter()

    def losses(self, done: int, losses: dict[str, Tensor]) -> None:
        values = {name: value.item() for name, value in losses.items()}
        (before, then), now = self._last, time.perf_counter()
        speed = (done - before) * self.batch_size / (now - then)
        self._last = done, now
        self.run.log(done, values)
        self.run.log_speed(done, {"images_per_second": speed})
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()})

    def validation(self, done: int, scores: dict[str, float], panel: Tensor) -> None:
        self.run.log(done, scores)
        self.run.save_panel(done, panel)
        text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.bar.write(f"iteration {done}: {text}")


def _resume(learner: Learner, run: RunFolder) -> int:
    state = run.load_newest()
    if state is None:
        run.forget_after(0)
        return 0
    iteration = state.pop("iteration")
    state.pop("config")
    learner.load_state_dict(state)
    run.forget_after(iteration)
    print(f"{run.path}: going on from iteration {iteration}")
    return iteration
