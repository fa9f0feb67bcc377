"""Configurations: what a user may write, and what is said when it is wrong."""

from itertools import product
from pathlib import Path

import pytest
import yaml

from davi.config.schema import I2SBRunConfig, PriorRunConfig, RunConfig
from davi.config.section import Section
from davi.config.yaml_file import flatten, load_config, parse_config, to_yaml
from davi.system.errors import InputError
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "configs/tiny.yaml"
# A base is completed by the configs that extend it.
CONFIGS = sorted(
    set((REPOSITORY / "configs").glob("*.yaml")) - set((REPOSITORY / "configs").glob("base_*"))
)
TASKS = ("gaussian_blur", "super_resolution", "inpainting", "denoising", "colorization")


def model_of(path: Path) -> type[Section]:
    """What a shipped config is to be read as, by its name."""
    if path.stem.endswith("_prior"):
        return PriorRunConfig
    return I2SBRunConfig if "_i2sb_" in path.stem else RunConfig


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_shipped_config_is_valid() -> None:
    for path in CONFIGS:
        model = model_of(path)
        config = load_config(path, model)
        assert parse_config(yaml.safe_load(to_yaml(config)), model, "printed") == config, path


def test_every_task_has_a_config_named_after_it() -> None:
    for data, task in product(("ffhq", "imagenet", "photos"), TASKS):
        config = load_config(REPOSITORY / f"configs/{data}_{task}.yaml", RunConfig)
        assert config.task == task, data


# Table 12: h, T, gamma, regularisation, K in thousands, batch size.
TABLE_12 = {
    ("ffhq", "gaussian_blur"): (0.1, 400, 0.5, 0.25, 42, 8),
    ("ffhq", "super_resolution"): (0.1, 1000, 0.1, 1.0, 40, 8),
    ("ffhq", "inpainting"): (0.1, 1000, 0.5, 1.0, 24, 8),
    ("ffhq", "denoising"): (0.1, 1000, 0.2, 0.1, 48, 8),
    ("ffhq", "colorization"): (0.1, 1000, 1.0, 0.25, 22, 8),
    ("imagenet", "gaussian_blur"): (0.1, 400, 0.5, 0.5, 144, 12),
    ("imagenet", "super_resolution"): (0.01, 1000, 0.075, 0.25, 6, 10),
    ("imagenet", "inpainting"): (0.01, 400, 0.01, 0.1, 189, 10),
    ("imagenet", "denoising"): (0.01, 600, 0.1, 1.0, 6, 12),
    ("imagenet", "colorization"): (0.01, 1000, 0.5, 0.1, 45, 10),
}


@pytest.mark.parametrize(("data", "task"), TABLE_12)
def test_paper_configs_hold_table_12(data: str, task: str) -> None:
    config = load_config(REPOSITORY / f"configs/{data}_{task}.yaml", RunConfig)
    h, t_ikl, gamma, reg, iterations, batch_size = TABLE_12[data, task]
    assert (config.bridge.h, config.loss.t_ikl) == (h, t_ikl)
    assert (config.loss.gamma, config.loss.reg) == (gamma, reg)
    assert config.train.num_iterations == 1000 * iterations
    assert config.train.batch_size == batch_size
    assert config.noise.sigma == 0.05
    assert config.network.preset == f"{data}_256"
    assert config.bridge.beta_shape == (3, 1)
    assert config.train.learning_rate == config.train.fake_score_learning_rate == 1e-4


def test_extends_overrides_its_base_and_set_overrides_both(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml", f"extends: {TINY}\nloss: {{gamma: 0.7}}\ntrain: {{batch_size: 3}}\n"
    )
    config = load_config(path, RunConfig, ["train.batch_size=5", "seed=9"])
    assert (config.loss.gamma, config.loss.reg) == (0.7, 1.0)
    assert (config.train.batch_size, config.seed) == (5, 9)


def test_another_operator_drops_the_keys_of_the_old_one() -> None:
    config = load_config(TINY, RunConfig, ["operator={name: denoising}"])
    assert config.operator.model_dump() == {"name": "denoising"}


def test_every_way_to_write_a_number_is_a_number() -> None:
    for text in ("1e-4", "1E-4", "1.e-4", "+1e-4", "0.0001", ".1e-3"):
        config = load_config(TINY, RunConfig, [f"train.learning_rate={text}"])
        assert config.train.learning_rate == 1e-4


def test_architecture_options_change_a_preset() -> None:
    unet = load_config(TINY, RunConfig, ["network.model_channels=64"]).network.unet()
    assert (unet.model_channels, unet.channel_mult, unet.num_res_blocks) == (64, (1, 1), 1)


def test_a_range_of_noise_is_written_in_the_place_of_a_number() -> None:
    noise = load_config(TINY, RunConfig, ["noise.sigma=[0.01, 0.1]"]).noise
    assert noise.bounds == (0.01, 0.1)
    assert load_config(TINY, RunConfig, ["noise.sigma=0.3"]).noise.bounds == (0.3, 0.3)


def test_a_path_may_hold_what_yaml_takes_for_a_comment() -> None:
    assert load_config(TINY, RunConfig, ["data.train=my #1 photos"]).data.train == "my #1 photos"
    assert load_config(TINY, RunConfig, ["data.train='quoted'"]).data.train == "quoted"


def test_flatten_names_every_leaf() -> None:
    flat = flatten(load_config(TINY, RunConfig))
    assert flat["operator.name"] == "super_resolution"
    assert flat["train.batch_size"] == 4


BAD_VALUES = {
    "train.batchsize=3": r"unknown key 'train\.batchsize', did you mean 'batch_size'\?",
    "operator.factr=3": r"unknown key 'operator\.factr', did you mean 'factor'\?",
    "zzz=1": "unknown key 'zzz', allowed: recipe, seed, network",
    "train.learning_rate=fast": r"train\.learning_rate: .*number.*'fast'",
    "train.batch_size=0": r"train\.batch_size: .*greater than 0",
    "train.batch_size=1.5": r"train\.batch_size: .*integer",
    "train.learning_rate=.nan": r"train\.learning_rate: .*finite",
    "operator.name=deblur": "operator: .*'gaussian_blur'",
    "noise.sigma=-1": r"noise\.sigma: a standard deviation on the \[-1, 1\] scale .*-1",
    "noise.sigma=12.75": r"noise\.sigma: a standard deviation .* between 0 and 2",
    "noise.sigma=[0.2, 0.1]": r"noise\.sigma: .*a range \[low, high\]",
    "noise.sigma=loud": r"noise\.sigma: a standard deviation",
    "noise={name: poisson, rate: 0}": r"noise\.rate: .*greater than 0",
    "bridge.beta_shape=[0, 1]": r"bridge\.beta_shape\.0: .*greater than 0",
    "network.image_size=17": "network: image_size=17 is no multiple of 2",
    "network.image_size=-3": r"network\.image_size: .*greater than 0",
    "network.model_channels=30": r"network: num_channels .*divisible by num_groups",
    "network.num_head_channels=7": "network: .*heads",
    "network.out_channels=2": "network: out_channels=2: at least 3",
    "train.precision=fp64": r"train\.precision: .*'bf16' or 'fp16'",
    "operator={name: inpainting, mask: file}": "operator: path is needed for mask: file",
    "train=3": "train: .*3",
    "network.preset=big": r"network\.preset: .*'ffhq_256'",
    "seed": "write it as section.key=value",
    "seed=[": "--set seed: not valid YAML",
}


@pytest.mark.parametrize("override", BAD_VALUES)
def test_bad_values_give_one_line_that_names_the_key(override: str) -> None:
    with pytest.raises(InputError, match=BAD_VALUES[override]) as caught:
        load_config(TINY, RunConfig, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", f"extends: {TINY}\nloss: {{gamma: null}}\n")
    with pytest.raises(InputError, match=r"run\.yaml: loss\.gamma"):
        load_config(path, RunConfig)
    path = write(tmp_path / "less.yaml", "seed: 1\n")
    with pytest.raises(InputError, match=r"less\.yaml: key 'network' is missing"):
        load_config(path, RunConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "a config is a mapping"),
        ("extends: absent.yaml\n", r"absent\.yaml: cannot read this config"),
        ("extends: run.yaml\n", "extends itself"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config(write(tmp_path / "run.yaml", text), RunConfig)
    assert "\n" not in str(caught.value)


def test_a_yaml_tag_that_builds_objects_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path, RunConfig)
