"""How long a user waits before anything happens: imports and --help, each in a new process."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from davi.benchmarks.measuring import Rung

# What is started: arguments of Python. The first is what all others come on top of.
STARTS = {
    "python": ("-c", "pass"),
    "import davi": ("-c", "import davi"),
    "davi --help": ("-m", "davi", "--help"),
    "davi train --help": ("-m", "davi", "train", "--help"),
    "davi benchmark --help": ("-m", "davi", "benchmark", "--help"),
    "import torch": ("-c", "import torch"),
    "davi.load": ("-c", "import davi; davi.load"),
    "davi train CONFIG --print-config": ("-m", "davi", "train", "tiny", "--print-config"),
}


def startup_rungs() -> Iterator[Rung]:
    """Yields a start of Python for each of `STARTS`."""
    for name, words in STARTS.items():
        start = partial(
            subprocess.run, [sys.executable, *words], stdout=subprocess.DEVNULL, check=True
        )
        build = partial(lambda work: (work, lambda: None), start)
        yield Rung(name=name, build=build, num_images=1, comparable=False)
