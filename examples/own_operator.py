"""Your own operator, here a double exposure: python examples/own_operator.py OUTPUT."""

import sys
from pathlib import Path

from torch import Tensor

from davi.data.batches import open_images, validation_batch
from davi.data.images import save_image
from davi.data.panel import titled_grid
from davi.folders.generating import load_prior
from davi.metrics.scores import psnr
from davi.operators.checking import check_adjoint
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise
from davi.solvers.diffpir import DiffPIR
from davi.solvers.prior import CountedPrior
from davi.system.runtime import keyed_rng


class DoubleExposure(LinearOperator):
    def A(self, x: Tensor) -> Tensor:
        return (x + x.roll((5, 9), dims=(-2, -1))) / 2

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y + y.roll((-5, -9), dims=(-2, -1))) / 2


truth = validation_batch(open_images("photos:held_out", 64), 6)
operator, noise = DoubleExposure(truth.shape[1:], truth.shape[1:]), GaussianNoise(0.05, 0.05)
check_adjoint(operator)  # raises if it is none
rngs = [keyed_rng("cpu", index) for index in range(len(truth))]
y, _ = noise.sample(operator.A(truth), rngs)
prior = CountedPrior(load_prior("photos_prior", "cpu")[0])
restored = DiffPIR(num_steps=20, lam=1, zeta=1)(y, operator, noise, prior, rngs)
rows = {"measured": y, "least squares": operator.A_dagger(y), "DiffPIR": restored}
scores = {name: psnr(x.clamp(-1, 1), truth).mean() for name, x in rows.items()}
print("\n".join(f"{name}: {score:.2f} dB" for name, score in scores.items()))
save_image(titled_grid(rows | {"truth": truth}), Path(sys.argv[1]) / "double_exposure.png")
