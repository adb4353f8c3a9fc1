# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Plots of the report, as <svg> elements to embed in a page."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import matplotlib
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker
import numpy as np

# Distinguishable with color vision deficiency too (Okabe, Ito 2008).
_COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00')
_LEVEL_COLORS = {'none': '#d55e00', 'intra': '#0072b2', 'global': '#009e73'}
INK = '#1d2433'
SOFT = '#5d6779'
_LINE = '#e3e7ee'
# Name -> [(x, y), ...].
Points = Mapping[str, Sequence[tuple[float, float]]]
# Group -> bar -> (value, standard error) or (value, low, high).
Bars = Mapping[str, Mapping[str, Sequence[float]]]
_MAX_POINTS = 2000  # More would enlarge the page without a finer curve.


def titled(title: str, height: float, width: float = 6.2) -> tuple[Any, Any]:
  """Returns a titled figure without a box, and its axes."""
  figure = matplotlib.figure.Figure((width, height), layout='constrained')
  axes = figure.subplots()
  axes.set_title(title, loc='left', fontsize=11, fontweight='bold', color=INK)
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.spines['bottom'].set_color(_LINE)
  axes.tick_params(which='both', length=0, colors=SOFT, labelsize=9)
  axes.set_axisbelow(True)
  return figure, axes


def svg(figure: matplotlib.figure.Figure, salt: str) -> str:
  """Returns the figure as an <svg> element, deterministically."""
  out = io.StringIO()
  # The salt makes ids of figures on one page distinct.
  with matplotlib.rc_context({'svg.hashsalt': salt, 'svg.fonttype': 'path'}):
    matplotlib.backends.backend_svg.FigureCanvasSVG(figure).print_svg(
      out,
      metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None},
    )
  text = out.getvalue()
  # Without the XML prologue, which is not allowed inside HTML.
  return text[text.index('<svg') :]


def _line(i: int, name: str, **more: Any) -> dict[str, Any]:
  """Style of the i-th line of a plot."""
  return {
    'color': _COLORS[i % len(_COLORS)],
    'linestyle': ('-', '--', ':')[i // len(_COLORS) % 3],
    'linewidth': 1.6,
    'markersize': 3.5,
    'label': _label(name),
    **more,
  }


def _label(name: str) -> str:
  # Names that start with _ would be missing in the legend.
  return f' {name}' if name.startswith('_') else name


def _finish(axes: Any, x_label: str, *, integer: bool) -> None:
  axes.grid(axis='y', color=_LINE, linewidth=0.8)
  axes.set_xlabel(x_label, fontsize=9, color=SOFT)
  axes.xaxis.set_major_locator(
    matplotlib.ticker.MaxNLocator(nbins=6, integer=integer)
  )


def curves(title: str, lines: Points) -> str:
  """Plots lines over steps, with every n-th point of long ones."""
  figure, axes = titled(title, 3.2)
  for i, (name, points) in enumerate(lines.items()):
    stride = -(-len(points) // _MAX_POINTS)
    # Counted from the end, to include the last value.
    drawn = points[::-1][::stride][::-1]
    steps = [step for step, _ in drawn]
    values = [float('nan') if v is None else v for _, v in drawn]
    marker = 'o' if len(steps) < 12 else None
    axes.plot(steps, values, **_line(i, name, marker=marker))
  _finish(axes, 'step', integer=True)
  axes.legend(frameon=False, fontsize=9, labelcolor=INK)
  return svg(figure, f'curves {title}')


def intervals(
  title: str,
  x_label: str,
  lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
) -> str:
  """Plots lines of (x, value, low, high); nan gives no error bar."""
  figure, axes = titled(title, 3.2)
  counts = True  # Whether x is a count: no ticks between integers.
  for i, (name, points) in enumerate(lines.items()):
    x, value, low, high = np.asarray(points, float).T
    counts &= bool(np.all(x == np.round(x)))
    # A percentile may be on the other side of the value.
    errors = np.clip([value - low, high - value], 0, None)
    style = _line(i, name, marker='o', elinewidth=1, capsize=2.5)
    axes.errorbar(x, value, yerr=errors, **style)
  _finish(axes, x_label, integer=counts)
  axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2)
  return svg(figure, f'intervals {title}')


def bars(title: str, groups: Bars, floor: float = 0.0) -> str:
  """Draws groups of bars side by side, with errors or intervals.

  nan means no error or interval. The axis starts at the floor, e.g. 0.5 for an
  AUC; lower values are clipped.
  """
  figure, axes = titled(title, 3.2)
  names = list(dict.fromkeys(bar for group in groups.values() for bar in group))
  width = 0.8 / max(len(names), 1)
  for i, name in enumerate(names):
    found = [
      _value_and_errors(group.get(name, (np.nan, np.nan)))
      for group in groups.values()
    ]
    values, below, above = np.asarray(found, float).reshape(-1, 3).T
    values = np.where(np.isnan(values), floor, values)
    axes.bar(
      np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width,
      values - floor,
      width,
      bottom=floor,
      yerr=np.clip(np.nan_to_num([below, above]), 0, None),
      color=_COLORS[i % len(_COLORS)],
      alpha=1.0 if i < len(_COLORS) else 0.5,
      error_kw={'elinewidth': 1, 'ecolor': SOFT},
      label=_label(name),
    )
  if floor and axes.get_ylim()[1] > floor:  # Otherwise all bars are clipped.
    axes.set_ylim(bottom=floor)
  axes.set_xticks(np.arange(len(groups)), list(groups), fontsize=8)
  axes.grid(axis='y', color=_LINE, linewidth=0.8)
  # Below, since bars could reach a legend anywhere inside.
  place = 'outside lower left'
  figure.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc=place)
  return svg(figure, f'bars {title}')


def _value_and_errors(bar: Sequence[float]) -> tuple[float, float, float]:
  """(value, down, up) of (value, error) or (value, low, high)."""
  if len(bar) == 2:
    return bar[0], bar[1], bar[1]
  value, low, high = bar
  return value, value - low, high - value


def scatter(title: str, points: Points) -> str:
  """Draws points in the plane, with a color per name."""
  figure, axes = titled(title, 3.8)
  for i, (name, pairs) in enumerate(points.items()):
    x, y = np.asarray(pairs, float).reshape(-1, 2).T
    color = _COLORS[i % len(_COLORS)]
    style = {'color': color, 'alpha': 0.6, 'linewidths': 0}
    axes.scatter(x, y, s=5, label=_label(name), **style)
  axes.legend(frameon=False, fontsize=8, labelcolor=INK, markerscale=2)
  return svg(figure, f'scatter {title}')


def memory(
  devices: Sequence[str], levels: Mapping[str, Mapping[str, int]]
) -> str:
  """Plots a bar per device, stacked by level: level -> device -> bytes."""
  figure, axes = titled('MiB on each device', 1.4 + 0.26 * len(devices))
  left = dict.fromkeys(devices, 0.0)
  for i, (level, by_device) in enumerate(levels.items()):
    sizes = [by_device[device] / 2**20 for device in devices]
    axes.barh(
      list(devices),
      sizes,
      left=[left[device] for device in devices],
      height=0.62,
      color=_LEVEL_COLORS.get(level, _COLORS[i % len(_COLORS)]),
      label=level,
    )
    for device, size in zip(devices, sizes, strict=True):
      left[device] += size
  axes.grid(axis='x', color=_LINE, linewidth=0.8)
  axes.invert_yaxis()
  axes.set_ylabel('device', fontsize=9, color=SOFT)
  axes.legend(
    frameon=False,
    fontsize=9,
    labelcolor=INK,
    ncols=3,
    loc='upper left',
    bbox_to_anchor=(0, -0.12 - 0.3 / len(devices)),
  )
  return svg(figure, 'memory')
