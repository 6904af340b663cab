// Axes, smoothing and values under the pointer for the charts of a page of runs. Without this script the page
// shows every chart over steps.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const [LEFT, TOP, RIGHT, BOTTOM] = data.plot;
  const state = { x: "step", log: false, smooth: 0 };

  const nice = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const unit = [1, 2, 5, 10].map((m) => m * power).find((u) => u >= rough * 0.999999);
    const all = [];
    for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) all.push(i * unit);
    return all;
  };
  const decades = (low, high) => {
    const all = [];
    for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p++)
      for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) all.push(m * 10 ** p);
    return all.length > 12 ? all.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9) : all.length > 1 ? all : [low, high];
  };
  const short = (v, digits = 3) => {
    const size = Math.abs(v);
    for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (size >= unit) return +(v / unit).toPrecision(digits) + letter;
    return size > 0 && size < 1e-3 ? v.toExponential(1) : String(+v.toPrecision(digits + 1));
  };
  // As many digits as distinguish the ticks.
  const labels = (ticks) => {
    for (let digits = 3; ; digits++) {
      const all = ticks.map((tick) => short(tick, digits));
      if (new Set(all).size === all.length || digits === 9) return all;
    }
  };
  const span = (s) => s < 120 ? short(s) + " s" : s < 7200 ? short(s / 60) + " min" : short(s / 3600) + " h";
  const along = (x) => state.x === "time" ? span(x) : short(x);
  // The clock of a run lists [step, seconds, tokens]; values between its entries are interpolated.
  const position = (run, step) => {
    if (state.x === "step") return step;
    const clock = data.clocks[run] || [], column = state.x === "time" ? 1 : 2;
    let after = clock.findIndex((entry) => entry[0] >= step);
    if (!clock.length) return null;
    if (after < 0) after = clock.length - 1;
    const b = clock[after], a = clock[Math.max(after - 1, 0)];
    const share = b[0] > a[0] ? (step - a[0]) / (b[0] - a[0]) : 1;
    return a[column] === null || b[column] === null ? null : a[column] + (b[column] - a[column]) * Math.min(share, 1);
  };
  // Exponential moving average, corrected for its start.
  const smoothed = (points) => {
    let sum = 0, weight = 0;
    return points.map(([x, y]) => {
      sum = state.smooth * sum + (1 - state.smooth) * y;
      weight = state.smooth * weight + (1 - state.smooth);
      return [x, sum / weight];
    });
  };
  const make = (parent, tag, attributes, text) => {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return parent.appendChild(element);
  };

  const draw = (chart, svg) => {
    const lines = chart.lines.map((line) => {
      const points = line.points.map(([step, y]) => [position(line.run, step), y, step]);
      const known = points.filter(([x, y]) => x !== null && (!state.log || y > 0));
      const values = line.dashed || !state.smooth ? known : smoothed(known).map(([x, y], i) => [x, y, known[i][2]]);
      return { ...line, values };
    }).filter((line) => line.values.length);
    const body = svg.querySelector(".body");
    body.replaceChildren();
    if (!lines.length) {
      make(body, "text", { x: LEFT, y: (TOP + BOTTOM) / 2 }, state.log ? "no positive values" : "no values over this axis");
      return null;
    }
    const xs = lines.flatMap((line) => line.values.map((v) => v[0]));
    const ys = lines.flatMap((line) => line.values.map((v) => v[1]));
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    let ticks;
    if (low === high) {
      ticks = [low];
      const room = Math.max(Math.abs(low) / 2, 1e-9);
      [low, high] = state.log ? [low / 2, high * 2] : [low - room, high + room];
    } else if (state.log) ticks = decades(low, high);
    else {
      const room = (high - low) * 0.04;
      ticks = nice(low - room, high + room, 4);
      [low, high] = [low - room, high + room];
    }
    const scale = state.log ? Math.log : (v) => v;
    const x = (v) => LEFT + ((RIGHT - LEFT) * (v - first)) / (last - first || 1);
    const y = (v) => BOTTOM - ((BOTTOM - TOP) * (scale(v) - scale(low))) / (scale(high) - scale(low));
    const named = labels(ticks);
    for (const [i, tick] of ticks.entries()) {
      make(body, "path", { class: "grid", d: `M${LEFT} ${y(tick)}H${RIGHT}` });
      make(body, "text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, named[i]);
    }
    const along_ticks = last > first ? nice(first, last, 5) : [first];
    for (const tick of along_ticks) {
      make(body, "path", { class: "grid", d: `M${x(tick)} ${BOTTOM}v4` });
      make(body, "text", { x: x(tick), y: BOTTOM + 16, "text-anchor": "middle" }, along(tick));
    }
    if (state.x === "step" || data.clocks.length === 1)
      for (const mark of chart.marks) {
        const at = position(0, mark);
        if (at !== null && at >= first && at <= last)
          make(body, "path", { class: "mark", d: `M${x(at)} ${TOP}V${BOTTOM}` });
      }
    for (const line of lines) {
      const d = line.values.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
      make(body, "path", { class: `line ${line.dashed ? "dashed " : ""}s${line.colour}`, d });
      if (line.dashed || line.values.length === 1)
        for (const [px, py] of line.values) make(body, "circle", { class: "f" + line.colour, cx: x(px), cy: y(py), r: 2.5 });
    }
    return { lines, x, y, first, last };
  };

  const charts = [...document.querySelectorAll("svg[data-chart]")].map((svg) => {
    const chart = data.charts[+svg.dataset.chart];
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    svg.parentNode.appendChild(tip);
    const entry = { chart, svg, drawn: null };
    const leave = () => {
      tip.hidden = true;
      svg.querySelectorAll(".cursor").forEach((old) => old.remove());
    };
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointermove", (event) => {
      leave();
      if (!entry.drawn) return;
      const box = svg.getBoundingClientRect();
      const { lines, x, y, first, last } = entry.drawn;
      const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const wanted = first + ((at - LEFT) / (RIGHT - LEFT)) * (last - first);
      const rows = lines.map((line) => {
        const near = line.values.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a);
        make(svg, "circle", { class: "cursor f" + line.colour, cx: x(near[0]), cy: y(near[1]), r: 3.5 });
        return [line, near];
      });
      const nearest = rows.map(([, near]) => near).reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a);
      make(svg, "path", { class: "cursor mark", d: `M${x(nearest[0])} ${TOP}V${BOTTOM}` });
      tip.replaceChildren(...rows.map(([line, [px, py, step]]) => {
        const row = document.createElement("div");
        row.textContent = `${line.label}: ${+py.toPrecision(5)} (step ${step}${state.x === "step" ? "" : ", " + along(px)})`;
        return row;
      }));
      tip.hidden = false;
      const left = (event.clientX - box.left) + 14;
      tip.style.left = Math.max(0, Math.min(left, box.width - tip.offsetWidth)) + "px";
      tip.style.top = (event.clientY - box.top) + 16 + "px";
    });
    return entry;
  });
  const redraw = () => charts.forEach((entry) => { entry.drawn = draw(entry.chart, entry.svg); });
  const controls = document.getElementById("controls");
  controls.hidden = false;
  controls.addEventListener("input", () => {
    const form = new FormData(controls);
    state.x = form.get("x");
    state.log = form.get("log") !== null;
    state.smooth = Number(form.get("smooth"));
    redraw();
  });
  redraw();
})();
