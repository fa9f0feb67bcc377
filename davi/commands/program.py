"""The command `davi`: one word, then what that command takes."""

import difflib
import io
import os
import select
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NoReturn, Protocol

import davi
from davi.system.errors import InputError
from davi.system.files import DISK_FULL
from guided_diffusion.errors import CheckpointError

EXIT_BAD_INPUT = 2  # nothing was done; 1 is for "done, except for some files"
# Every command, and its file in davi/commands/. Imported without PyTorch, since each must answer
# --help at once; what a command needs it imports once its arguments are read.
COMMANDS = {
    "demo": "demo",
    "train": "train",
    "train-prior": "train_prior",
    "restore": "restore",
    "app": "app",
    "sample": "sample",
    "degrade": "degrade",
    "evaluate": "evaluate",
    "table": "table",
    "export": "export",
    "import": "import_checkpoint",
    "push": "push",
    "download": "download",
    "prepare": "prepare",
    "generate": "generate",
    "benchmark": "benchmark",
    "compare": "compare",
    "info": "info",
}


class Command(Protocol):
    """What a file of a command defines; its docstring is the command's help."""

    __doc__: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds what its command line takes."""

    def run(self, arguments: Namespace) -> int | None:
        """Does it, and returns the exit code."""


def main() -> None:
    """Runs the command that the first word names."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        run_command(words[0], words[1:], prog=f"davi {words[0]}")
    finish(partial(answer, words))


def answer(words: list[str]) -> int:
    """Prints the overview, the version, or that there is no such command; returns the exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if words[0] == "--version":
        print(f"davi {davi.__version__}")
        return 0
    nearest = difflib.get_close_matches(words[0], COMMANDS, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    known = ", ".join(COMMANDS)
    raise InputError(f"no command {words[0]!r}; {hint}there are {known}")


def overview() -> str:
    """Returns the help of `davi`: a line for every command."""
    lines = [
        f"  {name:<12} {(load_command(name).__doc__ or '').splitlines()[0]}\n" for name in COMMANDS
    ]
    return (
        "usage: davi COMMAND ...\n\n"
        "Restore degraded images by DAVI: one evaluation of a trained network for each.\n\n"
        f"{''.join(lines)}\n"
        "`davi COMMAND --help` says more; `davi --version` says which davi this is.\n"
    )


def load_command(name: str) -> Command:
    """Returns the file of a command, a key of `COMMANDS`."""
    return import_module(f"davi.commands.{COMMANDS[name]}")


def read_command_line(
    name: str, words: list[str] | None, prog: str | None
) -> Callable[[], int | None]:
    """Returns the work that a command line asks for, see `run_command`."""
    command = load_command(name)
    parser = ArgumentParser(
        prog=prog, description=command.__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    return partial(command.run, parser.parse_args(words))


def run_command(name: str, words: list[str] | None = None, prog: str | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        name: a key of `COMMANDS`.
        words: what follows it; by default the words behind the name of the script.
        prog: how messages call it; by default the name of the script.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    finish(lambda: read_command_line(name, words, prog)())


def finish(work: Callable[[], int | None]) -> NoReturn:
    """Does the work and exits; what the user can mend is one line, without a traceback."""
    try:
        if os.name != "posix":
            raise InputError("davi's commands run on Linux and macOS; on Windows use them in WSL")
        if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun's report has the traceback
            from torch.distributed.elastic.multiprocessing.errors import record

            work = record(work)
        try:
            code = work()
        finally:
            if sys.stdout is not None:  # it is None behind >&-
                sys.stdout.flush()
    except (InputError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            _drop_output()
            sys.exit(1)
        if error.filename is None and error.errno not in DISK_FULL:  # a bug, to be seen whole
            raise
        if error.filename is None:
            _drop_output()
        # As an InputError, which shows what a terminal would obey in a name.
        message = InputError(f"{error.filename or 'the output'}: {error.strerror}")
        print(f"error: {message}", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.exit("interrupted")
    sys.exit(code or 0)


def _drop_output() -> None:
    """Lets Python's own last flush of what could not be printed end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_left() -> bool:
    """Whether nobody reads what is printed any more, as behind `| head`."""
    if sys.__stdout__ is None:
        return False
    output = select.poll()
    output.register(sys.__stdout__, 0)  # asks for errors alone
    return bool(output.poll(0))
