"""The page's style sheet: system fonts, one column, light and dark."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #fbfbf9; --panel: #ffffff; --ink: #1d2126; --muted: #626a74; --line: #dfe2e6;
  --selected: #0e7381; --scored: #d9822b; --random: #98a1ab; --warning: #a8480a; --warning-ground: #fdf1e6;
  --good: #22753f;
  --share-0: #d3d7dc; --share-1: #a9cdd3; --share-2: #6fb1bc; --share-3: #36919f; --share-4: #0b6471;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --panel: #1c2025; --ink: #e6e8ea; --muted: #9ca4ae; --line: #32383f;
    --selected: #4fc3d3; --scored: #f0a458; --random: #7f8994; --warning: #f5b27a; --warning-ground: #33261a;
    --good: #7bcf97;
    --share-0: #434a52; --share-1: #4a6a71; --share-2: #4b8d98; --share-3: #55b4c2; --share-4: #8de6f1;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.5rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; font-weight: 650; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 0 0 .35rem; font-weight: 650; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; font-weight: 650; }
p { margin: 0 0 .8rem; }
.muted, .lead, figcaption, footer { color: var(--muted); }
.lead { max-width: 78ch; }
.verdict { font-size: 1.14rem; line-height: 1.5; max-width: 76ch; margin: 1.2rem 0; }
nav { position: sticky; top: 0; z-index: 2; background: var(--ground); border-bottom: 1px solid var(--line); }
nav div { max-width: 1180px; margin: 0 auto; padding: .55rem 20px; display: flex; gap: 1.15rem; overflow-x: auto;
  white-space: nowrap; font-size: .88rem; scrollbar-width: none; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
section { padding: 30px 0 34px; border-bottom: 1px solid var(--line); }
section:last-child { border-bottom: 0; }
footer { padding-top: 6px; padding-bottom: 40px; font-size: .85rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 12px; margin: 0 0 14px; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px 13px; }
.tile h3 { margin: 0; font-size: .8rem; font-weight: 600; color: var(--muted); }
.tile strong { display: block; font-size: 1.38rem; line-height: 1.3; font-weight: 640; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile strong small { font-size: .86rem; font-weight: 500; letter-spacing: 0; }
.tile p { margin: 0; font-size: .84rem; line-height: 1.4; color: var(--muted); }
.tile .bar { margin: 5px 0 6px; }
ul.notices { list-style: none; padding: 0; margin: 0 0 26px; display: grid; gap: 6px; }
ul.notices li { padding: 8px 14px; border-left: 3px solid var(--line); background: var(--panel); border-radius: 0 6px 6px 0;
  font-size: .93rem; }
ul.notices li.warning { border-color: var(--warning); background: var(--warning-ground); }
ul.notices li.none { border-color: var(--good); }
ul.notices b { margin-right: .5em; }
li.warning b { color: var(--warning); } li.none b { color: var(--good); }
.bar { display: block; height: 7px; border-radius: 2px; background: color-mix(in srgb, var(--line) 60%, transparent); overflow: hidden;
  min-width: 60px; }
.bar > span { display: block; height: 100%; border-radius: 2px; }
.bar + .bar { margin-top: 2px; }
.bar .selected, i.selected { background: var(--selected); } .bar .random, i.random { background: var(--random); }
.bar .scored, i.scored { background: var(--scored); } .bar .warning { background: var(--warning); }
i.share-0 { background: var(--share-0); } i.share-1 { background: var(--share-1); } i.share-2 { background: var(--share-2); }
i.share-3 { background: var(--share-3); } i.share-4 { background: var(--share-4); }
.funnel { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr) max-content; gap: 7px 14px;
  grid-auto-flow: row dense; align-items: center; max-width: 860px; font-variant-numeric: tabular-nums; }
.funnel h3 { grid-column: 1 / -1; margin: .8rem 0 0; } .funnel > span { grid-column: 1; } .funnel > .bar { grid-column: 2; height: 14px; } .funnel > .value { grid-column: 3; }
.funnel .sub { color: var(--muted); padding-left: 1rem; font-size: .9rem; }
.funnel .value { text-align: right; white-space: nowrap; }
.funnel .value small { color: var(--muted); display: inline-block; min-width: 4.2em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 22px 28px; margin: 14px 0 6px; }
.plots.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.plots > div > h3 { margin-top: 0; }
.funnel + p { margin: .8rem 0 0; }
figure { margin: 0; min-width: 0; max-width: 640px; }
figure h3 { margin: 0 0 .3rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif; }
figcaption { font-size: .84rem; line-height: 1.45; margin-top: .3rem; }
.key { margin-right: 1em; white-space: nowrap; }
.key i { display: inline-block; width: .72em; height: .72em; border-radius: 2px; margin-right: .4em; }
.scroll { overflow-x: auto; margin: 10px 0 4px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: .8rem; vertical-align: bottom; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
td { vertical-align: top; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.bars { min-width: 110px; padding-top: 10px; }
td.wide { min-width: 250px; max-width: 460px; overflow-wrap: anywhere; }
td.text { min-width: 110px; overflow-wrap: anywhere; }
td.name { white-space: nowrap; }
td.wide details { margin-top: 2px; }
details > summary { cursor: pointer; color: var(--muted); font-size: .86rem; }
details p { margin: .4rem 0 0; padding-left: .8rem; border-left: 2px solid var(--line); font-size: .86rem; unicode-bidi: isolate; }
details.more { margin-top: 10px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 28px; }
article { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px 12px; margin-bottom: 10px;
  min-width: 0; overflow: hidden; }
article header { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; padding: 0; font-size: .84rem; color: var(--muted); }
article header strong { color: var(--ink); font-size: 1rem; font-variant-numeric: tabular-nums; }
article code { display: block; color: var(--muted); font-size: .78rem; margin: 1px 0 5px; }
article p { margin: 0; font-size: .88rem; line-height: 1.45; unicode-bidi: isolate; }
.badge { border: 1px solid currentColor; border-radius: 99px; padding: 0 .55em; font-size: .76rem; }
.badge.selected { color: var(--selected); }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em; }
@media (max-width: 560px) {
  header, main, footer, nav div { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 22px; }
  body { font-size: 14.5px; }
  .verdict { font-size: 1.05rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .tile { padding: 9px 10px 10px; }
  .tile strong { font-size: 1.22rem; }
  td.wide { min-width: 190px; }
  .funnel { grid-template-columns: minmax(0, 1fr) max-content; gap: 3px 10px; }
  .funnel > .value { grid-column: 2; }
  .funnel > .bar { grid-column: 1 / -1; margin-bottom: 5px; height: 9px; }
}
@media print { nav { position: static; } section { break-inside: avoid-page; } }
"""
