"""Restore a photograph: python examples/restore_photograph.py OUTPUT.

The network is one for 64x64; the picture is larger, noisy, and restored in pieces.
"""

import sys
from pathlib import Path

import torch

import davi
from davi.data.batches import open_images, validation_batch
from davi.data.images import load_image, save_image
from davi.data.panel import image_grid
from davi.metrics.scores import psnr
from davi.pictures.noise import estimated_sigma

output = Path(sys.argv[1])
truth = validation_batch(open_images("photos:held_out", 160), 5)[3]
rng = torch.Generator().manual_seed(0)
save_image(truth + 0.2 * torch.randn(truth.shape, generator=rng), output / "noisy.png")

y = load_image(output / "noisy.png")  # (3, 160, 160) in [-1, 1]; here your own picture
restorer = davi.load("photos_denoising")
restored = restorer.restore(y[None], names=["noisy"])[0, 0]
save_image(restored, output / "restored.png")

print(f"sigma: {estimated_sigma(y):.3f} estimated, {restorer.config.noise.sigma} in training")
for name, picture in {"noisy": y, "restored": restored}.items():
    print(f"{name}: {psnr(picture[None], truth[None]).item():.2f} dB")
save_image(image_grid([torch.stack([y, restored, truth])]), output / "comparison.png")
