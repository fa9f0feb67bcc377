"""The shape of the house: who may import whom, and how long things may get."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# From the ground up: a module imports only modules of earlier rows.
TIERS = [
    ["guided_diffusion.nn"],
    ["guided_diffusion.unet"],
    ["guided_diffusion.presets"],
    ["guided_diffusion.checkpoint"],
    ["davi.errors", "davi.recipes", "davi.section"],
    ["davi.files", "davi.runtime", "davi.config", "davi.python_file"],
    ["davi.world", "davi.benchmark"],
    ["davi.images", "davi.schedule", "davi.config_file"],
    ["davi.image_sets", "davi.loader"],
    [
        "davi.photos",
        "davi.archives",
        "davi.scan",
        "davi.bridge",
        "davi.losses",
        "davi.discriminator",
        "davi.variational_bound",
        "davi.ema",
        "davi.panel",
        "davi.ledger",
        "davi.learning_rate",
        "davi.background",
        "davi.finite",
        "davi.parallel",
        "davi.pipeline",
        "davi.signals",
        "davi.downloads",
    ],
    ["davi.network_optimizer", "davi.selections"],
    ["davi.preparing"],
    ["davi.operators", "davi.operators.linear"],
    ["davi.operators.svd", "davi.operators.checking"],
    ["davi.operators.separable"],
    [
        "davi.operators.denoising",
        "davi.operators.inpainting",
        "davi.operators.super_resolution",
        "davi.operators.gaussian_blur",
        "davi.operators.colorization",
    ],
    ["davi.noise", "davi.score", "davi.generator", "davi.analytic", "davi.data", "davi.weights"],
    ["davi.adversary"],
    ["davi.measurement", "davi.prior_sampling", "davi.sampler", "davi.metrics"],
    ["davi.protocols", "davi.pairs"],
    ["davi.perceptual"],
    ["davi.features"],
    ["davi.measurement_files", "davi.checkpoint_store", "davi.terms", "davi.weight_files"],
    ["davi.i2sb", "davi.regression_trainer"],
    ["davi.evaluation", "davi.trainer", "davi.prior_trainer", "davi.i2sb_trainer"],
    ["davi.build", "davi.run_folder", "davi.generator_file", "davi.prior_file"],
    [
        "davi.build_training",
        "davi.training_loop",
        "davi.restorer",
        "davi.degrading",
        "davi.i2sb_file",
    ],
    ["davi.generating"],
    ["davi"],
    ["davi.solvers", "davi.solvers.prior", "davi.solvers.windowed_variance"],
    ["davi.solvers.base", "davi.solvers.grids"],
    ["davi.solvers.spectral", "davi.solvers.variational"],
    [
        "davi.solvers.davi",
        "davi.solvers.ddnm_plus",
        "davi.solvers.ddrm",
        "davi.solvers.diffpir",
        "davi.solvers.dmplug",
        "davi.solvers.dps",
        "davi.solvers.fps",
        "davi.solvers.gaussian_variational",
        "davi.solvers.i2sb",
        "davi.solvers.lifted",
        "davi.solvers.pigdm",
        "davi.solvers.pseudo_inverse",
        "davi.solvers.red_diff",
    ],
    ["davi.solvers.cddb"],
    ["davi.solver_file", "davi.gaussian_posterior"],
    ["davi.solver_list"],
    ["davi.tables", "davi.tables.config", "davi.tables.result"],
    ["davi.tables.layout", "davi.tables.style"],
    [
        "davi.tables.markdown",
        "davi.tables.latex",
        "davi.tables.data_files",
        "davi.tables.scatter",
        "davi.tables.gallery",
    ],
    ["davi.tables.page"],
    ["davi.tables.writing"],
    ["davi.restoring", "davi.cli", "davi.comparing"],
    ["davi.ladders", "davi.training_command", "davi.evaluation_command"],
    ["davi.cost", "davi.solver_timing", "davi.posterior_benchmark"],
    ["davi.benchmark_command"],
    ["davi.tables.code_hash", "davi.tables.cache", "davi.tables.problem"],
    ["davi.tables.plan"],
    ["davi.tables.running"],
    ["davi.tables.scoring", "davi.tables.timing"],
    ["davi.tables.assembling"],
    ["davi.tables.command"],
]
# These alone know of configurations; everything else takes plain values.
CONFIG_READERS = {
    "davi.config_file",
    "davi.build",
    "davi.build_training",
    "davi.prior_file",
    "davi.generator_file",
    "davi.i2sb_file",
    "davi.run_folder",
    "davi.training_loop",
    "davi.restorer",
    "davi.degrading",
    "davi.generating",
    "davi.cli",
    "davi.ladders",
    "davi.training_command",
    "davi.solver_file",
    "davi.solver_timing",
    "davi.posterior_benchmark",
    "davi.tables.problem",
    "davi.tables.plan",
    "davi.tables.command",
}
# Heavy or optional: imported where used.
LAZY_PACKAGES = {"lpips", "pytorch_fid", "wandb", "webdataset", "braceexpand"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

SOURCES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("davi", "guided_diffusion")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}
each_module = pytest.mark.parametrize("module", SOURCES)
RANK = {module: rank for rank, modules in enumerate(TIERS) for module in modules}


def imports(nodes: list[ast.AST]) -> set[str]:
    """Full names of the modules imported by the statements."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@each_module
def test_imports_go_downwards(module: str) -> None:
    tree = ast.parse(SOURCES[module].read_text())
    own = {
        name
        for name in imports(list(ast.walk(tree)))
        if name.split(".")[0] in ("davi", "guided_diffusion")
    }
    upwards = {name for name in own if RANK[name] >= RANK[module]}
    if module != "guided_diffusion":
        assert not upwards


@each_module
def test_configurations_stay_at_the_top(module: str) -> None:
    names = imports(list(ast.walk(ast.parse(SOURCES[module].read_text()))))
    if names & {"davi.config", "davi.config_file"}:
        assert module in CONFIG_READERS


@each_module
def test_heavy_packages_are_imported_where_used(module: str) -> None:
    top_level = imports(ast.parse(SOURCES[module].read_text()).body)
    assert not {name.split(".")[0] for name in top_level} & LAZY_PACKAGES


def test_only_one_module_reads_yaml() -> None:
    readers = {
        module
        for module, path in SOURCES.items()
        if "yaml" in imports(list(ast.walk(ast.parse(path.read_text()))))
    }
    assert readers == {"davi.config_file"}


def test_every_module_has_its_place() -> None:
    assert set(RANK) | {"guided_diffusion"} == set(SOURCES)


@pytest.mark.parametrize(
    "path",
    [*SOURCES.values(), *sorted((REPOSITORY / "scripts").glob("*"))],
    ids=lambda path: path.name,
)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body_lines = node.end_lineno - node.body[0].lineno + 1
            assert body_lines <= MAX_FUNCTION_LINES, node.name
