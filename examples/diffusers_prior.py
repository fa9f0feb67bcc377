"""A prior of diffusers: python examples/diffusers_prior.py OUTPUT [STEPS_OF_TRAINING]."""

import subprocess
import sys
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import titled_grid
from davi.folders.generating import load_prior
from davi.metrics.scores import psnr
from davi.operators.inpainting import Inpainting
from davi.operators.noise import GaussianNoise
from davi.solvers.diffpir import DiffPIR
from davi.solvers.prior import CountedPrior

output, steps = Path(sys.argv[1]), int([*sys.argv, 100][2])
kinds = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
unet = UNet2DModel(32, block_out_channels=(32, 64), layers_per_block=1, **kinds)
scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
images = validation_batch(open_images("photos:train", 32), 500)
optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
for x in images[torch.randint(500, (steps, 16))]:  # a pipeline that you have needs no training
    eps, t = torch.randn_like(x), torch.randint(1000, (16,))
    (unet(scheduler.add_noise(x, eps, t), t).sample - eps).square().mean().backward()
    optimizer.step(), optimizer.zero_grad()
DDPMPipeline(unet, scheduler).save_pretrained(output / "pipeline")
convert = [sys.executable, "-m", "davi", "import", output / "pipeline", "--overwrite"]
subprocess.run([*convert, "--output", output / "prior.safetensors"], check=True)
prior = CountedPrior(load_prior(output / "prior.safetensors", "cpu")[0])
truth, rngs = validation_batch(open_images("photos:held_out", 32), 6), [torch.default_generator] * 6
operator = Inpainting((3, 32, 32), (torch.rand(32, 32) < 0.3).float())  # 7 of 10 pixels are missing
y = operator.project(truth + 0.05 * torch.randn(truth.shape))
x = DiffPIR(num_steps=20, lam=1, zeta=1)(y, operator, GaussianNoise(0.05, 0.05), prior, rngs)
print(f"measured: {psnr(y, truth).mean():.2f} dB, DiffPIR: {psnr(x, truth).mean():.2f} dB")
save_image(titled_grid({"measured": y, "DiffPIR": x, "truth": truth}, 2), output / "restored.png")
