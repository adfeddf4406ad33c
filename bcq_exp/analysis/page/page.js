"use strict";
// Draws DATA (bcq_exp.analysis.report). Aggregates come computed; only bands of a grouping that is
// chosen here are computed here, by the same t intervals over runs. Every text of DATA may be a
// stranger's: it becomes textContent, or is escaped, for HTML and for what Plotly takes for HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);

const PALETTE = ["#2f6fc4", "#d1671f", "#2c9a63", "#b5408f", "#7b61c9", "#a3821a", "#1d9bb0", "#c94a4a", "#6b7785", "#5f9e2f", "#d4789f", "#4a5fd0"];
const ALL_KEYS = "all keys";
const NONE = "none";
const MANY = 200; // runs above which single ones are drawn of a choice
const $ = (id) => document.getElementById(id);

const short = (key) => (Object.hasOwn(DATA.short, key) ? DATA.short[key] : key);
const unit = DATA.measure;

function digits(value) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 1 ? value.toFixed(1) : String(+value.toPrecision(3));
}

function escaped(text) {
  return String(text).replace(/[&<>"'%]/g, (c) => `&#${c.charCodeAt(0)};`); // %{...} is Plotly's
}

// ---- groups

function groupOf(run, by) {
  if (by === NONE) return "all runs";
  if (by === ALL_KEYS) return run.group;
  return `${short(by)}=${told(by, valueOf(run, by))}`;
}

// the keys whose values would be taken for each other if they were shortened
const EXACT = new Set(DATA.keys.filter((key) => {
  const values = new Set(DATA.runs.map((run) => run.values[key]));
  return new Set([...values].map(digits)).size < values.size;
}));

function told(key, value) {
  return EXACT.has(key) && typeof value === "number" ? String(value) : digits(value);
}

function valueOf(run, key) {
  return key === "seed" ? run.seed : key === "dataset" ? run.dataset : run.values[key];
}

function groupsBy(by) {
  const groups = new Map();
  if (by === ALL_KEYS) for (const label of DATA.groups) groups.set(label, []);
  DATA.runs.forEach((run, index) => {
    const label = groupOf(run, by);
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push(index);
  });
  if (by === ALL_KEYS) return groups;
  const first = (members) => (by === NONE ? 0 : valueOf(DATA.runs[members[0]], by));
  return new Map([...groups].sort((a, b) => {
    const [x, y] = [first(a[1]), first(b[1])];
    return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
  }));
}

function colourOf(groups) {
  return new Map([...groups.keys()].map((label, index) => [label, PALETTE[index % PALETTE.length]]));
}

// ---- curves

const unpacked = new Map(); // most runs have the same steps: one array for all of them

function numbers(packed) { // base64 of float32, null where there is none
  if (!unpacked.has(packed)) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    unpacked.set(packed, Array.from(new Float32Array(bytes.buffer), (v) => (Number.isFinite(v) ? v : null)));
  }
  return unpacked.get(packed);
}

const curve = (table, run, column) => (Object.hasOwn(DATA[table][run], column) ? numbers(DATA[table][run][column]) : null);

const columnsOf = (table) => [...new Set(DATA[table].flatMap(Object.keys))].filter((c) => c !== "step" && c !== "wall_time");

function smoothed(values, weight) { // exponential moving average, as dashboards do
  let last = null;
  return values.map((v) => {
    if (v === null) return null;
    last = last === null ? v : weight * last + (1 - weight) * v;
    return last;
  });
}

function interpolated(xs, ys, x) {
  if (x < xs[0] || x > xs[xs.length - 1]) return null;
  let hi = xs.findIndex((v) => v >= x);
  if (xs[hi] === x || hi === 0) return ys[hi];
  const share = (x - xs[hi - 1]) / (xs[hi] - xs[hi - 1]);
  return ys[hi - 1] === null || ys[hi] === null ? null : ys[hi - 1] + share * (ys[hi] - ys[hi - 1]);
}

function curvesOf(table, members, column, x, weight) {
  return members
    .map((run) => ({ run, x: curve(table, run, x), y: curve(table, run, column) }))
    .filter((c) => c.x && c.y)
    .map((c) => ({ ...c, y: weight ? smoothed(c.y, weight) : c.y }));
}

function band(curves) { // mean and 95% interval over runs on a common x
  const alike = curves.every((c) => c.x === curves[0].x);
  let xs = alike ? curves[0].x : [...new Set(curves.flatMap((c) => c.x))].sort((a, b) => a - b);
  if (!alike && xs.length > 200) { // wall times differ by run: an even grid
    const [low, high] = [xs[0], xs[xs.length - 1]];
    xs = Array.from({ length: 100 }, (_, i) => low + ((high - low) * i) / 99);
  }
  const out = { x: [], mean: [], low: [], high: [] };
  for (const [i, x] of xs.entries()) {
    const ys = curves.map((c) => (alike ? c.y[i] : interpolated(c.x, c.y, x))).filter((v) => v !== null);
    if (!ys.length || ys.length < curves.length / 2) continue;
    out.x.push(x);
    out.mean.push(ys.reduce((a, b) => a + b) / ys.length);
    const mean = out.mean[out.mean.length - 1];
    const margin = DATA.margins[ys.length];
    const error = Math.sqrt(ys.reduce((sum, y) => sum + (y - mean) ** 2, 0) / (ys.length - 1) / ys.length);
    out.low.push(margin === null ? null : mean - margin * error);
    out.high.push(margin === null ? null : mean + margin * error);
  }
  return out;
}

function translucent(colour, alpha) {
  const n = parseInt(colour.slice(1), 16);
  return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
}

function curveTraces(table, column, groups, colours, within, state) {
  const traces = [];
  for (const [label, all] of groups) {
    const members = all.filter((run) => within.has(run));
    const curves = curvesOf(table, members, column, state.x, state.smoothing);
    if (!curves.length) continue;
    const colour = colours.get(label);
    const common = { legendgroup: label, mode: "lines", type: "scatter" };
    if (state.single && curves.length > 1) {
      for (const c of curves.filter((c) => state.chosen.has(c.run))) {
        traces.push({ ...common, x: c.x, y: c.y, showlegend: false, line: { color: translucent(colour, 0.28), width: 1 }, name: escaped(DATA.runs[c.run].name), hovertemplate: "%{y:.4g} at %{x}<extra>%{fullData.name}</extra>" });
      }
    }
    const b = band(curves);
    if (b.low.some((v) => v !== null)) {
      traces.push({ ...common, x: b.x, y: b.low, showlegend: false, hoverinfo: "skip", line: { width: 0 } });
      traces.push({ ...common, x: b.x, y: b.high, showlegend: false, hoverinfo: "skip", line: { width: 0 }, fill: "tonexty", fillcolor: translucent(colour, 0.16) });
    }
    const title = curves.length === 1 ? DATA.runs[curves[0].run].name : `${label} (${curves.length} runs)`;
    traces.push({ ...common, x: b.x, y: b.mean, name: escaped(label), mode: b.x.length < 12 ? "lines+markers" : "lines", marker: { size: 5 }, line: { color: colour, width: 2.2 }, hovertemplate: `%{y:.4g} at %{x}<extra>${escaped(title)}</extra>` });
  }
  return traces;
}

// ---- plotting

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((v) => style.getPropertyValue(v).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, tickfont: { color: soft }, title: { standoff: 8 } };
  const joined = { ...layout };
  for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((k) => /^[xy]axis\d+$/.test(k))]) {
    joined[name] = { ...axis, ...layout[name], title: { ...axis.title, ...(layout[name] || {}).title } };
  }
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 }, margin: { l: 55, r: 15, t: 34, b: 45 }, hoverlabel: { namelength: -1 }, ...joined };
}

function plot(target, traces, layout, name) {
  const save = (format) => ({ name: `save as ${format.toUpperCase()}`, title: `save as ${format.toUpperCase()}`, icon: format === "svg" ? Plotly.Icons.disk : Plotly.Icons.camera, click: (gd) => Plotly.downloadImage(gd, { format, filename: name, width: 900, height: 560, scale: format === "png" ? 2 : 1 }) });
  return Plotly.react(target, traces, themed(layout), { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"], [save("svg"), save("png")]] });
}

function panel(home, id) {
  let div = $(id);
  if (!div) { div = document.createElement("div"); div.id = id; home.append(div); }
  return div;
}

const legend = (count) => ({ orientation: "h", y: -0.2, yanchor: "top", font: { size: 11 }, maxheight: 0.3, itemwidth: 30, tracegroupgap: 0, traceorder: "normal", ...(count > 14 ? { entrywidth: 0 } : {}) });

// ---- sections

let shown = new Set(); // the runs that the table shows

function state() {
  const chosen = shown.size > MANY ? new Set() : shown;
  $("single-of").textContent = shown.size > MANY ? `(of those the run table shows, at most ${MANY}: filter it)` : "";
  return { chosen, colour: $("colour").value, facet: $("facet").value, x: $("x").value, y: $("y").value, smoothing: +$("smoothing").value, single: $("single").checked };
}

function drawLearning(s) {
  const groups = groupsBy(s.colour);
  const colours = colourOf(groups);
  const facets = groupsBy(s.facet);
  const home = $("learning");
  home.classList.toggle("one", facets.size === 1);
  home.replaceChildren();
  const title = s.x === "step" ? "gradient steps" : "wall time (s)";
  [...facets].forEach(([label, members], index) => {
    const within = new Set(members);
    const traces = curveTraces("evaluation", s.y, groups, colours, within, s);
    if (!traces.length && facets.size > 1) return;
    if (s.y === "return_mean" && traces.length) {
      const ends = traces.flatMap((t) => [t.x[0], t.x[t.x.length - 1]]);
      const lines = behaviours(members);
      for (const [task, value] of lines) {
        traces.push({ x: [Math.min(...ends), Math.max(...ends)], y: [value, value], mode: "lines", type: "scatter", name: lines.length > 1 ? `behaviour, ${escaped(task)}` : "behaviour policy", line: { color: "#8a94a0", dash: "dash", width: 1.6 }, hovertemplate: `${digits(value)}<extra>behaviour on ${escaped(task)}</extra>` });
      }
    }
    const tall = facets.size === 1;
    plot(panel(home, `learning-${index}`), traces, {
      title: tall ? undefined : { text: escaped(label), font: { size: 13 } },
      height: tall ? 470 + (groups.size > 12 ? 60 : 0) : 340,
      showlegend: tall || index === 0, legend: legend(groups.size),
      xaxis: { title: { text: title } }, yaxis: { title: { text: escaped(s.y.replaceAll("_", " ")) } },
    }, `learning_${s.y}_${index}`);
  });
}

function behaviours(members) { // data set and return of those that these runs learnt from
  const found = new Map();
  for (const { dataset, behaviour_return: value } of members.map((run) => DATA.runs[run])) {
    if (value !== null) found.set(`${dataset} ${value}`, [dataset, value]); // null: it collects its own
  }
  return [...found.values()];
}

function drawTraining(s) {
  const groups = groupsBy(s.colour);
  const colours = colourOf(groups);
  const everything = new Set(DATA.runs.keys());
  const columns = columnsOf("training");
  columns.forEach((column, index) => {
    const traces = curveTraces("training", column, groups, colours, everything, s);
    plot(panel($("training"), `training-${column}`), traces, {
      title: { text: escaped(column.replaceAll("_", " ")), font: { size: 13 } }, height: 270, showlegend: false,
      xaxis: { title: { text: index < columns.length - 3 ? "" : s.x === "step" ? "gradient steps" : "wall time (s)" } },
    }, column);
  });
  if (!columns.length) $("training").textContent = "No training statistics yet.";
}

function drawAggregates() {
  const which = $("which").value;
  const found = DATA.aggregates[which];
  const names = ["iqm", "mean", "median", "optimality_gap"].filter((n) => found.length && found[0][n]);
  const words = { iqm: "IQM", mean: "mean", median: "median", optimality_gap: "optimality gap" };
  $("aggregates-how").textContent = `The ${which} evaluation's ${unit} of each run${which === "best" ? " (chosen in hindsight: higher than a policy picked beforehand would reach)" : ""}, over ${new Set(DATA.runs.map((r) => r.dataset)).size} data set(s) (Agarwal et al. 2021). ${DATA.intervals}` + (names.includes("optimality_gap") ? " Optimality gap: how far below 100, lower is better." : "");
  const shownGroups = found.slice(0, 40);
  const colours = colourOf(new Map(DATA.groups.map((g) => [g, []])));
  const traces = names.map((name, i) => {
    const e = shownGroups.map((a) => a[name]);
    return { type: "scatter", mode: "markers", x: e.map((v) => v[0]), y: shownGroups.map((a) => escaped(a.group)), xaxis: `x${i ? i + 1 : ""}`, yaxis: "y", showlegend: false, marker: { size: 8, color: shownGroups.map((a) => colours.get(a.group)) }, error_x: { type: "data", symmetric: false, array: e.map((v) => (v[2] === null ? 0 : v[2] - v[0])), arrayminus: e.map((v) => (v[1] === null ? 0 : v[0] - v[1])), color: "#8a94a0", thickness: 1.6 }, hovertemplate: `%{y}<br>${words[name]} %{x:.4g}<extra></extra>` };
  });
  const layout = { height: 90 + 24 * shownGroups.length, yaxis: { autorange: "reversed", type: "category", domain: [0, 1], tickfont: { size: 11 } }, grid: undefined, margin: { l: 120, r: 15, t: 34, b: 45 } };
  names.forEach((name, i) => {
    const width = 1 / names.length;
    layout[`xaxis${i ? i + 1 : ""}`] = { domain: [i * width + 0.01, (i + 1) * width - 0.01], title: { text: words[name] }, nticks: 5 };
  });
  if (found.length) plot("intervals", traces, layout, "aggregates");
  else $("intervals").textContent = "No run has an evaluation yet.";
  const head = ["group", "runs", ...names.map((n) => `${words[n]} [95% CI]`), "std"];
  const rows = found.map((a) => [a.group, a.num_runs, ...names.map((n) => interval(a[n])), { text: fixed(a.std), sort: a.std }]);
  table($("aggregate-table"), head, rows);
}

const fixed = (value) => (value === null ? "–" : value.toFixed(Math.abs(value) >= 1000 ? 0 : 1));

function interval([value, low, high]) {
  const text = low === null ? fixed(value) : `${fixed(value)} [${fixed(low)}, ${fixed(high)}]`;
  return { text, sort: value };
}

function drawPairs() {
  const { groups, p } = DATA.improvement;
  if (groups.length < 2) { $("improvement").textContent = "One group only."; }
  else {
    const z = p.map((row) => row.map((e) => (e === null ? null : e[0])));
    const text = p.map((row) => row.map((e) => (e === null ? "" : e[0].toFixed(2))));
    const hover = p.map((row, i) => row.map((e, j) => (e === null ? "" : `${escaped(groups[i])}<br>beats ${escaped(groups[j])}<br>${e[0].toFixed(2)}${e[1] === null ? "" : ` [${e[1].toFixed(2)}, ${e[2].toFixed(2)}]`}`)));
    plot("improvement", [{ type: "heatmap", z, x: groups.map(escaped), y: groups.map(escaped), text, texttemplate: "%{text}", hovertext: hover, hovertemplate: "%{hovertext}<extra></extra>", zmin: 0, zmax: 1, colorscale: [[0, "#c94a4a"], [0.5, "#d9dde2"], [1, "#2f6fc4"]], showscale: false, xgap: 1, ygap: 1, textfont: { color: "#14181e", size: 11 } }], { height: 170 + 30 * groups.length, yaxis: { autorange: "reversed", type: "category", tickfont: { size: 10 } }, xaxis: { type: "category", tickangle: 40, tickfont: { size: 10 } } }, "probability_of_improvement");
  }
  const colours = colourOf(new Map(DATA.groups.map((g) => [g, []])));
  const traces = [];
  for (const [label, [share, low, high]] of Object.entries(DATA.profiles.groups)) {
    const colour = colours.get(label);
    const common = { x: DATA.profiles.thresholds, type: "scatter", mode: "lines", legendgroup: label };
    if (low[0] !== null && Object.keys(DATA.profiles.groups).length <= 5) { // more would hide each other
      traces.push({ ...common, y: low, line: { width: 0, shape: "hv" }, showlegend: false, hoverinfo: "skip" });
      traces.push({ ...common, y: high, line: { width: 0, shape: "hv" }, showlegend: false, hoverinfo: "skip", fill: "tonexty", fillcolor: translucent(colour, 0.12) });
    }
    traces.push({ ...common, y: share, name: escaped(label), line: { color: colour, width: 2, shape: "hv" }, hovertemplate: `%{y:.0%} above %{x:.4g}<extra>${escaped(label)}</extra>` });
  }
  plot("profiles", traces, { height: Math.max(360, 170 + 30 * groups.length), legend: legend(traces.length), xaxis: { title: { text: unit } }, yaxis: { tickformat: ".0%", range: [-0.02, 1.02], title: { text: "runs above" } } }, "performance_profiles");
}

const scoreOf = (run) => (unit === "return" ? run[`${DATA.which}_return`] : run[`${DATA.which}_score`]);

function drawHyperparameters() {
  const keys = DATA.keys;
  if (!keys.length) { $("hyperparameters").hidden = true; return; }
  const runs = DATA.runs.filter((run) => scoreOf(run) !== null);
  const dimensions = keys.map((key) => dimension(key, runs));
  const scores = runs.map(scoreOf);
  dimensions.push({ label: unit, values: scores });
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  if (runs.length) Plotly.react("parallel", [{ type: "parcoords", dimensions, line: { color: scores, colorscale: "Viridis", showscale: true, colorbar: { thickness: 12, title: { text: unit, side: "right" } } }, labelfont: { color: ink, size: 12 }, tickfont: { color: ink, size: 10 }, rangefont: { color: ink, size: 9 }, labelangle: keys.length > 8 ? -20 : 0 }], themed({ height: 360, margin: { l: 70, r: 60, t: 70, b: 30 } }), { responsive: true, displaylogo: false });
  const entries = Object.entries(DATA.importance).reverse();
  plot("importance", [{ type: "bar", orientation: "h", y: entries.map(([k]) => escaped(k)), x: entries.map(([, v]) => v), marker: { color: PALETTE[0] }, text: entries.map(([, v]) => `${(100 * v).toFixed(0)}%`), textposition: "outside", cliponaxis: false, hovertemplate: "%{y}: %{x:.1%}<extra></extra>" }], { height: 110 + 28 * entries.length, xaxis: { tickformat: ".0%", range: [0, Math.min(1.1, 1.25 * Math.max(0.05, ...entries.map(([, v]) => v)))] }, yaxis: { type: "category" } }, "importance");
  const home = $("marginals");
  const all = keys.flatMap((k) => [...DATA.marginals[k].low, ...DATA.marginals[k].high, ...DATA.marginals[k].mean]).filter((v) => v !== null);
  const pad = 0.05 * (Math.max(...all) - Math.min(...all) || 1);
  for (const key of keys) {
    const m = DATA.marginals[key];
    plot(panel(home, `marginal-${key}`), [{ type: "scatter", mode: "lines+markers", x: m.value.map(escaped), y: m.mean, line: { color: PALETTE[0], width: 1.4, dash: "dot" }, marker: { size: 9 }, error_y: { type: "data", symmetric: false, array: m.high.map((v, i) => (v === null ? 0 : v - m.mean[i])), arrayminus: m.low.map((v, i) => (v === null ? 0 : m.mean[i] - v)), thickness: 1.6 }, customdata: m.num_runs, hovertemplate: `${escaped(key)}=%{x}<br>%{y:.4g}, %{customdata} runs<extra></extra>` }], { height: 280, title: { text: escaped(key), font: { size: 13 } }, xaxis: { type: "category" }, yaxis: { title: { text: unit }, range: [Math.min(...all) - pad, Math.max(...all) + pad] } }, `marginal_${key}`);
  }
  drawHeat();
}

function dimension(key, runs) {
  const values = runs.map((run) => run.values[key]);
  const levels = [...new Set(values)];
  if (values.every((v) => typeof v === "number")) {
    if (levels.length <= 8) {
      levels.sort((a, b) => a - b); // evenly spaced: sweeps choose 0.001, 0.01, 0.1
      return { label: escaped(short(key)), values: values.map((v) => levels.indexOf(v)), tickvals: levels.map((_, i) => i), ticktext: levels.map((v) => escaped(told(key, v))), range: [-0.1, levels.length - 0.9] };
    }
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (low > 0 && high / low > 30) {
      const ticks = [low, Math.sqrt(low * high), high];
      return { label: escaped(short(key)), values: values.map(Math.log10), tickvals: ticks.map(Math.log10), ticktext: ticks.map(digits) };
    }
    return { label: escaped(short(key)), values };
  }
  return { label: escaped(short(key)), values: values.map((v) => levels.indexOf(v)), tickvals: levels.map((_, i) => i), ticktext: levels.map((v) => escaped(told(key, v))), range: [-0.1, levels.length - 0.9] };
}

function drawHeat() {
  const [kx, ky] = [$("heat-x").value, $("heat-y").value];
  if (!ky || kx === ky) { Plotly.purge("heat"); $("heat").textContent = "Two different keys are wanted."; return; }
  $("heat").textContent = "";
  const sorted = (key) => [...new Set(DATA.runs.map((run) => run.values[key]))].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const [xs, ys] = [sorted(kx), sorted(ky)];
  const cell = (x, y) => DATA.runs.filter((r) => r.values[kx] === x && r.values[ky] === y).map(scoreOf).filter((v) => v !== null);
  const cells = ys.map((y) => xs.map((x) => cell(x, y)));
  const mean = (v) => (v.length ? v.reduce((a, b) => a + b) / v.length : null);
  const crowded = xs.length * ys.length > 80;
  plot("heat", [{ type: "heatmap", x: xs.map((v) => escaped(told(kx, v))), y: ys.map((v) => escaped(told(ky, v))), z: cells.map((row) => row.map(mean)), text: cells.map((row) => row.map((v) => (v.length ? digits(mean(v)) : ""))), customdata: cells.map((row) => row.map((v) => v.length)), texttemplate: crowded ? undefined : "%{text}", colorscale: "Viridis", xgap: 1, ygap: 1, colorbar: { thickness: 12 }, hovertemplate: `${escaped(short(kx))}=%{x}, ${escaped(short(ky))}=%{y}<br>%{z:.4g}, %{customdata} runs<extra></extra>` }], { height: 340, xaxis: { type: "category", title: { text: escaped(short(kx)) } }, yaxis: { type: "category", title: { text: escaped(short(ky)) } } }, "two_keys");
}

// ---- tables

function table(target, head, rows) {
  const text = (cell) => (cell !== null && typeof cell === "object" ? cell.text : digits(cell));
  const value = (cell) => (cell !== null && typeof cell === "object" ? cell.sort : cell);
  const numeric = head.map((_, i) => rows.some((row) => typeof value(row[i]) === "number"));
  target.innerHTML = `<thead><tr>${head.map((h, i) => `<th class="${numeric[i] ? "number" : ""}">${escaped(h)}</th>`).join("")}</tr></thead><tbody></tbody>`;
  const body = target.tBodies[0];
  for (const row of rows) {
    const tr = body.insertRow();
    row.forEach((cell, i) => {
      const td = tr.insertCell();
      td.className = numeric[i] ? "number" : "wide";
      if (cell !== null && typeof cell === "object" && cell.html) td.innerHTML = cell.html;
      else td.textContent = text(cell);
      if (cell !== null && typeof cell === "object" && cell.title) td.title = cell.title;
      td.dataset.sort = JSON.stringify(value(cell) ?? null);
    });
  }
  [...target.tHead.rows[0].cells].forEach((th, column) => {
    th.onclick = () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      for (const other of target.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (tr) => JSON.parse(tr.cells[column].dataset.sort);
      const order = (a, b) => (a === null ? 1 : b === null ? -1 : typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
      const sorted = [...body.rows].sort((a, b) => (key(a) === null || key(b) === null ? order(key(a), key(b)) : (down ? -1 : 1) * order(key(a), key(b))));
      body.append(...sorted);
    };
  });
}

function drawRuns() {
  const hasScore = DATA.runs.some((r) => r.last_score !== null);
  const manySets = new Set(DATA.runs.map((r) => r.dataset)).size > 1;
  const head = ["run", "status", "step", ...(manySets ? ["dataset"] : []), ...DATA.keys.map((k) => short(k)), "seed", "last return", "best return", ...(hasScore ? ["last score"] : []), "steps/s", "command"];
  const rows = DATA.runs.map((r) => [
    { html: `<a href="${escaped(r.href)}">${escaped(r.name)}</a>`, text: r.name, sort: r.name, title: r.name },
    { html: `<span class="status-${escaped(r.status)}" title="${escaped(r.reason || "")}">${escaped(r.status)}</span>`, text: r.status, sort: r.status },
    { text: `${r.step}/${r.num_steps}`, sort: r.step },
    ...(manySets ? [r.dataset] : []),
    ...DATA.keys.map((k) => ({ text: told(k, r.values[k]), sort: r.values[k] })),
    r.seed, r.last_return, r.best_return, ...(hasScore ? [r.last_score] : []), r.steps_per_second,
    { html: `<button class="copy" title="${escaped(r.command)}">copy</button>`, text: r.command, sort: r.command },
  ]);
  table($("run-table"), head, rows);
  [...$("run-table").tBodies[0].rows].forEach((tr, i) => {
    const r = DATA.runs[i];
    const pairs = DATA.keys.flatMap((k) => [`${k}=${told(k, r.values[k])}`, `${short(k)}=${told(k, r.values[k])}`]);
    tr.dataset.run = i;
    tr.dataset.search = [r.name, r.status, r.reason, r.dataset, `seed=${r.seed}`, ...pairs].join(" ").toLowerCase();
  });
  $("run-table").addEventListener("click", (event) => {
    if (event.target.matches(".copy")) { navigator.clipboard?.writeText(event.target.title); event.target.textContent = "copied"; setTimeout(() => (event.target.textContent = "copy"), 900); }
  });
  $("filter").oninput = () => {
    shown = new Set();
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const tr of $("run-table").tBodies[0].rows) {
      const matches = words.every((w) => (w.includes("=") ? tr.dataset.search.split(" ").includes(w) || tr.dataset.search.includes(`,${w}`) : tr.dataset.search.includes(w)));
      tr.hidden = !matches;
      if (matches) shown.add(+tr.dataset.run);
    }
    $("shown").textContent = `${shown.size} of ${DATA.runs.length} runs`;
  };
  $("filter").oninput();
  $("filter").onchange = () => { if ($("single").checked) redraw(); };
}

function asCsv(target) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (c) => quoted(c.querySelector(".copy")?.title ?? c.textContent);
  return [...target.rows].filter((tr) => !tr.hidden).map((tr) => [...tr.cells].map(cell).join(",")).join("\n") + "\n";
}

const ESTIMATORS = { fqe: "fitted Q evaluation", fqe_low: "its interval's lower end", critic_value: "own critic's value", td_error: "own TD error" };

function drawSelection() {
  const s = DATA.selection;
  $("selection").hidden = $("selection-link").hidden = !s;
  if (!s) return;
  $("selection-how").textContent = [`Discount ${s.settings.gamma}${s.settings.horizon ? `, ${s.settings.horizon} steps` : ""}.`, ...s.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`)].join(" ");
  const head = ["rank", "run", "step", "value ± interval", "better than behaviour", "own critic's", "own TD error", "discounted return", "return"];
  const behaviour = { run: "behaviour policy, as recorded", step: null, critic_value: null, td_error: null, ...s.behaviour };
  const rows = [behaviour, ...s.policies].map((p, i) => [
    i || null,
    { text: p.run, sort: p.run },
    p.step,
    { text: p.fqe === null ? "diverged" : `${fixed(p.fqe)}${p.fqe_high === null ? "" : ` ± ${fixed(p.fqe_high - p.fqe)}`}`, sort: p.fqe },
    p.better ?? null,
    ...[p.critic_value, p.td_error, p.discounted_return, p.return_mean].map((v) => ({ text: fixed(v), sort: v })),
  ]);
  table($("selection-table"), head, rows);
  const known = s.policies.filter((p) => p.fqe !== null && p.discounted_return !== null);
  const missing = s.policies.length - known.length;
  $("selection-missing").textContent = known.length && missing ? `${missing} of ${s.policies.length} are missing: they have no estimate, or no discounted return.` : "";
  if (known.length) {
    const ends = [...known.map((p) => p.discounted_return), ...known.map((p) => p.fqe)];
    const range = [Math.min(...ends), Math.max(...ends)];
    plot("selection-scatter", [
      { x: range, y: range, mode: "lines", line: { color: "#8a94a0", dash: "dash", width: 1.6 }, hoverinfo: "skip", showlegend: false },
      { x: known.map((p) => p.discounted_return), y: known.map((p) => p.fqe), error_y: { type: "data", array: known.map((p) => (p.fqe_high === null ? 0 : p.fqe_high - p.fqe)), color: translucent(PALETTE[0], 0.35), thickness: 1.2 }, mode: "markers", marker: { size: 8, color: PALETTE[0] }, text: known.map((p) => escaped(p.run)), hovertemplate: "%{text}<br>%{y:.4g} estimated, %{x:.4g} returned<extra></extra>", showlegend: false },
    ], { height: 400, xaxis: { title: { text: "discounted return of the evaluation" } }, yaxis: { title: { text: "estimate" } } }, "estimate_and_truth");
  } else $("selection-scatter").textContent = "No discounted return is known.";
  const starts = Object.entries(s.budget);
  if (starts.length) {
    const words = { uniform: "started with any", fqe: "started by the ranking" };
    const traces = starts.flatMap(([start, b], i) => [
      { x: b.episodes, y: b.low, line: { width: 0 }, hoverinfo: "skip", showlegend: false, mode: "lines" },
      { x: b.episodes, y: b.high, line: { width: 0 }, fill: "tonexty", fillcolor: translucent(PALETTE[i], 0.12), hoverinfo: "skip", showlegend: false, mode: "lines" },
      { x: b.episodes, y: b.returns, name: words[start], mode: "lines", line: { color: PALETTE[i], width: 2.2 }, hovertemplate: "%{y:.4g} after %{x} episodes<extra>%{fullData.name}</extra>" },
    ]);
    plot("selection-budget", traces, { height: 400, legend: legend(2), xaxis: { title: { text: "episodes in the environment" } }, yaxis: { title: { text: "return" } } }, "online_budget");
  } else $("selection-budget").textContent = "No ranking is judged.";
  const two = (v) => (v === null ? "–" : v.toFixed(2));
  const measures = Object.keys(Object.values(s.quality)[0] || {});
  const cells = (found) => measures.map((m) => ({ text: found[m].value === null ? "–" : `${two(found[m].value)} [${two(found[m].low)}, ${two(found[m].high)}]`, sort: found[m].value }));
  table($("selection-quality"), ["ranked by", ...measures], Object.entries(s.quality).map(([name, found]) => [ESTIMATORS[name] + (found.spearman.num_policies < s.policies.length ? `, of ${found.spearman.num_policies}` : ""), ...cells(found)]));
}

function drawNotes() {
  const link = (f) => `<li><a href="${escaped(DATA.runs[f.run].href)}">${escaped(DATA.runs[f.run].name)}</a>: ${escaped(f.detail)}</li>`;
  const kinds = new Map();
  for (const f of DATA.findings) kinds.set(f.kind, [...(kinds.get(f.kind) || []), f]);
  const blocks = [...kinds].map(([kind, found]) => `<details class="finding ${found[0].severity}" ${found.length < 4 ? "open" : ""}><summary><b>${escaped(kind)}</b> ${found.length} run${found.length > 1 ? "s" : ""}</summary><ul>${found.map(link).join("")}</ul></details>`);
  $("notes").innerHTML = DATA.notes.map((n) => `<div class="note">${escaped(n)}</div>`).join("") + blocks.join("");
}

function drawReproduction() {
  const counted = (counts) => Object.entries(counts).map(([v, n]) => (Object.keys(counts).length > 1 ? `${escaped(v)} (${n} runs)` : escaped(v))).join(", ");
  const { versions, commits, data } = DATA.reproduction;
  const rows = data.map(([task, digest, n]) => `<tr><th>data set</th><td>${escaped(task)}</td><td><code>${escaped(digest)}</code></td><td>${n} runs</td></tr>`);
  rows.push(`<tr><th>commit</th><td colspan="3"><code>${counted(commits)}</code></td></tr>`);
  for (const [name, counts] of Object.entries(versions)) rows.push(`<tr><th>${escaped(name)}</th><td colspan="3">${counted(counts)}</td></tr>`);
  $("versions").innerHTML = `<table><tbody>${rows.join("")}</tbody></table><p class="how">Each run's exact command is in the table above; its whole configuration is <code>.hydra/config.yaml</code> in its folder.</p>`;
}

// ---- the page

function options(select, values, chosen) {
  select.replaceChildren(...values.map((v) => new Option(v, v, false, v === chosen)));
}

function redraw() {
  const s = state();
  drawLearning(s);
  drawTraining(s);
}

function drawAll() {
  redraw();
  drawAggregates();
  drawPairs();
  drawHyperparameters();
  drawSelection();
}

function start() {
  const counts = {};
  for (const run of DATA.runs) counts[run.status] = (counts[run.status] || 0) + 1;
  $("headline").textContent = `${DATA.runs.length} runs (${Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", ")}) in ${DATA.groups.length} group${DATA.groups.length > 1 ? "s" : ""}, ${DATA.created.replace("T", " ").replace("+00:00", " UTC")}`;
  const sets = new Set(DATA.runs.map((r) => r.dataset)).size > 1 ? ["dataset"] : [];
  const keys = DATA.keys;
  const many = DATA.groups.length > PALETTE.length && keys.length;
  options($("colour"), [ALL_KEYS, ...sets, ...keys, "seed", NONE], many ? keys[0] : ALL_KEYS);
  options($("facet"), [NONE, ...sets, ...keys, "seed"], sets.length ? "dataset" : NONE);
  const columns = columnsOf("evaluation");
  options($("y"), columns.length ? columns : ["return_mean"], "return_mean");
  options($("heat-x"), keys, keys[0]);
  options($("heat-y"), keys, keys[1]);
  $("single").checked = DATA.runs.length <= 60;
  for (const id of ["colour", "facet", "x", "smoothing", "single", "y"]) $(id).addEventListener("change", redraw);
  $("which").value = DATA.which;
  for (const place of document.querySelectorAll(".of-which")) place.textContent = `By each run's ${DATA.which} evaluation.`;
  $("which").addEventListener("change", drawAggregates);
  for (const id of ["heat-x", "heat-y"]) $(id).addEventListener("change", drawHeat);
  for (const button of document.querySelectorAll("[data-csv]")) {
    button.onclick = () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([asCsv($(button.dataset.csv))], { type: "text/csv" }));
      link.download = `${button.dataset.csv}.csv`;
      link.click();
    };
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (name) => { document.documentElement.dataset.theme = name; };
  theme(dark.matches ? "dark" : "light");
  $("theme").onclick = () => { theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); drawAll(); };
  drawNotes();
  drawRuns();
  drawReproduction();
  drawAll();
  document.body.dataset.ready = "true";
}

start();
