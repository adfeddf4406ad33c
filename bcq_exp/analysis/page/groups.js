"use strict";
// Groups of runs: their labels, which of them are drawn, and their colours.

const DATA = JSON.parse(document.getElementById("data").textContent);

const ALL_KEYS = "all keys";
const NONE = "none";
const ALGORITHM = "algo";
const CHOSEN_AT_MOST = 20;
const $ = (id) => document.getElementById(id);

const short = (key) => (Object.hasOwn(DATA.short, key) ? DATA.short[key] : key);

function digits(value) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 1 ? value.toFixed(1) : String(+value.toPrecision(3));
}

const TEXTS = new Map(DATA.keys.map((key) => [key, new Map(DATA.runs.map((run, i) => [run.values[key], DATA.texts[key][i]]))]));

const written = (key, value) => TEXTS.get(key)?.get(value) ?? String(value);

function inOrder(a, b) { // texts, then numbers, also those that are written as text
  const [x, y] = [a, b].map((value) => (Number.isNaN(Number(value)) ? -Infinity : Number(value)));
  return x === y ? String(a).localeCompare(String(b), undefined, { numeric: true }) : x - y;
}

function valueOf(run, key) {
  return key === "seed" ? run.seed : key === "dataset" ? run.dataset : run.values[key];
}

function groupOf(run, by) {
  if (by === NONE) return "all runs";
  if (by === ALL_KEYS) return run.group;
  const value = valueOf(run, by);
  if (!Object.hasOwn(DATA.quarters, by)) return `${short(by)}=${written(by, value)}`;
  const edges = DATA.quarters[by]; // too many values for a colour each
  const i = edges.slice(1, -1).filter((edge) => edge < value).length;
  const texts = edges.map((edge) => +edge.toPrecision(3));
  const [low, high] = (new Set(texts).size < texts.length ? edges : texts).slice(i, i + 2);
  return `${short(by)}=${low} – ${high}`;
}

function groupsBy(by) { // label to indices of runs, in order
  const groups = new Map(by === ALL_KEYS ? DATA.groups.map((label) => [label, []]) : []);
  DATA.runs.forEach((run, index) => {
    const label = groupOf(run, by);
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push(index);
  });
  if (by === ALL_KEYS || by === NONE) return groups;
  const first = (members) => valueOf(DATA.runs[members[0]], by);
  return new Map([...groups].sort((a, b) => inOrder(first(a[1]), first(b[1]))));
}

const MEMBERS = groupsBy(ALL_KEYS);
const few = (count) => count < DATA.few;
const marked = (label, count) => (few(count) ? `${label} †` : label);

// ---- the groups that are drawn

const chosen = new Map(); // to the number of its colour, which it keeps while it is drawn

function choose(group, on) {
  if (!on) chosen.delete(group);
  else if (!chosen.has(group)) {
    const used = new Set(chosen.values());
    chosen.set(group, DATA.groups.findIndex((_, i) => !used.has(i)));
  }
}

function chooseOnly(groups) {
  chosen.clear();
  for (const group of groups) choose(group, true);
}

chooseOnly(DATA.best_few);

// ---- colours

const numbered = (i) => ({ colour: DATA.palette[i % DATA.palette.length], dash: DATA.dashes[Math.floor(i / DATA.palette.length) % DATA.dashes.length] });

function stylesBy(by) { // label to style; a group of all keys that is not drawn has none
  if (by === ALL_KEYS) return groupStyles();
  const groups = groupsBy(by);
  if (by !== ALGORITHM) return new Map([...groups.keys()].map((label, i) => [label, numbered(i)]));
  const colour = (members) => DATA.algorithms[DATA.runs[members[0]].values[by]];
  return new Map([...groups].map(([label, members]) => [label, { colour: colour(members), dash: "solid" }]));
}

function groupStyles() { // of the chosen groups: those of an algorithm share its colour
  const drawn = DATA.groups.filter((group) => chosen.has(group));
  if (!DATA.keys.includes(ALGORITHM)) return new Map(drawn.map((group) => [group, numbered(chosen.get(group))]));
  const counts = new Map();
  return new Map(drawn.map((group) => {
    const algorithm = DATA.runs[MEMBERS.get(group)[0]].values[ALGORITHM];
    const count = counts.get(algorithm) ?? 0;
    counts.set(algorithm, count + 1);
    const shade = Math.floor(count / DATA.dashes.length) % DATA.shades.length;
    return [group, { colour: mixed(DATA.algorithms[algorithm], DATA.shades[shade]), dash: DATA.dashes[count % DATA.dashes.length] }];
  }));
}

function mixed(colour, share) { // with white, or with black where the share is negative
  const mix = (part) => Math.round(share > 0 ? part + share * (255 - part) : part * (1 + share));
  const parts = [1, 3, 5].map((i) => mix(parseInt(colour.slice(i, i + 2), 16)));
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

function translucent(colour, alpha) {
  const n = parseInt(colour.slice(1), 16);
  return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
}

const DASH_ARRAYS = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "12 4" };

// entries {label, colour, dash, few}; those of groups are buttons if there is an onclick(label)
function drawLegend(target, entries, { hidden = new Set(), onclick = null } = {}) {
  const nodes = entries.map(({ label, colour, dash, few: isFew, isGroup = true }) => {
    const isButton = isGroup && onclick !== null;
    const node = document.createElement(isButton ? "button" : "span");
    node.innerHTML = `<svg width="28" height="8" aria-hidden="true"><line x1="0" x2="28" y1="4" y2="4" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${DASH_ARRAYS[dash]}"/></svg>`;
    const name = document.createElement("span");
    name.className = "name";
    name.title = name.textContent = isFew ? `${label} †` : label; // long ones are cut
    node.append(name);
    node.classList.toggle("off", hidden.has(label));
    if (isButton) node.onclick = () => onclick(label);
    return node;
  });
  if (entries.some((entry) => entry.few)) nodes.push(Object.assign(document.createElement("span"), { textContent: `† fewer than ${DATA.few} runs` }));
  target.replaceChildren(...nodes);
}
