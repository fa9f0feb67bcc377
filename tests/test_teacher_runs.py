"""A conditional teacher and the generator that begins as it, the way a user trains them."""

from pathlib import Path

import pytest
import torch

import davi
from davi.benchmarks.ladders import random_network
from davi.config.other_runs import TeacherRunConfig
from davi.config.yaml_file import load_config
from davi.generator import ConditionalGenerator
from davi.weights.network_file import TEACHER, read_training_checkpoint, save_weights
from tests.conftest import REPOSITORY

TINY = (
    "network={preset: photos_64, image_size: 16, channel_mult: [1, 1], attention_resolutions: [2]}",
    "operator.box_size=8",
    "train.num_iterations=4",
    "train.batch_size=4",
    "train.cooldown_iterations=0",
    "train.num_validation_images=2",
    "train.validate_every=4",
    "train.save_every=2",
)
LAST = "checkpoints/iteration_0000004.pt"


def settings(*overrides: str) -> list[str]:
    return [word for override in (*TINY, *overrides) for word in ("--set", override)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a teacher with random weights."""
    path = REPOSITORY / "configs/photos_inpainting_teacher.yaml"
    config = load_config(path, TeacherRunConfig, TINY)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_weights(
        file,
        random_network(config.seeing_unet()).state_dict(),
        kind=TEACHER,
        config=config.model_dump(mode="json"),
        iteration=0,
        dtype="float32",
    )
    return file


def test_a_generator_is_trained_from_its_teacher_and_restores(
    command: object, tiny_prior: Path, tmp_path: Path
) -> None:
    names = ("first", "run", "known", "output")
    first, run, known, output = (tmp_path / name for name in names)
    teacher = tmp_path / "teacher.safetensors"
    steps = (
        (
            *("train", "photos_inpainting_teacher", "--run-dir", first),
            *settings(f"prior.checkpoint={tiny_prior}"),
        ),
        ("export", first, "--output", teacher),
        (
            *("train", "photos_inpainting_conditional", "--run-dir", run),
            *settings(f"prior.checkpoint={teacher}"),
        ),
        (
            *("degrade", run / "config.yaml", "--input", "photos:held_out"),
            *("--num-images", 2, "--output", known),
        ),
        (
            *("sample", "--checkpoint", run, "--input", known, "--output", output),
            *("--num-samples", 2),
        ),
    )
    for step in steps:
        code, text = command(*step)
        assert code == 0, text
    assert isinstance(davi.load(run).generator, ConditionalGenerator)
    assert len(list((output / "sample_001").glob("*.png"))) == 2


def test_training_begins_at_the_teacher_and_goes_on_where_it_stopped(
    command: object, teacher: Path, tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train = ("train", "photos_inpainting_conditional")
    given = settings(f"prior.checkpoint={teacher}")
    assert command(*train, "--run-dir", whole, *given)[0] == 0
    assert command(*train, "--run-dir", halves, *given)[0] == 0
    (halves / LAST).unlink()  # as if it had been stopped after two iterations
    assert command(*train, "--run-dir", halves, *given)[0] == 0
    one, other = (read_training_checkpoint(run / LAST) for run in (whole, halves))
    for part in ("generator", "fake_score", "ema"):
        for key, value in one[part].items():
            assert torch.equal(value, other[part][key]), f"{part} {key}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("operator.box_size=4", "operator: the teacher"),
        ("noise.sigma=0.1", "noise: the teacher"),
        ("loss.image_deviation=0.3", "loss.image_deviation: the teacher"),
        ("loss.likelihood=sample", "loss.likelihood: none"),
        ("prior.sees_measurement=false", "prior.sees_measurement: true"),
    ],
)
def test_a_teacher_of_another_problem_is_refused(
    command: object, teacher: Path, tmp_path: Path, override: str, said: str
) -> None:
    train = ("train", "photos_inpainting_conditional", "--run-dir", tmp_path / "run")
    code, text = command(*train, *settings(f"prior.checkpoint={teacher}", override))
    assert code == 2
    assert said in text


def test_an_ordinary_prior_is_no_teacher(command: object, tiny_prior: Path, tmp_path: Path) -> None:
    train = ("train", "photos_inpainting_conditional", "--run-dir", tmp_path / "run")
    code, text = command(*train, *settings(f"prior.checkpoint={tiny_prior}"))
    assert code == 2
    assert "method: teacher" in text
