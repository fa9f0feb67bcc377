"""Every script the way a user runs it, on the tiny config, with good and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.data.images import load_image
from tests.conftest import REPOSITORY, contents
from tests.tiny import write_tiny_generator

TINY = REPOSITORY / "configs/tiny.yaml"


@pytest.fixture(scope="module")
def generator(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("w") / "g.safetensors", tiny_prior)


@pytest.fixture(scope="module")
def colorizer(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("w") / "g.safetensors"
    return write_tiny_generator(path, tiny_prior, "operator={name: colorization}")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A folder of four clean photographs, one of them nested."""
    folder = tmp_path / "clean"
    (folder / "nested").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.webp", "nested/d.tif"):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(folder / name)
    return folder


def test_prior_to_pictures_from_end_to_end(script: object, tmp_path: Path) -> None:
    """Prior, export, measurements, Algorithm 1, Algorithm 2, scores."""
    prior_run, run = tmp_path / "prior_run", tmp_path / "run"
    prior = tmp_path / "prior.safetensors"
    assert (
        script("train_prior", REPOSITORY / "configs/tiny_prior.yaml", "--run-dir", prior_run)[0]
        == 0
    )
    assert script("export", prior_run, "--output", prior)[0] == 0
    train = ("train", TINY, "--run-dir", run, "--set", f"prior.checkpoint={prior}")
    assert script(*train)[0] == 0
    names = {path.name for path in run.iterdir()}
    assert names == {
        ".lock",
        "config.yaml",
        "inputs.json",
        "checkpoints",
        "stats.jsonl",
        "panels",
        "tensorboard",
    }
    stats = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in stats] == [2, 4, 4]
    assert {"psnr", "ssim"} <= stats[-1].keys()

    code, output = script(*train)
    assert code == 0
    assert "already at iteration 4" in output

    measured, restored = tmp_path / "measured", tmp_path / "restored"
    code, output = script(
        "degrade", TINY, "--input", "photos:held_out", "--output", measured, "--baselines"
    )
    assert code == 0, output
    count = len(list((measured / "measurement").glob("*.npy")))
    code, output = script("sample", "--checkpoint", run, "--input", measured, "--output", restored)
    assert code == 0, output
    assert f"{count} restored, 0 failed" in output
    assert "images per second" in output
    for folder in (restored, measured / "lifted", measured / "pseudo_inverse"):
        code, output = script(
            "eval",
            "--reference",
            measured / "reference",
            "--restored",
            folder,
            "--metrics",
            "psnr,ssim",
            "--output",
            tmp_path / f"eval_{folder.name}",
        )
        assert code == 0, output
        assert f"({count} images)" in output
        summary = json.loads((tmp_path / f"eval_{folder.name}/summary.json").read_text())
        assert 5 < summary["summary"]["psnr"]["mean"] < 40


def test_print_config_shows_the_resolved_values_and_stops(script: object, tmp_path: Path) -> None:
    code, output = script(
        "train", TINY, "--run-dir", tmp_path / "run", "--set", "loss.gamma=1e-3", "--print-config"
    )
    assert code == 0
    assert "gamma: 0.001" in output
    assert "ikl_weight: sigma_over_alpha" in output
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_not_continued_with_another_config(
    script: object, tmp_path: Path, tiny_prior: Path
) -> None:
    train = (
        "train",
        TINY,
        "--run-dir",
        tmp_path / "run",
        "--set",
        f"prior.checkpoint={tiny_prior}",
    )
    assert script(*train, "--set", "train.num_iterations=2")[0] == 0
    changed = (*train, "--set", "loss.gamma=0.5")
    code, output = script(*changed)
    assert code == 2
    assert "loss.gamma: 0.1 -> 0.5" in output
    assert "--allow-changes loss.gamma" in output
    assert script(*changed, "--allow-changes", "loss.gamma")[0] == 0
    (entry,) = map(json.loads, (tmp_path / "run/changes.jsonl").open())
    assert entry["loss.gamma"] == "loss.gamma: 0.1 -> 0.5"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    code, output = script(
        "train", TINY, "--run-dir", tmp_path / "mine", "--set", f"prior.checkpoint={tiny_prior}"
    )
    assert code == 2
    assert "exists and holds no run" in output
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


TRAIN_ERRORS = {
    "data.train=null": "data.train is not set: give a folder",
    "data.train=/absent": "/absent: no such folder",
    "data.train=photos:all": "photos:all: unknown split",
    "prior.checkpoint=/absent.pt": "/absent.pt: no such weight file",
    "train.num_validation_images=100000": "the validation set has",
    "operator.factor=5": "operator: image of 16x16: both sides must be multiples",
    "operator={name: inpainting, box_size: 20}": "operator: box_size=20 is larger than the 16x16",
    "operator={name: inpainting, mask: file, path: /absent.png}": "/absent.png: no such file",
}


@pytest.mark.parametrize("override", TRAIN_ERRORS)
def test_training_says_in_one_line_what_is_wrong(
    override: str, script: object, tmp_path: Path, tiny_prior: Path
) -> None:
    code, output = script(
        "train",
        TINY,
        "--run-dir",
        tmp_path / "run",
        "--set",
        f"prior.checkpoint={tiny_prior}",
        "--set",
        override,
    )
    assert code == 2
    assert output.startswith("error: ")
    assert TRAIN_ERRORS[override] in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_sizes_and_counts_are_checked(script: object, generator: Path, tmp_path: Path) -> None:
    sample = ("sample", "--checkpoint", generator, "--input", tmp_path, "--output", tmp_path / "o")
    for option, value in (("--size", "0x0"), ("--size", "16"), ("--num-samples", "0")):
        assert script(*sample, option, value)[0] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_missing_gpu_is_named(script: object, generator: Path, tmp_path: Path) -> None:
    for arguments in (
        ("train", TINY),
        ("sample", "--checkpoint", generator, "--input", tmp_path, "--output", tmp_path / "o"),
    ):
        code, output = script(*arguments, "--device", "cuda")
        assert code == 2
        assert "device 'cuda' is not available" in output


def test_degrade_writes_exact_measurements_and_a_manifest(
    script: object, clean: Path, tmp_path: Path
) -> None:
    output = tmp_path / "measured"
    arguments = ("degrade", TINY, "--input", clean, "--output", output)
    assert script(*arguments)[0] == 0
    for name in ("a", "b", "c", "nested/d"):
        y = np.load(output / f"measurement/{name}.npy")
        assert y.shape == (3, 4, 4)
        assert y.dtype == np.float32
        x0 = load_image(output / f"reference/{name}.png")
        means = x0.view(3, 4, 4, 4, 4).mean(dim=(2, 4)).numpy()
        assert 0.02 < np.std(y - means) < 0.09  # sigma 0.05
        picture = load_image(output / f"measurement/{name}.png").numpy()
        np.testing.assert_allclose(picture, y.clip(-1, 1), atol=1 / 255 + 1e-6)
    lines = (output / "manifest.jsonl").read_text().splitlines()
    settings, *entries = map(json.loads, lines)
    assert settings["operator"]["name"] == "super_resolution"
    assert settings["noise"]["sigma"] == 0.05
    assert settings["seed"] == 0
    assert [entry["name"] for entry in entries] == ["a", "b", "c", "nested/d"]
    assert all(len(entry["sha256"]) == 64 for entry in entries)

    code, text = script(*arguments)
    assert code == 0
    assert "0 measurements written, 4 done before, 0 failed" in text
    code, text = script(*arguments, "--seed", 1)
    assert code == 2
    assert "was written with other settings (seed: 0 -> 1)" in text


def test_degrade_takes_a_zip_file_like_the_folder_in_it(
    script: object, clean: Path, tmp_path: Path
) -> None:
    zipped = shutil.make_archive(str(tmp_path / "clean"), "zip", clean)
    for source, output in ((clean, "loose"), (zipped, "packed")):
        arguments = ("--input", source, "--output", tmp_path / output, "--seed", 3)
        assert script("degrade", TINY, *arguments)[0] == 0
    loose, packed = contents(tmp_path / "loose"), contents(tmp_path / "packed")
    assert len(loose) == 8  # four measurements and references
    assert loose == packed
    code, text = script("degrade", TINY, *arguments)
    assert code == 0
    assert "0 measurements written, 4 done before" in text


def test_the_noise_of_a_file_depends_on_its_name_and_the_seed(
    script: object, clean: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        script("degrade", TINY, "--input", clean, "--output", tmp_path / name, "--seed", seed)
    (clean / "a.png").unlink()
    script("degrade", TINY, "--input", clean, "--output", tmp_path / "fewer")
    read = lambda folder: np.load(tmp_path / folder / "measurement/b.npy")  # noqa: E731
    np.testing.assert_array_equal(read("one"), read("fewer"))
    assert not np.array_equal(read("one"), read("two"))


def test_random_masks_are_written_beside_the_measurements(
    script: object, clean: Path, tmp_path: Path
) -> None:
    script(
        "degrade",
        TINY,
        "--input",
        clean,
        "--output",
        tmp_path / "m",
        "--set",
        "operator={name: inpainting, mask: random_box, box_size: 6}",
    )
    masks = [load_image(tmp_path / f"m/mask/{name}.png", 1) for name in ("a", "b")]
    assert not torch.equal(masks[0], masks[1])
    for name, mask in zip(("a", "b"), masks, strict=True):
        y = np.load(tmp_path / f"m/measurement/{name}.npy")
        assert (y[:, mask[0].numpy() < 0] == 0).all()
        assert (mask < 0).sum() == 36


def test_degrade_goes_on_after_bad_files(script: object, clean: Path, tmp_path: Path) -> None:
    (clean / "broken.png").write_bytes((clean / "a.png").read_bytes()[:80])
    shutil.copy(clean / "b.jpg", clean / "nested/d.jpg")
    code, output = script("degrade", TINY, "--input", clean, "--output", tmp_path / "m")
    assert code == 1
    assert "3 measurements written, 3 failed" in output
    assert "broken.png: not a readable image" in output
    assert "d.jpg: another file has the same name but for the suffix; rename one of them" in output


@pytest.fixture
def measured(script: object, clean: Path, tmp_path: Path) -> Path:
    """The measurements of the clean photographs."""
    script("degrade", TINY, "--input", clean, "--output", tmp_path / "measured")
    return tmp_path / "measured"


def test_samples_keep_their_names_and_do_not_depend_on_batch_size_or_order(
    script: object, generator: Path, measured: Path, tmp_path: Path
) -> None:
    sample = ("sample", "--checkpoint", generator)
    folder = measured / "measurement"
    for size in (1, 3):
        code, _ = script(
            *sample, "--input", folder, "--output", tmp_path / f"o{size}", "--batch-size", size
        )
        assert code == 0
    assert set(contents(tmp_path / "o1")) == {"a.png", "b.png", "c.png", "nested/d.png"}
    assert contents(tmp_path / "o1") == contents(tmp_path / "o3")
    (folder / "a.npy").unlink()
    (folder / "a.png").unlink()
    script(*sample, "--input", folder, "--output", tmp_path / "fewer")
    expected = {key: value for key, value in contents(tmp_path / "o1").items() if key != "a.png"}
    assert contents(tmp_path / "fewer") == expected
    code, _ = script(*sample, "--input", folder / "b.npy", "--output", tmp_path / "single")
    assert contents(tmp_path / "single") == {"b.png": expected["b.png"]}


def test_several_samples_come_with_mean_and_deviation(
    script: object, generator: Path, measured: Path, tmp_path: Path
) -> None:
    output = tmp_path / "o"
    script(
        "sample",
        "--checkpoint",
        generator,
        "--input",
        measured,
        "--output",
        output,
        "--num-samples",
        3,
    )
    samples = torch.stack([load_image(output / f"sample_{k:03d}/nested/d.png") for k in range(3)])
    mean, std = load_image(output / "mean/nested/d.png"), np.load(output / "std/nested/d.npy")
    torch.testing.assert_close(samples.mean(dim=0), mean, rtol=0, atol=0.02)
    np.testing.assert_allclose(samples.std(dim=0), std, atol=0.02)
    assert load_image(output / "std/nested/d.png", 1).max() == 1
    script("sample", "--checkpoint", generator, "--input", measured, "--output", tmp_path / "one")
    assert contents(tmp_path / "one")["a.png"] == contents(output)["sample_000/a.png"]


def test_a_rerun_does_only_what_is_missing_or_changed(
    script: object, generator: Path, measured: Path, tmp_path: Path
) -> None:
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", tmp_path / "o")
    script(*sample)
    before = contents(tmp_path / "o")
    np.save(measured / "measurement/a.npy", np.zeros((3, 4, 4), np.float32))
    np.save(measured / "measurement/e.npy", np.zeros((3, 4, 4), np.float32))
    code, output = script(*sample)
    assert code == 0
    assert "2 restored, 3 done before, 0 failed" in output
    after = contents(tmp_path / "o")
    assert after["b.png"] == before["b.png"]
    assert after["a.png"] != before["a.png"]
    assert "e.png" in after


def test_a_cut_off_line_in_the_manifest_is_done_again(
    script: object, generator: Path, measured: Path, tmp_path: Path
) -> None:
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", tmp_path / "o")
    script(*sample)
    manifest = tmp_path / "o/manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-30])  # as if killed while writing
    code, output = script(*sample)
    assert code == 0
    assert "1 restored, 3 done before, 0 failed" in output
    assert "0 restored, 4 done before, 0 failed" in script(*sample)[1]


def test_a_deleted_result_is_made_again(
    script: object, generator: Path, measured: Path, tmp_path: Path
) -> None:
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", tmp_path / "o")
    script(*sample)
    before = contents(tmp_path / "o")
    (tmp_path / "o/a.png").unlink()
    assert "1 restored, 3 done before, 0 failed" in script(*sample)[1]
    assert contents(tmp_path / "o") == before
    degrade = ("degrade", TINY, "--input", tmp_path / "clean", "--output", measured)
    (measured / "measurement/b.npy").unlink()
    assert "1 measurements written, 3 done before" in script(*degrade)[1]


def test_results_never_become_input(
    script: object, generator: Path, clean: Path, measured: Path
) -> None:
    folder = measured / "measurement"
    for source, output in ((folder, folder / "restored"), (folder, folder)):
        code, text = script(
            "sample", "--checkpoint", generator, "--input", source, "--output", output
        )
        assert code == 2
        assert "lies inside the input" in text
    code, text = script("degrade", TINY, "--input", clean, "--output", clean / "measured")
    assert code == 2
    assert "lies inside the input" in text


@pytest.fixture(scope="module")
def denoiser(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("w") / "g.safetensors"
    return write_tiny_generator(path, tiny_prior, "operator={name: denoising}")


def test_measurements_of_another_task_are_refused_even_if_they_fit(
    script: object, denoiser: Path, clean: Path, tmp_path: Path
) -> None:
    blur = "operator={name: gaussian_blur, kernel_size: 5, sigma: 1.0}"
    script("degrade", TINY, "--input", clean, "--output", tmp_path / "m", "--set", blur)
    for source in (tmp_path / "m", tmp_path / "m/measurement"):
        code, output = script(
            "sample", "--checkpoint", denoiser, "--input", source, "--output", tmp_path / "o"
        )
        assert code == 2
        assert "measurements of gaussian_blur, this generator is for denoising" in output


def test_measurements_with_other_noise_are_pointed_out(
    script: object, generator: Path, clean: Path, tmp_path: Path
) -> None:
    script(
        "degrade", TINY, "--input", clean, "--output", tmp_path / "m", "--set", "noise.sigma=0.2"
    )
    code, output = script(
        "sample", "--checkpoint", generator, "--input", tmp_path / "m", "--output", tmp_path / "o"
    )
    assert code == 0
    assert "note: measured otherwise than in training (noise." in output


def test_masks_say_where_a_picture_has_its_hole(
    script: object, tiny_prior: Path, denoiser: Path, tmp_path: Path
) -> None:
    inpainter = write_tiny_generator(
        tmp_path / "g.safetensors",
        tiny_prior,
        "operator={name: inpainting, mask: random_box, box_size: 8}",
    )
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:12, 2:10] = 0
    for folder, fill in (("black", 0), ("white", 255)):
        (tmp_path / folder).mkdir()
        pixels = np.full((16, 16, 3), 90, np.uint8)
        pixels[mask == 0] = fill
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    sample = ("sample", "--checkpoint", inpainter, "--input")
    results = []
    for folder, masks in (("black", "masks"), ("white", "masks"), ("white", "masks/a.png")):
        output = tmp_path / f"o{len(results)}"
        script(*sample, tmp_path / folder, "--output", output, "--mask", tmp_path / masks)
        results.append(contents(output))
    assert results[0] == results[1] == results[2]
    script(*sample, tmp_path / "white", "--output", tmp_path / "plain")
    assert contents(tmp_path / "plain") != results[0]
    code, output = script(
        "sample",
        "--checkpoint",
        denoiser,
        "--input",
        tmp_path / "black",
        "--output",
        tmp_path / "no",
        "--mask",
        tmp_path / "masks",
    )
    assert code == 2
    assert "masks are for inpainting" in output


def test_a_hole_elsewhere_than_in_training_is_pointed_out(
    script: object, tiny_prior: Path, clean: Path, tmp_path: Path
) -> None:
    box = "operator={name: inpainting, mask: centred_box, box_size: 8}"
    inpainter = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior, box)
    script("degrade", TINY, "--input", clean, "--output", tmp_path / "m", "--set", box)
    own = np.full((16, 16), 255, np.uint8)
    own[4:12, 4:12] = 0
    for name, mask in (("own", own), ("other", np.roll(own, 2, axis=1))):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        sample = ("sample", "--checkpoint", inpainter, "--input", tmp_path / "m")
        code, output = script(
            *sample, "--output", tmp_path / name, "--mask", tmp_path / f"{name}.png"
        )
        assert code == 0
        noted = "note: 4 images with a hole elsewhere than in training" in output
        assert noted == (name == "other")


def test_results_of_other_settings_are_not_mixed(
    script: object, generator: Path, colorizer: Path, measured: Path, tmp_path: Path
) -> None:
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", tmp_path / "o")
    script(*sample)
    code, output = script(*sample, "--seed", 7)
    assert code == 2
    assert "was written with other settings (seed: 0 -> 7)" in output
    code, output = script(*sample, "--num-samples", 2)
    assert code == 2
    assert "num_samples: 1 -> 2" in output
    code, output = script("sample", "--checkpoint", colorizer, *sample[3:])
    assert code == 2
    assert "measurements of super_resolution, this generator is for colorization" in output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_bytes(b"precious")
    code, output = script(*sample[:-1], tmp_path / "mine")
    assert code == 2
    assert "so that nothing of yours is overwritten" in output
    assert (tmp_path / "mine/a.png").read_bytes() == b"precious"


def test_one_bad_file_never_stops_the_others(
    script: object, generator: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = np.zeros((3, 4, 4), np.float32)
    pixels = np.full((4, 4, 3), 200, np.uint8)
    np.save(folder / "good.npy", good)
    Image.fromarray(pixels).save(folder / "colour.png")
    Image.fromarray(pixels[..., 0]).save(folder / "gray.png")
    Image.fromarray(pixels).quantize(2).save(folder / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    np.save(folder / "nan.npy", np.full_like(good, np.nan))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "bytes.npy", np.zeros((3, 4, 4), np.uint8))
    np.save(folder / "large.npy", np.zeros((3, 16, 16), np.float32))
    np.save(folder / "overflow.npy", np.full((3, 4, 4), 1e300))
    np.save(folder / "bright.npy", np.full((3, 4, 4), 200.0))
    header = (folder / "good.npy").read_bytes()
    (folder / "header.npy").write_bytes(header.replace(b"(3, 4, 4)", b"(3, 4, 9999999999)"))
    (folder / "header2.npy").write_bytes(header.replace(b"(3, 4, 4)", b'(3, 4, "4 '))
    (folder / "empty.npy").touch()
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    Image.fromarray(pixels).convert("RGBA").resize((4, 4)).save(folder / "opaque.png")
    glass = Image.fromarray(pixels).convert("RGBA")
    glass.putalpha(10)
    glass.save(folder / "glass.png")
    for suffix in ("png", "bmp"):
        Image.fromarray(pixels).save(folder / f"twin.{suffix}")
    code, output = script(
        "sample", "--checkpoint", generator, "--input", folder, "--output", tmp_path / "o"
    )
    assert code == 1
    assert set(contents(tmp_path / "o")) == {
        f"{name}.png"
        for name in ("good", "colour", "gray", "palette", "sixteen", "opaque", "large")
    }
    assert "7 restored, 12 failed" in output
    for reason in (
        "nan.npy: holds NaN or infinity",
        "objects.npy: not a readable .npy array",
        "bytes.npy: integers; store float values",
        "overflow.npy: values up to 1e+300; measurements are on the [-1, 1] scale",
        "bright.npy: values up to 200; measurements are on the [-1, 1] scale",
        "header.npy: not a readable .npy array",
        "header2.npy: not a readable .npy array",
        "empty.npy: not a readable .npy array",
        "broken.png: not a readable image",
        "glass.png: has transparent pixels",
        "twin.bmp: another file has the same name but for the suffix; rename one of them",
    ):
        assert reason in output


def test_gray_measurements_may_be_gray_or_gray_in_colour(
    script: object, colorizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(folder / "a.png")
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "b.png")
    Image.fromarray(np.tile(np.uint8([200, 0, 0]), (16, 16, 1))).save(folder / "red.png")
    code, output = script(
        "sample", "--checkpoint", colorizer, "--input", folder, "--output", tmp_path / "o"
    )
    assert code == 1
    assert set(contents(tmp_path / "o")) == {"a.png", "b.png"}
    assert "red.png: has 3 channels, 1 needed" in output


def test_unusable_folders_and_checkpoints_are_named(
    script: object, generator: Path, tiny_prior: Path, measured: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    exploit = tmp_path / "exploit.pt"
    torch.save({"iteration": Exploit(tmp_path / "trace")}, exploit)
    cases = {
        (generator, tmp_path / "absent", tmp_path / "o1"): "absent: no such folder",
        (generator, tmp_path / "empty", tmp_path / "o2"): "empty: holds no image",
        (generator, measured, tmp_path / "file/o"): "cannot write there",
        (tiny_prior, measured, tmp_path / "o3"): "holds a davi prior",
        (tmp_path / "absent.pt", measured, tmp_path / "o4"): "absent.pt: no such file",
        (exploit, measured, tmp_path / "o5"): "would run code, which is refused",
    }
    for (checkpoint, source, output), message in cases.items():
        code, text = script(
            "sample", "--checkpoint", checkpoint, "--input", source, "--output", output
        )
        assert code == 2
        assert text.startswith("error: ")
        assert message in text
    assert not (tmp_path / "trace").exists()


class Exploit:
    """Pickles to a call that would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def test_a_generator_is_not_taken_for_a_prior(
    script: object, generator: Path, tmp_path: Path
) -> None:
    code, output = script(
        "train", TINY, "--run-dir", tmp_path / "run", "--set", f"prior.checkpoint={generator}"
    )
    assert code == 2
    assert "holds a davi generator; a prior is needed" in output


def test_eval_refuses_to_overwrite_and_unknown_metrics(
    script: object, measured: Path, tmp_path: Path
) -> None:
    arguments = (
        "eval",
        "--reference",
        measured / "reference",
        "--restored",
        measured / "reference",
        "--metrics",
        "psnr",
        "--output",
        tmp_path / "e",
    )
    assert script(*arguments)[0] == 0
    code, output = script(*arguments)
    assert code == 2
    assert "holds an evaluation already" in output
    assert script(*arguments, "--overwrite")[0] == 0
    code, output = script(*arguments[:-3], "psnr,niqe")
    assert code == 2
    assert "unknown niqe" in output
    code, output = script(*arguments, "--lpips", "vgg,squeeze")
    assert code == 2
    assert "unknown squeeze, choose from release,vgg,alex" in output


def test_prepared_folders_hold_the_images_of_the_splits(
    script: object, clean: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "out", ("--size", "16", "--num-workers", "1")
    split = ("--validation", "first:1", "--train", f"list:{tmp_path / 'train.txt'}")
    (tmp_path / "train.txt").write_text("b\nnested/d\n")
    code, output = script("prepare_data", "--input", clean, "--output", out, *split, *arguments)
    assert (code, "3 prepared, 0 failed" in output) == (0, True)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert files == ["train/b.png", "train/nested/d.png", "validation/a.png"]
    whole = ("prepare_data", "--input", clean, "--output", tmp_path / "whole", *arguments)
    code, output = script(*whole)
    assert (code, "all: 4 of 4 images (all)" in output) == (0, True)
    (clean / "c.webp").write_bytes(b"no picture")
    code, output = script(*whole)
    assert (code, "0 prepared, 3 done before, 2 failed" in output) == (1, True)


@pytest.mark.parametrize("dataset", ["ffhq", "imagenet"])
def test_data_sets_are_split_as_the_release_does(
    script: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    """The choice only: the release's numbers of images are too many for a test."""
    import davi.data.preparing
    from davi.data.selections import Split
    from davi.system.ledger import FolderReport

    for index in range(1010):
        for folder in ("train", "val"):
            path = tmp_path / folder / f"n{index % 7}/{index:05d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    chosen = {}

    def take(splits: list[Split], *_: object) -> FolderReport:
        chosen.update({split.name: split for split in splits})
        return FolderReport()

    monkeypatch.setattr(davi.data.preparing, "prepare_images", take)
    folders = ("--input", tmp_path / "train", "--validation-input", tmp_path / "val")
    command = ("prepare_data", *folders, "--output", tmp_path / "o", "--dataset", dataset)
    code, output = script(*command)
    if dataset == "ffhq":
        assert (code, "of the numbers 01000-49999 no image has 01010, 01011" in output) == (2, True)
        code, output = script(*command, "--train", "01000-01009")
    assert code == 0
    validation, train = chosen["validation"], chosen["train"]
    assert [validation.images.source(index).name for index in validation.indices] == [
        f"{number:05d}.JPEG" for number in range(1000)
    ]
    assert validation.images.origin == tmp_path / "val"
    assert len(train.indices) == (10 if dataset == "ffhq" else 1010)
    assert validation.images.image_size == 256


def test_exports_of_half_precision_load_and_stay_close(
    script: object, tiny_prior: Path, tmp_path: Path
) -> None:
    import davi

    script("train", TINY, "--run-dir", tmp_path / "run", "--set", f"prior.checkpoint={tiny_prior}")
    script("export", tmp_path / "run", "--output", tmp_path / "g.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "g.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    y = torch.zeros(1, 3, 4, 4)
    exact = davi.load(tmp_path / "run", "cpu").restore(y)
    half = davi.load(tmp_path / "g.safetensors", "cpu").restore(y)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.01)
    assert not torch.equal(half, exact)
    newest = tmp_path / "run/checkpoints/iteration_0000004.pt"
    assert torch.equal(davi.load(newest, "cpu").restore(y), exact)
    code, output = script("export", tmp_path / "run", "--output", tmp_path / "g.safetensors")
    assert code == 2
    assert "exists; add --overwrite" in output
    code, output = script("export", tmp_path / "run", "--output", tmp_path / "g.pt")
    assert code == 2
    assert "must end in .safetensors" in output


def test_training_lists_unusable_images_before_it_begins(
    script: object, tmp_path: Path, clean: Path, tiny_prior: Path
) -> None:
    (clean / "broken.png").write_bytes(b"no picture")
    arguments = ["train", TINY, "--run-dir", tmp_path / "run", "--set", f"data.train={clean}"]
    arguments += ["--set", f"prior.checkpoint={tiny_prior}"]
    code, output = script(*arguments)
    assert code == 2
    assert "1 of 5 images cannot be used: broken.png (not a readable image" in output
    assert not (tmp_path / "run").exists()
    code, output = script(*arguments, "--set", "data.on_error=skip")
    assert code == 0, output


def test_a_run_notices_another_data_set(
    script: object, tmp_path: Path, clean: Path, tiny_prior: Path
) -> None:
    arguments = ["train", TINY, "--run-dir", tmp_path / "run", "--set", f"data.train={clean}"]
    arguments += ["--set", f"prior.checkpoint={tiny_prior}", "--set"]
    assert script(*arguments, "train.num_iterations=2")[0] == 0
    (clean / "b.jpg").unlink()
    code, output = script(*arguments, "train.num_iterations=3")
    assert code == 2
    assert "content of data.train: images 4" in output
    assert "-> images 3" in output
    allowed = ("train.num_iterations=3", "--allow-changes", "data.train")
    code, output = script(*arguments, *allowed)
    assert code == 0
    assert "going on from iteration 2" in output


BENCHMARKS = {
    "train": ["--batch-size", 2],
    "sample": ["--batch-size", 2],
    "folder": ["--num-images", 3],
    "data": ["--num-images", 2, "--num-workers", 1],
}


@pytest.mark.parametrize(
    ("subject", "option"),
    [
        ("data", "--batch-size=7"),
        ("cost", "--compile"),
        ("folder", "--num-workers=3"),
        ("operators", "--precision=bf16"),
        ("train", "--num-images=2"),
        ("solvers", "--repeats=2"),
        ("posterior", "--device=cpu"),
    ],
)
def test_a_benchmark_refuses_options_that_it_does_not_use(
    subject: str, option: str, script: object
) -> None:
    code, output = script("benchmark", subject, option)
    assert code == 2
    assert f"error: unrecognized arguments: {option}" in output


@pytest.mark.slow
@pytest.mark.parametrize("subject", BENCHMARKS)
def test_every_benchmark_runs_and_writes(
    subject: str, script: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("davi.benchmarks.measuring.MATMUL_SIZES", {"cpu": (256,)})
    path = tmp_path / "report.json"
    arguments = ["benchmark", subject, *BENCHMARKS[subject], "--preset", "photos_64"]
    arguments += ["--repeats", 2, "--device", "cpu", "--output", path]
    code, output = script(*arguments)
    assert code == 0, output
    rungs = json.loads(path.read_text())["rows"]
    assert len(rungs) >= 2
    for rung in rungs:
        assert rung["median_s"] > 0
        assert (rung["matmul_share"] is not None) == (subject in ("train", "sample"))
        assert f"| {rung['name']} |" in output
    bf16 = [rung for rung in rungs if "bf16" in rung["name"] and "necessary" not in rung["name"]]
    assert all(20 < rung["drift_db"] < 90 for rung in bf16)
    assert bool(bf16) == (subject in ("train", "sample"))
    code, output = script(*arguments)
    assert code == 2
    assert "report.json: exists" in output


def test_degrading_some_images_spreads_them_and_goes_on_to_more(
    script: object, clean: Path, tmp_path: Path
) -> None:
    words = ("degrade", TINY, "--input", clean, "--output", tmp_path / "out", "--num-images")
    code, output = script(*words, 2)
    assert (code, "2 measurements written" in output) == (0, True)
    # Of a, b, c, nested/d in the order of van der Corput: the first and the third.
    names = {
        path.relative_to(tmp_path / "out/measurement")
        for path in (tmp_path / "out/measurement").rglob("*.npy")
    }
    assert names == {Path("a.npy"), Path("c.npy")}
    code, output = script(*words, 4)
    assert (code, "2 measurements written" in output) == (0, True)
    code, output = script(*words, 5)
    assert code == 2
    assert "5 images wanted, there are 4" in output
