"use strict";
// Everything that models and tasks wrote is put into the page as text (textContent), never as markup.

const $ = (id) => document.getElementById(id);
const NAMESPACE = "http://www.w3.org/2000/svg";
const MOST_COMPARED = 8; // runs that the server sets side by side
let runs = null; // not known until the server has said it
let chosen = new Set(); // names of the runs whose boxes are ticked
let shown = null; // details of the run that is open
let place = null; // where the page of episodes begins; null is the newest
let older = null; // where the next page begins
let held = false; // whether something on the page of episodes was opened, so that it stays
let asked = 0; // the newest request; an answer to an older one is dropped

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

async function get(path) {
  const response = await fetch(path);
  const content = await response.json().catch(() => ({}));
  const detail = typeof content.detail === "string" ? content.detail : null;
  if (!response.ok) throw new Error(content.error || detail || `error ${response.status}`);
  return content;
}

function say(error) {
  $("error").textContent = error ? error.message || String(error) : "";
  $("error").hidden = !error;
}

const runPath = (name, rest = "") => `/api/runs/${encodeURIComponent(name)}${rest}`;

// The list of runs

function paintRuns() {
  $("reading").hidden = runs !== null;
  if (runs === null) return;
  const body = $("runs").tBodies[0];
  const focused = document.activeElement && document.activeElement.id;
  body.replaceChildren(...runs.map(runRow));
  $("no-runs").hidden = runs.length > 0;
  allowCompare();
  if (focused && focused.startsWith("pick-") && $(focused)) $(focused).focus();
}

function allowCompare() {
  $("compare").disabled = chosen.size < 2 || chosen.size > MOST_COMPARED;
}

function runRow(run, number) {
  const box = make("input", { type: "checkbox", id: `pick-${number}`, "aria-label": `Select ${run.name}` });
  box.checked = chosen.has(run.name);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(run.name);
    else chosen.delete(run.name);
    allowCompare();
  });
  const link = make("a", { href: `#run=${encodeURIComponent(run.name)}` }, run.name);
  const bar = make("progress", { max: "1", value: String(run.share) });
  const progress = run.state === "unreadable" ? [run.problem] : [bar, run.progress];
  return make(
    "tr",
    { class: shown && shown.name === run.name ? "chosen" : "" },
    make("td", {}, box),
    make("td", { class: "name" }, link),
    make("td", { class: `state-${run.state}` }, run.state),
    make("td", {}, ...progress),
    make("td", {}, run.left),
    make("td", { title: run.task }, lastPart(run.task)),
    make("td", { class: "name", title: run.model }, lastPart(run.model)),
    make("td", {}, run.headline),
  );
}

const lastPart = (text) => (text.startsWith("/") ? text.split("/").pop() : text);

// One run

async function openRun(name) {
  const details = await get(runPath(name));
  const isNew = !shown || shown.name !== name;
  shown = details;
  if (isNew) place = null;
  $("run").hidden = false;
  $("side").hidden = true;
  $("run-title").textContent = name;
  const run = (runs || []).find((each) => each.name === name);
  $("run-state").textContent = run ? `${run.state}, ${run.progress}` : "";
  $("report").hidden = !details.report;
  $("report").href = `/report/${encodeURIComponent(name)}`;
  const figures = details.curves.map((curve) => figure(curve.title, [{ points: curve.points }]));
  if (details.warmup.length) figures.unshift(figure("Loss of the warm-up", [{ points: details.warmup }]));
  $("curves").replaceChildren(...figures);
  paintTable($("table"), ["Solved", "Before training", "After training", "Difference, points"], details.table);
  $("settings").textContent = details.settings;
  $("reasons").replaceChildren(...details.reasons.map((reason) => make("option", { value: reason })));
  document.title = `Mulligan: ${name}`;
  paintRuns();
  if (isNew || (place === null && !held)) await showEpisodes();
  else if (place === null) $("page-note").textContent = "There may be newer episodes.";
}

function paintTable(target, headings, rows) {
  if (!rows.length) return target.replaceChildren();
  const head = make("tr", {}, ...headings.map((heading) => make("th", { scope: "col" }, heading)));
  const body = rows.map(([first, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))));
  target.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function draw(name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function figure(title, lines) {
  const [width, height, left, bottom, top, right] = [360, 170, 54, 22, 8, 8];
  const all = lines.flatMap((line) => line.points);
  const xs = all.map((point) => point[0]);
  const ys = all.map((point) => point[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - bottom - top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  svg.append(
    draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    draw("line", { class: "axis", x1: left, x2: left, y1: top, y2: height - bottom }),
    draw("text", { x: left - 6, y: py(y0), "text-anchor": "end" }, short(y0)),
    draw("text", { x: left - 6, y: py(y1) + 9, "text-anchor": "end" }, short(y1)),
    draw("text", { x: left, y: height - 6 }, `step ${x0}`),
    draw("text", { x: width - right, y: height - 6, "text-anchor": "end" }, String(x1)),
  );
  for (const { points, colour = 0 } of lines) {
    const style = `line line-${colour % 6}`;
    const [x, y] = points[0];
    const places = points.map((point) => `${px(point[0]).toFixed(1)},${py(point[1]).toFixed(1)}`);
    svg.append(points.length === 1 ? draw("circle", { class: style, cx: px(x), cy: py(y), r: 2 })
      : draw("polyline", { class: style, points: places.join(" ") }));
  }
  const last = lines.length === 1 ? `, now ${short(lines[0].points.at(-1)[1])}` : "";
  return make("figure", {}, make("figcaption", {}, title + last), svg);
}

const short = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

// Episodes

async function showEpisodes() {
  if (!shown) return;
  const name = shown.name;
  const filter = $("filter");
  filter.elements.leaked.disabled = filter.elements.source.value === "training"; // known for trials only
  const query = new URLSearchParams(new FormData(filter));
  if (query.get("leaked") === "") query.delete("leaked");
  if (place !== null) query.set("before", place);
  const number = ++asked;
  const page = await get(runPath(name, `/episodes?${query}`));
  if (number !== asked || !shown || shown.name !== name) return;
  older = page.older;
  held = false;
  $("episodes").replaceChildren(...page.rows.map((row) => episode(name, row)));
  $("older").disabled = older === null;
  $("page-note").textContent = page.rows.length ? "" : older === null ? "Nothing matches." :
    "Nothing matches so far; Older goes on searching.";
}

function episode(name, row) {
  const learned = learnedParts();
  const title = [row.step === null ? "" : `step ${row.step}`,
    row.reward === null ? "" : `reward ${short(row.reward)}`,
    row.advantage === null ? "" : `advantage ${signed(row.advantage)}`].filter(Boolean).join(", ");
  const head = make("p", { class: "row" }, make("b", {}, title),
    make("span", { class: `badge ${row.status}` }, row.reason || row.status || "no verdict"));
  if (row.leaked) head.append(make("span", { class: "badge" }, "contains a passing answer"));
  const article = make("article", {}, head);
  const parts = { question: "question", answer: "first try", reflection: "reflection", retry: "retry" };
  for (const [part, label] of Object.entries(parts)) {
    if (row[part] !== null) article.append(said(label, row[part], learned.has(part) ? row.advantage : null));
  }
  if (row.failure !== null && row.question === null) {
    const button = make("button", {}, "Show question and failed answer");
    button.addEventListener("click", () => showFailure(name, row.failure, head, button).catch(say));
    head.append(button);
  }
  return article;
}

const signed = (value) => (value > 0 ? "+" : "") + short(value);

function learnedParts() {
  const parts = { reflection: ["reflection"], retry: ["retry"], both: ["reflection", "retry"], first_try: ["retry"] };
  return new Set(parts[shown.learns] || ["reflection"]);
}

function said(label, text, advantage) {
  const pre = make("pre", { dir: "auto" });
  if (advantage === null) pre.append(text || "(nothing)");
  else {
    const kind = advantage > 0 ? "up" : advantage < 0 ? "down" : "none";
    pre.append(make("mark", { class: kind, title: `trained, advantage ${signed(advantage)}` }, text || "(nothing)"));
  }
  return make("div", { class: "part" }, make("span", {}, label), pre);
}

async function showFailure(name, failure, head, button) {
  const found = await get(runPath(name, `/failures/${encodeURIComponent(failure)}`));
  button.remove();
  held = true;
  head.after(said("question", found.question, null), said(`failed (${found.reason})`, found.answer, null));
}

// Side by side

async function openSide(names) {
  const query = new URLSearchParams(names.map((name) => ["run", name]));
  $("side").hidden = false;
  $("run").hidden = true;
  shown = null;
  paintRuns();
  const details = await Promise.all(names.map((name) => get(runPath(name))));
  const rewards = details.map((each, colour) => {
    const curve = each.curves.find((one) => one.title === "Mean reward");
    return { points: curve ? curve.points : [], colour };
  });
  const lines = rewards.filter((line) => line.points.length);
  const keys = names.map((name, colour) => make("span", { class: `key key-${colour % 6}` }, name));
  const figures = lines.length ? [figure("Mean reward", lines)] : [];
  $("side-figure").replaceChildren(...figures, make("p", {}, ...keys));
  $("side-table").replaceChildren();
  const made = await get(`/api/compare?${query}`);
  const headings = ["Solved after training", ...made.names, ...made.names.slice(1).map((name) => `${name} − ${made.names[0]}, points`)];
  paintTable($("side-table"), headings, made.rows);
}

// What the address says is shown; what changes on the disk is shown again

async function follow() {
  say(null);
  const hash = location.hash.slice(1);
  const [kind, value] = [hash.slice(0, hash.indexOf("=")), hash.slice(hash.indexOf("=") + 1)];
  try {
    if (kind === "run") await openRun(decodeURIComponent(value));
    else if (kind === "compare") await openSide(value.split(",").map(decodeURIComponent));
    else {
      shown = null;
      $("run").hidden = $("side").hidden = true;
      document.title = "Mulligan: runs";
      paintRuns();
    }
  } catch (error) {
    say(error);
  }
}

function listen() {
  const source = new EventSource("/api/events");
  source.onopen = () => { $("live").textContent = "live"; $("live").className = "on"; };
  source.onerror = () => { $("live").textContent = "connection lost, trying again"; $("live").className = ""; };
  source.onmessage = (event) => {
    const content = JSON.parse(event.data);
    if (content.error) return say(content.error);
    const before = JSON.stringify(shown && runs && runs.find((run) => run.name === shown.name));
    runs = content.runs;
    paintRuns();
    const now = JSON.stringify(shown && runs.find((run) => run.name === shown.name));
    if (shown && before !== now) follow();
  };
}

let typing = null;
for (const kind of ["input", "change"]) {
  $("filter").addEventListener(kind, () => {
    clearTimeout(typing);
    typing = setTimeout(() => { place = null; showEpisodes().catch(say); }, 200);
  });
}
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("older").addEventListener("click", () => { place = older; showEpisodes().catch(say); });
$("newest").addEventListener("click", () => { place = null; showEpisodes().catch(say); });
$("compare").addEventListener("click", () => {
  location.hash = `compare=${[...chosen].map(encodeURIComponent).join(",")}`;
});
window.addEventListener("hashchange", follow);
listen();
follow();
