"""What `recipe:` resolves to, and that `release` meets the numbers recorded from the release."""

from pathlib import Path

import numpy as np
import pytest
import torch

from davi.bridge import PosteriorBridge, symmetric_betas
from davi.build import build_bridge, build_operator, image_shape
from davi.config.schema import RunConfig
from davi.config.yaml_file import flatten, load_config, to_yaml
from davi.generator import ImplicitGenerator
from davi.operators.measurement import lift
from davi.schedule import Schedule
from davi.system.errors import InputError
from tests.conftest import REPOSITORY, sine_image

TASKS = ("gaussian_blur", "super_resolution", "inpainting", "denoising", "colorization")
RECORDS = {  # the release's names of the tasks
    "super_resolution": "sr_averagepooling",
    "inpainting": "inpainting",
    "denoising": "deno",
    "colorization": "colorization",
}
# Every setting in which the recipes differ, of all tasks: (paper, release).
DIFFERENCES = {
    "recipe": ("paper", "release"),
    "seed": (0, 777),
    "schedule": ("linear", "quadratic"),
    "bridge.mixing": ("linear", "symmetric"),
    "generator.parametrisation": ("paper", "release"),
    "loss.variational_bound": (False, True),
    "adversarial.enabled": (False, True),
    "train.ema_policy": ("warmup", "release"),
    "train.shared_sample": (True, False),
    "train.draws": ("per_image", "per_process"),
    "train.precision": ("fp32", "fp16"),
}
DIFFERENCES_OF_TASK = {
    "gaussian_blur": {"operator.variant": ("exact", "release")},
    "inpainting": {
        "operator.noise_in_hole": (False, True),
        "loss.regulariser": ("everywhere", "kept_pixels"),
    },
    "denoising": {"noise.sigma": (0.05, 0.2)},
    "colorization": {"operator.weights": (None, [0.3333, 0.3334, 0.3333])},
}
DIFFERENCES_OF_DATA = {
    "ffhq": {"train.batch_size": (8, 32)},
    "imagenet": {
        "train.batch_size": (10, 48),
        "train.num_micro_batches": (1, 4),
        "adversarial.learning_rate": (1e-4, 1e-3),
    },
}
CONFLICTS = {  # Table 12 against training.sh and evaluation.sh
    ("imagenet", "gaussian_blur"): {"train.batch_size": (12, 48)},
    ("imagenet", "denoising"): {"train.batch_size": (12, 48)},
    ("imagenet", "colorization"): {"bridge.h": (0.01, 0.1), "bridge.h_sampling": (None, 0.01)},
}


def resolved(data: str, task: str, *overrides: str) -> RunConfig:
    return load_config(REPOSITORY / f"configs/{data}_{task}.yaml", RunConfig, overrides)


@pytest.mark.parametrize("data", DIFFERENCES_OF_DATA)
def test_the_recipes_differ_in_these_settings_and_no_other(data: str) -> None:
    for task in TASKS:
        expected = DIFFERENCES | DIFFERENCES_OF_TASK.get(task, {}) | DIFFERENCES_OF_DATA[data]
        expected |= CONFLICTS.get((data, task), {})
        paper, release = (
            flatten(resolved(data, task, f"recipe={recipe}")) for recipe in ("paper", "release")
        )
        assert paper.keys() == release.keys()
        found = {key: (paper[key], release[key]) for key in paper if paper[key] != release[key]}
        assert found == expected


@pytest.mark.parametrize("task", TASKS)
def test_any_setting_of_a_recipe_can_be_overridden(task: str) -> None:
    differences = DIFFERENCES | DIFFERENCES_OF_TASK.get(task, {}) | DIFFERENCES_OF_DATA["ffhq"]
    release = flatten(resolved("ffhq", task, "recipe=release"))
    for key, (paper, _) in differences.items():
        if key == "recipe":
            continue
        override = f"{key}={'null' if paper is None else str(paper).lower()}"
        changed = flatten(resolved("ffhq", task, "recipe=release", override))
        assert {k for k in release if release[k] != changed[k]} == {key}


def test_the_printed_config_is_the_config(tmp_path: Path) -> None:
    config = resolved("imagenet", "inpainting", "recipe=release")
    path = tmp_path / "printed.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path, RunConfig) == config


def test_another_operator_gets_its_own_recipe() -> None:
    config = resolved("ffhq", "inpainting", "recipe=release", "operator={name: gaussian_blur}")
    assert config.operator.variant == "release"
    assert config.loss.regulariser == "everywhere"


def test_a_file_may_hold_values_for_one_recipe_only(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    base = REPOSITORY / "configs/imagenet_super_resolution.yaml"
    path.write_text(
        f"extends: {base}\nloss: {{gamma: 3}}\nrecipes: {{release: {{loss: {{gamma: 5}}}}}}\n"
    )
    gammas = [
        load_config(path, RunConfig, [f"recipe={r}"]).loss.gamma for r in ("paper", "release")
    ]
    assert gammas == [3, 5]
    # What a file says comes after what its bases say for a recipe.
    path.write_text(f"extends: {base}\ntrain: {{batch_size: 7}}\n")
    assert load_config(path, RunConfig, ["recipe=release"]).train.batch_size == 7


BAD = {
    "recipe=official": "recipe: 'official' is none of paper, release",
    "recipe=[paper]": r"recipe: \['paper'\] is none of paper, release",
    "recipes={papr: {}}": "recipes: a mapping of settings for each of paper, release",
    "recipes={release: 5}": "recipes: a mapping of settings for each of paper, release",
    "recipes={release: {recipe: paper}}": "recipes: a mapping of settings for each of paper",
    "network.out_channels=3": "loss.variational_bound needs 6 output channels, the network has 3",
    "train.parallel=fsdp": "adversarial.enabled needs train.parallel: ddp",
    "loss.regulariser=kept_pixels": "kept_pixels is for inpainting only",
    "adversarial.min_weight=20": r"min_weight=20.0 is above max_weight=10.0",
}


@pytest.mark.parametrize("override", BAD)
def test_settings_that_do_not_fit_give_one_line(override: str) -> None:
    overrides = [override] if override.startswith("recipe=") else ["recipe=release", override]
    with pytest.raises(InputError, match=BAD[override]) as caught:
        resolved("ffhq", "super_resolution", *overrides)
    assert "\n" not in str(caught.value)


def release_parts(task: str) -> tuple[RunConfig, Schedule, PosteriorBridge]:
    config = resolved("ffhq", task, "recipe=release")
    schedule = Schedule.named(config.schedule)
    return config, schedule, build_bridge(config.bridge, schedule)


def test_release_schedule_and_bridge_meet_the_recorded_tables(golden_schedules: dict) -> None:
    config, schedule, bridge = release_parts("super_resolution")
    tables = {
        "quadratic_betas": schedule.betas,
        "quadratic_alphas_cumprod": schedule.alpha_bar,
        "mu_x0": bridge.mix_x,
        "ppb_scale_h1": bridge.perturb_scale / config.bridge.h,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.posterior_weight_x0,
        "posterior_mean_coef2": schedule.posterior_weight_x_t,
    }
    for name, table in tables.items():
        np.testing.assert_allclose(table, golden_schedules[name], rtol=1e-9, atol=1e-12)
    betas = symmetric_betas()
    forward, backward = betas.cumsum(0), betas.flip(0).cumsum(0).flip(0)
    np.testing.assert_allclose(backward.sqrt(), golden_schedules["std_bwd"], rtol=1e-9)
    of_bridge = (forward * backward / (forward + backward)).sqrt()
    np.testing.assert_allclose(of_bridge, golden_schedules["std_sb"], rtol=1e-9)
    times = torch.arange(1000)
    weight = schedule.ikl_weight(config.loss.ikl_weight, times, torch.zeros(1000, 1).double())
    # What the release weighs x0 with, for scores: its gap is sigma^2 / alpha times theirs.
    ratio = golden_schedules["ikl_weight_snr"]
    np.testing.assert_allclose(weight.flatten(), 1 / ratio, rtol=1e-9)
    generator = ImplicitGenerator(torch.nn.Identity(), config.generator.parametrisation, schedule)
    np.testing.assert_allclose(generator.coefficient, golden_schedules["std_fwd"], rtol=1e-9)
    assert generator.squash


@pytest.mark.parametrize("task", RECORDS)
def test_release_operators_meet_the_recorded_ones(task: str, golden_operators: dict) -> None:
    config, _, bridge = release_parts(task)
    shape, record = image_shape(config), RECORDS[task]
    operator, x = build_operator(config.operator, shape), sine_image(*shape)
    y = operator.A(x)
    for name, result in (("AtA", operator.A_adjoint(y)), ("ApinvA", operator.A_dagger(y))):
        recorded = golden_operators[f"{record}_{name}_sub"]
        np.testing.assert_allclose(result.flatten()[::97], recorded, rtol=0, atol=1e-5)
    if f"{record}_netinput_sub" in golden_operators:
        lifted = lift(y, shape, bridge.resize).flatten()[::97]
        recorded = golden_operators[f"{record}_netinput_sub"]
        np.testing.assert_allclose(lifted, recorded, rtol=0, atol=1e-5)


def test_release_blur_is_the_recorded_one_up_to_ties(golden_operators: dict) -> None:
    config, *_ = release_parts("gaussian_blur")
    shape = image_shape(config)
    y = build_operator(config.operator, shape).A(sine_image(*shape)).flatten()[::97].numpy()
    recorded = golden_operators["gaussian_A_sub"]
    assert np.linalg.norm(y - recorded) / np.linalg.norm(recorded) < 5e-3
