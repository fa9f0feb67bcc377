"""Write the averaged weights of a run as one small safetensors file that holds its config, too."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.system.choices import STORED_DTYPES


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("run", metavar="RUN_OR_FILE", type=Path, help="run folder or checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="FILE.safetensors")
    parser.add_argument("--dtype", choices=STORED_DTYPES, default="float16", help="default float16")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: Namespace) -> None:
    """Reads the run and writes its network."""
    from davi.weights.checkpoint_manifest import require_as_written
    from davi.weights.generator_file import note_on_mask
    from davi.weights.network_file import (
        averaged_weights,
        kind_of,
        new_weights_file,
        read_training_checkpoint,
        save_weights,
        weights_file,
    )
    from guided_diffusion.checkpoint import require_finite

    output = new_weights_file(arguments.output, arguments.overwrite)
    path = weights_file(arguments.run)
    content = read_training_checkpoint(path, mapped=True)
    require_as_written(path)
    kind = kind_of(content)
    weights = averaged_weights(content, kind)
    require_finite(weights, str(path))
    save_weights(
        output,
        weights,
        kind=kind,
        config=content["config"],
        iteration=content["iteration"],
        dtype=arguments.dtype,
    )
    print(f"{output}: {kind} after {content['iteration']} iterations")
    if note := note_on_mask(content["config"]):
        print(note)
