"""The shape of the house: who may import whom, and how long things may get."""

import ast
from collections import Counter
from collections.abc import Iterable
from graphlib import TopologicalSorter

from tests.conftest import REPOSITORY

# From the ground up. A folder or a file of the paper imports what stands above it here, or in it.
LADDER = """
    guided_diffusion
    davi.system
    davi.schedule davi.losses davi.networks
    davi.config davi.operators davi.release davi.bridge
    davi.data davi.weights davi.score
    davi.generator davi.likelihood
    davi.metrics davi.terms davi.build davi.sampler davi.pictures
    davi.training
    davi.priors davi.restorer davi.trainer
    davi.solvers davi.folders
    davi.runs davi.interop
    davi.benchmarks davi
    davi.tables davi.app
    davi.commands
    davi.__main__
"""
RANK = {name: rank for rank, row in enumerate(LADDER.strip().splitlines()) for name in row.split()}
# These alone know of configurations; everything else takes plain values.
CONFIG_READERS = {
    "davi.config",
    "davi.build",
    "davi.weights.generator_file",
    "davi.priors.weight_file",
    "davi.restorer",
    "davi.solvers.i2sb_file",
    "davi.solvers.solver_file",
    "davi.folders.degrading",
    "davi.runs",
    "davi.benchmarks.ladders",
    "davi.benchmarks.solver_timing",
    "davi.benchmarks.posterior",
    "davi.tables.problem",
    "davi.tables.plan",
    "davi.commands",
}
MAX_FOLDER_FILES = 12  # but for those in which a file is a method or a format
LARGE_FOLDERS = {"davi/data", "davi/operators", "davi/solvers", "davi/tables", "davi/commands"}
# Heavy or optional: imported where used, or in `davi.interop`, which is imported where used.
LAZY_PACKAGES = {
    "lpips",
    "pytorch_fid",
    "wandb",
    "webdataset",
    "braceexpand",
    "gdown",
    "bm3d",
    "deepinv",
    "diffusers",
    "onnx",
    "onnxscript",
    "gradio",
    "huggingface_hub",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

SOURCES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("davi", "guided_diffusion")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text()) for module, path in SOURCES.items()}


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Full names of the modules imported by the statements."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


ALL_IMPORTS = {module: imports(ast.walk(tree)) for module, tree in TREES.items()}
OWN_IMPORTS = {module: names & set(SOURCES) for module, names in ALL_IMPORTS.items()}


def place(module: str) -> str:
    """The folder of a module, or the module itself where it lies at the top of `davi`."""
    return ".".join(module.split(".")[: 1 if module.startswith("guided_diffusion") else 2])


def test_folders_import_downwards() -> None:
    upwards = {
        (module, name)
        for module, names in OWN_IMPORTS.items()
        for name in names
        if place(name) != place(module) and RANK[place(name)] >= RANK[place(module)]
    }
    assert not upwards


def test_no_imports_go_in_a_circle() -> None:
    list(TopologicalSorter(OWN_IMPORTS).static_order())


def test_configurations_stay_at_the_top() -> None:
    readers = {
        module
        for module, names in OWN_IMPORTS.items()
        if names & {"davi.config.schema", "davi.config.yaml_file"}
    }
    assert {module for module in readers if not CONFIG_READERS & {module, place(module)}} == set()


def test_heavy_packages_are_imported_where_used() -> None:
    at_the_top = {module: imports(tree.body) for module, tree in TREES.items()}
    assert not {
        (module, name)
        for module, names in at_the_top.items()
        for name in names
        if name.split(".")[0] in LAZY_PACKAGES and place(module) != "davi.interop"
    }


def test_only_one_module_reads_yaml() -> None:
    readers = {module for module, names in ALL_IMPORTS.items() if "yaml" in names}
    assert readers == {"davi.config.yaml_text"}


def test_every_folder_has_its_place() -> None:
    assert set(RANK) == {place(module) for module in SOURCES}


def test_folders_stay_small_enough_to_see_at_a_glance() -> None:
    folders = Counter(path.parent.relative_to(REPOSITORY).as_posix() for path in SOURCES.values())
    large = {name for name, count in folders.items() if count > MAX_FOLDER_FILES + 1}  # __init__
    assert large <= LARGE_FOLDERS


def test_scripts_only_name_their_command() -> None:
    for path in (REPOSITORY / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 12, path


def test_files_and_functions_stay_short() -> None:
    for path in SOURCES.values():
        text = path.read_text()
        assert len(text.splitlines()) <= MAX_FILE_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body_lines = node.end_lineno - node.body[0].lineno + 1
                assert body_lines <= MAX_FUNCTION_LINES, (path, node.name)
