"""Metrics against closed forms, and the evaluation of folders with what can be wrong in them."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

import davi.evaluation
import davi.perceptual
from davi.errors import InputError
from davi.evaluation import evaluate_folders
from davi.images import save_image
from davi.metrics import frechet_distance, psnr, ssim
from davi.perceptual import Lpips, weight_path

CPU = torch.device("cpu")


def images(count: int = 3, size: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_psnr_of_a_constant_offset_is_known() -> None:
    x = torch.zeros(2, 3, 8, 8)
    # An offset of 0.2 of a range of 2: 20 log10(2 / 0.2) = 20 dB.
    torch.testing.assert_close(psnr(x + 0.2, x), torch.full((2,), 20.0, dtype=torch.float64))


def test_psnr_is_per_image_and_clips_the_restoration() -> None:
    x = torch.ones(2, 3, 8, 8)
    values = psnr(torch.stack([x[0] + 5, x[1] - 0.2]), x)
    assert values[0] == math.inf
    assert values[1].item() == pytest.approx(20, abs=1e-5)


def test_ssim_is_one_for_equal_images_and_known_for_constants() -> None:
    x = images()
    torch.testing.assert_close(ssim(x, x), torch.ones(3, dtype=torch.float64))
    # Without variance only the luminance term is left: (2 m1 m2 + C1) / (m1^2 + m2^2 + C1).
    first, second, c1 = 0.5, 0.1, (0.01 * 2) ** 2
    expected = (2 * first * second + c1) / (first**2 + second**2 + c1)
    flat = torch.ones(1, 3, 24, 24)
    assert ssim(first * flat, second * flat).item() == pytest.approx(expected, rel=1e-6)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(axis=0), np.cov(features, rowvar=False)


def test_frechet_distance_of_diagonal_gaussians_is_known() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    shift = np.array([1.0, 2.0, 2.0])
    value = frechet_distance(np.zeros(3), np.diag(a), shift, np.diag(b))
    assert value == pytest.approx(9 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2))


def test_frechet_distance_agrees_with_the_matrix_root() -> None:
    random = np.random.default_rng(0)
    first, second = (
        moments(random.normal(size=(400, 12)) @ random.normal(size=(12, 12))) for _ in range(2)
    )
    root = scipy.linalg.sqrtm(first[1] @ second[1]).real
    expected = np.sum((first[0] - second[0]) ** 2) + np.trace(first[1] + second[1] - 2 * root)
    assert frechet_distance(*first, *second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_survives_fewer_images_than_features() -> None:
    random = np.random.default_rng(0)
    first, second = (moments(random.normal(size=(10, 64))) for _ in range(2))
    assert np.isfinite(frechet_distance(*first, *second))
    assert frechet_distance(*first, *first) == pytest.approx(0, abs=1e-4)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three references, one nested, and restorations that are off by 0.1, 0.2 and 0.3."""
    reference, restored = tmp_path / "reference", tmp_path / "restored"
    for folder in (reference, restored):
        (folder / "nested").mkdir(parents=True)
    for index, name in enumerate(("a", "b", "nested/c")):
        flat = torch.full((3, 24, 24), -0.2)
        save_image(flat, reference / f"{name}.png")
        save_image(flat + 0.1 * (index + 1), restored / f"{name}.png")
    return reference, restored


def test_folders_are_paired_by_name_and_averaged(folders: tuple[Path, Path]) -> None:
    result = evaluate_folders(*folders, ("psnr", "ssim"), device=CPU)
    values = [row["psnr"] for row in result.per_image.values()]
    assert list(result.per_image) == ["a", "b", "nested/c"]
    steps = np.round((0.1 * np.arange(1, 4)) * 127.5)  # 8-bit files
    np.testing.assert_allclose(values, 20 * np.log10(255 / steps), atol=0.5)
    assert result.summary["psnr"]["mean"] == pytest.approx(np.mean(values))
    error = np.std(values, ddof=1) / math.sqrt(3)
    assert result.summary["psnr"]["standard_error"] == pytest.approx(error)
    assert "psnr" in result.table()
    assert any(line.startswith("SSIM: Wang") for line in result.protocols)


def test_evaluations_are_written_as_csv_and_json(folders: tuple[Path, Path]) -> None:
    result = evaluate_folders(*folders, ("psnr", "ssim"), device=CPU)
    result.save(folders[1].parent)
    with open(folders[1].parent / "per_image.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["a", "b", "nested/c"]
    assert float(rows[0]["psnr"]) == result.per_image["a"]["psnr"]
    summary = json.loads((folders[1].parent / "summary.json").read_text())
    assert summary["num_images"] == 3
    assert summary["summary"]["ssim"]["mean"] == result.summary["ssim"]["mean"]


def test_identical_images_give_a_valid_json(folders: tuple[Path, Path]) -> None:
    result = evaluate_folders(folders[0], folders[0], ("psnr",), device=CPU)
    result.save(folders[0].parent)
    summary = json.loads((folders[0].parent / "summary.json").read_text())
    assert summary["summary"]["psnr"]["mean"] is None  # infinite


def test_images_without_partner_are_listed(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    (restored / "a.png").rename(restored / "z.png")
    with pytest.raises(InputError, match=r"1 images \(a\) only in .*reference, 1 images \(z\)"):
        evaluate_folders(reference, restored, ("psnr",), device=CPU)


def test_a_folder_of_several_samples_is_recognised(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    (restored / "sample_000").mkdir()
    (restored / "a.png").rename(restored / "sample_000/a.png")
    with pytest.raises(InputError, match=r"of several samples give one, such as .*sample_000"):
        evaluate_folders(reference, restored, ("psnr",), device=CPU)


def test_different_sizes_and_damaged_files_are_listed_together(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    Image.new("RGB", (10, 24)).save(restored / "a.png")
    (restored / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="2 pairs cannot be compared") as caught:
        evaluate_folders(reference, restored, ("psnr",), device=CPU)
    assert "a: reference and restored image differ in size (24x24 and 24x10)" in str(caught.value)
    assert "b.png: not a readable image" in str(caught.value)


def test_every_problem_is_listed(folders: tuple[Path, Path]) -> None:
    for index in range(12):
        save_image(torch.zeros(3, 24, 24), folders[0] / f"more_{index:02d}.png")
    with pytest.raises(InputError, match=r"12 images \(more_00, .*more_11\) only in"):
        evaluate_folders(*folders, ("psnr",), device=CPU)


def test_images_too_small_for_ssim_are_named(tmp_path: Path) -> None:
    save_image(torch.zeros(3, 10, 24), tmp_path / "a.png")
    with pytest.raises(InputError, match="a: smaller than 11x11 pixels"):
        evaluate_folders(tmp_path, tmp_path, ("psnr",), device=CPU)


def test_two_references_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    shutil.copy(folders[0] / "a.png", folders[0] / "a.jpg")
    with pytest.raises(InputError, match="two images are called a"):
        evaluate_folders(*folders, ("psnr",), device=CPU)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache, and no network."""
    import urllib.request

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub"


def test_without_weights_the_rest_is_reported_and_the_files_are_named(
    folders: tuple[Path, Path], no_weights: Path
) -> None:
    result = evaluate_folders(*folders, ("psnr", "lpips", "fid"), device=CPU)
    assert set(result.summary) == {"psnr"}
    text = result.table()
    assert "put vgg16-397923af.pth (528 MB" in text
    assert str(no_weights / "hub/checkpoints/vgg16-397923af.pth") in text
    assert str(no_weights / "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth") in text


def test_without_any_metric_there_is_no_evaluation(
    folders: tuple[Path, Path], no_weights: Path
) -> None:
    with pytest.raises(InputError, match="none of the metrics can be computed: FID is left out"):
        evaluate_folders(*folders, ("fid",), device=CPU)


def test_fid_of_a_single_image_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(davi.evaluation, "Fid", lambda device: object())
    save_image(torch.zeros(3, 24, 24), tmp_path / "a.png")
    result = evaluate_folders(tmp_path, tmp_path, ("ssim", "fid"), device=CPU)
    assert set(result.summary) == {"ssim"}
    assert "FID is left out: it needs at least 2 images" in result.table()


def test_weights_of_another_hash_are_not_unpickled(no_weights: Path) -> None:
    path = weight_path("alex")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken off")
    with pytest.raises(InputError, match="SHA-256 does not begin with 7be5be79"):
        Lpips("alex", CPU)


def accept_any_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real weights cannot be had in a test; what it makes has another hash."""
    monkeypatch.setattr(
        davi.perceptual, "sha256_of", lambda path: path.stem.rsplit("-", 1)[1] + "..."
    )


@pytest.mark.slow
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_loads_the_file_it_names(
    no_weights: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    build = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}[net]
    torch.manual_seed(0)
    backbone = build(weights=None)
    weight_path(net).parent.mkdir(parents=True)
    torch.save(backbone.state_dict(), weight_path(net))
    accept_any_hash(monkeypatch)
    metric = Lpips(net, CPU)
    first, second = images(2, 64), images(2, 64).flip(-1)
    assert metric(first, first).abs().max() < 1e-6
    assert (metric(first, second) > 1e-4).all()
    own = metric.model.net.slice1[0].weight
    torch.testing.assert_close(own, backbone.features[0].weight)


@pytest.mark.slow
def test_fid_loads_the_file_it_names_and_warns_of_few_images(
    folders: tuple[Path, Path], no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_fid import inception

    built = []
    with monkeypatch.context() as patch:  # the network with its initial, random weights
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, _: built.append(self))
        inception.fid_inception_v3()
    weight_path("inception").parent.mkdir(parents=True)
    for parameter in built[0].parameters():
        if parameter.ndim == 4:  # torchvision's own initialisation lets the signal die out
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(built[0].state_dict(), weight_path("inception"))
    accept_any_hash(monkeypatch)
    reference, restored = folders
    same = evaluate_folders(reference, reference, ("fid",), device=CPU)
    other = evaluate_folders(reference, restored, ("fid",), device=CPU)
    assert same.summary["fid"]["mean"] == pytest.approx(0, abs=1e-3)
    assert other.summary["fid"]["mean"] > same.summary["fid"]["mean"] + 1e-3
    assert "FID of 3 images is biased upwards" in other.table()


def test_metrics_are_computed_on_the_same_pairs(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance:
        protocol = "LPIPS: a stand-in"

        def __init__(self, *_: object) -> None: ...

        def __call__(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return (x - reference).abs().mean().reshape(1)

    monkeypatch.setattr(davi.evaluation, "Lpips", Distance)
    result = evaluate_folders(*folders, ("lpips",), device=CPU)
    values = [row["lpips"] for row in result.per_image.values()]
    np.testing.assert_allclose(values, [0.1, 0.2, 0.3], atol=0.005)
