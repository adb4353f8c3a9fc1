# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The frame of the report: style, page, and the pieces its sections use."""

from collections.abc import Sequence
import html
from typing import Any


def text(value: Any) -> str:
  """Returns a value as escaped text, also right inside an attribute."""
  return html.escape(str(value), quote=True)


def section(title: str, body: str) -> str:
  """Returns a titled section around finished HTML."""
  return f'<section><h2>{text(title)}</h2>\n{body}\n</section>'


def table(head: Sequence[str], rows: Sequence[str]) -> str:
  """Joins escaped head cells and finished rows."""
  cells = ''.join(f'<th>{cell}</th>' for cell in head)
  return (
    f'<div class="wide"><table><thead><tr>{cells}</tr></thead>\n<tbody>'
    + '\n'.join(rows)
    + '</tbody></table></div>'
  )


STYLE = """
:root { --ink: #1d2433; --soft: #5d6779; --line: #e3e7ee; --blue: #2457c5; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 19px; margin: 0 0 16px; }
.lead { font-size: 18px; margin: 0 0 8px; }
.facts-line, .note { color: var(--soft); font-size: 14px; margin: 8px 0 0; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: 24px; margin-top: 20px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { text-align: left; padding: 7px 12px; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr.first > * { border-top: 1px solid var(--line); }
th.scenario { font-weight: 600; white-space: nowrap; }
.number { font-variant-numeric: tabular-nums; }
.none, .key { color: var(--soft); }
.key { width: 160px; }
b { color: var(--blue); }
.tag { font-size: 12px; color: var(--soft); background: #eef1f6;
  border-radius: 6px; padding: 1px 6px; margin-left: 4px; }
.worse { display: block; font-size: 12px; color: #b3261e; line-height: 1.3; }
.good, .bad { border-radius: 8px; padding: 10px 14px; font-size: 15px;
  margin: 14px 0 0; }
.good { background: #e9f6ee; }
.bad { background: #fdf1ef; }
.bad p { margin: 0; } .bad ul { margin: 4px 0 0; padding-left: 20px; }
.grid { display: grid; gap: 24px;
  grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 12px 40px; color: var(--soft); }
.big { font-size: 28px; font-weight: 600; color: var(--ink); line-height: 1.2;
  font-variant-numeric: tabular-nums; }
pre { font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.command { background: #1d2433; color: #f1f4f9; border-radius: 8px;
  padding: 14px 16px; margin-bottom: 16px; white-space: pre; overflow-x: auto; }
summary { cursor: pointer; color: var(--blue); margin-bottom: 8px; }
@media (max-width: 560px) { .grid { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
<header>
<h1>{title}</h1>
{summary}
<p class="facts-line">{facts}</p>
</header>
{sections}
</main></body>
</html>
"""
