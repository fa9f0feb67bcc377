"""Experiments of the paper on the embedded photographs, by the commands that README gives."""

from pathlib import Path

import numpy as np
import pytest

from davi.config.schema import PriorRunConfig, RunConfig
from davi.config.yaml_file import load_config
from davi.data.batches import open_images
from davi.data.images import load_image, save_image
from tests.conftest import REPOSITORY

CONFIG_DIR, CHECKPOINTS = REPOSITORY / "configs", REPOSITORY / "checkpoints"
NAMES = ("one", "two")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A folder of two held-out crops."""
    crops = open_images("photos:held_out", 64)
    (tmp_path / "clean").mkdir()
    for name, index in zip(NAMES, (100, 400), strict=True):
        save_image(crops[index], tmp_path / f"clean/{name}.png")
    return tmp_path / "clean"


def train(script: object, name: str, run: Path, *overrides: str) -> None:
    """Two iterations of a config, with the shipped prior."""
    shorter = (
        f"prior.checkpoint={CHECKPOINTS / 'photos_prior.safetensors'}",
        "train.num_iterations=2",
        "train.batch_size=2",
        "train.num_validation_images=1",
        "train.precision=fp32",
        "train.log_every=1",
        *overrides,
    )
    arguments = [word for override in shorter for word in ("--set", override)]
    code, output = script("train", CONFIG_DIR / f"{name}.yaml", "--run-dir", run, *arguments)
    assert code == 0, output


def restore(
    script: object, name: str, checkpoint: Path, clean: Path, measured: Path, *overrides: str
) -> str:
    """Measurements of a config, and what a generator makes of them beside them; what was said."""
    arguments = [word for override in overrides for word in ("--set", override)]
    if not overrides:
        arguments = ["--input", clean]
    code, output = script(
        "degrade", CONFIG_DIR / f"{name}.yaml", "--output", measured, "--baselines", *arguments
    )
    assert code == 0, output
    restored = measured.with_name("restored")
    code, output = script(
        "sample", "--checkpoint", checkpoint, "--input", measured, "--output", restored
    )
    assert code == 0, output
    assert "2 restored, 0 failed" in output
    for name in NAMES:
        assert load_image(restored / f"{name}.png").shape == (3, 64, 64)
    return output


def test_training_on_generated_images(script: object, clean: Path, tmp_path: Path) -> None:
    """Table 10: from the prior alone to a restoration."""
    drawn = tmp_path / "drawn"
    code, output = script(
        "generate",
        CHECKPOINTS / "photos_prior.safetensors",
        "--output",
        drawn,
        "--num-images",
        3,
        "--sampler",
        "ddim",
        "--num-steps",
        3,
        "--device",
        "cpu",
    )
    assert code == 0, output
    assert "3 images drawn, 0 failed" in output
    config = "photos_super_resolution_generated"
    train(script, config, tmp_path / "run", f"data.train={drawn}")
    restore(script, config, tmp_path / "run", clean, tmp_path / "measured")


def test_generating_says_in_one_line_what_is_wrong(script: object, tmp_path: Path) -> None:
    prior = CHECKPOINTS / "photos_prior.safetensors"
    for arguments, message in (
        ((prior, "--num-steps", 1001), "--num-steps 1001: the prior knows 1000 times"),
        ((tmp_path / "absent.pt",), "absent.pt: no such file or run folder"),
        ((CHECKPOINTS / "photos_inpainting.safetensors",), "holds a davi generator; a prior"),
    ):
        code, output = script("generate", *arguments, "--output", tmp_path / "o", "--num-images", 1)
        assert code == 2
        assert output.startswith("error: ")
        assert message in output
        assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_mask_that_the_training_never_had(script: object, clean: Path, tmp_path: Path) -> None:
    """Figure 6: random boxes in training, a larger centred one at test; no mask is handed over."""
    train(script, "photos_inpainting_random_box", tmp_path / "run", "data.train=photos:held_out")
    output = restore(
        script, "photos_inpainting_unseen_mask", tmp_path / "run", clean, tmp_path / "measured"
    )
    assert "note: measured otherwise than in training (operator." in output
    for name in NAMES:
        y = np.load(tmp_path / f"measured/measurement/{name}.npy")
        hole = (y == 0).all(axis=0)
        assert hole.sum() == 49**2
        assert hole[7:56, 7:56].all()


def test_a_domain_that_the_training_never_had(script: object, clean: Path, tmp_path: Path) -> None:
    """Figures 7, 8: the shipped generator, as it is. Images named by the config are degraded."""
    output = restore(
        script,
        "photos_gaussian_blur_unseen_domain",
        CHECKPOINTS / "photos_gaussian_blur.safetensors",
        clean,
        tmp_path / "measured",
        f"data.validation={clean}",
    )
    assert "note:" not in output  # operator and noise are those of the training


def test_degrade_asks_for_images(script: object, tmp_path: Path) -> None:
    code, output = script(
        "degrade", CONFIG_DIR / "gopro_gaussian_blur.yaml", "--output", tmp_path / "o"
    )
    assert code == 2
    assert "data.validation is not set" in output


def test_the_ablation_without_prior_trains(script: object, tmp_path: Path) -> None:
    """Table 5 A."""
    train(script, "photos_ablation_a", tmp_path / "run", "data.train=photos:held_out")
    assert (tmp_path / "run/checkpoints").is_dir()


def test_the_cost_of_an_image_is_printed_and_written(script: object, tmp_path: Path) -> None:
    """Tables 4, 13."""
    arguments = ("--preset", "photos_64", "--repeats", 1, "--device", "cpu")
    code, output = script("benchmark", "cost", *arguments, "--output", tmp_path / "cost.json")
    assert code == 0
    assert "4.36 M parameters, 1.57 GMAC (3.15 GFLOP)" in output
    assert (tmp_path / "cost.md").read_text() in output


# Of the ablation, everything but: IKL, perturbation, h, p(a). None: not in the table.
TABLE_5 = {
    "a": (0.0, None, None, "end"),
    "b": (1.0, None, None, "end"),
    "c": (1.0, "constant", 0.0, "uniform"),
    "d": (1.0, "constant", 0.01, "uniform"),
    "e": (1.0, "constant", 0.01, "beta"),
    "f": (1.0, "monotone", 0.01, "beta"),
}


@pytest.mark.parametrize("data", ["ffhq", "photos"])
def test_the_ablation_is_table_5(data: str) -> None:
    for row in TABLE_5:
        config = load_config(CONFIG_DIR / f"{data}_ablation_{row}.yaml", RunConfig)
        ikl, perturbation, h, time = TABLE_5[row]
        assert config.task == "gaussian_blur"
        assert (config.loss.ikl, config.bridge.time) == (ikl, time)
        assert perturbation in (None, config.bridge.perturbation)
        assert config.bridge.h == (0.01 if h is None else h)
        whole = load_config(CONFIG_DIR / f"{data}_ablation_f.yaml", RunConfig)
        assert config.model_dump(
            exclude={"loss": {"ikl"}, "bridge": {"h", "perturbation", "time"}}
        ) == (whole.model_dump(exclude={"loss": {"ikl"}, "bridge": {"h", "perturbation", "time"}}))


TWINS = {  # paper's config: its twin at 64x64, and what is as in the paper in it
    "imagenet_gaussian_blur_unknown_noise": ("photos_gaussian_blur_unknown_noise", "noise"),
    "ffhq_gaussian_blur_poisson": ("photos_gaussian_blur_poisson", "noise"),
    "ffhq_super_resolution_poisson": ("photos_super_resolution_poisson", "noise"),
    "ffhq_super_resolution_generated": ("photos_super_resolution_generated", "operator"),
    "ffhq_gaussian_blur": ("photos_ablation_f", "operator"),
    "celeba_hq_gaussian_blur": ("photos_gaussian_blur_unseen_domain", "operator"),
}


def test_twins_are_what_they_are_twins_of() -> None:
    for name, (twin, section) in TWINS.items():
        paper, photos = (load_config(CONFIG_DIR / f"{x}.yaml", RunConfig) for x in (name, twin))
        assert getattr(paper, section) == getattr(photos, section), name
        assert paper.task == photos.task, name


@pytest.mark.parametrize("data", ["ffhq", "photos"])
def test_boxes_of_figure_6(data: str) -> None:
    side = load_config(CONFIG_DIR / f"{data}_inpainting.yaml", RunConfig).network.unet().image_size
    seen, unseen = (
        load_config(CONFIG_DIR / f"{data}_inpainting_{x}.yaml", RunConfig).operator
        for x in ("random_box", "unseen_mask")
    )
    assert (seen.mask, seen.box_size / side) == ("random_box", 128 / 256)
    assert (unseen.mask, unseen.box_size / side) == ("centred_box", 196 / 256)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("celeba_hq_gaussian_blur", "ffhq_gaussian_blur"),
        ("gopro_gaussian_blur", "imagenet_gaussian_blur"),
        ("photos_gaussian_blur_unseen_domain", "photos_gaussian_blur"),
    ],
)
def test_zero_shot_measurements_are_those_of_the_training(target: str, source: str) -> None:
    measured, trained = (load_config(CONFIG_DIR / f"{x}.yaml", RunConfig) for x in (target, source))
    assert measured.model_dump(exclude={"data"}) == trained.model_dump(exclude={"data"})


def photographs(source: str) -> set[Path]:
    """The photographs that the crops of a data set are taken from; some."""
    crops = open_images(source, 64)
    found = {crops.source(index) for index in range(len(crops))}
    assert found
    return found


def test_pictures_of_another_domain_are_in_no_training() -> None:
    measured, trained = (
        load_config(CONFIG_DIR / f"photos_gaussian_blur{x}.yaml", RunConfig).data
        for x in ("_unseen_domain", "")
    )
    prior = load_config(CONFIG_DIR / "photos_prior.yaml", PriorRunConfig).data
    assert measured.train is None
    others = photographs(measured.validation)
    for data in (trained, prior):
        assert not others & photographs(data.train)
