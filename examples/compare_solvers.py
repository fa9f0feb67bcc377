"""Compare solvers: python examples/compare_solvers.py OUTPUT. Here in 4x super-resolution."""

import sys
import time
from pathlib import Path

import torch

from davi.build import build_forward_model
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import titled_grid
from davi.folders.generating import load_prior
from davi.metrics.scores import psnr
from davi.solvers.prior import CountedPrior
from davi.solvers.solver_file import read_solver
from davi.system.runtime import keyed_rng
from davi.system.shipped import CONFIGS, find

TASK = "super_resolution"
truth = validation_batch(open_images("photos:held_out", 64), 4)
rngs = [keyed_rng("cpu", index) for index in range(len(truth))]
config = load_config(find(f"photos_{TASK}", CONFIGS), RunConfig)
model = build_forward_model(config, truth.shape[1:], torch.device("cpu"))
y, operator = model.measure(truth, rngs)
network = load_prior("photos_prior", "cpu")[0]
rows = {"measured": y}
for name in ("bicubic", "pseudo_inverse", "ddrm", "dps_annealed", "diffpir", "davi"):
    solver = read_solver(find(f"solvers/{name}", CONFIGS), "photos", TASK)
    prior, start = CountedPrior(network), time.perf_counter()
    x = solver(y, operator, model.noise, prior, rngs).clamp(-1, 1)
    seconds = (time.perf_counter() - start) / len(y)
    evaluations = prior.evaluations.forward / len(y)
    rows[name] = x
    print(f"{name}: {psnr(x, truth).mean():.2f} dB, {evaluations:.0f} evaluations, {seconds:.2f} s")
save_image(titled_grid({**rows, "truth": truth}), Path(sys.argv[1]) / "solvers.png")
