"""Turn a weight file of the authors (or of this project) into one safetensors file.

Reads the ADM priors of OpenAI and DPS, the released generators and training files of DAVI, and the
folders of diffusers pipelines with a UNet2DModel, and recognises which it is. A generator of the
authors does not say what it restores: its name in the release does (gaussian_ema.pt, deno_ema.pt,
...), or --config. Nothing in the file is run.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import add_overrides, config_file
from davi.system.choices import NETWORK_PARTS, STORED_DTYPES


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="weight file, or run folder, or folder of diffusers"
    )
    parser.add_argument("--output", type=Path, required=True, help="FILE.safetensors")
    parser.add_argument(
        "--part",
        choices=NETWORK_PARTS,
        help="of a file with several networks (default: the averaged generator), or what a bare "
        "network is",
    )
    parser.add_argument(
        "--config",
        type=config_file,
        help="YAML file of the generator's run, read with recipe=release",
    )
    add_overrides(parser, "override one value of the config", example="bridge.h=0.01")
    parser.add_argument("--dtype", choices=STORED_DTYPES, default="float32", help="default float32")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: Namespace) -> None:
    """Reads, checks and writes."""
    from davi.build import with_mask_inside
    from davi.config.diffusers_folder import is_diffusers_folder
    from davi.system.files import sha256_of
    from davi.weights.generator_file import part_values, usual_part, what_was_assumed
    from davi.weights.layouts import KINDS, read_diffusers_folder, read_weight_file
    from davi.weights.network_file import new_weights_file, save_weights, weights_file
    from guided_diffusion.checkpoint import require_finite

    output = new_weights_file(arguments.output, arguments.overwrite)
    if is_diffusers_folder(arguments.file):
        file = read_diffusers_folder(arguments.file)
    else:
        file = read_weight_file(weights_file(arguments.file))
    part = arguments.part or usual_part(file, arguments.config)
    values = part_values(file, part, arguments.config, arguments.set)
    if file.config is None and values is not None:  # a path in it is the user's own
        values = with_mask_inside(values)
    require_finite(file.part(part), str(file.path))
    save_weights(
        output,
        file.part(part),
        kind=KINDS[part],
        config=values,
        iteration=file.iteration,
        dtype=arguments.dtype,
        origin={"source": file.path.name, "source_sha256": sha256_of(file.path)},
    )
    trained = "" if file.iteration is None else f" after {file.iteration} iterations"
    print(f"{output}: {KINDS[part]}{trained}, from {file.layout}")
    if note := what_was_assumed(file, values):
        print(note)
