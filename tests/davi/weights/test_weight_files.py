"""Files in the layouts of the authors: recognised, taken apart, refused."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from davi.config.network import NetworkConfig
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config, parse_config
from davi.priors.weight_file import read_prior_file
from davi.runs.build import build_trainer
from davi.system.errors import InputError
from davi.weights.generator_file import part_values, read_generator_file, run_of, usual_part
from davi.weights.layouts import KINDS, WeightFile, read_weight_file
from guided_diffusion.errors import CheckpointError
from guided_diffusion.presets import PHOTOS_64, PRESETS, create_unet
from guided_diffusion.unet import AttentionBlock
from tests.authors import (
    Weights,
    adm_weights,
    discriminator_state,
    ema_state,
    in_ddp,
    training_file,
    write_run,
)
from tests.same import assert_same
from tests.tiny import ALONE, tiny_config, tiny_trainer

UNET = replace(
    PHOTOS_64, image_size=16, channel_mult=(1, 1), attention_resolutions=(2,), out_channels=6
)
OTHER = ["network.channel_mult=[1,1,1]"]
DENOISING = "{name: denoising}"


@pytest.fixture(scope="module")
def networks() -> list[Weights]:
    """Average, raw generator and fake score of one training."""
    return [adm_weights(UNET, seed) for seed in (1, 2, 3)]


def saved(content: object, path: Path) -> WeightFile:
    torch.save(content, path)
    return read_weight_file(path)


def test_a_training_file_holds_four_networks(networks: list[Weights], tmp_path: Path) -> None:
    average, raw, score = networks
    content = training_file(average, in_ddp(raw), in_ddp(score), step=24000)
    file = saved(content, tmp_path / "model-ema-024000.pt")
    assert file.iteration == 24000
    assert usual_part(file, None) == "generator"
    assert_same(file.part("generator"), average)
    assert_same(file.part("raw_generator"), raw)
    assert_same(file.part("score"), score)
    discriminator = file.part("discriminator")
    assert len(discriminator) == 25
    assert torch.equal(
        discriminator["model3.1.running_var"],
        discriminator_state()["discriminator_2d.model3.1.running_var"],
    )


def test_the_average_comes_without_its_wrapper(networks: list[Weights], tmp_path: Path) -> None:
    for shape, bare in product(((), (1,)), (False, True)):
        state = ema_state(*networks[:2], step=42000, shape=shape)
        content = state if bare else {"step": 42000, "implicit_func_ema": state}
        file = saved(content, tmp_path / "gaussian_ema.pt")
        assert file.iteration == 42000
        assert usual_part(file, None) == "generator"
        assert_same(file.part("generator"), networks[0])
        assert_same(file.part("raw_generator"), networks[1])


def test_tables_beside_the_network_are_left_out(networks: list[Weights], tmp_path: Path) -> None:
    """The DiffUNet of deepinv saves its noise levels with its weights."""
    tables = {"sqrt_alphas_cumprod": torch.rand(1000), "sqrt_1m_alphas_cumprod": torch.rand(1000)}
    file = saved({**networks[0], **tables}, tmp_path / "diffunet.pt")
    assert_same(file.part("prior"), networks[0])


def test_an_average_that_was_never_begun_is_not_taken(
    networks: list[Weights], tmp_path: Path
) -> None:
    """Until then the wrapper averages the network as it was created, without its prior."""
    state = ema_state(*networks[:2], shape=(1,), initted=False)
    for content in (state, {"step": 0, "implicit_func_ema": state}):
        file = saved(content, tmp_path / "deno_ema.pt")
        with pytest.raises(InputError, match="holds no generator; there is raw_generator"):
            file.part(usual_part(file, "run.yaml"))
        assert_same(file.part("raw_generator"), networks[1])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bare_network_may_be_anything_but_a_discriminator(
    networks: list[Weights], tmp_path: Path, wrapped: bool
) -> None:
    content = in_ddp(networks[0]) if wrapped else networks[0]
    file = saved(content, tmp_path / "network.pt")
    with pytest.raises(InputError, match="may be a prior or a generator"):
        usual_part(file, None)
    assert usual_part(file, "run.yaml") == "generator"
    assert file.parts.keys() == KINDS.keys() - {"discriminator", "i2sb", "teacher"}
    for part in file.parts:
        assert_same(file.part(part), networks[0])
    save_file(networks[0], tmp_path / "network.safetensors")
    same = read_weight_file(tmp_path / "network.safetensors")
    assert same.layout == file.layout
    assert_same(dict(sorted(same.part("prior").items())), dict(sorted(networks[0].items())))


def test_published_priors_are_known_by_name(networks: list[Weights], tmp_path: Path) -> None:
    file = saved(networks[0], tmp_path / "ffhq_10m.pt")
    assert usual_part(file, "run.yaml") == "prior"
    with pytest.raises(InputError, match="holds a davi prior, a davi generator is needed"):
        read_generator_file(file.path, write_run(tmp_path / "run.yaml", DENOISING))


def test_our_own_training_files_hold_four_networks(tiny_prior: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "adversarial.enabled=true")
    network = trainer.generator.network
    content = {"iteration": 3, "config": {"seed": 1}, **trainer.state_dict(keep=True)}
    file = saved(content, tmp_path / "iteration_3.pt")
    assert (file.iteration, file.config) == (3, {"seed": 1})
    assert file.parts.keys() == KINDS.keys() - {"prior", "i2sb", "teacher"}
    assert part_values(file, "discriminator") == {"seed": 1}
    for part in ("generator", "raw_generator", "score"):
        assert file.part(part).keys() == network.state_dict().keys()


def test_parts_that_see_the_measurement_are_wider(tiny_prior: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_prior, "fake_score.sees_measurement=true")
    trainer = build_trainer(config, ALONE)
    content = {"iteration": 3, "config": config.model_dump(mode="json")}
    file = saved({**content, **trainer.state_dict(keep=True)}, tmp_path / "iteration_3.pt")
    for part in ("generator", "score"):
        assert part_values(file, part) == content["config"]
    other = tiny_config(tiny_prior, "generator.sees_measurement=true").model_dump(mode="json")
    file = replace(file, config=other)
    with pytest.raises(CheckpointError, match=r"input_blocks\.0\.0\.weight"):
        part_values(file, "generator")


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1.0],
        torch.zeros(3),
        {"a": torch.zeros(1)},
        {"a": 1},
        {"implicit_func": 3},
        {"implicit_func_ema": {}},
        {"implicit_func_ema": {"ema_model.a": "text"}},
        {1: torch.zeros(1)},
    ],
)
def test_what_is_no_network_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no network known here"):
        saved(content, tmp_path / "file.pt")


def test_a_discriminator_is_told_from_others(networks: list[Weights], tmp_path: Path) -> None:
    file = saved(discriminator_state(), tmp_path / "criterion_2d.pt")
    assert usual_part(file, None) == "discriminator"
    assert part_values(file, "discriminator") is None
    state = discriminator_state()
    state["discriminator_2d.model2.0.weight"] = torch.zeros(256, 128, 3, 3)
    other = saved(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"model2\.0\.weight: \(256, 128, 3, 3\) instead of"):
        part_values(other, "discriminator")


def shapes_of(preset: str) -> Weights:
    with torch.device("meta"):
        return create_unet(PRESETS[preset]).state_dict()


@pytest.mark.parametrize(
    ("data", "name", "task", "kernel"),
    [
        ("ffhq", "gaussian", "gaussian_blur", None),
        ("ffhq", "sr_averagepooling", "super_resolution", "average"),
        ("ffhq", "bicubic", "super_resolution", "bicubic"),
        ("imagenet", "inpainting", "inpainting", None),
        ("imagenet", "deno", "denoising", None),
        ("imagenet", "colorization", "colorization", None),
    ],
)
def test_name_and_architecture_tell_the_run(
    data: str, name: str, task: str, kernel: str | None
) -> None:
    weights = shapes_of(f"{data}_256")
    file = WeightFile(Path(f"x/{name}_ema.pt"), "", {"generator": weights})
    run = run_of(file, weights, overrides=["bridge.h=0.07"])
    assert run.task == task
    assert getattr(run.operator, "kernel", None) == kernel
    assert run.network.preset == f"{data}_256"
    assert run.bridge.h == 0.07
    assert run.schedule == "quadratic"
    assert run.generator.parametrisation == "release"
    assert run.bridge.mixing == "symmetric"
    assert run.recipe == "release"


def test_the_run_of_a_name_is_the_release_to_the_last_setting() -> None:
    def run(data: str, name: str) -> RunConfig:
        weights = shapes_of(f"{data}_256")
        return run_of(WeightFile(Path(f"{name}_ema.pt"), "", {}), weights)

    assert run("ffhq", "deno").noise.sigma == 0.2
    assert run("ffhq", "inpainting").operator.noise_in_hole
    assert run("ffhq", "gaussian").operator.variant == "release"
    colorization = run("imagenet", "colorization")
    assert colorization.operator.weights == (0.3333, 0.3334, 0.3333)
    assert colorization.bridge.h_sampling == 0.01
    assert run("imagenet", "gaussian").bridge.h == 0.1


def test_every_setting_of_the_recipe_can_be_overridden(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run.yaml", DENOISING)
    file = WeightFile(Path("network.pt"), "", {})
    assert run_of(file, {}, config).schedule == "quadratic"
    assert run_of(file, {}, config, ["schedule=linear"]).schedule == "linear"
    given = load_config(config, RunConfig)
    assert run_of(file, {}, given) is given
    with pytest.raises(InputError, match="overrides belong to a config file"):
        run_of(file, {}, given, ["schedule=linear"])


def test_a_config_of_another_task_than_the_name_is_refused(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run.yaml", DENOISING)
    file = WeightFile(tmp_path / "gaussian_ema.pt", "", {})
    expected = "by its name it is a generator for gaussian_blur, by the config for denoising"
    with pytest.raises(InputError, match=expected):
        run_of(file, {}, config)
    config = write_run(tmp_path / "run.yaml", "{name: super_resolution}")
    file = WeightFile(tmp_path / "bicubic_ema.pt", "", {})
    with pytest.raises(InputError, match=r"for super_resolution, bicubic, by the config for super"):
        run_of(file, {}, config)
    assert run_of(file, {}, config, ["operator.kernel=bicubic"]).operator.kernel == "bicubic"


@pytest.mark.parametrize(
    ("name", "weights"), [("network.pt", "ffhq_256"), ("deno_ema.pt", "photos_64")]
)
def test_a_generator_of_nothing_known_is_refused(name: str, weights: str) -> None:
    file = WeightFile(Path(name), "", {})
    with pytest.raises(InputError, match="nothing says what this generator restores; give"):
        run_of(file, shapes_of(weights))


def test_weights_of_another_architecture_than_the_config_are_refused(
    networks: list[Weights], tmp_path: Path
) -> None:
    config = write_run(tmp_path / "run.yaml", DENOISING)
    file = saved(ema_state(*networks[:2]), tmp_path / "file.pt")
    for part in ("generator", "raw_generator"):
        assert part_values(file, part, config)["operator"]["name"] == "denoising"
        with pytest.raises(CheckpointError, match=r"file\.pt: .* keys are missing"):
            part_values(file, part, config, OTHER)
    with pytest.raises(CheckpointError, match=r"file\.pt: .* keys are missing"):
        read_generator_file(file.path, config, OTHER).network()


def test_a_prior_of_no_known_architecture_needs_a_config(
    networks: list[Weights], tmp_path: Path
) -> None:
    file = saved(networks[0], tmp_path / "file.pt")
    with pytest.raises(InputError, match="no known architecture"):
        part_values(file, "prior")
    with pytest.raises(InputError, match=r"network\.num_heads=4: of which config\? add --config"):
        part_values(file, "prior", None, ["network.num_heads=4"])
    run = write_run(tmp_path / "run.yaml", DENOISING)
    values = part_values(file, "prior", run)
    assert values.keys() == {"network"}


def heads(network: torch.nn.Module) -> set[int]:
    return {layer.num_heads for layer in network.modules() if isinstance(layer, AttentionBlock)}


def test_the_heads_of_a_prior_can_be_said_where_it_is_imported(
    networks: list[Weights], tmp_path: Path, command: object
) -> None:
    """No weight shows them: the same file, and two networks."""
    torch.save(networks[0], tmp_path / "prior.pt")
    run = write_run(tmp_path / "run.yaml", DENOISING)
    arguments = ("import", tmp_path / "prior.pt", "--part", "prior", "--config", run, "--output")
    x, t = torch.rand(1, 3, 16, 16), torch.tensor([500])
    results = []
    for name, more in (("one", ()), ("four", ("--set", "network.num_heads=4"))):
        path = tmp_path / f"{name}.safetensors"
        code, output = command(*arguments, path, *more)
        assert code == 0, output
        assert ("do not show how many attention heads" in output) == (name == "one")
        network = read_prior_file(path).network()
        assert heads(network) == {{"one": 1, "four": 4}[name]}
        results.append(network(x, t))
    assert not torch.allclose(*results)


def test_heads_are_said_once() -> None:
    values = {"num_heads": 4, "num_head_channels": 8}
    with pytest.raises(InputError, match="num_heads or num_head_channels, not both"):
        parse_config(values, NetworkConfig, "file")
    with pytest.raises(InputError, match="cannot be split into heads"):
        parse_config({"num_heads": 7}, NetworkConfig, "file")


def test_a_network_that_resamples_by_a_convolution_can_be_described(tmp_path: Path) -> None:
    weights = adm_weights(replace(UNET, resblock_updown=False), 1)
    file = saved(weights, tmp_path / "prior.pt")
    run = write_run(tmp_path / "run.yaml", DENOISING)
    with pytest.raises(CheckpointError, match="describe this file's own architecture"):
        part_values(file, "prior", run)
    values = part_values(file, "prior", run, ["network.resblock_updown=false"])
    assert values["network"]["resblock_updown"] is False


def test_a_class_conditional_network_is_refused_by_name(
    networks: list[Weights], tmp_path: Path
) -> None:
    weights = {**networks[0], "label_emb.weight": torch.zeros(1000, 128)}
    with pytest.raises(CheckpointError, match=r"class-conditional \(label_emb\.weight\)"):
        saved(weights, tmp_path / "64x64_diffusion.pt")


def test_two_numbers_of_heads_are_two_generators(networks: list[Weights], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.yaml", DENOISING)
    file = saved(ema_state(*networks[:2]), tmp_path / "deno_ema.pt")
    one, four = (
        read_generator_file(file.path, run, more).record() for more in ((), ["network.num_heads=4"])
    )
    assert one != four
