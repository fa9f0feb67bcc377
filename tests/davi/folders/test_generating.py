"""Folders of images drawn from a prior: what an image depends on, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import torch

from davi.data.batches import open_images
from davi.data.images import load_image
from davi.folders.generating import generate_images, image_path, load_prior
from davi.system.errors import InputError
from davi.system.ledger import FolderReport
from davi.system.world import ONE_PROCESS, World
from guided_diffusion.checkpoint import read_weights
from guided_diffusion.errors import CheckpointError
from guided_diffusion.presets import PRESETS, create_unet
from tests.conftest import contents
from tests.processes import in_world
from tests.same import assert_same
from tests.tiny import write_tiny_generator, write_tiny_prior

CPU = torch.device("cpu")
SETTINGS = {"sampler": "ddpm", "num_steps": 5, "seed": 3, "batch_size": 1}


def generate(
    prior: Path, output: Path, num_images: int, world: World = ONE_PROCESS, **changes: object
) -> FolderReport:
    model, shape = load_prior(prior, CPU, "fp32")
    arguments = {**SETTINGS, "origin": {"prior": "tiny"}, "world": world, **changes}
    return generate_images(model, shape, output, num_images=num_images, **arguments)


def generate_in(world: World, prior: Path, output: Path, num_images: int) -> int:
    return generate(prior, output, num_images, world).done


def test_images_lie_in_subfolders_and_are_a_data_set(tiny_prior: Path, tmp_path: Path) -> None:
    assert [str(image_path(number)) for number in (0, 999, 48_999)] == [
        "000/000000.png",
        "000/000999.png",
        "048/048999.png",
    ]
    report = generate(tiny_prior, tmp_path / "o", 3)
    assert (report.done, report.skipped, report.exit_code) == (3, 0, 0)
    images = open_images(str(tmp_path / "o"), 16)
    assert [images.name(index) for index in range(3)] == ["000/000000", "000/000001", "000/000002"]
    assert (images[0] - images[1]).abs().mean() > 0.05
    (settings,) = map(json.loads, (tmp_path / "o/manifest.jsonl").read_text().splitlines())
    assert settings == {"prior": "tiny", "sampler": "ddpm", "steps": 5, "seed": 3}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_image_depends_on_seed_and_number_only(
    sampler: str, tiny_prior: Path, tmp_path: Path
) -> None:
    generate(tiny_prior, tmp_path / "one", 5, sampler=sampler)
    generate(tiny_prior, tmp_path / "many", 4, sampler=sampler, batch_size=3)
    generate(tiny_prior, tmp_path / "many", 5, sampler=sampler, batch_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    generate(tiny_prior, tmp_path / "other", 5, sampler=sampler, seed=4)
    assert not contents(tmp_path / "one").items() & contents(tmp_path / "other").items()


@pytest.mark.slow
def test_processes_share_the_work(tiny_prior: Path, tmp_path: Path) -> None:
    generate(tiny_prior, tmp_path / "alone", 5)
    assert in_world(2, generate_in, tiny_prior, tmp_path / "shared", 5) == [5, 5]
    assert contents(tmp_path / "alone") == contents(tmp_path / "shared")
    assert generate(tiny_prior, tmp_path / "shared", 7).done == 2


def test_a_rerun_draws_what_is_missing_and_keeps_the_rest(tiny_prior: Path, tmp_path: Path) -> None:
    generate(tiny_prior, tmp_path, 4)
    before = contents(tmp_path)
    (tmp_path / image_path(2)).unlink()
    (tmp_path / image_path(1)).write_bytes(b"mine")
    (tmp_path / "000/.000002.png.1.tmp").write_bytes(b"half")  # of a command that was killed
    report = generate(tiny_prior, tmp_path, 4)
    assert (report.done, report.skipped) == (1, 3)
    assert contents(tmp_path) == {**before, "000/000001.png": b"mine"}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"other settings \(seed: 3 -> 4\)"),
        ({"num_steps": 6}, r"other settings \(steps: 5 -> 6\)"),
        ({"sampler": "ddim"}, r"other settings \(sampler: 'ddpm' -> 'ddim'\)"),
        ({"origin": {"prior": "new"}}, r"other settings \(prior: 'tiny' -> 'new'\)"),
    ],
)
def test_a_folder_never_holds_images_of_two_kinds(
    change: dict, message: str, tiny_prior: Path, tmp_path: Path
) -> None:
    generate(tiny_prior, tmp_path, 1)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        generate(tiny_prior, tmp_path, 2, **change)
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(tiny_prior: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="nothing of yours is overwritten"):
        generate(tiny_prior, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_prior_with_a_learned_variance_uses_it(tmp_path: Path) -> None:
    prior = write_tiny_prior(tmp_path / "six.safetensors", "network.out_channels=6")
    model, shape = load_prior(prior, CPU, "fp32")
    assert shape == (3, 16, 16)
    assert model.network.out[-1].out_channels == 6
    generate(prior, tmp_path / "learned", 1)
    with torch.no_grad():
        model.network.out[-1].bias[3:] = 1  # the upper bound
    generate_images(
        model, shape, tmp_path / "large", num_images=1, origin={}, world=ONE_PROCESS, **SETTINGS
    )
    assert contents(tmp_path / "learned") != contents(tmp_path / "large")
    assert load_image(tmp_path / "large/000/000000.png").shape == shape


def test_a_shipped_prior_is_found_by_its_name() -> None:
    assert load_prior("photos_prior", "cpu")[1] == (3, 64, 64)


def test_what_is_no_prior_is_refused(tiny_prior: Path, tmp_path: Path) -> None:
    generator = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    bare, other = tmp_path / "adm.pt", tmp_path / "other.pt"
    torch.save(read_weights(tiny_prior), bare)
    torch.save({"weight": torch.zeros(1)}, other)
    for path, message in (
        (generator, "holds a davi generator; a prior is needed"),
        (tmp_path / "absent.pt", "no such file or run folder"),
        (bare, "does not tell its architecture, which is none of ffhq_256"),
        (other, "holds no network known here"),
    ):
        with pytest.raises((InputError, CheckpointError), match=re.escape(message)):
            load_prior(path, CPU, "fp32")


def test_bare_weights_of_a_preset_and_imported_ones_are_priors(
    script: object, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = create_unet(PRESETS["photos_64"]).state_dict()
    bare, imported = tmp_path / "adm.pt", tmp_path / "prior.safetensors"
    torch.save(weights, bare)
    code, text = script("import_checkpoint", bare, "--part", "prior", "--output", imported)
    assert code == 0, text
    for path in (bare, imported):
        model, shape = load_prior(path, CPU, "fp32")
        assert shape == (3, 64, 64)
        assert_same(dict(model.network.state_dict()), dict(weights))


def test_values_that_are_no_numbers_are_not_written(tiny_prior: Path, tmp_path: Path) -> None:
    model, shape = load_prior(tiny_prior, CPU, "fp32")
    with torch.no_grad():
        model.network.out[-1].bias.fill_(float("nan"))
    with pytest.raises(InputError, match="the prior returned NaN"):
        generate_images(
            model, shape, tmp_path / "o", num_images=1, origin={}, world=ONE_PROCESS, **SETTINGS
        )
    assert not contents(tmp_path / "o")
