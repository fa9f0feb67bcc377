"""A generator's file and the run it belongs to.

Files of this project say what their network restores. A generator of the authors is weights alone:
its run is a config of this project with the release's recipe, given by the caller or known from
the name of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from davi.config.network import parse_network
from davi.config.python_file import NOT_RUN
from davi.config.recipes import RELEASE, RELEASE_TASKS
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config, parse_config
from davi.operators.mask_text import is_mask_text
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.shipped import CONFIGS, shipped_folder
from davi.weights.layouts import (
    KINDS,
    WeightFile,
    Weights,
    read_weight_file,
    require_patch_discriminator,
)
from davi.weights.network_file import FAKE_SCORE, GENERATOR
from guided_diffusion.checkpoint import preset_of, require_architecture, unet_from_weights
from guided_diffusion.presets import PRESETS, Architecture

AS_RELEASED = f"recipe={RELEASE}"
DATA_OF_PRESET = {"ffhq_256": "ffhq", "imagenet_256": "imagenet"}
PRIOR_NAMES = ("ffhq_10m.pt", "diffusion_ffhq_10m.pt", "256x256_diffusion_uncond.pt")
_UNSEEN = ("num_heads", "num_head_channels", "use_new_attention_order")  # in the weights
_RESTORING = ("schedule", "operator", "bridge", "generator")  # sections that shape a restoration


@dataclass(frozen=True)
class GeneratorFile:
    """A trained generator.

    Attributes:
        path: its file.
        weights: its (averaged) network.
        config: its run.
        says_its_config: whether the file itself holds the config.
    """

    path: Path
    weights: Weights
    config: RunConfig
    says_its_config: bool

    def network(self) -> nn.Module:
        """Returns the network, float32 on the CPU.

        Raises:
            CheckpointError: the weights are of another architecture.
        """
        return unet_from_weights(
            self.weights, self.config.unet(self.config.generator), str(self.path)
        )

    def record(self) -> dict[str, Any]:
        """Returns what a record of restorations must say of the generator, as JSON values."""
        record: dict[str, Any] = {"weights_sha256": sha256_of(self.path)}
        values = self.config.model_dump(mode="json")
        named = []
        for section, key, _ in _files_of(values):
            if not is_mask_text(values[section][key]):  # its content counts, not its place
                path = Path(values[section].pop(key))
                values[section][f"{key}_sha256"] = sha256_of(path)
                named.append(section)
        # Not mentioned if false, so that folders begun before there was a choice go on.
        if not values["generator"]["sees_measurement"]:
            del values["generator"]["sees_measurement"]
        if not self.says_its_config:
            record["config"] = {section: values[section] for section in _RESTORING}
            if unseen := _unseen(values["network"]):
                record["config"]["network"] = unseen
        else:
            record |= {section: values[section] for section in named}
        return record


def read_generator_file(
    path: Path, config: RunConfig | str | Path | None = None, overrides: Sequence[str] = ()
) -> GeneratorFile:
    """Returns the generator in a file of this project or of the authors.

    Args:
        path: the file.
        config: see `run_of`.
        overrides: see `run_of`.

    Raises:
        InputError, CheckpointError: missing or damaged file, no generator, or not known of what.
    """
    file = read_weight_file(path)
    part = usual_part(file, config)
    if KINDS[part] != GENERATOR:
        raise InputError(
            f"{path}: holds a {KINDS[part]}, a {GENERATOR} is needed (one is trained by davi train)"
        )
    weights = file.part(part)
    run = run_of(file, weights, config, overrides)
    return GeneratorFile(path, weights, run, says_its_config=file.config is not None)


def usual_part(file: WeightFile, config: RunConfig | str | Path | None) -> str:
    """Returns the part of a file that is meant where none is named.

    Raises:
        InputError: it is a bare network, and neither its name nor a config says what of.
    """
    if file.role_known:
        has_generator = file.parts.keys() & {"generator", "raw_generator"}
        return "generator" if has_generator else next(iter(file.parts))
    if file.path.name in PRIOR_NAMES:
        return "prior"
    if config is not None or _release_name(file.path) is not None:
        return "generator"
    raise InputError(
        f"{file.path}: is {file.layout}, which may be a prior or a generator: import it with "
        "davi import --part prior, or give the --config of the generator's run"
    )


def run_of(
    file: WeightFile,
    weights: Weights,
    config: RunConfig | str | Path | None = None,
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Returns the run that a generator belongs to.

    Args:
        file: where it is from.
        weights: its network.
        config: of a file that does not hold its own: the run, or the YAML file of one, which is
            read with the release's recipe; None where the file's name tells.
        overrides: "section.key=value" strings, over those of the YAML file. Of a file that holds
            its own config, only "operator.file=PATH" and "network.file=PATH" of code and
            "operator.path=PATH" of a mask. Code needs it, a mask does where it is not in the file.

    Raises:
        InputError: nothing says what the generator restores, or two sources disagree.
    """
    if file.config is not None:
        values, overrides = _with_named_file(file, overrides)
        _refuse_another_config(file, config, overrides)
        return parse_config(values, RunConfig, str(file.path))
    if config is None:
        config, *of_name = _config_of_name(file.path, weights)
        return load_config(config, RunConfig, [AS_RELEASED, *of_name, *overrides])
    if isinstance(config, RunConfig):
        if overrides:
            raise InputError("overrides belong to a config file; change the RunConfig itself")
        run = config
    else:
        run = load_config(config, RunConfig, [AS_RELEASED, *overrides])
    _require_task_of_name(file.path, run)
    return run


def part_values(
    file: WeightFile, part: str, config: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Returns what is known of the run of a part, for the header of a file of its own.

    Of a generator, the whole config; of another ADM network of the authors, its architecture;
    of a discriminator of the authors, nothing.

    Raises:
        InputError, CheckpointError: the part's network is of another architecture than it should
            be, or as `run_of`.
    """
    weights = file.part(part)
    if part == "discriminator":
        require_patch_discriminator(weights, str(file.path))
        return file.config
    if file.config is not None:
        _refuse_another_config(file, config, overrides)
        values = file.config
        if _is_custom(values.get("network")):
            raise InputError(
                f"{file.path}: its network is the code of a file, which is not run to look at the "
                "weights; use the file as it is"
            )
    elif KINDS[part] == GENERATOR or config is not None:
        values = run_of(file, weights, config, overrides).model_dump(mode="json")
        values = values if KINDS[part] == GENERATOR else {"network": values["network"]}
    elif overrides:
        raise InputError(f"{file.path}: {', '.join(overrides)}: of which config? add --config")
    elif preset := preset_of(weights):
        values = {"network": {"preset": preset}}
    else:
        raise InputError(
            f"{file.path}: holds an ADM network of no known architecture ({', '.join(PRESETS)}); "
            "give a config whose network section describes it, with --config"
        )
    require_architecture(weights, _architecture(part, values, str(file.path)), str(file.path))
    return values


def _architecture(part: str, values: dict[str, Any], where: str) -> Architecture:
    """That of a part's network, by what is known of its run."""
    section = {GENERATOR: "generator", FAKE_SCORE: "fake_score"}.get(KINDS[part])
    if section in values:  # a whole run, which says whether this network sees the measurement
        run = parse_config(values, RunConfig, where)
        return run.unet(getattr(run, section))
    return parse_network(values.get("network", {}), where).unet()


def what_was_assumed(file: WeightFile, values: dict[str, Any] | None) -> str | None:
    """Returns a line about what weights do not tell of their network, and nobody else did.

    Args:
        file: where they are from.
        values: see `part_values`.
    """
    published = file.path.name in PRIOR_NAMES or _release_name(file.path) is not None
    if file.config is not None or published or not values or _unseen(values["network"]):
        return None
    unet = parse_network(values["network"], str(file.path)).unet()
    return (
        "note: weights do not show how many attention heads a network has, nor the betas of a "
        f"prior; taken are {unet.num_head_channels} channels for each head, and for a prior the "
        "linear schedule. Another number: --config CONFIG --set network.num_heads=N"
    )


def note_on_mask(values: dict[str, Any]) -> str | None:
    """Returns a line about a mask that older checkpoints only name, and do not hold."""
    match values.get("operator"):
        case {"mask": "file", "path": path} if not is_mask_text(path):
            return (
                f"note: the mask {path} is not in the file; name it with --set operator.path=PATH "
                "wherever the file is used, or train on, which takes it in"
            )
    return None


def _unseen(network: dict[str, Any]) -> dict[str, Any]:
    """What a network section says of what no weights show."""
    return {key: network[key] for key in _UNSEEN if network.get(key) is not None}


def _release_name(path: Path) -> str | None:
    """The release's name of the task, if the file's name tells."""
    name = path.name.removesuffix("_ema.pt")
    return name if name != path.name and name in RELEASE_TASKS else None


def _config_of_name(path: Path, weights: Weights) -> tuple[Path | str, ...]:
    """The YAML file of a generator of the release, and what its name overrides there."""
    name, data = _release_name(path), DATA_OF_PRESET.get(preset_of(weights))
    if name is None or data is None:
        raise InputError(
            f"{path}: nothing says what this generator restores; give the config of its run, as in "
            "--config configs/ffhq_gaussian_blur.yaml, or, to one of FFHQ or ImageNet at 256x256, "
            f"its name in the release ({', '.join(RELEASE_TASKS)}, each with _ema.pt)"
        )
    task = RELEASE_TASKS[name]
    kernel = [f"operator.kernel={task['kernel']}"] if "kernel" in task else []
    return shipped_folder(CONFIGS) / f"{data}_{task['name']}.yaml", *kernel


def _require_task_of_name(path: Path, run: RunConfig) -> None:
    name = _release_name(path)
    if name is None:
        return
    operator, task = run.operator.model_dump(mode="json"), RELEASE_TASKS[name]
    if any(operator.get(key) != value for key, value in task.items()):
        given = {key: operator[key] for key in task if key in operator}
        raise InputError(
            f"{path}: by its name it is a generator for {_words(task)}, by the config for "
            f"{_words(given)}; rename the file or give its own config"
        )


def _words(task: dict[str, str]) -> str:
    return ", ".join(task.values())


def _with_named_file(
    file: WeightFile, overrides: Sequence[str]
) -> tuple[dict[str, Any], Sequence[str]]:
    """The file's own config, with the files that it needs where the user says, and other overrides.

    Whoever makes a weight file chooses what its header says, so that no code runs and no file is
    opened which only the header names.
    """
    values = file.config
    for section, key, rule in _files_of(values):
        prefix = f"{section}.{key}="
        named = [each for each in overrides if each.startswith(prefix)]
        if named:
            path = named[-1].removeprefix(prefix)
            values = {**values, section: {**values[section], key: path}}
        elif not is_mask_text(values[section].get(key)):
            raise InputError(
                f"{file.path}: {rule.format(values[section].get(key))}, with --set {prefix}PATH "
                "(in Python: overrides=[...])"
            )
        overrides = [each for each in overrides if each not in named]
    return values, overrides


def _files_of(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Section and key at which a run names a file, and what is done; of most runs none."""
    found = []
    for section in ("operator", "network"):
        if _is_custom(values.get(section)):
            found.append((section, "file", NOT_RUN.format(section, "{}")))
    match values.get("operator"):
        case {"name": "inpainting", "mask": "file"}:
            rule = (
                "its mask lies in {} and not in the file; a picture that only a weight file names "
                "is not opened: name it yourself"
            )
            found.append(("operator", "path", rule))
        case {"name": "bks"}:
            rule = "its blur is the network in {}, which only a weight file names: name it yourself"
            found.append(("operator", "weights", rule))
    return found


def _is_custom(section: Any) -> bool:
    """Whether a section of a file's config, which may be anything, asks for code of a file."""
    return isinstance(section, dict) and section.get("name") == "custom"


def _refuse_another_config(file: WeightFile, config: object, overrides: Sequence[str]) -> None:
    if config is not None or overrides:
        raise InputError(
            f"{file.path}: holds its own config; another one (--config, --set) is for files of the "
            "authors"
        )
