"""Configurations: what a user may write, and what is said when it is wrong."""

import os
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml

from davi.build import build_noise
from davi.commands.program import read_command_line
from davi.config.other_runs import I2SBRunConfig, TeacherRunConfig
from davi.config.problem import InpaintingConfig, damage_in_words
from davi.config.schema import PriorRunConfig, RunConfig
from davi.config.section import Section
from davi.config.yaml_file import flatten, load_config, parse_config, to_yaml
from davi.operators.noise import ClippedNoise, GaussianNoise, ImpulseNoise, SpeckleNoise
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
    if "_prior" in path.stem:
        return PriorRunConfig
    if path.stem.endswith("_teacher"):
        return TeacherRunConfig
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


TEXTS = [
    "2024-01-05",
    "2024-13-45",
    "2024",
    "1e-4",
    "1.10",
    "0x10",
    "no",
    "yes",
    "true",
    "True",
    "#x",
    "a:b",
    "!!int&a",
    "*a",
    ":",
]


@pytest.mark.parametrize("text", [*TEXTS, "a: b", "- x"])
def test_text_is_taken_as_it_is_written(tmp_path: Path, text: str) -> None:
    config = load_config(TINY, RunConfig, [f"data.train={text}"])
    assert config.data.train == text
    printed = write(tmp_path / "printed.yaml", to_yaml(config))
    assert load_config(printed, RunConfig).data.train == text


def test_text_without_quotes_in_a_file_is_taken_as_it_is_written(tmp_path: Path) -> None:
    values = "data: {train: 2024-01-05, validation: 1.10}\nprior: {checkpoint: no}\n"
    path = write(tmp_path / "run.yaml", f"extends: {TINY}\n{values}")
    config = load_config(path, RunConfig)
    assert (config.data.train, config.data.validation) == ("2024-01-05", "1.10")
    assert config.prior.checkpoint == "no"


def test_free_settings_keep_their_types() -> None:
    settings = "{a: 1, b: [1.5, true, no], c: '1', d: null}"
    operator = "operator={name: custom, file: 1.py, settings: " + settings + "}"
    found = load_config(TINY, RunConfig, [operator]).operator
    assert found.settings == {"a": 1, "b": [1.5, True, "no"], "c": "1", "d": None}


def test_the_home_folder_may_begin_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "base.yaml", f"extends: {TINY}\nseed: 5\n")
    path = write(tmp_path / "run.yaml", "extends: ~/base.yaml\ndata: {train: ~/photos}\n")
    config = load_config(path, RunConfig, ["prior.checkpoint=~/prior.pt"])
    assert (config.seed, config.data.train) == (5, f"{tmp_path}/photos")
    assert config.prior.path == tmp_path / "prior.pt"


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
    "train.learning_rate=1e300": r"train\.learning_rate: .*less than or equal to 1",
    "train.learning_rate=1e999": r"train\.learning_rate: .*finite",
    "train.batch_size=true": r"train\.batch_size: .*valid integer \(given: True\)",
    "train.batch_size=1000000000": r"train\.batch_size: .*less than or equal to 65536",
    "train.batch_size=1e9": r"train\.batch_size: .*less than or equal to 65536",
    "train.num_micro_batches=5": r"train: batch_size=4 is less than num_micro_batches=5",
    "loss.noise_range=[0.5, 0.5]": r"loss\.noise_range: the first must be the smaller one",
    "train.learning_rate=true": r"train\.learning_rate: .*valid number",
    "noise.sigma=true": r"noise\.sigma: a standard deviation",
    "data.flip=1": r"data\.flip: .*valid boolean \(given: 1\)",
    "data.flip=yes": r"data\.flip: .*valid boolean \(given: 'yes'\)",
    "data.train=''": r"data\.train: some text is needed",
    'data.train="a\\0b"': r"data\.train: some text is needed, without NUL",
    "data.train=[a]": r"data\.train: .*valid string",
    "prior.checkpoint=": r"prior\.checkpoint: .*valid string \(given: None\)",
    "seed=" + "9" * 5000: r"seed: .*valid integer \(given: '9{79}\)",
    "operator={name: [x]}": r"operator: .*\['x'\]",
    "operator={name: denoising, name: inpainting}": "--set operator: .*'name' is given a second",
    "operator={name: gaussian_blur, kernel_size: 1000000000}": r"kernel_size: .*to 2047",
    "noise={name: poisson, rate: 1.0e+300}": r"noise\.rate: .*less than or equal to 10000",
    "network.image_size=16384": r"network\.image_size: .*less than or equal to 2048",
    "network.num_res_blocks=1000000": r"network\.num_res_blocks: .*less than or equal to 16",
    "network={model_channels: 1024, channel_mult: [16, 16]}": r"network: \d+ parameters; at most",
    "operator.settings." + "a." * 5000 + "a=1": "more than 20 levels",
    "train.learning_rate=.nan": r"train\.learning_rate: .*valid number",
    "operator.name=deblur": "operator: .*'gaussian_blur'",
    "noise.sigma=-1": r"noise\.sigma: a standard deviation on the \[-1, 1\] scale .*-1",
    "noise.sigma=12.75": r"noise\.sigma: a standard deviation .* between 0 and 2",
    "noise.sigma=[0.2, 0.1]": r"noise\.sigma: .*a range \[low, high\]",
    "noise.sigma=loud": r"noise\.sigma: a standard deviation",
    "noise={name: poisson, rate: 0}": r"noise\.rate: .*or equal to 0\.001",
    "noise={name: impulse, amount: 1.5}": r"noise\.amount: .*less than or equal to 1",
    "noise={name: mixture, kinds: [{name: impulse}]}": r"noise\.kinds: .*at least 2",
    "noise.name=salt": r"noise: .*'gaussian', 'poisson', 'impulse', 'speckle', 'mixture'",
    "bridge.beta_shape=[0, 1]": r"bridge\.beta_shape\.0: .*or equal to 0\.01",
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
    "seed=[": "--set seed: cannot read this YAML",
}


@pytest.mark.parametrize("text", ["1:30", "0o17", "0x10", "010", "1_000", "2024-01-05", "'1'"])
def test_other_notations_of_numbers_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"train\.save_every: .*valid integer \(given: '"):
        load_config(TINY, RunConfig, [f"train.save_every={text}"])


def test_whole_numbers_may_have_an_exponent() -> None:
    config = load_config(TINY, RunConfig, ["train.num_iterations=2e5", "loss.gamma=1"])
    assert (config.train.num_iterations, config.loss.gamma) == (200_000, 1.0)
    assert load_config(TINY, RunConfig, [f"seed={2**64 - 1}"]).seed == 2**64 - 1


@pytest.mark.parametrize("override", BAD_VALUES)
def test_bad_values_give_one_line_that_names_the_key(override: str) -> None:
    with pytest.raises(InputError, match=BAD_VALUES[override]) as caught:
        load_config(TINY, RunConfig, [override])
    assert "\n" not in str(caught.value)


def test_every_kind_of_noise_is_built() -> None:
    path = REPOSITORY / "configs/photos_denoising_noise_kinds.yaml"
    low, high, salt, _, shot, _, _, speckle = build_noise(load_config(path, RunConfig).noise).kinds
    assert (low, high) == tuple(ClippedNoise(GaussianNoise(s, s)) for s in (0.16, 0.24))
    assert salt == ImpulseNoise(0.03)
    assert shot.noise.photons == pytest.approx(60, abs=0.001)
    assert speckle == ClippedNoise(SpeckleNoise(0.2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("noise.sigma=0", r"loss\.likelihood needs noise\.sigma above 0, or Poisson noise"),
        ("noise.clip=true", r"loss\.likelihood needs .*, without clip"),
        ("noise={name: impulse}", r"loss\.likelihood needs noise\.sigma above 0"),
        ("noise.sigma=[0, 0.1]", r"loss\.likelihood needs noise\.sigma above 0"),
        ("train.shared_sample=false", r"loss\.likelihood needs train\.shared_sample: true"),
        ("bridge.time=beta", r"denoiser needs bridge\.time: end and no bridge\.h_sampling"),
        ("bridge.h_sampling=0.1", r"denoiser needs bridge\.time: end and no bridge\.h_sampling"),
    ],
)
def test_what_a_posterior_cannot_be_trained_with(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(TINY, RunConfig, ["recipe=posterior", setting])


@pytest.mark.parametrize("resize", ["adjoint", "pseudo_inverse"])
def test_random_masks_have_no_adjoint_for_all_images(resize: str) -> None:
    operator = "operator={name: inpainting, mask: MASK, box_size: 4}"
    settings = f"bridge.resize={resize}", operator.replace("MASK", "random_box")
    with pytest.raises(InputError, match=f"resize: {resize} needs one operator for all images"):
        load_config(TINY, RunConfig, settings)
    load_config(TINY, RunConfig, [settings[0], operator.replace("MASK", "centred_box")])


def test_random_kernels_have_no_adjoint_for_all_images_and_a_middle_tap() -> None:
    with pytest.raises(InputError, match="resize: adjoint needs one operator for all images"):
        load_config(TINY, RunConfig, ["bridge.resize=adjoint", "operator={name: convolution}"])
    with pytest.raises(InputError, match="kernel_size=16: an odd number"):
        load_config(TINY, RunConfig, ["operator={name: convolution, kernel_size: 16}"])


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
        ("a: [1", "cannot read this YAML .line 1: expected"),
        ("- 1\n- 2\n", "a config is a mapping"),
        ("extends: absent.yaml\n", r"absent\.yaml: cannot read this config"),
        ("extends: run.yaml\n", "extends itself"),
        ("extends: [a, b]\n", "extends: the path of a file is needed, not"),
        ('extends: "a\\0b"\n', "cannot read this config .*null byte"),
        ("seed: 1\ntrain: {}\nseed: 2\n", "line 3: the key 'seed' is given a second time"),
        ("train:\n  a: 1\n  a: 2\n", "line 3: the key 'a' is given a second time"),
        ("<<: {seed: 1}\n", "line 1: merge keys"),
        ("? [a]\n: 1\n", "line 1: a list or a mapping is no key"),
        ("seed: !!int abc\n", "line 1: the tag .*int is not read"),
        ("seed: !!timestamp x\n", "line 1: the tag .*timestamp is not read"),
        ('seed: "\\UFFFFFFFF"\n', "cannot read this YAML"),
        ("%YAML " + "1" * 5000 + ".1\n---\n", "cannot read this YAML"),
        ("a: &a [*a]\n", "at most 20 levels"),
        ("[" * 5000, "at most 20 levels"),
        ("seed: 1 #" + "x" * 70000, "larger than 65536 bytes"),
    ],
    ids=range(17),
)
def test_unreadable_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config(write(tmp_path / "run.yaml", text), RunConfig)
    assert "\n" not in str(caught.value)


def test_a_yaml_tag_that_builds_objects_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match=r"line 1: the tag .* is not read"):
        load_config(path, RunConfig)


def test_an_alias_may_repeat_something_but_not_multiply(tmp_path: Path) -> None:
    names = "abcdefghi"
    lists = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(names)]
    bomb = write(tmp_path / "bomb.yaml", "a: &a [1, 2]\n" + "".join(lists))
    with pytest.raises(InputError, match="10000 values"):
        load_config(bomb, RunConfig)
    rates = "train: {learning_rate: &rate 2e-3, fake_score_learning_rate: *rate}\n"
    config = load_config(write(tmp_path / "run.yaml", f"extends: {TINY}\n{rates}"), RunConfig)
    assert config.train.learning_rate == config.train.fake_score_learning_rate == 2e-3


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo, loop = tmp_path / "fifo.yaml", tmp_path / "loop.yaml"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    for path in (fifo, loop, tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="cannot read this config"):
            load_config(path, RunConfig)


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    for index in range(30):
        write(tmp_path / f"{index}.yaml", f"extends: {index + 1}.yaml\n")
    with pytest.raises(InputError, match="more than 20 files that extend each other"):
        load_config(tmp_path / "0.yaml", RunConfig)


def test_a_deep_header_is_refused() -> None:
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputError, match="header: too many levels"):
        parse_config({"operator": {"name": "custom", "settings": {"a": deep}}}, RunConfig, "header")


def test_print_config_refuses_an_operator_that_does_not_fit() -> None:
    words = [str(TINY), "--print-config", "--set", "operator.factor=7"]
    with pytest.raises(InputError, match="multiples of the super-resolution factor 7"):
        read_command_line("train", words, None)()


def test_a_damage_is_described_by_what_counts() -> None:
    box = InpaintingConfig(name="inpainting", mask="random_box", box_size=9)
    pixels = InpaintingConfig(name="inpainting", mask="random_pixels", hole_rate=0.2)
    texts = [damage_in_words(each.model_dump()) for each in (box, pixels)]
    assert texts == [
        "mask random_box, box_size 9, noise_in_hole False",
        "mask random_pixels, hole_rate 0.2, noise_in_hole False",
    ]
    own = {"name": "custom", "file": "/home/me/fog.py", "settings": {"depth": 2}}
    assert damage_in_words(own) == "file fog.py, settings {'depth': 2}"
