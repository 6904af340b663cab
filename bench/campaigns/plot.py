#!/usr/bin/env python3
"""Tables and plots of the pages in docs/results, from the JSON lines of `run.py --collect` and nothing else.

  plot.py losses RESULTS.jsonl… [--at 1000,2000,4000]            held-out loss at steps, mean and deviation over seeds
  plot.py goal RESULTS.jsonl… --baseline dense [--step 2000]      steps and processor time to the baseline's loss at a step
  plot.py routing RESULTS.jsonl… [--at 1000,2000]                dropped tokens, load of the fullest expert, idle experts, entropy
  plot.py draw OUT.svg RESULTS.jsonl… [--from STEP]               held-out loss by step, a line for each seed

Runs are grouped by model and by what a campaign varies. `--only WORD,WORD` keeps the groups whose name begins with one
of the words; `--ms NAME=MS,…` gives the time of a step of groups, which else is the processor time of their runs, evaluations
and compilation included, divided by their steps.
Python's own library is enough.
"""
import argparse
import json
import statistics
import sys

COLOURS = ["#444444", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2"]
LEFT, TOP, WIDTH, HEIGHT = 60, 30, 620, 360


def group_of(line):
    varied = [f"{key} {value}" for key, value in sorted(line["varied"].items())]
    return ", ".join([line["model"], *varied])


def groups(paths, only):
    """Lines by group, in the order in which they come."""
    found = {}
    for path in paths:
        with open(path) as file:
            for text in file:
                line = json.loads(text)
                name = group_of(line)
                if not only or any(name.startswith(word) for word in only):
                    found.setdefault(name, []).append(line)
    if not found:
        sys.exit("error: no run is left to show; see --only")
    return found


def at(line, step, key="eval_loss"):
    """A value of the evaluation at a step, or None."""
    return next((row.get(key) for row in line["curve"] if row["step"] == step), None)


def spread(values, digits=3):
    """`mean ± deviation (number of seeds)`."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return text + " (1)"
    return f"{text} ± {statistics.stdev(values):.{digits}f} ({len(values)})"


def reaches(points, loss):
    """The step from which on the loss is no higher than this; between evaluations on a straight line."""
    last = max((i for i, (_, y) in enumerate(points) if y > loss), default=-1)
    if last + 1 == len(points):
        return None
    if last < 0:
        return points[0][0]
    (x0, y0), (x1, y1) = points[last], points[last + 1]
    return x0 + (x1 - x0) * (y0 - loss) / (y0 - y1)


def curve(line):
    return [(row["step"], row["eval_loss"]) for row in line["curve"] if row["eval_loss"] is not None]


def all_steps(found):
    return sorted({row["step"] for lines in found.values() for line in lines for row in line["curve"]})


def losses(found, args):
    steps = args.at or all_steps(found)[-4:]
    heads = [f"step {s:,}" for s in steps]
    print("| model | rate | parameters | FLOPs of a sequence | processor time of a step, ms | " + " | ".join(heads) + " |")
    print("|---|---|---|---|---|" + "---|" * len(steps))
    for name, lines in found.items():
        first = lines[0]
        cells = [spread([at(line, step) for line in lines]) for step in steps]
        print(f"| {name} | {first['settings'].get('lr')} | {first['parameters'] / 1e6:.2f} M | "
              f"{first['flops_per_sequence'] / 1e6:.1f} M | {step_ms(name, lines, args):.0f} | " + " | ".join(cells) + " |")


def step_ms(name, lines, args):
    given = dict(word.split("=") for word in args.ms)
    if name in given:
        return float(given[name])
    return statistics.mean(1000 * line["cpu_seconds"] / line["steps_done"] for line in lines)


def goal(found, args):
    base = found.get(args.baseline) or sys.exit(f"error: there is no group `{args.baseline}`")
    step = args.step or min(line["curve"][-1]["step"] for line in base)
    target = statistics.mean(at(line, step) for line in base if at(line, step) is not None)
    print(f"Goal: {target:.4f}, the mean of `{args.baseline}` at step {step:,}.\n")
    print("| model | steps to it, each seed | times fewer steps | processor time of a step, ms | times less of it |")
    print("|---|---|---|---|---|")
    base_ms = step_ms(args.baseline, base, args)
    for name, lines in found.items():
        reached = [reaches(curve(line), target) for line in lines]
        ms = step_ms(name, lines, args)
        known = [r for r in reached if r is not None]
        words = ", ".join("not reached" if r is None else f"{r:,.0f}" for r in reached)
        fewer = step / statistics.mean(known) if len(known) == len(reached) else None
        less = fewer * base_ms / ms if fewer else None
        show = lambda x: "-" if x is None else f"{x:.2f}"
        print(f"| {name} | {words} | {show(fewer)} | {ms:.0f} | {show(less)} |")


def routing(found, args):
    steps = args.at or all_steps(found)[-2:]
    print("| model | step | dropped, by layer | fullest expert, times an even share | idle experts | entropy, nats |")
    print("|---|---|---|---|---|---|")
    for name, lines in found.items():
        for step in steps:
            of = lambda key: [at(line, step, f"decoder_{key}") for line in lines]
            if not any(of("dropped")):
                continue
            means = lambda key: [statistics.mean(v) for v in zip(*(x for x in of(key) if x))]
            print(f"| {name} | {step:,} | " + ", ".join(f"{100 * v:.1f} %" for v in means("dropped")) + " | "
                  + ", ".join(f"{v:.2f}" for v in means("max_load")) + " | "
                  + ", ".join(f"{v:.1f}" for v in means("idle")) + " | "
                  + ", ".join(f"{v:.2f}" for v in means("entropy")) + " |")


def draw(found, args):
    points = {name: [[p for p in curve(line) if p[0] >= args.begin] for line in lines] for name, lines in found.items()}
    flat = [p for lines in points.values() for line in lines for p in line]
    right = max(x for x, _ in flat)
    bottom, top = min(y for _, y in flat) - 0.02, max(y for _, y in flat) + 0.02
    x = lambda v: LEFT + WIDTH * (v - args.begin) / (right - args.begin)
    y = lambda v: TOP + HEIGHT * (top - v) / (top - bottom)
    total = TOP + HEIGHT + 50 + 16 * len(points)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{total}" '
           'font-family="sans-serif" font-size="11">',
           f'<rect width="{LEFT + WIDTH + 20}" height="{total}" fill="white"/>',
           f'<text x="{LEFT}" y="18">held-out loss, nats per token, by step; a line for each seed</text>',
           f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    for i in range(6):
        value = bottom + (top - bottom) * i / 5
        svg.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eee"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        value = args.begin + (right - args.begin) * i / 5
        svg.append(f'<text x="{x(value):.0f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{value:.0f}</text>')
    for i, (name, lines) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        for line in lines:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
            svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        row = TOP + HEIGHT + 40 + 16 * i
        svg.append(f'<rect x="{LEFT}" y="{row - 6}" width="14" height="4" fill="{colour}"/>')
        svg.append(f'<text x="{LEFT + 20}" y="{row}">{name}</text>')
    with open(args.out, "w") as file:
        file.write("\n".join(svg + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    numbers = lambda text: [int(n) for n in text.split(",")]
    words = lambda text: text.split(",")
    for command in [losses, goal, routing, draw]:
        sub = commands.add_parser(command.__name__)
        sub.set_defaults(run=command)
        if command is draw:
            sub.add_argument("out")
            sub.add_argument("--from", dest="begin", type=int, default=0)
        sub.add_argument("results", nargs="+")
        sub.add_argument("--only", type=words, default=[])
        sub.add_argument("--at", type=numbers, default=[])
        sub.add_argument("--ms", type=words, default=[])
        if command is goal:
            sub.add_argument("--baseline", required=True)
            sub.add_argument("--step", type=int)
    args = parser.parse_args()
    args.run(groups(args.results, args.only), args)


if __name__ == "__main__":
    main()
