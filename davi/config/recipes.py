"""What `recipe:` in a config stands for: settings that lie below everything the config says.

The paper's recipe is the defaults of `davi.config.schema`. The release's is what the authors' code
does at commit 677717b, whatever the paper says; docs/fidelity.md goes through the differences one
by one. What depends on the data set (batch size, the discriminator's learning rate, a value in
conflict with Table 12) stands in the YAML files, under `recipes:`.
"""

from typing import Any

PAPER, RELEASE, POSTERIOR = "paper", "release", "posterior"
CONDITIONAL_TEACHER, ENERGY = "conditional_teacher", "energy"

_RELEASE: dict[str, Any] = {
    "seed": 777,
    "schedule": "quadratic",
    "bridge": {"mixing": "symmetric"},
    "generator": {"parametrisation": "release"},
    "loss": {"variational_bound": True},
    "adversarial": {"enabled": True},
    "train": {
        "ema_policy": "release",
        "shared_sample": False,
        "draws": "per_process",
        "precision": "fp16",
    },
}
_RELEASE_OF_TASK: dict[str, dict[str, Any]] = {
    "gaussian_blur": {"operator": {"name": "gaussian_blur", "variant": "release"}},
    "inpainting": {
        "operator": {"name": "inpainting", "noise_in_hole": True},
        "loss": {"regulariser": "kept_pixels"},
    },
    "denoising": {"noise": {"name": "gaussian", "sigma": 0.2}},
    "colorization": {"operator": {"name": "colorization", "weights": [0.3333, 0.3334, 0.3333]}},
}
# Samples that are distributed as the posterior, see docs/objective.md. There is no term beside the
# divergence from the target: sigma_y enters through the likelihood in it.
_POSTERIOR: dict[str, Any] = {
    "bridge": {"time": "end", "perturbation": "constant"},
    "generator": {"parametrisation": "denoiser", "sees_measurement": True},
    "fake_score": {"sees_measurement": True},
    "loss": {
        "likelihood": "denoised",
        "noise_range": [0.02, 0.5],
        "spectral_power": 1,
    },
    # Adam without momentum: the generator must not run ahead of s_psi.
    "train": {"adam_betas": [0.0, 0.99]},
}

# The same for posteriors of several modes: what a teacher that sees y has learned is the target.
_CONDITIONAL_TEACHER: dict[str, Any] = {
    "prior": {"sees_measurement": True},
    "bridge": {"time": "end", "perturbation": "constant", "h": 1.0, "resize": "nearest"},
    "generator": {"parametrisation": "conditional", "sees_measurement": True},
    "fake_score": {"sees_measurement": True},
    "loss": {"noise_range": [0.02, 20.0]},
    "train": {"adam_betas": [0.0, 0.99]},
}

# The same without a target and without s_psi: pairs of images and measurements teach the generator,
# which begins at the prior.
_ENERGY: dict[str, Any] = {
    "bridge": _POSTERIOR["bridge"],
    "generator": _POSTERIOR["generator"],
    "loss": {"ikl": 0.0, "energy": 1.0},
}

_RECIPES: dict[str, dict[str, Any]] = {
    PAPER: {},
    RELEASE: _RELEASE,
    POSTERIOR: _POSTERIOR,
    CONDITIONAL_TEACHER: _CONDITIONAL_TEACHER,
    ENERGY: _ENERGY,
}
RECIPES = tuple(_RECIPES)

# What the release calls a task, in `NAME_ema.pt`, and what it is here.
RELEASE_TASKS = {
    "gaussian": {"name": "gaussian_blur"},
    "sr_averagepooling": {"name": "super_resolution", "kernel": "average"},
    "bicubic": {"name": "super_resolution", "kernel": "bicubic"},
    "inpainting": {"name": "inpainting"},
    "deno": {"name": "denoising"},
    "colorization": {"name": "colorization"},
}


def recipe_settings(recipe: str, task: str | None) -> list[dict[str, Any]]:
    """Returns layers of nested config values, the later over the earlier.

    Args:
        recipe: one of `RECIPES`.
        task: name of the operator, if the config has one.
    """
    layers = [_RECIPES[recipe]]
    if recipe == RELEASE:
        layers.append(_RELEASE_OF_TASK.get(task, {}))
    return layers
