"""The loop that every training shares: batches in, statistics, panels and checkpoints out.

What a step is, the learner decides; the loop only counts. All randomness of a step is keyed by
its iteration and the position in the global batch, so that a resumed run repeats the unbroken one,
on however many processes.
"""

import contextlib
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from davi.config.schema import DataConfig, LoopConfig
from davi.data.batches import Batch, KeyedOrder, training_batches
from davi.runs.finite import FiniteWatch
from davi.runs.run_folder import RunFolder
from davi.system.background import LatestJob
from davi.system.errors import InputError
from davi.system.files import disk_full_as_input_error
from davi.system.signals import StopRequest
from davi.system.world import World
from davi.training.learner import Learner
from davi.weights.network_file import read_training_checkpoint


def run_training(
    learner: Learner,
    images: Dataset,
    run: RunFolder,
    *,
    seed: int,
    data: DataConfig,
    settings: LoopConfig,
    world: World,
) -> bool:
    """Trains up to `settings.num_iterations`, going on from the newest checkpoint of the run.

    Returns:
        Whether it came to the end; False if a signal stopped it, its state saved.

    Raises:
        InputError: an image cannot be used, a checkpoint cannot be written, or a loss or gradient
            is not finite.
    """
    loop = _Loop(learner, images, run, seed, data, settings, world)
    last = settings.num_iterations
    with contextlib.ExitStack() as stack:
        if world.is_first:
            stack.enter_context(run.lock())
            stack.enter_context(disk_full_as_input_error(run.path))
        # Left last: a signal stays a wish until everything is written.
        stop = stack.enter_context(StopRequest())
        stack.enter_context(contextlib.closing(loop))
        done = start = loop.resume()
        world.on_first(run.take_over_changes)
        batches = training_batches(
            images,
            batch_size=settings.batch_size,
            seed=seed,
            flip=data.flip,
            num_workers=data.num_workers,
            first_iteration=start,
            num_iterations=last,
            world=world,
            on_error=data.on_error,
        )
        for iteration, batch in enumerate(batches, start=start):
            done = iteration + 1
            loop.step(batch, iteration)
            stopping = bool(world.max(stop.received))
            loop.finish_iteration(done, stopping)
            if stopping:
                break
        loop.finish_writing()
    return done >= last


@dataclass(eq=False)
class _Loop:
    """One iteration, and what is due after it."""

    learner: Learner
    images: Dataset
    run: RunFolder
    seed: int
    data: DataConfig
    settings: LoopConfig
    world: World

    def __post_init__(self) -> None:
        settings = self.settings
        self.watch = FiniteWatch()
        self.counters = {"skipped_steps": 0, "skipped_images": 0}
        # The counters that the configuration lets become more than 0.
        self.counted = ["skipped_steps"] * (settings.on_not_finite == "skip")
        self.counted += ["skipped_images"] * (self.data.on_error == "skip")
        in_background = settings.save_in_background and self.world.is_first
        self.writer = LatestJob() if in_background else None
        self.log = _Log(self.run, settings, self.world.is_first)

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one, and returns its iteration."""
        path = self.world.on_first(self.run.find_newest)
        iteration = 0
        if path is not None:
            state = read_training_checkpoint(path, mapped=True)
            iteration = state["iteration"]
            self.learner.load_state_dict(state)
            if self.world.is_first:  # the sum over the processes is what was saved
                self.counters = state["counters"]
        self.log.begin(iteration)
        return iteration

    def step(self, batch: Batch, iteration: int) -> None:
        """Trains on one batch."""
        self.terms = self.learner.train_step(batch.x0, iteration)
        self.watch.observe(self.terms, iteration)
        self.counters["skipped_images"] += batch.num_skipped

    def finish_iteration(self, done: int, stopping: bool) -> None:
        """Logs, validates and saves where it is time for it."""
        settings, last = self.settings, done == self.settings.num_iterations
        log_now, validate_now, save_now = (
            last or done % every == 0
            for every in (settings.log_every, settings.validate_every, settings.save_every)
        )
        save_now |= stopping
        # On a GPU to look at a number means to wait for it; on a CPU it is there.
        if log_now or validate_now or save_now or self.world.device.type == "cpu":
            self._require_finite()
        self.log.bar.update()
        if log_now:
            if settings.save_in_background:
                self.world.on_first(self.writer.raise_error if self.writer else _nothing)
            sums = self.world.sum(torch.stack(list(self.terms.values()))).tolist()
            values = dict(zip(self.terms, sums, strict=True))
            self.log.losses(done, values | {name: self._total(name) for name in self.counted})
        score = None
        if validate_now:
            scores, panel = self.learner.validate()
            self.log.validation(done, scores, panel)
            score = self.learner.quality(scores)
        if save_now:
            self._save(done, score)

    def _total(self, counter: str) -> int:
        return sum(self.world.gather(self.counters[counter]))

    def _require_finite(self) -> None:
        """Stops before anything not finite is written; or counts it, if it is to be skipped."""
        found = self.watch.report()
        if not self.world.max(bool(found)):
            return
        if self.settings.on_not_finite == "skip":
            count = self.world.max(self.watch.take_count())
            self.counters["skipped_steps"] += count if self.world.is_first else 0
            return
        reports = self.world.gather(found)
        iteration = min(at for report in reports for at in report.values())
        terms = sorted(
            {name for report in reports for name, at in report.items() if at == iteration}
        )
        batch_size = self.settings.batch_size
        positions = range(iteration * batch_size, (iteration + 1) * batch_size)
        order = KeyedOrder(len(self.images), self.seed, self.data.flip)
        report = {
            "iteration": iteration,
            "not_finite": terms,
            "seed": self.seed,
            "image_indices": [order[position][0] for position in positions],
        }
        path = self.world.on_first(partial(self.run.record_not_finite, report))
        raise InputError(
            f"{self.run.path}: {', '.join(terms)} not finite in iteration {iteration}; nothing "
            f"of it was saved, {path} says what to repeat, and the checkpoints are sound. Try a "
            "lower train.learning_rate or another train.precision in a new run, or leave such "
            "steps out: train.on_not_finite=skip"
        )

    def _save(self, done: int, score: float | None) -> None:
        state = self.learner.state_dict(keep=self.world.is_first)
        state["counters"] = {name: self._total(name) for name in self.counters}
        job = partial(self.run.save, done, state, score)
        self.world.on_first(job if self.writer is None else partial(self.writer.submit, job))

    def finish_writing(self) -> None:
        """Returns when all that was to be written is; the processes wait for each other."""
        self.world.on_first(self.writer.close if self.writer else _nothing)

    def close(self) -> None:
        """Ends bar, curves and writing, of this process alone."""
        try:
            self.log.close()
        finally:
            if self.writer is not None:
                self.writer.close()


def _nothing() -> None:
    """What the first process has to do where nothing is to be done."""


@dataclass(eq=False)
class _Log:
    """Numbers and pictures on their way to the run folder and the progress bar.

    Only the first process `writes`; the calls of the others do nothing.
    """

    run: RunFolder
    settings: LoopConfig
    writes: bool
    bar: tqdm | None = None

    def begin(self, done: int) -> None:
        """Takes up the statistics after `done` iterations."""
        total = self.settings.num_iterations
        if self.writes:
            self.run.statistics.forget_after(done)
            if done >= total:
                print(f"{self.run.path}: already at iteration {done}, nothing to do")
                return
            if done:
                print(f"{self.run.path}: going on from iteration {done}")
        silent = not self.writes
        self.bar = tqdm(total=total, initial=done, desc="training", unit="it", disable=silent)
        self._last = done, time.perf_counter()

    def losses(self, done: int, values: dict[str, float]) -> None:
        """Writes the terms of an iteration."""
        if not self.writes:
            return
        (before, then), now = self._last, time.perf_counter()
        speed = (done - before) * self.settings.batch_size / (now - then)
        self._last = done, now
        self.run.statistics.log(done, values)
        self.run.statistics.log_speed(done, {"images_per_second": speed})
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()})

    def validation(self, done: int, scores: dict[str, float], panel: Tensor) -> None:
        """Writes scores and picture."""
        if not self.writes:
            return
        self.run.statistics.log(done, scores)
        self.run.statistics.save_panel(done, panel)
        text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.bar.write(f"iteration {done}: {text}")

    def close(self) -> None:
        """Ends bar and curves."""
        if self.bar is not None:
            self.bar.close()
        self.run.statistics.close()
