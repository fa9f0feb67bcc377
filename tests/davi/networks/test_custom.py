"""Networks of one's own: trained as a prior, trained from; their code runs only if named."""

from pathlib import Path

import pytest
import torch

import davi
from davi.folders.generating import load_prior
from davi.priors.weight_file import read_prior_file
from davi.runs.build import build_prior_trainer, build_trainer
from davi.runs.inputs import input_record
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.weights.generator_file import part_values
from davi.weights.layouts import read_weight_file
from davi.weights.network_file import GENERATOR, PRIOR, save_weights
from tests.tiny import ALONE, tiny_config, tiny_prior_config

CODE = """
import torch
from torch import nn

open(__file__ + ".ran", "a").write("x")


class _Block(nn.Module):
    pass


class Mine(nn.Module):
    def __init__(self, in_channels, out_channels, width=8):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.register_buffer("scale", torch.tensor([0.001]), persistent=False)

    def forward(self, x, t):
        shift = (t * self.scale)[:, None, None, None].to(x.dtype)
        return self.last(torch.tanh(self.first(x) + shift))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def section(file: Path, settings: str = "{width: 4}") -> str:
    return f"network={{name: custom, file: {file}, image_size: 16, settings: {settings}}}"


@pytest.fixture
def prior(file: Path, tmp_path: Path) -> Path:
    """Trained for one step."""
    config = tiny_prior_config(section(file))
    trainer = build_prior_trainer(config, ALONE)
    losses = trainer.train_step(torch.rand(4, 3, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert input_record(config)["network.file"] == sha256_of(file)
    weights = trainer.ema.module.state_dict()
    assert weights["first.weight"].shape == (4, 3, 3, 3)
    path, values = tmp_path / "prior.safetensors", config.model_dump(mode="json")
    save_weights(path, weights, kind=PRIOR, config=values, iteration=1, dtype="float32")
    return path


def test_davi_is_trained_from_it_and_restores(prior: Path, file: Path, tmp_path: Path) -> None:
    config = tiny_config(prior, section(file))
    trainer = build_trainer(config, ALONE)
    generator = trainer.generator.network
    found = generator.state_dict()["first.weight"].clone()
    assert torch.equal(found, read_prior_file(prior, config.network).weights["first.weight"])
    losses = trainer.train_step(torch.rand(4, 3, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    path, values = tmp_path / "generator.safetensors", config.model_dump(mode="json")
    weights = generator.state_dict()
    save_weights(path, weights, kind=GENERATOR, config=values, iteration=1, dtype="float32")
    restorer = davi.load(path, "cpu", overrides=[f"network.file={file}"])
    x = restorer.restore(torch.zeros(2, 3, 4, 4))
    assert x.shape == (1, 2, 3, 16, 16)
    assert restorer.origin["network"]["file_sha256"] == sha256_of(file)


def test_no_code_runs_that_only_a_weight_file_names(
    prior: Path, file: Path, tmp_path: Path
) -> None:
    values = tiny_config(prior, section(file)).model_dump(mode="json")
    weights = read_prior_file(prior, tiny_config(prior, section(file)).network).weights
    path = tmp_path / "generator.safetensors"
    save_weights(path, weights, kind=GENERATOR, config=values, iteration=1, dtype="float32")
    (tmp_path / "mine.py.ran").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"mine.py; code .* not run: .* --set network.file=PATH"):
        davi.load(path, "cpu")
    with pytest.raises(InputError, match=r"its network is the code of .*mine.py; code that only"):
        load_prior(prior, torch.device("cpu"), "fp32")
    for weight_file, part in ((path, "generator"), (prior, "prior")):  # as davi import reads them
        with pytest.raises(InputError, match="code of a file, which is not run"):
            part_values(read_weight_file(weight_file), part)
    assert not (tmp_path / "mine.py.ran").exists()
    named = [f"network.file={file}"]
    exact, rounded = (
        davi.load(path, "cpu", precision, overrides=named).restore(torch.zeros(1, 3, 16, 16))
        for precision in ("fp32", "bf16")
    )
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0.02)
    assert not torch.equal(exact, rounded)


def test_settings_that_do_not_fit_its_class_are_refused(file: Path) -> None:
    config = tiny_prior_config(section(file, "{depth: 4}"))
    hash(config.network.unet())  # as of the other architectures, a key of caches
    with pytest.raises(InputError, match=r"network.settings: Mine of .*'depth'; it is made with"):
        config.network.unet().create()


@pytest.mark.parametrize(
    "override", ["generator.sees_measurement=true", "adversarial.enabled=true"]
)
def test_what_needs_named_layers_is_refused(file: Path, override: str) -> None:
    with pytest.raises(InputError, match=r"take network\.name adm or diffusers"):
        tiny_config(Path("prior.safetensors"), section(file), override)
