"""Calibrated intervals: python examples/calibrated_intervals.py OUTPUT.

Samples give every pixel an interval, and images with known truth say how much to widen it.
"""

import sys
from pathlib import Path

from torch import Tensor

import davi
from davi.build import build_forward_model
from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import titled_grid
from davi.system.runtime import keyed_rng

LEVEL, SAMPLES = 0.8, 9
output = Path(sys.argv[1])
restorer = davi.load("photos_denoising", device="cpu")
model = build_forward_model(restorer.config, restorer.image_shape, restorer.device)


def measured(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Returns measurements of crops, and the crops."""
    truth = validation_batch(open_images(split, 64), count)
    return model.measure(truth, [keyed_rng("cpu", split, i) for i in range(count)])[0], truth


calibration = restorer.calibrate(*measured("photos:tuning", 12), LEVEL, SAMPLES)
y, truth = measured("photos:held_out", 6)
samples = restorer.restore(y, SAMPLES)
for name, known in {"samples alone": None, "calibrated": calibration}.items():
    low, high = restorer.interval(samples, LEVEL, known)
    inside = ((low <= truth) & (truth <= high)).float()
    print(f"{name}: {inside.mean():.3f} of the values inside, {LEVEL} wanted")
rows = {"noisy": y, "truth": truth, "mean": samples.mean(0)}
rows |= {"width": 2 * (high - low).clamp(max=1) - 1, "outside": 1 - 2 * inside}
save_image(titled_grid(rows), output / "intervals.png")
