"""Makes docs/convergence.png: what further network evaluations bring each iterative solver.

Run it after `davi table tables/photos_convergence` as `python docs/convergence.py [TABLE]`; TABLE
is the folder of the table, runs/tables/photos_convergence by default.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE = Path(__file__).with_suffix(".png")


def main(folder: str = "runs/tables/photos_convergence") -> None:
    """Draws one curve a method, one plot a task."""
    table = json.loads((Path(folder) / "table.json").read_text())
    curves = defaultdict(lambda: defaultdict(list))
    for cell in table["cells"]:
        method = cell["row"].rsplit("_", 1)[0]
        numbers = cell["numbers"]
        point = numbers["nfe"]["value"], numbers["psnr"]["value"]
        curves[cell["column"]][method].append(point)
    figure, plots = plt.subplots(1, len(curves), figsize=(4.5 * len(curves), 4), squeeze=False)
    for plot, (task, methods) in zip(plots[0], curves.items(), strict=True):
        for method, points in methods.items():
            plot.semilogx(*zip(*sorted(points), strict=True), "o-", markersize=3, label=method)
        plot.set_title(table["columns"][task])
        plot.set_xlabel("network evaluations")
        plot.grid(alpha=0.3)
    plots[0][0].set_ylabel("PSNR [dB]")
    plots[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=80)
    print(f"written to {PICTURE}")


if __name__ == "__main__":
    main(*sys.argv[1:])
