"""What a table YAML may say (configs/tables/)."""

from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from davi.config.section import BatchSize, Count, FilePath, Section, Seed
from davi.metrics.ensembles import LEVELS, widest_level
from davi.system.choices import CALIBRATION, METRICS

Metric = Literal[
    (*(name for name in METRICS if name != "kid"), "nfe", "seconds", "gmac", *CALIBRATION)
]

Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # also of a folder


class ColumnConfig(Section):
    """A task: one group of a table's columns.

    Attributes:
        id: unique in the table.
        label: heading.
        config: run YAML (configs/), which gives operator, noise, network and prior; relative to
            the table's file.
        set: "section.key=value" overrides of it.
        data_set: which special hyperparameters of solver files count.
        images: as `data.validation`; None for that of the config.
        assumed_sigma: solvers are told that the noise is Gaussian with this deviation, whatever it
            is: for noise whose level nobody knows. None: they are told the truth.
    """

    id: Name
    label: str
    config: FilePath
    set: tuple[str, ...] = ()
    data_set: str
    images: FilePath | None = None
    assumed_sigma: float | None = Field(None, gt=0)


class RowConfig(Section):
    """A method.

    Attributes:
        id: unique in the table.
        label: heading; None for the solver's own.
        solver: YAML of configs/solvers/, relative to the table's file; None if this project does
            not run the method, which needs `absent`.
        set: hyperparameters, for every column.
        columns: {column id: hyperparameters}, on top of `set`.
        absent: why the row has no numbers of ours.
        only: ids of the columns it is meant for; None for all.
        num_images: fewer images than the table's, for methods that take very long.
    """

    id: Name
    label: str | None = None
    solver: FilePath | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    absent: str | None = None
    only: tuple[str, ...] | None = None
    num_images: Count | None = None


class TableConfig(Section):
    """A table: rows are methods, columns are tasks, each with several metrics.

    Attributes:
        title: as in the paper, its number first.
        columns: tasks.
        rows: methods.
        metrics: of every cell, in this order. Those of `davi.system.choices.CALIBRATION` are
            scores of all samples of an image.
        num_images: how many, spread evenly over the image source.
        num_samples: restorations per image for posterior mean and deviation of the shown examples,
            the one that is scored among them; 0 for none. Of all images if a metric of `metrics`
            is a score of samples.
        num_examples: images shown in the grids.
        batch_size: images at a time.
        precision: of all networks.
        seed: of noise and restorations.
        lpips: variant, see `davi.metrics.protocols`.
        paper: {row id: {column id: {metric: the paper's number}}}.
        footnotes: {row id or "table": sentence}.
    """

    title: str
    columns: tuple[ColumnConfig, ...] = Field(min_length=1)
    rows: tuple[RowConfig, ...] = Field(min_length=1)
    metrics: tuple[Metric, ...] = Field(min_length=1)
    num_images: Count
    num_samples: int = Field(4, ge=0)
    num_examples: int = Field(4, ge=1)
    batch_size: BatchSize = 8
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Seed = 0
    lpips: Literal["release", "vgg", "alex"] = "release"
    paper: dict[str, dict[str, dict[Metric, float]]] = Field(default_factory=dict)
    footnotes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_fit(self) -> "TableConfig":
        rows, columns = [row.id for row in self.rows], [column.id for column in self.columns]
        for names in (rows, columns):
            if len(set(names)) < len(names):
                raise ValueError(f"ids must differ: {', '.join(names)}")
        named = {row: set(cells) for row, cells in self.paper.items()}
        named |= {row.id: {*row.columns, *(row.only or ())} for row in self.rows}
        for row, cells in named.items():
            if row not in rows:
                raise ValueError(f"paper: {row}: no such row")
            if unknown := cells - set(columns):
                raise ValueError(f"{row}: {', '.join(sorted(unknown))}: no such column")
        if unknown := set(self.footnotes) - {*rows, "table"}:
            raise ValueError(f"footnotes: no such row: {', '.join(sorted(unknown))}")
        if self.num_samples == 1:
            raise ValueError("num_samples: a deviation needs at least 2; 0 for none")
        for metric in self.metrics:
            if self.num_samples < (needed := _samples_for(metric)):
                raise ValueError(
                    f"num_samples: {self.num_samples}; the metric {metric} needs at least {needed}"
                )
        for row in self.rows:
            if (row.solver is None) and (row.absent is None):
                raise ValueError(
                    f"rows: {row.id}: a solver, or `absent` with the reason, is needed"
                )
        return self

    @property
    def scores_samples(self) -> bool:
        """Whether a metric needs all samples of every image."""
        return not set(CALIBRATION).isdisjoint(self.metrics)


def _samples_for(metric: str) -> int:
    """The fewest samples of an image with which a metric can be computed."""
    if metric not in CALIBRATION:
        return 0
    return next(number for number in count(2) if widest_level(number) >= LEVELS.get(metric, 0))
