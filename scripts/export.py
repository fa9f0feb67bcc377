"""Write the averaged weights of a run as one small safetensors file that holds its config, too."""

import argparse
from pathlib import Path

from davi.cli import run_main
from davi.errors import InputError
from davi.files import make_folder
from davi.weights import (
    DTYPES,
    averaged_weights,
    kind_of,
    read_training_checkpoint,
    save_weights,
    weights_file,
)


def main() -> None:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN_OR_FILE", type=Path, help="run folder or checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="FILE.safetensors")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="default float16")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        raise InputError(f"{arguments.output}: the name must end in .safetensors")
    if arguments.output.exists() and not arguments.overwrite:
        raise InputError(f"{arguments.output}: exists; add --overwrite or choose another name")
    content = read_training_checkpoint(weights_file(arguments.run), mapped=True)
    kind = kind_of(content)
    make_folder(arguments.output.parent)
    save_weights(
        arguments.output,
        averaged_weights(content, kind),
        kind=kind,
        config=content["config"],
        iteration=content["iteration"],
        dtype=arguments.dtype,
    )
    print(f"{arguments.output}: {kind} after {content['iteration']} iterations")


if __name__ == "__main__":
    run_main(main)
