"""An operator of deepinv: python examples/deepinv_operator.py OUTPUT. Here tomography."""

import sys
from pathlib import Path

import torch

from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import image_grid, titled_grid
from davi.folders.generating import load_prior
from davi.interop.deepinv import Model, theirs
from davi.metrics.scores import psnr
from davi.solvers.diffpir import DiffPIR
from davi.solvers.prior import CountedPrior

output = Path(sys.argv[1])
u = (validation_batch(open_images("photos:held_out", 64), 2) + 1) / 2  # in [0, 1], as there
torch.manual_seed(0)  # of the noise, and of how deepinv finds the norm
physics = theirs.Tomography(30, 64, normalize=True, noise_model=theirs.GaussianNoise(0.02))
y = physics(u)
print(f"measured: {tuple(y.shape[1:])} numbers of an image {tuple(u.shape[1:])}")
prior = CountedPrior(load_prior("photos_prior", "cpu")[0])
model = Model(DiffPIR(num_steps=10, lam=1, zeta=1), prior, image_shape=(3, 64, 64))
rows = {"pseudo-inverse": physics.A_dagger(y), "DiffPIR": model(y, physics)}
for name, restored in rows.items():
    score = psnr(2 * restored.clamp(0, 1) - 1, 2 * u - 1).mean()
    print(f"{name}: {score:.2f} dB")
save_image(image_grid([2 * y / y.amax() - 1]), output / "measured.png")
rows = {name: 2 * picture - 1 for name, picture in {**rows, "truth": u}.items()}
save_image(titled_grid(rows, scale=2), output / "restored.png")
