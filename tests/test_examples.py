"""A method and an operator of the user's own: the examples of docs/extending.md, really run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import davi
from davi.build import build_operator, image_shape
from davi.config.python_file import only_class, run_file
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.data.images import load_image, save_image
from davi.operators.checking import check_adjoint, check_vjp
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.linear import LinearOperator
from davi.operators.measurement import image_of, lift
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.runs.inputs import input_record
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.davi import Davi
from davi.solvers.prior import CountedPrior
from davi.solvers.solver_file import read_solver
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.runtime import keyed_rng
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config, tiny_trainer, write_tiny_generator

EXAMPLES = REPOSITORY / "examples"
TINY = REPOSITORY / "configs/tiny.yaml"
MOTION = f"operator={{name: custom, file: {EXAMPLES}/motion_blur.py, settings: {{length: 5}}}}"
IMAGE = (3, 8, 8)
RNGS = [keyed_rng("cpu", 0, index) for index in range(2)]


def motion_blur(*arguments: object, shape: tuple[int, int, int] = IMAGE) -> LinearOperator:
    module = run_file(EXAMPLES / "motion_blur.py", "operator")
    return only_class(module, LinearOperator, "example")(shape, *arguments)


class Half(nn.Module):
    """Predicts half of its input as noise."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t / 2


def a_prior() -> CountedPrior:
    return CountedPrior(ScoreModel(Half(), Schedule.named("linear")))


@pytest.mark.parametrize(
    "names",
    [
        ("my_solver.py", "my_solver.yaml"),
        ("motion_blur.py", "photos_motion_blur.yaml"),
        ("soft_saturation.py", "photos_soft_saturation.yaml"),
    ],
)
def test_a_method_or_an_operator_takes_less_than_sixty_lines(names: tuple[str, str]) -> None:
    assert sum(len((EXAMPLES / name).read_text().splitlines()) for name in names) < 60


@pytest.mark.parametrize(
    "name",
    [
        "motion_blur.py",
        "my_solver.py",
        "my_solver.yaml",
        "photos_motion_blur.yaml",
        "soft_saturation.py",
        "photos_soft_saturation.yaml",
    ],
)
def test_the_documentation_shows_the_examples_as_they_are(name: str) -> None:
    assert (EXAMPLES / name).read_text() in (REPOSITORY / "docs/extending.md").read_text()


def test_the_method_agrees_with_the_measurement_whatever_the_prior_says() -> None:
    solver = read_solver(EXAMPLES / "my_solver.yaml", "photos", "super_resolution")
    operator, prior = SuperResolution(IMAGE, 4), a_prior()
    y = torch.rand(2, 3, 2, 2) * 2 - 1
    x = solver(y, operator, GaussianNoise(0.0, 0.0), prior, RNGS)
    torch.testing.assert_close(operator.A(x), y, atol=1e-5, rtol=0)
    assert (x - operator.A_dagger(y)).std() > 0.1  # the rest is the prior's
    assert prior.evaluations.forward == 2 * 20
    assert read_solver(EXAMPLES / "my_solver.yaml", "ffhq", "denoising").num_steps == 100
    blur = motion_blur(3)  # knows only A and its adjoint
    y = blur.A(torch.rand(2, *IMAGE) - 0.5)
    x = solver(y, blur, GaussianNoise(0.0, 0.0), prior, RNGS)
    torch.testing.assert_close(blur.A(x), y, atol=1e-2, rtol=0)


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 201])
def test_the_operator_has_its_adjoint(angle: float) -> None:
    assert check_adjoint(motion_blur(5, angle)) < 1e-5


def test_the_operator_averages_along_its_line() -> None:
    x = torch.rand(1, *IMAGE)
    padded = nn.functional.pad(x, (1, 1))
    mean = (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3
    torch.testing.assert_close(motion_blur(3).A(x), mean)
    torch.testing.assert_close(motion_blur(3, 90.0).A(x.mT), mean.mT)
    diagonal = motion_blur(3, 45.0).A(torch.eye(8).flip(0).expand(1, *IMAGE))  # rises to the right
    torch.testing.assert_close(diagonal[0, 0, 1:-1, 1:-1], torch.eye(8).flip(0)[1:-1, 1:-1])


class Shift(LinearOperator):
    """Moves the image by one row; what it does wrong is up to its subclasses."""

    def A(self, x: Tensor) -> Tensor:
        return x.roll(1, dims=-2)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y.roll(-1, dims=-2)


class SelfAdjoint(Shift):
    """Moves back the wrong way."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)


class WrongInOneRow(Shift):
    """Forgets the last row on the way back."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        x = super().A_adjoint(y)
        return torch.cat([x[..., :-1, :], 0 * x[..., -1:, :]], dim=-2)


class Affine(Shift):
    """Adds a constant."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x) + 1


class NaN(Shift):
    """Measures nothing at all."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x) * torch.nan


class Small(Shift):
    """Returns half of what it promised."""

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::2]


@pytest.mark.parametrize("shape", [IMAGE, (3, 64, 64)])
def test_the_check_tells_an_adjoint_from_what_is_none(shape: tuple[int, int, int]) -> None:
    rights = [Shift(shape, shape), GaussianBlur(shape, 9, 1.0), SuperResolution(shape, 4)]
    rights.append(Inpainting(shape, centred_box(*shape[1:], 4), noise_in_hole=True))
    for right in rights:
        assert check_adjoint(right) < 1e-5
    for wrong in (SelfAdjoint, WrongInOneRow, Affine, NaN):
        with pytest.raises(InputError, match=f"{wrong.__name__}: .* not the transpose"):
            check_adjoint(wrong(shape, shape))
    with pytest.raises(InputError, match=r"Small\.A returns"):
        check_adjoint(Small(shape, shape))


def test_the_operator_comes_from_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load_config("examples/photos_motion_blur.yaml", RunConfig)
    assert config.task == "motion_blur"
    operator = build_operator(config.operator, image_shape(config))
    assert (operator.image_shape, operator.reach) == ((3, 64, 64), 4)
    other = load_config(
        "examples/photos_motion_blur.yaml", RunConfig, ["operator.settings.length=3"]
    )
    assert other.operator.settings == {"length": 3, "angle": 30}


def test_an_operator_that_is_not_linear_comes_from_a_config_and_is_trained_for(
    tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load_config("examples/photos_soft_saturation.yaml", RunConfig)
    operator = build_operator(config.operator, image_shape(config))
    assert check_vjp(operator) < 1e-6
    x = torch.linspace(-1, 1, 12).expand(1, 3, 4, 12)
    torch.testing.assert_close(operator.A_dagger(operator.A(x)), x)
    changes = "operator={name: custom, file: examples/soft_saturation.py}"
    trainer = tiny_trainer(tiny_prior, changes, "bridge.resize=pseudo_inverse")
    before = trainer.generator.network.out[-1].weight.clone()
    losses = trainer.train_step(torch.rand(4, 3, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert not torch.equal(trainer.generator.network.out[-1].weight, before)


def test_davi_trains_for_it_and_the_file_is_part_of_the_run(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, MOTION)
    before = trainer.generator.network.out[-1].weight.clone()
    losses = trainer.train_step(torch.rand(4, 3, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert not torch.equal(trainer.generator.network.out[-1].weight, before)
    _, panel = trainer.validate()
    _, of_shipped_task = tiny_trainer(tiny_prior).validate()
    assert panel.shape == of_shipped_task.shape
    record = input_record(tiny_config(tiny_prior, MOTION))
    assert record["operator.file"] == sha256_of(EXAMPLES / "motion_blur.py")


def test_from_measurements_to_restorations(
    script: object, tiny_prior: Path, tmp_path: Path
) -> None:
    generator = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior, MOTION)
    measured, restored = tmp_path / "measured", tmp_path / "restored"
    (tmp_path / "clean").mkdir()
    for name in "ab":
        save_image(torch.rand(3, 16, 16) * 2 - 1, tmp_path / "clean" / f"{name}.png")
    images = ("--input", tmp_path / "clean")
    degrade = ("degrade", TINY, "--set", MOTION, *images, "--output")
    assert script(*degrade, tmp_path / "baselines", "--baselines")[0] == 0
    assert (tmp_path / "baselines/pseudo_inverse/a.png").is_file()
    assert script(*degrade, measured)[0] == 0
    settings = json.loads((measured / "manifest.jsonl").read_text().splitlines()[0])
    assert settings["task"] == "motion_blur"
    assert settings["operator"]["file"] == sha256_of(EXAMPLES / "motion_blur.py")
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", restored)
    code, text = script(*sample)
    assert (code, len(text.splitlines())) == (2, 1)
    assert "code that only a weight file names is not run" in text
    code, text = script(*sample, "--set", f"operator.file={EXAMPLES}/motion_blur.py")
    assert code == 0
    assert "measured otherwise" not in text
    assert len(list(restored.glob("*.png"))) == 2


def test_no_code_runs_that_only_a_weight_file_names(tiny_prior: Path, tmp_path: Path) -> None:
    code = (EXAMPLES / "motion_blur.py").read_text()
    file = tmp_path / "mine.py"
    file.write_text(f"{code}\nopen({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    operator = f"operator={{name: custom, file: {file}, settings: {{length: 3}}}}"
    path = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior, operator)
    (tmp_path / "ran").unlink()
    for more in ((), ("bridge.h=0",)):
        with pytest.raises(InputError, match=r"code of .*mine\.py; .* name it yourself"):
            davi.load(path, overrides=more)
    assert not (tmp_path / "ran").exists()
    named = f"operator.file={file}"
    assert davi.load(path, overrides=[named]).task == "mine"
    assert (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="holds its own config"):
        davi.load(path, overrides=[named, "bridge.h=0"])
    solver = Davi(checkpoint=str(path), operator_file=str(file))
    blur = motion_blur(3, shape=(3, 16, 16))
    y = torch.zeros(2, 3, 16, 16)
    assert solver(y, blur, GaussianNoise(0.1, 0.1), a_prior(), RNGS).shape == y.shape
    with pytest.raises(InputError, match="name it yourself"):
        Davi(checkpoint=str(path))(y, blur, GaussianNoise(0.1, 0.1), a_prior(), RNGS)


TWO = "\nclass Other(MotionBlur):\n    pass\n"


@pytest.mark.parametrize(
    ("name", "more", "settings", "message"),
    [
        ("mine.py", "", "length: 4", "operator: length=4: an odd number"),
        ("mine.py", "", "length: 3, angel: 1", "unexpected keyword argument 'angel'"),
        ("mine.py", "", "", "missing a required argument: 'length'"),
        ("mine.py", TWO, "length: 3", r"one public subclass .* 2 found \(MotionBlur, Other\)"),
        ("mine.py", "\n1 / 0\n", "length: 3", r"mine.py, line 43: ZeroDivisionError"),
        ("mine.py", "\nimport json; json.loads('{')\n", "length: 3", r"mine.py, line 43: JSON"),
        ("mine.py", "\nclass\n", "length: 3", r"mine.py, line 43: SyntaxError"),
        ("yours.py", None, "length: 3", r"yours\.py: no such file"),
        ("denoising.py", "", "length: 3", "denoising is the name of a shipped task"),
        ("mine.txt", "", "length: 3", "path of a Python file"),
    ],
)
def test_what_is_wrong_with_an_operator_is_said_in_one_line(
    tiny_prior: Path, tmp_path: Path, name: str, more: str | None, settings: str, message: str
) -> None:
    if more is not None:
        (tmp_path / name).write_text((EXAMPLES / "motion_blur.py").read_text() + more)
    operator = f"operator={{name: custom, file: {tmp_path / name}, settings: {{{settings}}}}}"
    with pytest.raises(InputError, match=message) as caught:
        build_operator(tiny_config(tiny_prior, operator).operator, (3, 16, 16))
    assert "\n" not in str(caught.value)


def test_measurements_that_are_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 channels"):
        lift(torch.zeros(1, 2, 8, 8), IMAGE)
    with pytest.raises(InputError, match="1 or 3 channels"):
        lift(torch.zeros(1, 64), IMAGE)
    text = "4x8: to make images of 8x8 of them would stretch them"
    with pytest.raises(InputError, match=f"{text}$"):
        lift(torch.zeros(1, 3, 4, 8), IMAGE)
    with pytest.raises(InputError, match=f"{text}; for others set resize"):  # where there is one
        image_of(torch.zeros(1, 3, 4, 8), Denoising(IMAGE), "bilinear")


SIGNS = """
import torch
from davi.operators.linear import LinearOperator

class RandomSigns(LinearOperator):
    largest_value = 100.0

    def __init__(self, image_shape, count):
        super().__init__(image_shape, (count,))
        pixels = torch.Size(image_shape).numel()
        rng = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (count, pixels), generator=rng) * 2.0 - 1.0
        self.register_buffer("signs", signs / count**0.5)

    def A(self, x):
        return x.flatten(1) @ self.signs.to(x.dtype).T

    def A_adjoint(self, y):
        return (y @ self.signs.to(y.dtype)).view(len(y), *self.image_shape)
"""


@pytest.mark.parametrize("resize", ["adjoint", "pseudo_inverse"])
def test_measurements_of_any_shape_are_degraded_trained_on_and_restored(
    script: object, tiny_prior: Path, tmp_path: Path, resize: str
) -> None:
    """Of a single-pixel camera: 200 numbers, some above 10."""
    (tmp_path / "signs.py").write_text(SIGNS)
    file = f"operator.file={tmp_path / 'signs.py'}"
    custom = f"operator={{name: custom, file: {tmp_path / 'signs.py'}, settings: {{count: 200}}}}"
    settings = custom, f"bridge.resize={resize}"
    trainer = tiny_trainer(tiny_prior, *settings)
    x0 = torch.rand(4, 3, 16, 16) * 2 - 1
    assert all(torch.isfinite(value) for value in trainer.train_step(x0, 0).values())
    trainer.validate()

    (tmp_path / "clean").mkdir()
    save_image(torch.ones(3, 16, 16), tmp_path / "clean/a.png")
    measured, flags = tmp_path / "measured", [flag for each in settings for flag in ("--set", each)]
    images = ("--input", tmp_path / "clean", "--output", measured, "--baselines")
    assert script("degrade", TINY, *flags, *images)[0] == 0
    names = {path.relative_to(measured).as_posix() for path in measured.rglob("a.*")}
    assert names == {"measurement/a.npy", "reference/a.png", "lifted/a.png", "pseudo_inverse/a.png"}
    operator = trainer.inputs.forward_model.operator
    y = torch.from_numpy(np.load(measured / "measurement/a.npy"))[None]
    assert y.shape == (1, 200)
    stands_for_y = getattr(operator, {"adjoint": "A_adjoint"}.get(resize, "A_dagger"))(y)
    lifted = load_image(measured / "lifted/a.png")
    torch.testing.assert_close(lifted, stands_for_y[0].clamp(-1, 1), atol=1 / 127, rtol=0)

    generator = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior, *settings)
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--set", file, "--output")
    assert script(*sample, tmp_path / "restored")[0] == 0
    assert load_image(tmp_path / "restored/a.png").shape == (3, 16, 16)
    code, text = script(*sample[:4], tmp_path / "clean", *sample[5:], tmp_path / "other")
    assert code == 1
    assert "a.png: is a picture; 200 needed, which only an .npy array has" in text
