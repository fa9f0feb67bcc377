"""Makes docs/uncertainty.png: what samples of a denoiser say of held-out crops, and what is true.

Run it as `python docs/uncertainty.py [GENERATOR]`. Columns: measurement, truth, three samples, the
mean of 19, their standard deviation, the error of the mean; the last two with the same scale.
"""

import sys
from pathlib import Path

import torch

import davi
from davi.build import build_forward_model
from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import image_grid
from davi.system.runtime import keyed_rng

PICTURE = Path(__file__).with_suffix(".png")
GENERATOR = "photos_denoising_posterior"
SIZE, NUM_CROPS, NUM_SAMPLES = 64, 6, 19
WHITE = 0.15  # deviation or error, on the [-1, 1] scale, that is shown as white


def main(generator: str = GENERATOR) -> None:
    """Writes the picture."""
    restorer = davi.load(generator, size=(SIZE, SIZE))
    truth = validation_batch(open_images("photos:held_out", SIZE), NUM_CROPS)
    forward_model = build_forward_model(restorer.config, restorer.image_shape, torch.device("cpu"))
    rngs = [keyed_rng("cpu", 0, "figure", index) for index in range(NUM_CROPS)]
    y, _ = forward_model.measure(truth, rngs)
    samples = restorer.restore(y, num_samples=NUM_SAMPLES)
    mean = samples.mean(dim=0)
    maps = [
        2 * (each.mean(dim=1, keepdim=True) / WHITE).clamp(max=1).expand_as(truth) - 1
        for each in (samples.std(dim=0), (mean - truth).abs())
    ]
    columns = [y.clamp(-1, 1), truth, *samples[:3], mean, *maps]
    rows = torch.stack(columns, dim=1).unbind(0)  # one crop a row
    save_image(image_grid(list(rows)), PICTURE)
    print(f"written to {PICTURE}")


if __name__ == "__main__":
    main(*sys.argv[1:])
