"""How the HTML page of a table looks."""

GOLDEN_ANGLE = 137.508  # degrees: successive hues stay far apart, however many there are
LIGHTNESS = (46, 58)  # in turn; readable on white and on black

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #66707a; --line: #d9dee3;
  --page: #fff; --panel: #f5f7f9; --accent: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ad; --line: #333b43;
  --page: #14181c; --panel: #1c2228; --accent: #6db3ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 76rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 3rem 0 .8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .85rem; font-weight: 600; color: var(--soft); margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 62rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0 1.6rem; }
.soft, small { color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .8rem; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); background: var(--page); }
thead th { background: var(--panel); font-weight: 600; vertical-align: bottom; }
thead tr:first-child th { border-bottom: 0; text-align: center; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover > * { background: var(--panel); }
tbody th, thead tr:first-child th:first-child { position: sticky; left: 0; z-index: 1;
  text-align: left; border-right: 1px solid var(--line); }
.first { border-left: 1px solid var(--line); }
td small { display: block; font-size: .75rem; line-height: 1.35; }
td .paper { font-style: italic; }
u { text-underline-offset: .2em; }
sup { line-height: 0; font-weight: 400; }
ol, .remark { font-size: .875rem; color: var(--soft); }
.chart { margin-bottom: 1.4rem; }
.chart, .examples { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .4rem; }
.chart input, .examples input { position: absolute; opacity: 0; pointer-events: none; }
.chart label, .examples label { font-size: .82rem; padding: .1rem .6rem; border-radius: 1rem;
  border: 1px solid var(--line); cursor: pointer; user-select: none; }
.chart label::before { content: ""; display: inline-block; width: .65em; height: .65em;
  margin-right: .45em; border-radius: 50%; background: var(--dot); }
.chart input:not(:checked) + label { opacity: .4; text-decoration: line-through; }
.examples input:checked + label { background: var(--accent); border-color: var(--accent);
  color: var(--page); }
input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
svg { flex: 0 0 100%; width: 100%; max-width: 56rem; height: auto; margin-top: .4rem; }
svg text { fill: var(--soft); font-size: 12px; }
svg line { stroke: var(--line); }
svg g { transition: opacity .15s; }
svg circle { r: 2.5px; fill: var(--dot); fill-opacity: .5; }
svg .mean circle { r: 6px; fill-opacity: 1; stroke: var(--page); stroke-width: 2; }
.image { flex: 0 0 100%; }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
figure { margin: 0; }
figure img, figure span { display: block; width: 100%; aspect-ratio: 1; border-radius: 4px;
  background: var(--panel); }
figure img { image-rendering: pixelated; }
figure span { display: grid; place-items: center; color: var(--soft); font-size: .75rem; }
figcaption { font-size: .78rem; line-height: 1.3; margin-top: .3rem; }
figcaption small { display: block; font-variant-numeric: tabular-nums; }
.grid .mean, .grid .std { display: none; }
.show-mean:checked ~ .image :is(.restored, .std),
.show-std:checked ~ .image :is(.restored, .mean) { display: none; }
.show-mean:checked ~ .image .mean, .show-std:checked ~ .image .std { display: grid; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow: auto; max-height: 40rem; padding: 1rem; border: 1px solid var(--line);
  border-radius: 8px; background: var(--panel); font-size: .8rem; line-height: 1.45; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; } .scroll, pre { overflow: visible; max-height: none; } }
"""


def method_style(index: int) -> str:
    """Returns the rules of a method of the charts: its colour, its switch, and how it stands out.

    Args:
        index: of the method among the table's rows.
    """
    hue, lightness = index * GOLDEN_ANGLE % 360, LIGHTNESS[index % len(LIGHTNESS)]
    return (
        f".m{index} {{ --dot: hsl({hue:.0f} 68% {lightness}%); }}\n"
        f".k{index}:not(:checked) ~ svg .m{index} {{ display: none; }}\n"
        f"label.m{index}:hover ~ svg g:not(.m{index}) {{ opacity: .06; }}\n"
    )
