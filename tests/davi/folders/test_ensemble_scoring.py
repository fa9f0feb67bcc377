"""The evaluation of several samples of every image: known values, and what is left out."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from davi.build import build_operator
from davi.config.problem import OperatorConfig
from davi.data.images import save_array, save_image
from davi.folders.degrading import recorded_operator
from davi.folders.scoring import Evaluation, evaluate_folders
from davi.operators.inpainting import Inpainting
from davi.system.choices import CALIBRATION
from davi.system.errors import InputError

CPU = torch.device("cpu")
STEP = 2 / 255  # of 8-bit values
SIGMA = 0.1


def write_samples(folder: Path, truth: Tensor, samples: Tensor, name: str = "a") -> None:
    """REFERENCE and RESTORED below a folder."""
    save_image(truth, folder / f"reference/{name}.png")
    for number, sample in enumerate(samples):
        save_image(sample, folder / f"restored/sample_{number:03d}/{name}.png")


def evaluated(folder: Path, *metrics: str, **options: Any) -> Evaluation:
    return evaluate_folders(
        folder / "reference", folder / "restored", metrics or CALIBRATION, device=CPU, **options
    )


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A flat image, and four samples that are off by -10, -2, 2 and 30 levels."""
    truth = torch.full((3, 16, 16), 100 * STEP - 1)
    samples = truth + STEP * torch.tensor([-10, -2, 2, 30]).view(4, 1, 1, 1)
    write_samples(tmp_path, truth, samples)
    return tmp_path


def test_scores_of_shifted_samples_are_those_computed_by_hand(shifted: Path) -> None:
    result = evaluated(shifted)
    expected = {
        "coverage_50": 1,  # the truth is in the middle rank of five
        "spread": STEP * math.sqrt(5 / 4 * (15**2 + 7**2 + 3**2 + 25**2) / 3),
        "error": STEP * 5,
        "crps": STEP * (44 / 4 - 124 / 4**2),  # |d|, and the distances of all six pairs
        "energy_score": STEP * (44 / 4 - 124 / 4**2),  # of flat images the same
        "psnr_of_mean": 20 * math.log10(255 / 5),
    }
    assert result.per_image["a"] == pytest.approx(expected, rel=1e-5)
    assert list(result.per_image["a"]) == list(expected)
    ratio = expected["spread"] / expected["error"]
    assert result.summary["spread_error"]["mean"] == pytest.approx(ratio, rel=1e-5)
    assert math.isnan(result.summary["spread_error"]["standard_error"])
    assert result.calibration["rank_histogram"] == [0, 0, 5, 0, 0]
    curve = {"0.1": 0.5, "0.2": 1, "0.3": 1, "0.4": 1, "0.5": 1, "0.6": 1}
    assert result.calibration["coverage"] == pytest.approx(curve)


def test_the_ratio_of_a_set_pools_the_squares(tmp_path: Path) -> None:
    for name, error in (("a", 3), ("b", 21)):
        truth = torch.full((3, 16, 16), 100 * STEP - 1)
        shifts = torch.tensor([error - 6.0, error + 6.0]).view(2, 1, 1, 1)
        write_samples(tmp_path, truth, truth + STEP * shifts, name)
    ratio = math.sqrt(2 * 3 / 2 * 72 / (3**2 + 21**2))
    summary = evaluated(tmp_path, "spread_error").summary
    assert summary["spread_error"]["mean"] == pytest.approx(ratio, rel=1e-5)


def test_errors_of_scores_of_samples_count_groups(tmp_path: Path, rng: torch.Generator) -> None:
    for name in ("a_1", "a_2", "b_1", "b_2"):
        images = 0.2 * torch.randn(4, 3, 16, 16, generator=rng)
        write_samples(tmp_path, images[0], images[1:], name)
    result = evaluated(tmp_path, group_by="^.")
    for metric in result.summary.keys() - {"spread_error"}:
        a, b = torch.tensor([row[metric] for row in result.per_image.values()]).view(2, 2).mean(1)
        error = (a - b).abs().item() / 2
        assert result.summary[metric]["standard_error"] == pytest.approx(error, rel=1e-3)
    assert math.isnan(result.summary["spread_error"]["standard_error"])


def test_exchangeable_samples_are_calibrated(tmp_path: Path, rng: torch.Generator) -> None:
    for name in "abc":
        images = 0.2 * torch.randn(20, 3, 24, 24, generator=rng)
        write_samples(tmp_path, images[0], images[1:], name)
    result = evaluated(tmp_path)
    means = {metric: row["mean"] for metric, row in result.summary.items()}
    deviation = 0.5 / math.sqrt(3 * 3 * 24 * 24)
    assert means["coverage_50"] == pytest.approx(0.5, abs=4 * deviation)
    assert means["coverage_90"] == pytest.approx(0.9, abs=4 * deviation)
    assert means["spread_error"] == pytest.approx(1, abs=0.05)
    curve = result.calibration["coverage"]
    assert curve == pytest.approx({f"0.{k}": k / 10 for k in range(1, 10)}, abs=4 * deviation)
    assert curve["0.9"] == pytest.approx(means["coverage_90"])
    assert sum(result.calibration["rank_histogram"]) == pytest.approx(20)


def test_restorations_are_judged_by_the_first_sample(shifted: Path) -> None:
    result = evaluated(shifted, "psnr", "ssim", "crps")
    first = evaluate_folders(
        shifted / "reference", shifted / "restored/sample_000", ("psnr", "ssim"), device=CPU
    )
    for metric, row in first.summary.items():
        assert result.summary[metric]["mean"] == row["mean"]
    assert list(result.summary) == list(result.protocols) == ["psnr", "ssim", "crps"]
    assert "note: psnr, ssim: of sample_000 only" in result.table()


def test_the_summary_on_disk_has_histogram_and_curve(shifted: Path) -> None:
    result = evaluated(shifted, "crps")
    result.save(shifted)
    assert json.loads((shifted / "summary.json").read_text())["calibration"] == result.calibration


def test_single_images_have_no_calibration(shifted: Path) -> None:
    folders = (shifted / "reference", shifted / "restored/sample_001")
    result = evaluate_folders(*folders, ("psnr", "crps"), device=CPU)
    assert list(result.summary) == ["psnr"]
    assert "crps is left out: it needs several samples" in result.notes
    result.save(shifted)
    assert "calibration" not in json.loads((shifted / "summary.json").read_text())
    with pytest.raises(InputError, match=r"no effect, .*sample_001 holds no sample_000.* leave"):
        evaluate_folders(*folders, ("psnr",), device=CPU, measured=shifted)


def test_references_may_be_called_like_samples(shifted: Path) -> None:
    result = evaluate_folders(shifted / "restored", shifted / "restored", ("ssim",), device=CPU)
    assert list(result.per_image) == [f"sample_00{number}/a" for number in range(4)]


def test_images_that_a_sample_lacks_are_listed(shifted: Path) -> None:
    (shifted / "restored/sample_002/a.png").rename(shifted / "restored/sample_002/b.png")
    with pytest.raises(InputError, match=r"1 images \(a\) only in .* 1 images \(b\) only in .*2$"):
        evaluated(shifted)


def test_intervals_wider_than_the_samples_tell_are_left_out(shifted: Path) -> None:
    reason = "intervals of 4 samples are of at most 60.0 %"
    assert f"coverage_90 is left out: {reason}" in evaluated(shifted).notes


OPERATORS = {
    "denoising": {},
    "inpainting": {"mask": "random_pixels"},
    "super_resolution": {"factor": 4},
    "gaussian_blur": {"kernel_size": 5},
    "colorization": {"weights": (0.2, 0.5, 0.3)},
}


def write_measured(folder: Path, x: Tensor, operator: OperatorConfig, noise: dict) -> Path:
    """A folder as of davi degrade, with noise of three deviations; x is in steps of 8 bits."""
    A = build_operator(operator, tuple(x.shape))
    if operator.name == "inpainting":
        mask = torch.arange(x.shape[-1]).expand(x.shape[1:]) % 3 > 0
        A = Inpainting(tuple(x.shape), mask)
        save_image(2 * mask[None].float() - 1, folder / "mask/a.png")
    y = A.A(x[None])
    save_image(x, folder / "reference/a.png")
    (folder / "measurement").mkdir()
    save_array(A.project(y + 3 * SIGMA)[0], folder / "measurement/a.npy")
    settings = {"operator": recorded_operator(operator), "noise": noise, "image_size": 16}
    (folder / "manifest.jsonl").write_text(json.dumps(settings) + "\n")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_residual_of_the_truth_is_the_noise(
    name: str, channels: int, tmp_path: Path, rng: torch.Generator
) -> None:
    values = {"name": name} | (OPERATORS[name] if channels == 3 else {})
    operator = TypeAdapter(OperatorConfig).validate_python(values)
    if name == "inpainting" and channels == 1:
        operator = operator.model_copy(update={"mask": "random_box", "box_size": 8})
    x = torch.randint(0, 256, (channels, 16, 16), generator=rng) * STEP - 1
    measured = write_measured(
        tmp_path / "measured", x, operator, {"name": "gaussian", "sigma": SIGMA}
    )
    write_samples(tmp_path, x, torch.stack([x, x]))
    row = evaluated(tmp_path, "residual", measured=measured).per_image["a"]
    assert row == {"residual": pytest.approx(3, rel=1e-4)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"noise": {"name": "gaussian", "sigma": [0.1, 0.2]}}, "no single deviation"),
        ({"noise": {"name": "poisson", "rate": 1.0}}, "no single deviation"),
        ({"noise": {"name": "gaussian", "sigma": 0.1, "clip": True}}, "no single deviation"),
        (
            {"noise": {"name": "mixture", "kinds": [{"name": "impulse"}, {"name": "speckle"}]}},
            "no single deviation",
        ),
        ({"noise": {"name": "gaussian", "sigma": 0.0}}, "the measurements have no noise"),
        ({"operator": {"name": "custom", "file": "0a", "settings": {}}}, "the whole operator"),
        ({"operator": {"name": "inpainting", "mask_sha256": "0a"}}, "the whole operator"),
        ({"operator": {"name": "denoising", "more": 1}}, "the whole operator"),
        ({"operator": "denoising"}, "the whole operator"),
        ({"image_size": 32}, "images of 32x32, a are of another size"),
    ],
)
def test_without_a_full_record_the_residual_is_left_out(
    record: dict, reason: str, shifted: Path
) -> None:
    (shifted / "measurement").mkdir()
    save_array(torch.zeros(3, 16, 16), shifted / "measurement/a.npy")
    noise = {"name": "gaussian", "sigma": SIGMA}
    settings = {"operator": {"name": "denoising"}, "noise": noise, "image_size": 16} | record
    (shifted / "manifest.jsonl").write_text(json.dumps(settings) + "\n")
    (note,) = [
        note for note in evaluated(shifted, measured=shifted).notes if note.startswith("residual")
    ]
    assert reason in note


def test_the_residual_needs_the_measurements_of_all_images(shifted: Path) -> None:
    with pytest.raises(InputError, match=r"none of the metrics.*residual.* give --measured a fold"):
        evaluated(shifted, "residual")
    with pytest.raises(InputError, match="is no folder of davi degrade"):
        evaluated(shifted, "residual", measured=shifted)
    (shifted / "measurement").mkdir()
    save_array(torch.zeros(3, 16, 16), shifted / "measurement/b.npy")
    settings = {"operator": {"name": "denoising"}, "noise": {}, "image_size": 16}
    (shifted / "manifest.jsonl").write_text(json.dumps(settings) + "\n")
    with pytest.raises(InputError, match=r"lacks the measurements of a$"):
        evaluated(shifted, "residual", measured=shifted)
