"""A made table on paper: what is best, what is escaped, and that nothing is lost or fetched."""

import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image

from davi.metrics.protocols import CALIBRATION
from davi.tables.config import Metric
from davi.tables.layout import BEST, NOMINAL, SECOND, Layout, heading
from davi.tables.markdown import to_markdown
from davi.tables.result import NOT_APPLICABLE, Cell, Number, TableResult
from davi.tables.writing import write_table

NASTY = "<b>&_%$#{}\\~^[x]*|\"'</b>"
VOID = {"meta", "img", "input", "br"}
FILES = ["table.md", "table.tex", "table.csv", "table.json", "index.html"]


def cell(row: str, psnr: float, lpips: float, num_images: int = 8, forward: float = 1) -> Cell:
    per_image = {f"a{index}": {"psnr": psnr + index, "lpips": lpips} for index in range(num_images)}
    return Cell(
        row=row,
        column="blur",
        numbers={
            "psnr": Number(psnr, 0.126),
            "lpips": Number(lpips, 0.0126),
            "nfe": Number(forward),
            "seconds": Number(0.0123 * forward),
        },
        paper={"psnr": psnr + 0.1, "nfe": forward},
        num_images=num_images,
        forward=forward,
        per_image=per_image,
    )


def table(*cells: Cell, name: str = "Method") -> TableResult:
    return TableResult(
        title=f"Table {name}",
        rows={cell.row: f"{name} {cell.row}" for cell in cells},
        columns={"blur": f"{name} blur"},
        metrics=("psnr", "lpips", "nfe", "seconds"),
        cells={(cell.row, cell.column): cell for cell in cells},
        truth={},
        footnotes={},
        config=f"name: {name}\n",
        facts={f"{name} version": name},
    )


def marks(result: TableResult, metric: str) -> dict[str, str]:
    """{row: mark} of our numbers."""
    entries = Layout(result).entries
    return {row: mark for row in result.rows if (mark := entries[row, "blur", metric].mark)}


@pytest.fixture
def nasty(tmp_path: Path) -> TableResult:
    """A table whose every string holds characters that mean something in Markdown, LaTeX, HTML."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (2, 2), "red").save(picture)
    first = dataclasses.replace(
        cell("a", 20.0, 0.3),
        per_image={NASTY: {"psnr": 20.0, "lpips": 0.3}},
        pictures={"restored": {NASTY: picture}, "mean": {NASTY: picture}},
        backward=1.0,
    )
    last = Cell("c", "blur", absent={"all": f"no weights {NASTY}"}, paper={"psnr": 26.3})
    result = table(first, cell("b", 21.0, 0.2, forward=20), last, name=NASTY)
    return dataclasses.replace(
        result,
        truth={"blur": {"reference": {NASTY: picture}, "measurement": {NASTY: picture}}},
        footnotes={"a": f"row {NASTY}", "table": f"table {NASTY}"},
    )


@pytest.fixture
def written(nasty: TableResult, tmp_path: Path) -> dict[str, str]:
    paths = write_table(nasty, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == FILES
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def test_best_is_highest_for_psnr_and_lowest_for_lpips() -> None:
    result = table(cell("a", 20, 0.3), cell("b", 22, 0.2), cell("c", 21, 0.1))
    assert marks(result, "psnr") == {"b": BEST, "c": SECOND}
    assert marks(result, "lpips") == {"c": BEST, "b": SECOND}


def scored(row: str, ranks: list[float], **numbers: float) -> Cell:
    return dataclasses.replace(
        cell(row, 20, 0.3),
        ranks=ranks,
        numbers={metric: Number(value) for metric, value in numbers.items()},
    )


@pytest.fixture
def samples() -> TableResult:
    """Of three methods that draw: too sure, not sure enough, and one that is nearest to right."""
    cells = (
        scored("a", [0.4, 0.1, 0.1, 0.4], coverage_50=0.2, spread_error=0.6, crps=0.04),
        scored("b", [0.1, 0.4, 0.4, 0.1], coverage_50=0.8, spread_error=1.3, crps=0.03),
        scored("c", [0.2, 0.3, 0.3, 0.2], coverage_50=0.6, spread_error=0.9, crps=0.02),
    )
    result = table(*cells, Cell("d", "blur", absent={"all": "no samples"}))
    return dataclasses.replace(result, metrics=("coverage_50", "spread_error", "crps"))


def test_best_is_nearest_to_what_true_samples_have(samples: TableResult) -> None:
    assert marks(samples, "coverage_50") == {"c": BEST, "a": SECOND, "b": SECOND}
    assert marks(samples, "spread_error") == {"c": BEST, "b": SECOND}
    assert marks(samples, "crps") == {"c": BEST, "b": SECOND}
    text = to_markdown(Layout(samples))
    assert "| 50 % coverage → 0.5 | spread/error → 1 | CRPS ↓ |" in text
    assert "the nearest to it is the best" in text


def test_every_metric_has_a_name_and_a_direction() -> None:
    for metric in get_args(Metric):
        assert heading(metric)
    assert NOMINAL.keys() <= {"detail", *CALIBRATION}


def test_equal_as_shown_is_equally_good() -> None:
    result = table(cell("a", 22.001, 0.1), cell("b", 21.999, 0.1), cell("c", 21, 0.1))
    assert marks(result, "psnr") == {"a": BEST, "b": BEST, "c": SECOND}
    assert marks(result, "lpips") == {}  # nothing to choose from


def test_rows_over_fewer_images_are_shown_but_not_ranked() -> None:
    result = table(cell("a", 20, 0.3), cell("b", 30, 0.1, num_images=2), cell("c", 21, 0.2))
    assert marks(result, "psnr") == {"c": BEST, "a": SECOND}
    assert [Layout(result).entries[row, "blur", "psnr"].num_images for row in "abc"] == [
        None,
        2,
        None,
    ]
    assert "30.00 ± 0.13 (n = 2)" in to_markdown(Layout(result))


def test_rows_without_a_network_do_not_win_in_costs() -> None:
    result = table(cell("a", 20, 0.3, forward=0), cell("b", 21, 0.2), cell("c", 22, 0.1, forward=9))
    assert marks(result, "nfe") == marks(result, "seconds") == {"b": BEST, "c": SECOND}
    assert marks(result, "psnr") == {"c": BEST, "b": SECOND}


def test_the_papers_numbers_are_ranked_among_themselves() -> None:
    best = dataclasses.replace(cell("a", 20, 0.3), paper={"psnr": 30.0})
    absent = Cell("c", "blur", paper={"psnr": 29.0}, absent={"all": "no weights"})
    entries = Layout(table(best, cell("b", 22, 0.2), absent)).entries
    assert [entries[row, "blur", "psnr"].paper_mark for row in "abc"] == [BEST, None, SECOND]
    assert [entries[row, "blur", "psnr"].mark for row in "abc"] == [SECOND, BEST, None]


def test_a_number_and_its_error_have_the_same_decimals() -> None:
    result = table(cell("a", 20, 0.3), cell("b", 1234.567, 0.2, forward=1e5))
    entries = Layout(result).entries
    shown = {
        metric: (entries["b", "blur", metric].ours, entries["b", "blur", metric].error)
        for metric in result.metrics
    }
    assert shown == {
        "psnr": ("1,234.57", "0.13"),
        "lpips": ("0.200", "0.013"),
        "nfe": ("100,000", None),
        "seconds": ("1,230", None),
    }
    assert entries["a", "blur", "seconds"].ours == "0.0123"
    assert entries["a", "blur", "psnr"].paper == "20.10"


def test_each_reason_is_one_footnote_wherever_it_counts(nasty: TableResult) -> None:
    layout = Layout(nasty)
    assert layout.notes == [f"row {NASTY}", f"no weights {NASTY}"]
    assert layout.row_note("a") == 1
    assert {layout.entries["c", "blur", metric].note for metric in nasty.metrics} == {2}
    assert layout.entries["c", "blur", "psnr"].paper == "26.30"


def test_markdown_leaves_out_methods_that_a_task_is_not_for() -> None:
    other = Cell("b", "blur", absent={"all": NOT_APPLICABLE})
    written = to_markdown(Layout(table(cell("a", 20.0, 0.3), other)))
    assert "| Method a |" in written
    assert "| Method b |" not in written
    assert NOT_APPLICABLE not in written


def test_markdown_shows_every_character_as_it_is(written: dict[str, str]) -> None:
    lines = written["table.md"].splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert len(rows) == 5
    assert set(bars) == {8}  # Method, four metrics, two of the paper
    assert "<b>" not in written["table.md"]
    assert r"&lt;b&gt;&amp;\_%\$\#\{\}\\\~^\[x\]\*\|" in rows[-1]
    assert "+ 1 backward" in written["table.md"]


def test_latex_is_balanced_and_bare_of_special_characters(written: dict[str, str]) -> None:
    text = re.sub(r"^%.*$", "", written["table.tex"], flags=re.MULTILINE)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = body.strip().split(" \\\\\n")
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    unescaped = re.compile(r"(?<!\\)&")
    assert [len(unescaped.findall(row)) + 1 for row in rows] == [len(spec)] * 3
    plain = re.sub(r"\\[&%$#_{}]", "", text)  # escaped ones count neither as braces nor as math
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not set('<>|~^"') & set(plain)
    assert not re.search(r"(?<!\\)[#%_]", plain)
    assert "[" not in text.replace("{[}", "")  # after a line's end it would open an option
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [("begin", "tabular"), ("end", "tabular")]
    assert r"\toprule" in text
    assert r"\textbf{21.00}" in text
    assert r"\underline{20.00}" in text


def test_csv_holds_every_number_unrounded(nasty: TableResult, written: dict[str, str]) -> None:
    lines = list(csv.DictReader(io.StringIO(written["table.csv"])))
    values = {(line["row"], line["metric"]): float(line["ours"]) for line in lines if line["ours"]}
    expected = {
        (cell.row, metric): number.value
        for cell in nasty.cells.values()
        for metric, number in cell.numbers.items()
    }
    assert values == expected | {("a", "nfe_backward"): 1.0, ("b", "nfe_backward"): 0.0}
    first = next(line for line in lines if line["metric"] == "psnr")
    assert (first["column"], first["error"], first["num_images"]) == ("blur", "0.126", "8")
    assert float(first["paper"]) == 20.1
    reasons = {line["absent"] for line in lines if line["row"] == "c"}
    assert reasons == {f"no weights {NASTY}"}


def test_json_holds_every_images_values(nasty: TableResult, written: dict[str, str]) -> None:
    read = json.loads(written["table.json"])
    assert [read["title"], read["rows"], read["config"]] == [nasty.title, nasty.rows, nasty.config]
    assert read["facts"] == nasty.facts
    for values in read["cells"]:
        original = nasty.cells[values["row"], values["column"]]
        numbers = {metric: Number(**number) for metric, number in values.pop("numbers").items()}
        assert Cell(**values, numbers=numbers) == dataclasses.replace(original, pictures={})


def test_json_stays_readable_with_infinite_values(tmp_path: Path) -> None:
    perfect = dataclasses.replace(cell("a", 20, 0.3), numbers={"psnr": Number(torch.inf)})
    write_table(table(perfect), tmp_path)
    text = (tmp_path / "table.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["cells"][0]["numbers"]["psnr"]["value"] is None


class Page(HTMLParser):
    """Collects what a page refers to and says, and checks that its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses, self.ids, self.text = [], [], [], []
        self.tags = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def page(written: dict[str, str]) -> Page:
    page = Page()
    page.feed(written["index.html"])
    page.close()
    return page


def test_the_page_is_well_formed_and_shows_every_string_as_it_is(page: Page) -> None:
    assert page.open == []
    assert "b" not in page.tags  # of NASTY
    text = "".join(page.text)
    for shown in (f"Table {NASTY}", f"row {NASTY}", f"no weights {NASTY}", f"name: {NASTY}"):
        assert shown in text
    assert f"{NASTY} a, {NASTY}: 20.00 dB, 0.300" in text  # at a dot of the chart


def test_the_page_fetches_nothing(page: Page, written: dict[str, str]) -> None:
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    for word in ("http:", "https:", "url(", "@import", "//"):
        outside_pictures = re.sub(r"base64,[^\"]*", "", written["index.html"])
        assert word not in outside_pictures


def test_every_method_of_the_chart_has_its_switch(tmp_path: Path) -> None:
    write_table(table(cell("a", 20, 0.3), cell("b", 22, 0.2)), tmp_path)
    text = (tmp_path / "index.html").read_text()
    for index in range(2):
        assert text.count(f'class="k{index}" id="k0-{index}"') == 1
        assert text.count(f'<label class="m{index}" for="k0-{index}">') == 1
        assert f".k{index}:not(:checked) ~ svg .m{index} {{ display: none; }}" in text
        dots = re.search(rf'<g class="m{index}">(.*?)</g>', text)[1]
        assert dots.count("<circle") == 8  # one for each image


def test_the_page_draws_the_calibration_of_methods_with_samples(
    samples: TableResult, tmp_path: Path
) -> None:
    write_table(samples, tmp_path)
    text = (tmp_path / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    for row in "abc":
        index = "abcd".index(row)
        assert text.count(f'<label class="m{index}" for="r0-{index}">Method {row}</label>') == 1
        assert text.count(f"<figcaption>Method {row}</figcaption>") == 1
        assert text.count(f'aria-label="Rank histogram of Method {row}"') == 1
    assert 'for="r0-3"' not in text
    # Levels 0 and 1/2 of three samples; at 1/2, the ranks in the middle.
    lines = re.findall(r'<polyline points="([^"]*)"', text)
    ends = [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]
    start, end = diagonal(text)
    for (first, last), inside in zip(ends, (0.2, 0.8, 0.6), strict=True):
        assert first == pytest.approx(start)
        assert last[0] == pytest.approx(start[0] + 0.5 * (end[0] - start[0]), abs=0.1)
        assert last[1] == pytest.approx(start[1] + inside * (end[1] - start[1]), abs=0.1)
    bars = [float(height) for height in re.findall(r'<rect [^>]* height="([\d.]+)"', text)]
    assert len(bars) == 3 * 4
    heights = torch.tensor(bars) / max(bars) * 0.4
    shares = [share for row in "abc" for share in samples.cells[row, "blur"].ranks]
    torch.testing.assert_close(heights, torch.tensor(shares), rtol=0, atol=2e-3)


def diagonal(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of the first dashed line, on the page."""
    x1, y1, x2, y2 = re.search(
        r'class="ideal" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', text
    ).groups()
    return (float(x1), float(y1)), (float(x2), float(y2))


def test_a_table_without_samples_draws_no_calibration(written: dict[str, str]) -> None:
    assert "Reliability" not in written["index.html"]
    assert "arrow to a number" not in written["table.md"]


def test_the_paper_is_spoken_of_only_where_it_has_numbers(tmp_path: Path) -> None:
    ours = dataclasses.replace(cell("a", 20, 0.3), paper={})
    for path in write_table(table(ours), tmp_path):
        assert "aper's" not in path.read_text()


def test_pictures_are_shown_with_their_psnr(page: Page, nasty: TableResult) -> None:
    # Reference, measurement, and of row a the restoration and the posterior mean.
    assert sum(address.startswith("data:") for address in page.addresses) == 4
    assert {"svg", "details", "figure", "figcaption"} <= page.tags
    assert page.text.count("20.00 dB") == 1
    assert page.text.count("no samples") == 1  # no standard deviation was given


def test_buttons_choose_between_pictures_only_where_samples_were_drawn(
    nasty: TableResult, written: dict[str, str], tmp_path: Path
) -> None:
    assert written["index.html"].count('type="radio"') == 3
    first = nasty.cells["a", "blur"]
    single = dataclasses.replace(first, pictures={"restored": first.pictures["restored"]})
    write_table(dataclasses.replace(nasty, cells={("a", "blur"): single}), tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<img") == 3
    assert 'type="radio"' not in text
    assert "no samples" not in text


def test_an_older_table_is_replaced(nasty: TableResult, tmp_path: Path) -> None:
    write_table(nasty, tmp_path)
    write_table(table(cell("only", 20, 0.3)), tmp_path)
    assert "Method only" in (tmp_path / "table.md").read_text()
    assert NASTY not in (tmp_path / "table.json").read_text()
