#!/usr/bin/env python3
"""Draws troubles.svg: runs the example `metrics`, scrapes it four times a second, and plots what it shows.

    python3 docs/observability/picture.py
"""

import re
import subprocess
import threading
import time
import urllib.request
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 10  # of each trouble
EVERY = 0.25  # between scrapes
WIDTH, HEIGHT, LEFT, GAP = 760, 84, 64, 40
LINE, GRID, TEXT = "#1f6feb", "#d0d7de", "#57606a"


def run():
    """The scrapes as (time, {series: value}), and when each trouble was over as (time, its name)."""
    command = ["cargo", "run", "--quiet", "--locked", "--example", "metrics", "--features", "metrics", "--", str(SECONDS)]
    example = subprocess.Popen(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True)
    url = example.stdout.readline().split()[-1]
    scrapes, ends, begun = [], [], time.monotonic()

    def follow():
        for line in example.stdout:
            if not line.startswith(" "):
                ends.append((time.monotonic() - begun, line.strip().rstrip(":")))

    threading.Thread(target=follow, daemon=True).start()
    while example.poll() is None:
        try:
            text = urllib.request.urlopen(url, timeout=1).read().decode()
        except OSError:
            break
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("lockkeeper_"))
        scrapes.append((time.monotonic() - begun, {series: float(value) for series, value in lines}))
        time.sleep(EVERY)
    example.wait()
    return scrapes, ends


def total(values, name, label=""):
    """The sum of the series of a metric that have this label."""
    return sum(v for series, v in values.items() if re.split(r"[{]", series)[0] == name and label in series)


def gauge(name):
    return lambda before, now, seconds: total(now, name)


def rate(name, label=""):
    return lambda before, now, seconds: (total(now, name, label) - total(before, name, label)) / seconds


def mean(name):
    def value(before, now, seconds):
        count = total(now, name + "_count") - total(before, name + "_count")
        return (total(now, name + "_sum") - total(before, name + "_sum")) / count if count else 0.0

    return value


PLOTS = [
    ("grants per second", rate("lockkeeper_acquired_total")),
    ("requests that time out, per second", rate("lockkeeper_refused_total", 'reason="timed_out"')),
    ("heartbeat round trip, seconds", mean("lockkeeper_heartbeat_seconds")),
    ("sessions suspended, in all", gauge("lockkeeper_sessions_suspended_total")),
    ("sessions lost, in all", gauge("lockkeeper_sessions_lost_total")),
]


def draw(scrapes, ends):
    end = scrapes[-1][0]
    x = lambda at: LEFT + at / end * WIDTH
    height = len(PLOTS) * (HEIGHT + GAP) + GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + LEFT + 16}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    begin = 0.0
    for at, name in ends:
        if at - begin > 1:
            out.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="4" y2="{height - 12}" stroke="{GRID}"/>')
            out.append(f'<text x="{x((begin + at) / 2):.1f}" y="16" text-anchor="middle" fill="{TEXT}">{escape(name)}</text>')
        begin = at
    window = 4  # scrapes, so that a rate is that of a second
    for number, (title, value) in enumerate(PLOTS):
        bottom = (number + 1) * (HEIGHT + GAP)
        pairs = zip(scrapes, scrapes[window:])
        points = [(now[0], value(before[1], now[1], now[0] - before[0])) for before, now in pairs]
        top = max(max(v for _, v in points), 1e-9)
        y = lambda v: bottom - v / top * HEIGHT
        line = " ".join(f"{x(at):.1f},{y(v):.1f}" for at, v in points)
        out.append(f'<text x="{LEFT}" y="{bottom - HEIGHT - 6}">{escape(title)}</text>')
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{bottom}" y2="{bottom}" stroke="{GRID}"/>')
        for at, label in ((bottom, "0"), (bottom - HEIGHT, f"{top:.3g}")):
            out.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end" fill="{TEXT}">{label}</text>')
        out.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    out.append("</svg>\n")
    (HERE / "troubles.svg").write_text("\n".join(out))


draw(*run())
