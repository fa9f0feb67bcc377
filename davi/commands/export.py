"""Write the averaged weights of a run as one small file.

safetensors  any network, with the config of its run; what all commands read
onnx         a generator for use without PyTorch: inputs `measurement` (B, c, h, w) on the [-1, 1]
             scale and `noise`, standard normal (B, C, H, W); output `restoration` (B, C, H, W)
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import add_overrides
from davi.system.choices import STORED_DTYPES

DTYPE = "float16"


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("run", metavar="RUN_OR_FILE", type=Path, help="run folder or checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="FILE.safetensors or FILE.onnx")
    parser.add_argument(
        "--format",
        choices=["safetensors", "onnx"],
        default="safetensors",
        help="default safetensors",
    )
    parser.add_argument(
        "--dtype",
        choices=STORED_DTYPES,
        help=f"of the weights (default: {DTYPE}; in an ONNX file they are float32)",
    )
    add_overrides(
        parser, "onnx: the code or mask of your own that the run names", "operator.file=PATH"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: Namespace) -> None:
    """Reads the run and writes its network."""
    from davi.system.errors import InputError

    if arguments.format == "safetensors":
        if arguments.set:
            raise InputError("--set is for --format onnx; the other holds the config as it is")
        _write_safetensors(arguments)
    else:
        if arguments.dtype not in (None, "float32"):
            raise InputError(f"--dtype {arguments.dtype}: an ONNX file has float32")
        _write_onnx(arguments)


def _write_onnx(arguments: Namespace) -> None:
    from davi.restorer import load
    from davi.runs.onnx_file import write_onnx
    from davi.weights.network_file import new_weights_file

    output = new_weights_file(arguments.output, arguments.overwrite, ".onnx")
    restorer = load(arguments.run, "cpu", overrides=arguments.set)
    write_onnx(restorer, output)
    print(f"{output}: a generator for {restorer.task}, as ONNX")


def _write_safetensors(arguments: Namespace) -> None:
    from davi.weights.network_file import new_weights_file

    output = new_weights_file(arguments.output, arguments.overwrite)
    export_run(arguments.run, output, arguments.dtype or DTYPE)


def export_run(run: Path, output: Path, dtype: str) -> None:
    """Writes the averaged weights of a run, and prints what they are.

    Args:
        run: its folder, or one of its checkpoints.
        output: a `.safetensors` file.
        dtype: one of `STORED_DTYPES`.

    Raises:
        InputError, CheckpointError: no run, a damaged one, or weights that overflow in the dtype.
    """
    from davi.weights.checkpoint_manifest import require_as_written
    from davi.weights.generator_file import note_on_mask
    from davi.weights.network_file import (
        averaged_weights,
        kind_of,
        read_training_checkpoint,
        save_weights,
        weights_file,
    )
    from guided_diffusion.checkpoint import require_finite

    path = weights_file(run)
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
        dtype=dtype,
    )
    print(f"{output}: {kind} after {content['iteration']} iterations")
    if note := note_on_mask(content["config"]):
        print(note)
