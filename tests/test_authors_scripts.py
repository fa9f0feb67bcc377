"""Files of the authors the way a user handles them: imported, and restored with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import davi
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.data.images import load_image
from davi.system.files import sha256_of
from tests.authors import (
    Weights,
    adm_weights,
    discriminator_state,
    ema_state,
    training_file,
    write_run,
)
from tests.guided_diffusion.test_checkpoint import Exploit
from tests.same import assert_same
from tests.tiny import write_tiny_generator

KINDS = {
    "generator": "davi generator",
    "raw_generator": "davi generator",
    "score": "davi fake score",
    "prior": "davi prior",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The config of a tiny denoiser."""
    return write_run(tmp_path / "denoiser.yaml", "{name: denoising}")


@pytest.fixture
def networks(run: Path) -> list[Weights]:
    """Average, raw generator and fake score."""
    unet = load_config(run, RunConfig).network.unet()
    return [adm_weights(unet, seed) for seed in (1, 2, 3)]


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as stream:
        return stream.metadata()


def sorted_by_name(weights: Weights) -> Weights:
    return dict(sorted(weights.items()))


def test_every_part_of_a_training_file_is_written_bit_for_bit(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    source, output = tmp_path / "model-ema-042000.pt", tmp_path / "out/part.safetensors"
    torch.save(training_file(*networks), source)
    parts = dict(zip(("generator", "raw_generator", "score"), networks, strict=True))
    for part, weights in parts.items():
        code, text = script(
            "import_checkpoint", source, "--part", part, "--config", run, "--output", output,
            "--overwrite",
        )  # fmt: skip
        assert code == 0, text
        assert f"{KINDS[part]} after 42000 iterations, from a training file of the DAVI" in text
        assert_same(sorted_by_name(load_file(output)), sorted_by_name(weights))
        assert header(output)["kind"] == KINDS[part]
        assert header(output)["iteration"] == "42000"
        assert header(output)["source"] == source.name
        assert header(output)["source_sha256"] == sha256_of(source)

    script(
        "import_checkpoint", source, "--part", "discriminator", "--output", output, "--overwrite"
    )
    found, state = load_file(output), discriminator_state()
    assert {f"discriminator_2d.{key}" for key in found} == state.keys()
    assert all(torch.equal(value, state[f"discriminator_2d.{key}"]) for key, value in found.items())
    assert header(output)["kind"] == "davi discriminator"
    assert "config" not in header(output)


def test_the_imported_generator_restores_like_the_file_it_is_from(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    source, output = tmp_path / "deno_ema.pt", tmp_path / "deno.safetensors"
    torch.save(ema_state(*networks[:2]), source)
    code, text = script("import_checkpoint", source, "--config", run, "--output", output)
    assert code == 0, text
    y = torch.rand(2, 3, 16, 16) * 2 - 1
    direct = davi.load(source, "cpu", config=run).restore(y)
    assert torch.equal(davi.load(output, "cpu").restore(y), direct)
    given = load_config(run, RunConfig)
    assert not torch.equal(davi.load(source, "cpu", config=given).restore(y), direct)
    again = tmp_path / "again.safetensors"
    script("import_checkpoint", output, "--output", again, "--dtype", "float16")
    ours = ("kind", "config", "iteration")
    assert [header(again)[key] for key in ours] == [header(output)[key] for key in ours]
    assert {value.dtype for value in load_file(again).values()} == {torch.float16}


def test_a_prior_is_written_with_its_architecture(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    source, output = tmp_path / "prior.pt", tmp_path / "prior.safetensors"
    torch.save(networks[0], source)
    command = ("import_checkpoint", source, "--output", output, "--part", "prior")
    code, text = script(*command)
    assert code == 2
    assert "no known architecture" in text
    assert not output.exists()
    code, text = script(*command, "--config", run)
    assert code == 0, text
    assert text.startswith(f"{output}: davi prior, from a bare ADM network")
    assert_same(sorted_by_name(load_file(output)), sorted_by_name(networks[0]))
    assert json.loads(header(output)["config"])["network"]["out_channels"] == 6
    assert "iteration" not in header(output)


def test_nothing_is_overwritten_and_no_code_is_run(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    output, source, trace = tmp_path / "out.safetensors", tmp_path / "x.pt", tmp_path / "trace"
    torch.save(ema_state(*networks[:2]) | {"more": Exploit(trace)}, source)
    command = ("import_checkpoint", source, "--config", run, "--output", output)
    code, text = script(*command)
    assert (code, len(text.splitlines())) == (2, 1)
    assert "a pickle that would run code, which is refused" in text
    assert not trace.exists()
    output.write_text("mine")
    code, text = script(*command)
    assert code == 2
    assert "exists; add --overwrite" in text
    assert output.read_text() == "mine"
    code, text = script(*command[:-1], tmp_path / "out.pt")
    assert code == 2
    assert "must end in .safetensors" in text


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two measurements of the denoising task."""
    folder = tmp_path / "measured"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", random.normal(0, 0.4, (3, 16, 16)).astype(np.float32))
    return folder


def test_a_folder_is_restored_with_a_file_of_the_authors(
    script: object, run: Path, networks: list[Weights], measured: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "deno_ema.pt", tmp_path / "restored"
    torch.save(training_file(*networks), source)
    command = ("sample", "--checkpoint", source, "--input", measured, "--output", output)
    code, text = script(*command)
    assert code == 2
    assert "nothing says what this generator restores" in text
    code, text = script(*command, "--config", run)
    assert code == 0, text
    assert "2 restored, 0 failed" in text
    y = torch.from_numpy(np.load(measured / "a.npy"))[None]
    expected = davi.load(source, "cpu", config=run).restore(y, names=["a"])[0, 0]
    assert (load_image(output / "a.png") - expected).abs().max() <= 1.01 / 255
    settings = json.loads((output / "manifest.jsonl").read_text().splitlines()[0])
    assert settings["config"]["schedule"] == "quadratic"
    assert "rounding" not in settings
    code, text = script(*command, "--config", run, "--set", "bridge.h=0.3")
    assert code == 2
    assert "was written with other settings (config.bridge.h: 0.1 -> 0.3)" in text


def test_pictures_are_truncated_when_asked_for(
    script: object, run: Path, networks: list[Weights], measured: Path, tmp_path: Path
) -> None:
    source = tmp_path / "deno_ema.pt"
    torch.save(ema_state(*networks[:2]), source)
    command = ("sample", "--checkpoint", source, "--config", run, "--input", measured)
    for rounding in ("nearest", "truncate"):
        code, text = script(*command, "--output", tmp_path / rounding, "--rounding", rounding)
        assert code == 0, text
    y = torch.from_numpy(np.load(measured / "a.npy"))[None]
    x = davi.load(source, "cpu", config=run).restore(y, names=["a"])[0, 0].numpy()
    for rounding, levels in (
        ("nearest", np.rint((x + 1) / 2 * 255)),
        ("truncate", ((x + 1) / 2 * 255).astype(np.uint8)),
    ):
        picture = load_image(tmp_path / rounding / "a.png").numpy()
        np.testing.assert_array_equal(np.rint((picture + 1) / 2 * 255), levels)
    settings = (tmp_path / "truncate/manifest.jsonl").read_text().splitlines()[0]
    assert json.loads(settings)["rounding"] == "truncate"
    code, text = script(*command, "--output", tmp_path / "truncate")
    assert code == 2
    assert "rounding: 'truncate' -> None" in text


def test_a_file_that_says_its_config_takes_no_other(
    script: object, run: Path, tiny_prior: Path, measured: Path, tmp_path: Path
) -> None:
    path = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    command = ("sample", "--checkpoint", path, "--input", measured, "--output", tmp_path / "out")
    for more in (("--config", run), ("--set", "bridge.h=0")):
        code, text = script(*command, *more)
        assert (code, len(text.splitlines())) == (2, 1)
        assert "holds its own config" in text


def test_eval_scores_a_file_of_the_authors_in_both_roundings(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    source, measured, output = tmp_path / "deno_ema.pt", tmp_path / "measured", tmp_path / "scores"
    torch.save(ema_state(*networks[:2]), source)
    clean = tmp_path / "clean"
    clean.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(clean / f"{number}.png")
    script("degrade", run, "--input", clean, "--output", measured)
    arguments = ("--checkpoint", source, "--config", run, "--measured", measured)
    code, text = script(
        "eval", *arguments, "--output", output, "--rounding", "nearest,truncate",
        "--metrics", "psnr,ssim",
    )  # fmt: skip
    assert code == 0, text
    rounded, truncated = (
        json.loads((output / f"restored_{name}-eval/summary.json").read_text())
        for name in ("nearest", "truncate")
    )
    assert rounded["protocols"]["psnr"]["rounding"] == "nearest"
    assert truncated["protocols"]["psnr"]["rounding"] == "truncate"
    assert rounded["summary"]["psnr"]["mean"] != truncated["summary"]["psnr"]["mean"]
    # The same as sample.py and eval.py one after the other.
    script("sample", *arguments[:4], "--input", measured, "--output", tmp_path / "restored")
    script(
        "eval", "--reference", measured / "reference", "--restored", tmp_path / "restored",
        "--metrics", "psnr,ssim",
    )  # fmt: skip
    two_steps = json.loads((tmp_path / "restored-eval/summary.json").read_text())
    assert two_steps["summary"] == rounded["summary"]


def test_weights_that_are_not_finite_are_not_imported(
    script: object, run: Path, networks: list[Weights], tmp_path: Path
) -> None:
    networks[0]["out.2.bias"][0] = torch.nan
    torch.save(ema_state(*networks[:2]), tmp_path / "deno_ema.pt")
    arguments = (tmp_path / "deno_ema.pt", "--config", run, "--output", tmp_path / "o.safetensors")
    code, text = script("import_checkpoint", *arguments)
    assert code == 2
    assert "out.2.bias holds NaN or infinity" in text
    assert not (tmp_path / "o.safetensors").exists()


def test_eval_says_what_it_needs(script: object, tmp_path: Path) -> None:
    code, text = script("eval", "--reference", tmp_path)
    assert code == 2
    assert "give --reference, --restored, or --checkpoint, --measured and --output" in text
    code, text = script("eval", "--checkpoint", tmp_path, "--output", tmp_path / "out")
    assert code == 2
    assert "give --reference, --restored, or --checkpoint, --measured and --output" in text
    code, text = script(
        "eval", "--checkpoint", tmp_path, "--measured", tmp_path, "--output", tmp_path / "out"
    )
    assert "reference: no such folder; give --measured a folder of davi degrade" in text
    both = ("--reference", tmp_path, "--restored", tmp_path)
    code, text = script("eval", *both, "--seed", 3, "--rounding", "truncate")
    assert code == 2
    assert "--rounding, --seed: no effect without --checkpoint; leave it out" in text
