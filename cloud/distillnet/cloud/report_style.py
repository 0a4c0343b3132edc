"""The report's style sheet: system fonts, one column, prints on A4."""

CSS = """
:root { --ink: #1d2733; --quiet: #66727f; --line: #e3e7eb; --accent: #0b6e75; --warm: #c8553d; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f6; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 900px; margin: 32px auto; padding: 44px 56px 56px; background: #fff; border-radius: 10px;
  box-shadow: 0 1px 3px rgb(20 40 60 / 12%); }
header { border-bottom: 3px solid var(--accent); padding-bottom: 14px; margin-bottom: 26px; }
.kind { margin: 0; color: var(--accent); font-size: 12px; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
h1 { margin: 2px 0 6px; font-size: 36px; line-height: 1.15; font-weight: 650; }
h2 { margin: 0 0 2px; font-size: 20px; font-weight: 620; }
.lead { margin: 0 0 4px; font-size: 17px; }
.quiet { margin: 0 0 12px; color: var(--quiet); font-size: 13.5px; }
header .quiet { margin: 0; }
section { margin: 0 0 38px; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 13px 16px; display: flex; flex-direction: column; }
.tile b { font-size: 25px; line-height: 1.25; font-weight: 650; color: var(--accent); white-space: nowrap; }
.tile small { color: var(--quiet); font-size: 12px; }
.notes { border-left: 4px solid var(--warm); background: #fcf5f2; border-radius: 0 8px 8px 0; padding: 14px 20px; }
.notes h2 { font-size: 15px; }
.notes ul { margin: 4px 0 0; padding-left: 18px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { padding: 6px 10px; border-bottom: 1.5px solid var(--ink); text-align: right; font-weight: 600; font-size: 12.5px; }
td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td:not(.word) { white-space: nowrap; }
.word { text-align: left; }
figure { margin: 6px 0 16px; text-align: center; }
figcaption { color: var(--quiet); font-size: 13px; margin-bottom: 2px; }
figure img { max-width: 100%; height: auto; }
.bar { position: relative; display: block; width: 88px; height: 5px; margin: 4px 0 0 auto; border-radius: 3px;
  background: var(--line); }
.bar i { position: absolute; top: 0; height: 5px; border-radius: 3px; background: #8fbcbf; }
.bar u { position: absolute; top: -2px; width: 3px; height: 9px; margin-left: -1.5px; border-radius: 2px;
  background: var(--accent); }
td small { color: var(--quiet); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 18px; }
.pair figure:only-child { grid-column: 1 / 3; }
code { font-size: 12px; }
@media (max-width: 700px) { main { margin: 0; padding: 24px 18px; border-radius: 0; }
  .tiles { grid-template-columns: repeat(2, 1fr); } }
@page { size: A4; margin: 14mm; }
@media print { body { background: #fff; font-size: 12px; } main { margin: 0; padding: 0; max-width: none;
  box-shadow: none; } section { margin-bottom: 24px; }
  figure, tr, .tiles, .notes { break-inside: avoid; } h2, h2 + .quiet { break-after: avoid; }
  .tile, .notes, .bar, .bar i, .bar u { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
