// Draws DATA (bcq_exp.analysis.report). Every text of DATA may be a stranger's: it becomes
// textContent, or is escaped, for HTML and for what Plotly takes for HTML.

const MANY = 200; // runs above which single ones are drawn of a choice
const BANDS_AT_MOST = 5; // bands of more groups would hide each other
const ROWS_AT_MOST = 40; // groups whose intervals are drawn
const WORDS = { iqm: "IQM", mean: "mean", median: "median", optimality_gap: "optimality gap" };
const unit = DATA.measure;

Plotly.setPlotConfig({ showSendToCloud: false, plotlyServerURL: "" }); // nothing leaves this page

function escaped(text) {
  return String(text).replace(/[&<>"'%]/g, (c) => `&#${c.charCodeAt(0)};`); // %{...} is Plotly's
}

function brief(text) { // for ticks, without the middle: the end has the last key and the rank
  return escaped(text.length > 46 ? `${text.slice(0, 28)}…${text.slice(-17)}` : text);
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
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

function curvesOf(table, members, column, x, weight) {
  return members
    .map((run) => ({ run, x: curve(table, run, x), y: curve(table, run, column) }))
    .filter((c) => c.x && c.y)
    .map((c) => ({ ...c, y: weight ? smoothed(c.y, weight) : c.y }));
}

const hidden = new Set(); // labels that the reader switched off in a legend

// traces of the groups that have a style; fewest collects the least runs of each
function curveTraces(table, column, groups, styles, within, state, fewest = new Map()) {
  const traces = [];
  const others = { x: [], y: [], count: 0 };
  for (const [label, all] of groups) {
    if (hidden.has(label) || (table === "training" && !styles.has(label))) continue;
    const members = all.filter((run) => within.has(run));
    const curves = curvesOf(table, members, column, state.x, state.smoothing);
    if (!curves.length) continue;
    const b = band(curves);
    if (!styles.has(label)) {
      others.x.push(...b.x, null);
      others.y.push(...b.mean, null);
      others.count += 1;
      continue;
    }
    fewest.set(label, Math.min(curves.length, fewest.get(label) ?? Infinity));
    const { colour, dash } = styles.get(label);
    const common = { legendgroup: label, mode: "lines", type: "scatter" };
    if (state.single && curves.length > 1) {
      for (const c of curves.filter((c) => state.chosen.has(c.run))) {
        traces.push({ ...common, x: c.x, y: c.y, showlegend: false, line: { color: translucent(colour, 0.28), width: 1 }, name: escaped(DATA.runs[c.run].name), hovertemplate: "%{y:.4g} at %{x}<extra>%{fullData.name}</extra>" });
      }
    }
    if (b.low.some((v) => v !== null)) {
      const isFew = few(curves.length); // marked by an outline
      const line = isFew ? { color: translucent(colour, 0.55), dash: "dot", width: 1 } : { width: 0 };
      const ends = { ...common, x: b.x, showlegend: false, hoverinfo: "skip", line, meta: { few: isFew } };
      traces.push({ ...ends, y: b.low });
      traces.push({ ...ends, y: b.high, fill: "tonexty", fillcolor: translucent(colour, isFew ? 0.05 : styles.size > BANDS_AT_MOST ? 0.08 : 0.16) });
    }
    const title = curves.length === 1 ? DATA.runs[curves[0].run].name : `${label} (${curves.length} runs)`;
    traces.push({ ...common, x: b.x, y: b.mean, name: escaped(label), mode: b.x.length < 12 ? "lines+markers" : "lines", marker: { size: 5 }, line: { color: colour, dash, width: 2.2 }, hovertemplate: `%{y:.4g} at %{x}<extra>${escaped(title)}</extra>` });
  }
  if (others.count) {
    traces.unshift({ x: others.x, y: others.y, type: "scatter", mode: "lines", name: otherGroups(others.count), line: { color: translucent(DATA.behaviour_colour, 0.35), width: 1 }, hoverinfo: "skip" });
  }
  return traces;
}

const otherGroups = (count) => plural(count, "other group");

// ---- plotting

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(layout) {
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map(css);
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, tickfont: { color: soft }, title: { standoff: 8 } };
  const joined = { ...layout };
  for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((k) => /^[xy]axis\d+$/.test(k))]) {
    joined[name] = { ...axis, ...layout[name], title: { ...axis.title, ...(layout[name] || {}).title } };
  }
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 }, margin: { l: 55, r: 15, t: 34, b: 45 }, hoverlabel: { namelength: -1 }, ...joined };
}

// saved with a legend if the page has one beside the plot
function plot(target, traces, layout, name, { legend = false, zoom = true } = {}) {
  const save = (format) => ({
    name: `save as ${format.toUpperCase()}`, title: `save as ${format.toUpperCase()}`,
    icon: format === "svg" ? Plotly.Icons.disk : Plotly.Icons.camera,
    click: (gd) => Plotly.downloadImage(
      { data: gd.data, layout: { ...gd.layout, paper_bgcolor: css("--back"), ...(legend ? { showlegend: true, legend: legendBelow } : {}) } },
      { format, filename: name, width: 900, height: 560, scale: format === "png" ? 2 : 1 },
    ),
  });
  const zooming = zoom ? [["zoom2d", "pan2d", "resetScale2d"]] : [];
  return Plotly.react(target, traces, themed(layout), { responsive: true, displaylogo: false, modeBarButtons: [...zooming, [save("svg"), save("png")]] });
}

function panel(home, id) {
  let div = $(id);
  if (!div) { div = document.createElement("div"); div.id = id; home.append(div); }
  return div;
}

const legendBelow = { orientation: "h", y: -0.2, yanchor: "top", font: { size: 11 }, itemwidth: 30, tracegroupgap: 0, traceorder: "normal" };

// of an axis of numbers, as two labels may be shortened to the same
function ticks(labels, most = Infinity) {
  const shownOnes = labels.map((_, i) => i).filter((i) => i % Math.max(1, Math.ceil(labels.length / most)) === 0);
  return { tickmode: "array", tickvals: shownOnes, ticktext: shownOnes.map((i) => brief(labels[i])), zeroline: false };
}

// ---- sections

let shown = new Set(); // the runs that the table shows

function state() {
  const single = shown.size > MANY ? new Set() : shown;
  $("single-of").textContent = shown.size > MANY ? `(at most ${MANY}: filter the run table)` : "";
  return { chosen: single, colour: $("colour").value, facet: $("facet").value, x: $("x").value, y: $("y").value, smoothing: +$("smoothing").value, single: $("single").checked };
}

const xTitle = (s) => (s.x === "step" ? "gradient steps" : "wall time (s)");

function legendEntries(styles, fewest) { // of what is drawn, or was before it was hidden
  const known = [...styles].filter(([label]) => fewest.has(label) || hidden.has(label));
  return known.map(([label, style]) => ({ label, ...style, few: few(fewest.get(label) ?? Infinity) }));
}

function toggle(label) {
  if (!hidden.delete(label)) hidden.add(label);
  redraw();
}

function drawLearning(s) {
  const groups = groupsBy(s.colour);
  const styles = stylesBy(s.colour);
  const facets = groupsBy(s.facet);
  const fewest = new Map();
  const drawn = [...facets].map(([label, members]) => ({ label, members, traces: curveTraces("evaluation", s.y, groups, styles, new Set(members), s, fewest) }));
  const panels = facets.size > 1 ? drawn.filter(({ traces }) => traces.length) : drawn;
  const entries = legendEntries(styles, fewest);
  const unstyled = [...groups.keys()].filter((label) => !styles.has(label)).length;
  if (unstyled) entries.push({ label: otherGroups(unstyled), colour: DATA.behaviour_colour, dash: "solid", isGroup: false });
  for (const { members, traces } of panels.filter((each) => each.traces.length)) {
    const ends = traces.flatMap((t) => [t.x[0], t.x.findLast((v) => v !== null)]);
    const lines = behaviours(members, BEHAVIOURS[s.y]);
    for (const [task, value] of lines) {
      const name = lines.length > 1 ? `behaviour, ${task}` : "behaviour policy";
      traces.push({ x: [Math.min(...ends), Math.max(...ends)], y: [value, value], mode: "lines", type: "scatter", name: escaped(name), line: { color: DATA.behaviour_colour, dash: "dash", width: 1.6 }, hovertemplate: `${digits(value)}<extra>behaviour on ${escaped(task)}</extra>` });
      if (!entries.some((entry) => entry.label === name)) entries.push({ label: name, colour: DATA.behaviour_colour, dash: "dash", isGroup: false });
    }
  }
  drawLegend($("learning-legend"), entries, { hidden, onclick: toggle });
  const counted = panels.flatMap(({ traces }) => traces).filter((t) => !t.meta?.few); // wide intervals would flatten the rest
  const range = facets.size > 1 && $("shared").checked ? rangeOf(counted) : undefined;
  const home = $("learning");
  home.classList.toggle("one", facets.size === 1);
  home.replaceChildren();
  panels.forEach(({ label, traces }, index) => {
    const tall = facets.size === 1;
    plot(panel(home, `learning-${index}`), traces, {
      title: tall ? undefined : { text: escaped(label), font: { size: 13 } },
      height: tall ? 430 : 320, showlegend: false,
      xaxis: { title: { text: xTitle(s) } }, yaxis: { title: { text: escaped(s.y.replaceAll("_", " ")) }, range },
    }, `learning_${s.y}_${index}`, { legend: true });
  });
}

function rangeOf(traces) {
  const ys = traces.flatMap((t) => t.y).filter((y) => y !== null);
  const [low, high] = [ys.reduce((a, b) => Math.min(a, b), Infinity), ys.reduce((a, b) => Math.max(a, b), -Infinity)];
  const pad = 0.05 * (high - low || 1);
  return [low - pad, high + pad];
}

const BEHAVIOURS = { return_mean: "behaviour_return", normalized_score: "behaviour_score" };

function behaviours(members, column) { // data set and value of the policies that collected it
  const found = new Map();
  for (const run of members.map((index) => DATA.runs[index])) {
    const value = run[column] ?? null; // null also where a run collects its own data
    if (value !== null) found.set(`${run.dataset} ${value}`, [run.dataset, value]);
  }
  return [...found.values()];
}

function drawTraining(s) {
  const groups = groupsBy(s.colour);
  const styles = stylesBy(s.colour);
  const everything = new Set(DATA.runs.keys());
  const columns = columnsOf("training");
  const fewest = new Map();
  columns.forEach((column, index) => {
    const traces = curveTraces("training", column, groups, styles, everything, s, fewest);
    plot(panel($("training"), `training-${column}`), traces, {
      title: { text: escaped(column.replaceAll("_", " ")), font: { size: 13 } }, height: 270, showlegend: false,
      xaxis: { title: { text: index < columns.length - 3 ? "" : xTitle(s) } },
    }, column, { legend: true });
  });
  drawLegend($("training-legend"), legendEntries(styles, fewest), { hidden, onclick: toggle });
  if (!columns.length) $("training").textContent = "No training statistics yet.";
}

// ---- aggregates

const estimatesOf = (found) => Object.keys(WORDS).filter((n) => found.length && found[0][n]);

function ranked() { // groups with an evaluation, the best first
  return DATA.aggregates[$("which").value].map((a, i) => ({ ...a, rank: i + 1, label: marked(a.group, a.num_runs) }));
}

function drawAggregates() {
  const which = $("which").value;
  const found = ranked();
  const names = estimatesOf(found);
  $("aggregates-how").textContent = `The ${which} evaluation's ${unit} of each run${which === "best" ? " (chosen in hindsight: higher than a policy picked beforehand would reach)" : ""}, over ${plural(new Set(DATA.runs.map((r) => r.dataset)).size, "data set")} (Agarwal et al. 2021). ${DATA.intervals}` + (names.includes("optimality_gap") ? " Optimality gap: how far below 100, lower is better." : "") + (found.some((a) => few(a.num_runs)) ? ` † and hollow marks: fewer than ${DATA.few} runs.` : "");
  if (!found.length) $("intervals").textContent = "No run has an evaluation yet.";
  drawAggregateTable(found, names);
  drawChoice();
}

function drawAggregateTable(found, names) {
  const keyed = DATA.keys.length ? DATA.keys : ["group"];
  const value = (a, key) => (DATA.keys.length ? DATA.runs[MEMBERS.get(a.group)[0]].values[key] : a.group);
  const head = [
    { text: "draw", csv: [] }, { text: "#", csv: [] },
    ...keyed.map((key) => ({ text: short(key), csv: [key] })),
    { text: "runs", csv: ["measure", "runs"] },
    ...names.map((n) => ({ text: `${WORDS[n]} [95% CI]`, csv: [n, `${n}_low`, `${n}_high`] })),
    "std",
  ];
  const measure = `${$("which").value} ${unit}`;
  const rows = found.map((a) => [
    { html: `<input type="checkbox" data-group="${DATA.groups.indexOf(a.group)}" aria-label="draw">`, text: "", sort: a.rank, csv: [] },
    { text: String(a.rank), sort: a.rank, csv: [] },
    ...keyed.map((key) => ({ text: written(key, value(a, key)), sort: value(a, key) })),
    { text: few(a.num_runs) ? `${a.num_runs} †` : String(a.num_runs), sort: a.num_runs, csv: [measure, a.num_runs] },
    ...names.map((n) => ({ ...interval(a[n]), csv: a[n] })),
    { text: fixed(a.std), sort: a.std },
  ]);
  table($("aggregate-table"), head, rows);
}

// what depends on the groups that are drawn, and on their colours
function drawChoice() {
  const full = chosen.size >= CHOSEN_AT_MOST;
  for (const box of $("aggregate-table").querySelectorAll("[data-group]")) {
    box.checked = chosen.has(DATA.groups[box.dataset.group]);
    box.disabled = full && !box.checked;
  }
  const all = chosen.size === DATA.groups.length;
  $("drawn").textContent = `${chosen.size} of ${DATA.groups.length} groups are drawn${full ? ", at most" : ""}${all ? "" : "; tick others in the table"}`;
  drawIntervals();
  drawPairs();
}

function drawIntervals() {
  const found = ranked();
  if (!found.length) return;
  const rows = found.filter((a, i) => i < ROWS_AT_MOST || chosen.has(a.group));
  const styles = groupStyles();
  const colours = rows.map((a) => styles.get(a.group)?.colour ?? DATA.behaviour_colour);
  const fills = rows.map((a, i) => (few(a.num_runs) ? css("--back") : colours[i]));
  const names = estimatesOf(found);
  const traces = names.map((name, i) => {
    const e = rows.map((a) => a[name]);
    return { type: "scatter", mode: "markers", x: e.map((v) => v[0]), y: rows.map((_, k) => k), text: rows.map((a) => escaped(a.label)), xaxis: `x${i ? i + 1 : ""}`, yaxis: "y", showlegend: false, marker: { size: 8, color: fills, line: { width: 2, color: colours } }, error_x: { type: "data", symmetric: false, array: e.map((v) => (v[2] === null ? 0 : v[2] - v[0])), arrayminus: e.map((v) => (v[1] === null ? 0 : v[0] - v[1])), color: DATA.behaviour_colour, thickness: 1.4, width: 3 }, hovertemplate: `%{text}<br>${WORDS[name]} %{x:.4g}<extra></extra>` };
  });
  const layout = { height: 95 + 22 * rows.length, yaxis: { ...ticks(rows.map((a) => `${a.label}  ${a.rank}`)), range: [rows.length - 0.4, -0.6], tickfont: { size: 11 } }, margin: { l: 120, r: 15, t: 14, b: 45 } };
  names.forEach((name, i) => {
    const width = 1 / names.length;
    layout[`xaxis${i ? i + 1 : ""}`] = { domain: [i * width + 0.01, (i + 1) * width - 0.01], title: { text: WORDS[name] }, nticks: 5, zeroline: false };
  });
  $("intervals-of").textContent = rows.length < found.length ? `The best ${ROWS_AT_MOST} of ${found.length} groups, and those that are drawn below.` : "";
  plot("intervals", traces, layout, "aggregates");
}

const fixed = (value) => (value === null ? "–" : value.toFixed(Math.abs(value) >= 1000 ? 0 : 1));

function interval([value, low, high]) {
  const text = low === null ? fixed(value) : `${fixed(value)} [${fixed(low)}, ${fixed(high)}]`;
  return { text, sort: value };
}

function scoresOf(group) { // by data set
  const found = new Map();
  for (const run of MEMBERS.get(group).map((index) => DATA.runs[index])) {
    const score = scoreOf(run, $("which").value);
    if (score === null) continue;
    if (!found.has(run.dataset)) found.set(run.dataset, []);
    found.get(run.dataset).push(score);
  }
  return found;
}

function drawPairs() {
  const drawn = ranked().filter((a) => chosen.has(a.group)).map((a) => ({ ...a, scores: scoresOf(a.group) }));
  if (!drawn.length) Plotly.purge("profiles");
  drawImprovement(drawn);
  drawProfiles(drawn);
}

function drawImprovement(drawn) {
  if (drawn.length < 2) {
    Plotly.purge("improvement");
    $("improvement").textContent = "Two groups are needed.";
    return;
  }
  $("improvement").textContent = "";
  const p = drawn.map((a) => drawn.map((b) => (a === b ? null : improvement(a.scores, b.scores))));
  const z = p.map((row) => row.map((e) => (e === null ? null : e[0])));
  const hover = p.map((row, i) => row.map((e, j) => (e === null ? "" : `${escaped(drawn[i].label)}<br>beats ${escaped(drawn[j].label)}<br>${e[0].toFixed(2)}${e[1] === null ? "" : ` [${e[1].toFixed(2)}, ${e[2].toFixed(2)}]`}`)));
  const [worse, equal, better] = DATA.diverging;
  plot("improvement", [
    { type: "heatmap", z, hovertext: hover, hovertemplate: "%{hovertext}<extra></extra>", zmin: 0, zmax: 1, colorscale: [[0, worse], [0.5, equal], [1, better]], showscale: false, xgap: 1, ygap: 1 },
    cellText(z, (v) => v.toFixed(2), (v) => (v > 0.8 ? "#ffffff" : "#14181e")),
  ], {
    height: 95 + 30 * drawn.length, margin: { l: 120, r: 15, t: 14, b: 45 }, showlegend: false,
    yaxis: { ...ticks(drawn.map((a) => `${a.label}  ${a.rank}`)), range: [drawn.length - 0.5, -0.5], showgrid: false, tickfont: { size: 11 } },
    xaxis: { ...ticks(drawn.map((a) => String(a.rank))), range: [-0.5, drawn.length - 0.5], showgrid: false },
  }, "probability_of_improvement", { zoom: false });
}

function cellText(z, text, colour) { // of a heat map, legible on each cell
  const cells = z.flatMap((row, y) => row.map((value, x) => ({ x, y, value }))).filter((cell) => cell.value !== null);
  return { type: "scatter", mode: "text", x: cells.map((c) => c.x), y: cells.map((c) => c.y), text: cells.map((c) => text(c.value)), textfont: { size: 11, color: cells.map((c) => colour(c.value)) }, hoverinfo: "skip", showlegend: false };
}

function drawProfiles(drawn) {
  const styles = groupStyles();
  const every = drawn.flatMap((a) => [...a.scores.values()].flat());
  const [low, high] = rangeOf([{ y: every }]);
  const traces = [];
  for (const { group, label, scores, num_runs } of drawn) {
    const { colour, dash } = styles.get(group);
    const steps = profile([...scores.values()].flat(), low, high);
    const common = { x: steps.x, type: "scatter", mode: "lines", legendgroup: label };
    if (drawn.length <= BANDS_AT_MOST && !few(num_runs)) {
      traces.push({ ...common, y: steps.low, line: { width: 0, shape: "hv" }, showlegend: false, hoverinfo: "skip" });
      traces.push({ ...common, y: steps.high, line: { width: 0, shape: "hv" }, showlegend: false, hoverinfo: "skip", fill: "tonexty", fillcolor: translucent(colour, 0.12) });
    }
    traces.push({ ...common, y: steps.share, name: escaped(label), line: { color: colour, dash, width: 2, shape: "hv" }, hovertemplate: `%{y:.0%} above %{x:.4g}<extra>${escaped(label)}</extra>` });
  }
  drawLegend($("profiles-legend"), drawn.map((a) => ({ label: `${a.rank}  ${a.group}`, ...styles.get(a.group), few: few(a.num_runs) })));
  if (drawn.length) plot("profiles", traces, { height: 340, showlegend: false, margin: { l: 55, r: 15, t: 14, b: 45 }, xaxis: { title: { text: unit } }, yaxis: { tickformat: ".0%", range: [-0.02, 1.02], title: { text: "runs above" } } }, "performance_profiles", { legend: true });
}

// ---- hyperparameters

const scoreOf = (run, which = DATA.which) => (unit === "return" ? run[`${which}_return`] : run[`${which}_score`]);

function drawHyperparameters() {
  const keys = DATA.keys;
  if (!keys.length) { $("hyperparameters").hidden = true; return; }
  const runs = DATA.runs.filter((run) => scoreOf(run) !== null);
  const dimensions = keys.map((key) => dimension(key, runs));
  const scores = runs.map((run) => scoreOf(run));
  dimensions.push({ label: unit, values: scores });
  const ink = css("--ink");
  if (runs.length) plot("parallel", [{ type: "parcoords", dimensions, line: { color: scores, colorscale: "Viridis", showscale: true, colorbar: { thickness: 12, title: { text: unit, side: "right" } } }, labelfont: { color: ink, size: 12 }, tickfont: { color: ink, size: 11 }, rangefont: { color: "rgba(0,0,0,0)", size: 1 }, labelangle: keys.length > 8 ? -20 : 0 }], { height: 340, margin: { l: 70, r: 60, t: 50, b: 20 } }, "parallel_coordinates", { zoom: false });
  const entries = Object.entries(DATA.importance).reverse();
  plot("importance", [{ type: "bar", orientation: "h", y: entries.map(([k]) => escaped(k)), x: entries.map(([, v]) => v), marker: { color: DATA.neutral_colour }, text: entries.map(([, v]) => `${(100 * v).toFixed(0)}%`), textposition: "outside", cliponaxis: false, hovertemplate: "%{y}: %{x:.1%}<extra></extra>" }], { height: 90 + 28 * entries.length, margin: { l: 55, r: 15, t: 14, b: 45 }, xaxis: { tickformat: ".0%", range: [0, Math.min(1.1, 1.25 * Math.max(0.05, ...entries.map(([, v]) => v)))] }, yaxis: { type: "category" } }, "importance", { zoom: false });
  const range = rangeOf(keys.map((k) => ({ y: [...DATA.marginals[k].low, ...DATA.marginals[k].high, ...DATA.marginals[k].mean] })));
  for (const key of keys) drawMarginal(key, range);
  drawHeat();
}

function drawMarginal(key, range) {
  const m = DATA.marginals[key];
  const colours = m.value.map((value) => (key === ALGORITHM ? DATA.algorithms[value] : DATA.neutral_colour));
  const joined = DATA.runs.every((run) => typeof run.values[key] === "number"); // numbers have an order
  plot(panel($("marginals"), `marginal-${key}`), [{ type: "scatter", mode: joined ? "lines+markers" : "markers", x: m.value.map((_, i) => i), y: m.mean, line: { color: DATA.neutral_colour, width: 1.4, dash: "dot" }, marker: { size: 9, color: colours.map((colour, i) => (few(m.num_runs[i]) ? css("--back") : colour)), line: { width: 2, color: colours } }, error_y: { type: "data", symmetric: false, array: m.high.map((v, i) => (v === null ? 0 : v - m.mean[i])), arrayminus: m.low.map((v, i) => (v === null ? 0 : m.mean[i] - v)), color: DATA.behaviour_colour, thickness: 1.6 }, text: m.value.map(escaped), customdata: m.num_runs, hovertemplate: `${escaped(key)}=%{text}<br>%{y:.4g}, %{customdata} runs<extra></extra>` }], { height: 280, title: { text: escaped(key), font: { size: 13 } }, xaxis: { ...ticks(m.value.map((value, i) => marked(value, m.num_runs[i]))), range: [-0.4, m.value.length - 0.6], showgrid: false }, yaxis: { title: { text: unit }, range } }, `marginal_${key}`);
}

function dimension(key, runs) {
  const values = runs.map((run) => run.values[key]);
  const levels = [...new Set(values)];
  const label = escaped(short(key));
  const isNumeric = values.every((v) => typeof v === "number");
  if (isNumeric && levels.length > 8) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (low <= 0 || high / low <= 30) return { label, values };
    const points = [low, Math.sqrt(low * high), high];
    return { label, values: values.map(Math.log10), tickvals: points.map(Math.log10), ticktext: points.map(digits) };
  }
  levels.sort(inOrder); // evenly spaced: sweeps choose 0.001, 0.01, 0.1
  return { label, values: values.map((v) => levels.indexOf(v)), tickvals: levels.map((_, i) => i), ticktext: levels.map((v) => escaped(written(key, v))), range: [-0.1, levels.length - 0.9] };
}

function drawHeat() {
  const [kx, ky] = [$("heat-x").value, $("heat-y").value];
  $("two-keys").hidden = $("heat-x").length < 2;
  if (!ky || kx === ky) { Plotly.purge("heat"); $("heat").textContent = "Choose two different keys."; return; }
  $("heat").textContent = "";
  const [xs, ys] = [groupsBy(kx), groupsBy(ky)];
  const cell = (x, y) => x.filter((run) => y.has(run)).map((run) => scoreOf(DATA.runs[run])).filter((v) => v !== null);
  const cells = [...ys.values()].map((y) => new Set(y)).map((y) => [...xs.values()].map((x) => cell(x, y)));
  const z = cells.map((row) => row.map(meanOf));
  const known = z.flat().filter((v) => v !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const crowded = xs.size * ys.size > 80;
  const text = cellText(z, digits, (v) => ((v - low) / (high - low || 1) > 0.55 ? "#14181e" : "#ffffff"));
  const names = (key, groups) => [...groups.keys()].map((label) => label.slice(short(key).length + 1));
  const hover = [...ys.keys()].map((y) => [...xs.keys()].map((x) => escaped(`${x}, ${y}`)));
  plot("heat", [
    { type: "heatmap", z, hovertext: hover, customdata: cells.map((row) => row.map((v) => v.length)), colorscale: "Viridis", xgap: 1, ygap: 1, colorbar: { thickness: 12 }, hovertemplate: "%{hovertext}<br>%{z:.4g}, %{customdata} runs<extra></extra>" },
    ...(crowded ? [] : [text]),
  ], { height: 340, margin: { l: 55, r: 15, t: 14, b: 45 }, xaxis: { ...ticks(names(kx, xs), 20), showgrid: false, title: { text: escaped(short(kx)) } }, yaxis: { ...ticks(names(ky, ys), 20), showgrid: false, title: { text: escaped(short(ky)) } } }, "two_keys");
}

// ---- tables

const isCell = (cell) => cell !== null && typeof cell === "object";
const sortOf = (cell) => (isCell(cell) ? cell.sort : cell) ?? null;
const csvOf = (cell) => (isCell(cell) && cell.csv !== undefined ? cell.csv : [isCell(cell) && cell.sort === undefined ? cell.text : sortOf(cell)]);

// head: texts, or {text, csv: names of columns}; a cell is a value, or {text, html, title, sort,
// csv: its values in those columns}, by default the value that it is sorted by
function table(target, head, rows) {
  const numeric = head.map((_, i) => rows.some((row) => typeof sortOf(row[i]) === "number"));
  target.innerHTML = `<thead><tr>${head.map((h, i) => `<th class="${numeric[i] ? "number" : ""}">${escaped(isCell(h) ? h.text : h)}</th>`).join("")}</tr></thead><tbody></tbody>`;
  target.csv = head.flatMap(csvOf);
  const body = target.tBodies[0];
  for (const row of rows) {
    const tr = body.insertRow();
    tr.csv = row.flatMap(csvOf);
    row.forEach((cell, i) => {
      const td = tr.insertCell();
      td.className = numeric[i] ? "number" : "wide";
      if (isCell(cell) && cell.html) td.innerHTML = cell.html;
      else td.textContent = isCell(cell) ? cell.text : digits(cell);
      if (isCell(cell) && cell.title) td.title = cell.title;
      td.dataset.sort = JSON.stringify(sortOf(cell));
    });
  }
  [...target.tHead.rows[0].cells].forEach((th, column) => {
    th.tabIndex = 0;
    th.onkeydown = (event) => { if (event.key === "Enter") th.click(); };
    th.onclick = () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      for (const other of target.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (tr) => JSON.parse(tr.cells[column].dataset.sort);
      const order = (a, b) => (a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * inOrder(a, b));
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    };
  });
}

// a run's name without what the columns next to it show; a number if nothing is left
function briefName(run, index, columns) {
  const [name, ...parents] = run.name.split("/").reverse();
  const parts = name.match(/(?:\[[^\]]*\]|[^,])+/g) ?? [name];
  const rest = parts.filter((part) => !columns.has(part.split("=", 1)[0]) || !part.includes("="));
  return [...parents.reverse(), rest.join(",")].filter(Boolean).join("/") || `#${index + 1}`;
}

function drawRuns() {
  const hasScore = DATA.runs.some((r) => r.last_score !== null);
  const manySets = new Set(DATA.runs.map((r) => r.dataset)).size > 1;
  const columns = new Set([...DATA.keys, "seed", ...(manySets ? ["dataset"] : [])]);
  const head = [
    "run", "status", { text: "step", csv: ["step", "num_steps"] }, ...(manySets ? ["dataset"] : []),
    ...DATA.keys.map((k) => ({ text: short(k), csv: [k] })), "seed",
    { text: "last return", csv: ["last_return"] }, { text: "best return", csv: ["best_return"] },
    ...(hasScore ? [{ text: "last score", csv: ["last_score"] }] : []),
    { text: "steps/s", csv: ["steps_per_second"] }, "command",
  ];
  const rows = DATA.runs.map((r, i) => [
    { html: `<a href="${escaped(r.href)}">${escaped(briefName(r, i, columns))}</a>`, sort: r.name, title: r.name },
    { html: `<span class="status-${escaped(r.status)}" title="${escaped(r.reason || "")}">${escaped(r.status)}</span>`, sort: r.status },
    { text: `${r.step}/${r.num_steps}`, sort: r.step, csv: [r.step, r.num_steps] },
    ...(manySets ? [r.dataset] : []),
    ...DATA.keys.map((k) => ({ text: written(k, r.values[k]), sort: r.values[k] })),
    r.seed, r.last_return, r.best_return, ...(hasScore ? [r.last_score] : []), r.steps_per_second,
    { html: `<button class="copy" title="${escaped(r.command)}">copy</button>`, sort: r.command },
  ]);
  table($("run-table"), head, rows);
  const searched = DATA.runs.map((r) => {
    const values = [["seed", r.seed], ["dataset", r.dataset], ...DATA.keys.map((k) => [k, written(k, r.values[k])])];
    const pairs = values.flatMap(([k, v]) => [`${k}=${v}`, `${short(k)}=${v}`]);
    const text = [r.name, r.status, r.reason, ...pairs].join(" ").toLowerCase();
    return { text, parts: new Set(text.split(/[\s,]+/)) };
  });
  [...$("run-table").tBodies[0].rows].forEach((tr, i) => { tr.dataset.run = i; });
  $("run-table").addEventListener("click", (event) => {
    if (!event.target.matches(".copy")) return;
    if (!navigator.clipboard) { prompt("Command:", event.target.title); return; } // a page that is served by http has none
    navigator.clipboard.writeText(event.target.title);
    event.target.textContent = "copied";
    setTimeout(() => (event.target.textContent = "copy"), 900);
  });
  $("filter").oninput = () => {
    shown = new Set();
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const tr of $("run-table").tBodies[0].rows) {
      const { text, parts } = searched[tr.dataset.run];
      const matches = words.every((w) => (/^[^,]+=[^,]+$/.test(w) ? parts.has(w) : text.includes(w))); // seed=1 is not seed=10
      tr.hidden = !matches;
      if (matches) shown.add(+tr.dataset.run);
    }
    $("shown").textContent = `${shown.size} of ${DATA.runs.length} runs`;
  };
  $("filter").oninput();
  $("filter").onchange = () => { if ($("single").checked) redraw(); };
}

function asCsv(target) {
  const field = (value) => {
    const text = value === null || value === "–" ? "" : String(value); // which stands for no value
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = [...target.tBodies[0].rows].filter((tr) => !tr.hidden).map((tr) => tr.csv);
  return [target.csv, ...rows].map((row) => row.map(field).join(",")).join("\n") + "\n";
}

const ESTIMATORS = { fqe: "fitted Q evaluation", fqe_low: "its interval's lower end", critic_value: "own critic's value", td_error: "own TD error" };

const WEIGHTED = { fqe: "fitted Q evaluation", dr: "doubly robust", pdwis: "PDWIS", wis: "WIS" };
const fine = (v) => (v !== null && Math.abs(v) < 10 ? v.toFixed(2) : fixed(v)); // rewards may be 0 or 1
const percent = (v) => ({ text: v === null ? "–" : `${(100 * v).toFixed(0)}%`, sort: v });

function drawEstimators(s, policies, estimate) { // of discrete actions
  const c = s.calibration ?? {}, names = Object.entries(WEIGHTED); // a file without weights has none
  $("selection-estimators").hidden = c.error === undefined;
  if (c.error === undefined) return;
  const head = ["run", ...names.map(([name, words]) => ({ text: `${words} ± interval`, csv: [name, `${name}_low`, `${name}_high`] })), "effective episodes", "least effective at a step", "supported actions"];
  table($("estimator-table"), head, policies.map((p) => [{ text: p.run, sort: p.run }, ...names.map(([name]) => estimate(p, name, "–")), ...[p.ess, p.ess_least].map((v) => ({ text: fixed(v), sort: v })), percent(p.support)]));
  plot("estimator-plot", names.map(([name, words], i) => ({ y: policies.map((p) => escaped(p.run)), x: policies.map((p) => p[name]), error_x: { type: "data", array: policies.map((p) => (p[`${name}_high`] === null ? 0 : p[`${name}_high`] - p[name])), thickness: 1.2 }, orientation: "h", mode: "markers", marker: { size: 7, color: DATA.palette[i] }, name: words, hovertemplate: "%{y}<br>%{x:.4g}<extra>%{fullData.name}</extra>" })), { height: Math.max(260, 90 + 34 * policies.length), legend: legendBelow, scattermode: "group", xaxis: { title: { text: "value" } }, yaxis: { automargin: true, autorange: "reversed", type: "category" } }, "estimators");
  $("calibration-how").textContent = `Most probable action taken: ${(100 * c.accuracy).toFixed(0)}%. Expected calibration error: ${c.error.toFixed(3)}. Log loss: ${c.log_loss.toFixed(3)}; without the state: ${c.marginal_log_loss.toFixed(3)}.`;
  const [said, found, counts] = [0, 1, 2].map((k) => c.reliability.map((row) => row[k]));
  plot("calibration-plot", [
    { x: [0, 1], y: [0, 1], mode: "lines", line: { color: DATA.behaviour_colour, dash: "dash", width: 1.6 }, hoverinfo: "skip", showlegend: false },
    { x: said, y: found, text: counts, mode: "markers+lines", marker: { size: 8, color: DATA.palette[0] }, line: { color: DATA.palette[0] }, hovertemplate: "probability %{x:.2f}, taken %{y:.2f}<br>%{text} steps<extra></extra>", showlegend: false },
  ], { height: 360, xaxis: { title: { text: "probability of the most probable action" }, range: [0, 1.02] }, yaxis: { title: { text: "share of steps in which it was taken" }, range: [0, 1.02] } }, "calibration");
}

function drawSelection() {
  const s = DATA.selection;
  $("selection").hidden = $("selection-link").hidden = !s;
  if (!s) return;
  $("selection-how").textContent = `Discount ${s.settings.gamma}${s.settings.horizon ? `, ${s.settings.horizon} steps` : ""}.`;
  $("selection-notes").innerHTML = s.notes.map((note) => `<li>${escaped(note[0].toUpperCase() + note.slice(1))}.</li>`).join("");
  const head = ["rank", "run", "step", { text: "value ± interval", csv: ["value", "value_low", "value_high"] }, "better than behaviour", "own critic", "own TD error", "supported actions", "discounted return", "return"];
  const behaviour = { run: "behaviour policy, as recorded", step: null, critic_value: null, td_error: null, ...s.behaviour };
  const estimate = (p, name, none) => ({ text: p[name] === null ? none : `${fine(p[name])}${p[`${name}_high`] === null ? "" : ` ± ${fine(p[`${name}_high`] - p[name])}`}`, sort: p[name], csv: [p[name], p[`${name}_low`], p[`${name}_high`]] });
  const rows = [behaviour, ...s.policies].map((p, i) => [
    i || null,
    { text: p.run, sort: p.run },
    p.step,
    estimate(p, "fqe", "diverged"),
    p.better ?? null,
    ...[p.critic_value, p.td_error].map((v) => ({ text: fine(v), sort: v })),
    percent(p.support ?? null),
    ...[p.discounted_return, p.return_mean].map((v) => ({ text: fine(v), sort: v })),
  ]);
  table($("selection-table"), head, rows);
  drawEstimators(s, [behaviour, ...s.policies], estimate);
  const areKnown = s.policies.some((p) => p.return_mean !== null);
  $("selection-returns").hidden = !areKnown;
  if (!areKnown) return;
  const known = s.policies.filter((p) => p.fqe !== null && p.discounted_return !== null);
  const missing = s.policies.length - known.length;
  $("selection-missing").textContent = known.length && missing ? `${missing} of ${s.policies.length} are missing: they have no estimate, or no discounted return.` : "";
  if (known.length) {
    const ends = [...known.map((p) => p.discounted_return), ...known.map((p) => p.fqe)];
    const range = [Math.min(...ends), Math.max(...ends)];
    plot("selection-scatter", [
      { x: range, y: range, mode: "lines", line: { color: DATA.behaviour_colour, dash: "dash", width: 1.6 }, hoverinfo: "skip", showlegend: false },
      { x: known.map((p) => p.discounted_return), y: known.map((p) => p.fqe), error_y: { type: "data", array: known.map((p) => (p.fqe_high === null ? 0 : p.fqe_high - p.fqe)), color: translucent(DATA.palette[0], 0.35), thickness: 1.2 }, mode: "markers", marker: { size: 8, color: DATA.palette[0] }, text: known.map((p) => escaped(p.run)), hovertemplate: "%{text}<br>%{y:.4g} estimated, %{x:.4g} returned<extra></extra>", showlegend: false },
    ], { height: 400, xaxis: { title: { text: "discounted return of the evaluation" } }, yaxis: { title: { text: "estimate" } } }, "estimate_and_truth");
  } else $("selection-scatter").textContent = "No discounted return is known.";
  const starts = Object.entries(s.budget);
  if (starts.length) {
    const words = { uniform: "starting with any policy", fqe: "starting with the ranking" };
    const traces = starts.flatMap(([start, b], i) => [
      { x: b.episodes, y: b.low, line: { width: 0 }, hoverinfo: "skip", showlegend: false, mode: "lines" },
      { x: b.episodes, y: b.high, line: { width: 0 }, fill: "tonexty", fillcolor: translucent(DATA.palette[i], 0.12), hoverinfo: "skip", showlegend: false, mode: "lines" },
      { x: b.episodes, y: b.returns, name: words[start], mode: "lines", line: { color: DATA.palette[i], width: 2.2 }, hovertemplate: "%{y:.4g} after %{x} episodes<extra>%{fullData.name}</extra>" },
    ]);
    plot("selection-budget", traces, { height: 400, legend: legendBelow, xaxis: { title: { text: "episodes in the environment" } }, yaxis: { title: { text: "return" } } }, "online_budget");
  } else $("selection-budget").textContent = "No ranking could be checked.";
  const two = (v) => (v === null ? "–" : v.toFixed(2));
  const measures = Object.keys(Object.values(s.quality)[0] || {});
  const cells = (found) => measures.map((m) => ({ text: found[m].value === null ? "–" : `${two(found[m].value)} [${two(found[m].low)}, ${two(found[m].high)}]`, sort: found[m].value }));
  table($("selection-quality"), ["ranked by", ...measures], Object.entries(s.quality).map(([name, found]) => [ESTIMATORS[name] + (found.spearman.num_policies < s.policies.length ? `, of ${found.spearman.num_policies}` : ""), ...cells(found)]));
}

function drawNotes() {
  const link = (f) => `<li><a href="${escaped(DATA.runs[f.run].href)}">${escaped(DATA.runs[f.run].name)}</a>: ${escaped(f.detail)}</li>`;
  const kinds = new Map();
  for (const f of DATA.findings) kinds.set(f.kind, [...(kinds.get(f.kind) || []), f]);
  const blocks = [...kinds].map(([kind, found]) => `<details class="finding ${found[0].severity}" ${found.length < 4 ? "open" : ""}><summary><b>${escaped(kind)}</b> ${plural(found.length, "run")}</summary><ul>${found.map(link).join("")}</ul></details>`);
  $("notes").innerHTML = DATA.notes.map((n) => `<div class="note">${escaped(n)}</div>`).join("") + blocks.join("");
}

function drawReproduction() {
  const counted = (counts) => Object.entries(counts).map(([v, n]) => (Object.keys(counts).length > 1 ? `${escaped(v)} (${plural(n, "run")})` : escaped(v))).join(", ");
  const { versions, commits, data } = DATA.reproduction;
  const rows = data.map(([task, digest, n]) => `<tr><th>data set</th><td>${escaped(task)}</td><td><code>${escaped(digest)}</code></td><td>${plural(n, "run")}</td></tr>`);
  rows.push(`<tr><th>commit</th><td colspan="3"><code>${counted(commits)}</code></td></tr>`);
  for (const [name, counts] of Object.entries(versions)) rows.push(`<tr><th>${escaped(name)}</th><td colspan="3">${counted(counts)}</td></tr>`);
  $("versions").innerHTML = `<table><tbody>${rows.join("")}</tbody></table><p class="how">Each run's exact command is in the table above; its whole configuration is <code>.hydra/config.yaml</code> in its folder.</p>`;
}

// ---- the page

const CONTROLS = document.querySelectorAll("nav :is(select, input), #y, #which, #heat-x, #heat-y, #filter");

function keep() { // what the reader chose, for when the page reloads itself (watch=)
  const isChosen = String([...chosen.keys()]) !== String(DATA.best_few);
  const controls = [...CONTROLS].map(({ value, checked }) => ({ value, checked }));
  history.replaceState({ controls, groups: isChosen ? [...chosen.keys()] : null, theme: document.documentElement.dataset.theme }, "");
}

function restore({ controls, groups, theme }) {
  controls.forEach(({ value, checked }, i) => {
    const control = CONTROLS[i];
    if (control.type === "checkbox") control.checked = checked;
    else if (!control.options || [...control.options].some((option) => option.value === value)) control.value = value;
  });
  if (groups) chooseOnly(groups.filter((group) => MEMBERS.has(group)));
  $("shared-label").hidden = $("facet").value === NONE;
  document.documentElement.dataset.theme = theme;
}

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
  drawHyperparameters();
  drawSelection();
}

function facetted() { // returns on several data sets have no common scale
  $("shared-label").hidden = $("facet").value === NONE;
  $("shared").checked = $("facet").value !== "dataset" || $("y").value.includes("score");
}

function startColour(keys) { // the key that explains most
  const [best] = Object.entries(DATA.importance).find(([key, share]) => key !== "seed" && share > 0) ?? [];
  return best ?? (DATA.groups.length > DATA.best_few.length ? keys[0] : ALL_KEYS);
}

function start() {
  const counts = {};
  for (const run of DATA.runs) counts[run.status] = (counts[run.status] || 0) + 1;
  $("headline").textContent = `${plural(DATA.runs.length, "run")} (${Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", ")}) in ${plural(DATA.groups.length, "group")}, ${DATA.created.replace("T", " ").replace("+00:00", " UTC")}`;
  const sets = new Set(DATA.runs.map((r) => r.dataset)).size > 1 ? ["dataset"] : [];
  const keys = DATA.keys;
  options($("colour"), [ALL_KEYS, ...sets, ...keys, "seed", NONE], startColour(keys));
  options($("facet"), [NONE, ...sets, ...keys, "seed"], sets.length ? "dataset" : NONE);
  const columns = columnsOf("evaluation");
  options($("y"), columns.length ? columns : ["return_mean"], unit === "return" ? "return_mean" : "normalized_score");
  options($("heat-x"), keys, keys[0]);
  options($("heat-y"), keys, keys[1]);
  $("single").checked = DATA.runs.length <= 60;
  facetted();
  $("colour").addEventListener("change", () => { hidden.clear(); redraw(); });
  for (const id of ["facet", "y"]) $(id).addEventListener("change", facetted);
  for (const id of ["facet", "y", "shared"]) $(id).addEventListener("change", () => drawLearning(state()));
  for (const id of ["x", "smoothing", "single"]) $(id).addEventListener("change", redraw);
  $("which").value = DATA.which;
  for (const place of document.querySelectorAll(".of-which")) place.textContent = `By each run's ${DATA.which} evaluation.`;
  for (const place of document.querySelectorAll(".few")) place.textContent = `† and hollow marks: fewer than ${DATA.few} runs.`;
  $("which").addEventListener("change", drawAggregates);
  $("choice").hidden = DATA.groups.length < 2;
  const rechoose = (change) => { change(); if ($("colour").value === ALL_KEYS) redraw(); drawChoice(); };
  $("aggregate-table").addEventListener("change", ({ target: box }) => rechoose(() => choose(DATA.groups[box.dataset.group], box.checked)));
  $("choose-best").textContent = `best ${DATA.best_few.length}`;
  $("choose-best").onclick = () => rechoose(() => chooseOnly(ranked().slice(0, DATA.best_few.length).map((a) => a.group)));
  $("choose-none").onclick = () => rechoose(() => chooseOnly([]));
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
  let wasDark = false; // paper is light
  addEventListener("beforeprint", () => { wasDark = document.documentElement.dataset.theme === "dark"; if (wasDark) $("theme").click(); });
  addEventListener("afterprint", () => { if (wasDark) $("theme").click(); });
  const kept = history.state;
  if (kept) restore(kept);
  if (document.querySelector("meta[http-equiv=refresh]")) for (const event of ["change", "input", "click"]) addEventListener(event, keep);
  drawNotes();
  drawRuns();
  drawReproduction();
  drawAll();
  document.body.dataset.ready = "true";
}

start();
