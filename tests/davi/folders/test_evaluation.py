"""The evaluation of folders: what is computed, how it is named, and what it leaves on disk."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import davi.folders.scoring
import davi.metrics.features
from davi.data.images import save_image
from davi.folders.scoring import evaluate_folders, recorded_rounding
from davi.metrics.scores import frechet_distance, kid, moments
from davi.system.errors import InputError
from tests.davi.stand_ins import Distance, Features

CPU = torch.device("cpu")


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that need no weights in the place of those that do."""
    monkeypatch.setattr(davi.folders.scoring, "Lpips", Distance)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", Features)


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
    assert "SSIM: Wang" in result.table()


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


@pytest.fixture
def noisy(tmp_path: Path) -> tuple[Path, Path]:
    """Nine references of two sizes, and noisy versions of them."""
    reference, restored = tmp_path / "reference", tmp_path / "restored"
    rng = torch.Generator().manual_seed(0)
    for folder in (reference, restored):
        folder.mkdir()
    for index in range(9):
        x = torch.rand(3, 24, 24 + 4 * (index % 2), generator=rng) - 0.5
        noise = 0.1 * torch.randn(x.shape, generator=rng)
        save_image(x, reference / f"{index}.png")
        save_image(x + noise, restored / f"{index}.png")
    return reference, restored


@pytest.mark.usefixtures("weights")
def test_results_do_not_depend_on_the_batch_size(noisy: tuple[Path, Path]) -> None:
    metrics = ("psnr", "ssim", "lpips", "fid", "kid")
    one, many = (evaluate_folders(*noisy, metrics, device=CPU, batch_size=size) for size in (1, 7))
    assert list(one.per_image) == list(many.per_image)
    for name, values in one.per_image.items():
        assert values == pytest.approx(many.per_image[name], rel=1e-6)
    for metric, row in one.summary.items():
        assert row == pytest.approx(many.summary[metric], rel=1e-4, abs=1e-7, nan_ok=True)


@pytest.mark.usefixtures("weights")
def test_errors_count_groups_of_images(noisy: tuple[Path, Path]) -> None:
    """Three groups of three: the error of the mean of their means."""
    for folder in noisy:
        for index in range(9):
            (folder / f"{index}.png").rename(folder / f"{'abc'[index % 3]}_{index}.png")
    each = evaluate_folders(*noisy, device=CPU)
    grouped = evaluate_folders(*noisy, device=CPU, group_by="(.)_")
    assert grouped.per_image == each.per_image
    for metric in ("psnr", "ssim", "lpips_release", "lpips_vgg"):
        values = np.reshape([row[metric] for row in grouped.per_image.values()], (3, 3))
        error = values.mean(axis=1).std(ddof=1) / math.sqrt(3)
        assert grouped.summary[metric]["standard_error"] == pytest.approx(error)
        assert grouped.summary[metric]["mean"] == each.summary[metric]["mean"]
    assert grouped.summary["kid"] == each.summary["kid"]
    assert "kid: its error and interval count images, not groups" in grouped.notes
    assert "(9 images in 3 groups)" in grouped.table()
    assert "3 groups of images, not images: 'a', 'b', 'c'" in grouped.table()
    grouped.save(noisy[0].parent)
    assert json.loads((noisy[0].parent / "summary.json").read_text())["num_groups"] == 3


@pytest.mark.gpu
@pytest.mark.usefixtures("weights")
def test_results_do_not_depend_on_the_device(noisy: tuple[Path, Path]) -> None:
    metrics = ("psnr", "ssim", "lpips", "fid", "kid")
    on_cpu, on_gpu = (
        evaluate_folders(*noisy, metrics, device=torch.device(name)) for name in ("cpu", "cuda")
    )
    for name, values in on_cpu.per_image.items():
        assert values == pytest.approx(on_gpu.per_image[name], rel=1e-5)
    for metric, row in on_cpu.summary.items():
        assert row["mean"] == pytest.approx(on_gpu.summary[metric]["mean"], rel=1e-4, abs=1e-7)


@pytest.mark.usefixtures("weights")
def test_every_number_has_a_protocol_in_table_and_json(noisy: tuple[Path, Path]) -> None:
    result = evaluate_folders(
        *noisy,
        ("psnr", "ssim", "lpips", "fid", "kid"),
        device=CPU,
        lpips=("release", "vgg", "alex"),
    )
    names = ["psnr", "ssim", "lpips_release", "lpips_vgg", "lpips_alex", "fid", "kid"]
    assert list(result.summary) == list(result.protocols) == names
    assert list(result.per_image["0"]) == names[:5]
    for name, factor in (("lpips_vgg", 2), ("lpips_alex", 3)):
        expected = factor * result.summary["lpips_release"]["mean"]
        assert result.summary[name]["mean"] == pytest.approx(expected)
    table = result.table()
    assert all(protocol.text in table for protocol in result.protocols.values())
    result.save(noisy[0].parent)
    protocols = json.loads((noisy[0].parent / "summary.json").read_text())["protocols"]
    assert list(protocols) == names
    assert protocols["psnr"]["rounding"] == "unknown"
    assert protocols["lpips_release"]["normalised"] is False
    assert protocols["lpips_vgg"]["normalised"] is True
    assert (protocols["kid"]["subset_size"], protocols["kid"]["num_subsets"]) == (4, 100)


@pytest.mark.usefixtures("weights")
def test_fid_and_kid_are_those_of_the_features_of_both_folders(noisy: tuple[Path, Path]) -> None:
    from davi.folders.pairs import pair_by_name, read_batches

    (truth, restored) = (
        np.concatenate(
            [Features(CPU)(batch[side]) for batch in read_batches(pair_by_name(*noisy), 1)]
        )
        for side in (1, 2)  # the truths, and the restored
    )
    result = evaluate_folders(*noisy, ("fid", "kid"), device=CPU)
    expected = frechet_distance(*moments(truth), *moments(restored))
    assert result.summary["fid"]["mean"] == pytest.approx(expected, rel=1e-5)
    row = result.summary["kid"]
    assert row["mean"] == pytest.approx(kid(truth, restored, 1, 0)[0], rel=1e-5)
    assert row["low"] < row["mean"] < row["high"]
    assert row["low"] < row["mean"] - row["standard_error"]
    line = next(line for line in result.table().splitlines() if line.startswith("kid"))
    assert f"95 %: {row['low']:.6f} to {row['high']:.6f}" in line
    assert "FID of 9 images is biased upwards" in result.table()


@pytest.mark.parametrize(
    ("settings", "rounding", "words"),
    [
        ({"task": "denoising"}, "nearest", "rounded to the nearest"),
        ({"rounding": "truncate"}, "truncate", "as the release saves them"),
        ({"rounding": "upwards"}, "unknown", "not recorded"),
        (None, "unknown", "not recorded"),
    ],
)
def test_psnr_says_how_the_files_were_rounded(
    folders: tuple[Path, Path], settings: dict | None, rounding: str, words: str
) -> None:
    reference, restored = folders
    if settings is not None:
        (restored / "manifest.jsonl").write_text(json.dumps(settings) + "\n")
    result = evaluate_folders(reference, restored, ("psnr",), device=CPU)
    assert result.protocols["psnr"].settings == {"rounding": rounding}
    assert words in result.table()


def test_a_folder_of_one_sample_belongs_to_the_record_above_it(tmp_path: Path) -> None:
    (tmp_path / "sample_000").mkdir()
    (tmp_path / "manifest.jsonl").write_text('{"rounding": "truncate"}\n')
    assert recorded_rounding(tmp_path / "sample_000") == "truncate"


@pytest.mark.usefixtures("weights")
def test_few_images_leave_out_what_needs_more(folders: tuple[Path, Path]) -> None:
    result = evaluate_folders(*folders, ("fid", "kid"), device=CPU)
    assert list(result.summary) == ["fid"]
    assert "kid is left out: it needs at least 4 images" in result.table()
    for folder in folders:
        (folder / "a.png").unlink()
        (folder / "b.png").unlink()
    result = evaluate_folders(*folders, ("ssim", "fid", "kid"), device=CPU)
    assert list(result.summary) == ["ssim"]
    assert "fid is left out: it needs at least 2 images" in result.table()


def test_without_weights_the_rest_is_reported(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("put it here")

    monkeypatch.setattr(davi.folders.scoring, "Lpips", refuse)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", refuse)
    result = evaluate_folders(*folders, ("psnr", "lpips", "fid"), device=CPU)
    assert list(result.summary) == list(result.protocols) == ["psnr"]
    assert result.notes == [
        "lpips_release is left out: put it here",
        "lpips_vgg is left out: put it here",
        "fid is left out: put it here",
    ]
    with pytest.raises(InputError, match="none of the metrics can be computed: fid is left out"):
        evaluate_folders(*folders, ("fid",), device=CPU)
