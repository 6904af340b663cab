#!/usr/bin/env python3
"""Plots loss curves of training runs as SVG, and prints when each run reaches the final loss of the first.

  plot.py thin METRICS.jsonl OUT.jsonl                       reduce metrics to evaluations and mean training losses
  plot.py draw OUT.svg NAME=FILE.jsonl@MS_PER_STEP …         draw the runs; the first run is the reference

It needs only Python's standard library.
"""
import json
import sys

COLOURS = ["#444444", "#1f77b4", "#d62728", "#2ca02c"]


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def thin(source, out):
    """Writes one line per evaluation; `loss` becomes the mean training loss since the previous evaluation."""
    since, rows = [], []
    for line in lines(source):
        since.append(line["loss"])
        if "eval" not in line:
            continue
        row = {"step": line["step"], "loss": round(sum(since) / len(since), 5)}
        for stack in ["encoder", "decoder"]:
            if f"{stack}_dropped" in line:
                row[f"{stack}_dropped"] = [round(x, 4) for x in line[f"{stack}_dropped"]]
        evaluated = line["eval"]
        row["eval"] = {key: round(evaluated[key], 5) for key in ["loss", "accuracy", "tokens"] if key in evaluated}
        rows.append(row)
        since = []
    with open(out, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def reaches(points, loss):
    """Returns the step from which the held-out loss stays at or below `loss`, interpolated linearly, or None."""
    last = max((i for i, (_, y) in enumerate(points) if y > loss), default=-1)
    if last + 1 == len(points):
        return None
    if last < 0:
        return points[0][0]
    (x0, y0), (x1, y1) = points[last], points[last + 1]
    return x0 + (x1 - x0) * (y0 - loss) / (y0 - y1)


def panel(left, runs, scale, label, top, bottom):
    """Returns the SVG elements of one plot, 420 pixels wide."""
    right = max(points[-1][0] * scale(ms) for _, ms, points in runs)
    x = lambda v: left + 50 + 350 * v / right
    y = lambda v: 30 + 290 * (top - v) / (top - bottom)
    out = [f'<rect x="{left + 50}" y="30" width="350" height="290" fill="none" stroke="#999"/>']
    for i in range(6):
        value = right * i / 5
        out.append(f'<text x="{x(value):.0f}" y="338" text-anchor="middle">{value:.0f}</text>')
    ticks = [bottom + (top - bottom) * i / 5 for i in range(6)]
    for value in ticks:
        out.append(f'<line x1="{left + 50}" x2="{left + 400}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eee"/>')
        out.append(f'<text x="{left + 44}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    out.append(f'<text x="{left + 225}" y="358" text-anchor="middle">{label}</text>')
    for (name, ms, points), colour in zip(runs, COLOURS):
        shown = [(px * scale(ms), py) for px, py in points if py <= top]
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in shown)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return out


def draw(out, arguments):
    runs = []
    for argument in arguments:
        name, rest = argument.split("=", 1)
        path, ms = rest.rsplit("@", 1)
        runs.append((name, float(ms), [(row["step"], row["eval"]["loss"]) for row in lines(path) if "eval" in row]))
    losses = [y for _, _, points in runs for _, y in points]
    ordered = sorted(losses)
    bottom, top = ordered[0] - 0.02, ordered[int(len(ordered) * 0.93)]
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" width="860" height="390" font-family="sans-serif" font-size="11">',
           '<rect width="860" height="390" fill="white"/>',
           '<text x="60" y="18">held-out loss, nats per target token</text>']
    svg += panel(0, runs, lambda ms: 1, "steps", top, bottom)
    svg += panel(430, runs, lambda ms: ms / 1000, "steps × CPU seconds per step", top, bottom)
    for i, ((name, _, _), colour) in enumerate(zip(runs, COLOURS)):
        svg.append(f'<rect x="{60 + 150 * i}" y="370" width="14" height="4" fill="{colour}"/>')
        svg.append(f'<text x="{80 + 150 * i}" y="376">{name}</text>')
    with open(out, "w") as file:
        file.write("\n".join(svg + ["</svg>"]) + "\n")
    goal = runs[0][2][-1][1]
    print("| model | ms per step | final held-out loss | steps to %.4f | ratio of steps | relative time |" % goal)
    print("|---|---|---|---|---|---|")
    for name, ms, points in runs:
        step = reaches(points, goal)
        first = points and runs[0][2][-1][0]
        if step is None:
            found = "not reached | - | -"
        else:
            found = f"{step:.0f} | {first / step:.2f} | {step * ms / (first * runs[0][1]):.2f}"
        print(f"| {name} | {ms:.0f} | {points[-1][1]:.4f} | {found} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["thin", source, out]:
            thin(source, out)
        case ["draw", out, *runs] if runs:
            draw(out, runs)
        case _:
            sys.exit(__doc__)
