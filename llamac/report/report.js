// The report: builds the page from the data embedded in it, and again as a live run goes on.
"use strict";

const view = new View();
let data = JSON.parse($("data").textContent);
let chosen = 0; // the run whose details are shown
let charts = [];
const colour = (run) => `--s${(run % 8) + 1}`;

const show = {
  loss: (v) => (Math.abs(v) < 100 && Math.abs(v) >= 0.001 ? v.toFixed(4) : format.digits(v, 5)),
  plain: (v) => format.digits(v, 4),
  short: (v) => format.short(v),
  percent: (v) => `${format.digits(v * 100, 3)}%`,
  memory: (v) => `${format.digits(v / 1e9, 4)} GB`,
  seconds: (v) => `${format.digits(v, 4)} s`,
};
const TITLES = {
  lr: ["Learning rate", show.plain],
  grad_norm: ["Gradient norm, before clipping", show.plain],
  tokens_per_second: ["Tokens per second", show.short],
  mfu: ["Model FLOPs utilisation (MFU)", show.percent],
  peak_memory_bytes: ["Peak memory of the first rank", show.memory],
  step_seconds: ["Seconds per step", show.seconds],
};

// --- State in the address, so that a view can be shared ---------------------------------------

const DEFAULTS = { x: "tokens", from: "", to: "", smooth: "0", log: "", whole: "", hide: "", run: "0" };

function readAddress() {
  const found = address.read(DEFAULTS);
  const number = (text) => (text !== "" && isFinite(text) ? Number(text) : null);
  const [from, to] = [number(found.from), number(found.to)];
  view.axis = ["tokens", "step", "hours"].includes(found.x) ? found.x : "tokens";
  view.range = from !== null && to !== null && from < to ? [from, to] : null;
  view.smooth = Math.min(0.2, Math.max(0, number(found.smooth) ?? 0));
  view.log = found.log !== "";
  view.whole = found.whole !== "";
  view.hidden = new Set(found.hide.split(",").filter(Boolean).map(Number));
  chosen = Math.min(data.runs.length - 1, Math.max(0, Math.trunc(number(found.run) ?? 0)));
}

function writeAddress() {
  const [from, to] = (view.range ?? []).map((end) => String(Number(end.toPrecision(9))));
  const shown = { x: view.axis, from: from ?? "", to: to ?? "", smooth: String(view.smooth), run: String(chosen),
    log: view.log ? "1" : "", whole: view.whole ? "1" : "", hide: [...view.hidden].join(",") };
  address.write(shown, DEFAULTS);
}

// --- Head ------------------------------------------------------------------------------------

function status(run) {
  const { state, steps, summary } = run;
  const at = `step ${format.integer(state.step)}${steps ? ` of ${format.integer(steps)}` : ""}`;
  if (!run.curve.rows) return ["not started", "no step has ended yet", "aside"];
  if (state.error) return ["stopped by an error", `${at}: ${state.error}`, "bad"];
  if (state.finished) return ["finished", at, "good"];
  if (state.stopped) return ["stopped", `${at}; the same command goes on`, "warn"];
  const minutes = (data.written - state.written) / 60;
  const last = state.written ? `, last row ${when(state.written)}` : "";
  if (minutes < 2 || minutes * 60 < 5 * (summary.median.step_seconds ?? 0)) {
    return ["running", at + last, "good"];
  }
  return ["unfinished", at + last, "warn"];
}

const when = (seconds) => new Date(seconds * 1000)
  .toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

function head() {
  const names = data.runs.map((run) => run.title);
  const one = data.runs.length === 1 ? data.runs[0] : null;
  const [word, more, kind] = one ? status(one) : [`${names.length} runs`, "", "aside"];
  return h("header",
    h("div",
      h("h1", one ? one.title : names.join(" · ")),
      h("p.aside.small", h(`strong.${kind}`, word), more ? ` · ${more}` : "",
        ` · report of ${when(data.written)}`, h("span", { id: "liveness" }))),
    h("button", { id: "theme", title: "colours of the page" }, "theme: auto"));
}

function notes() {
  const all = data.runs.flatMap((run) => run.notes.map((note) =>
    h("li", data.runs.length > 1 ? `${run.title}: ${note}` : note)));
  return all.length ? h("ul.notes", { "aria-label": "What is missing or damaged" }, all) : null;
}

function planned(real, plan, text) {
  if (!plan || real === null || real === undefined) return null;
  const off = real / plan - 1;
  const by = Math.abs(off) < 0.005 ? "as planned" : real > 2 * plan ? `${format.digits(real / plan, 3)}× planned`
    : `${format.digits(Math.abs(off) * 100, 2)}% ${off > 0 ? "over" : "under"} plan`;
  return h("span", { class: Math.abs(off) > 0.15 ? "warn" : "aside" }, `${by} (${text(plan)})`);
}

function tiles(run) {
  const { summary, planned: plan } = run;
  if (!summary.last) return null;
  const last = run.validation.at(-1), { median } = summary;
  const tile = (name, value, ...more) => h("div.tile", h("dt", name), h("dd", h("b", value), h("span.small", more)));
  const value = (v, text) => (v === null || v === undefined ? "—" : text(v));
  return h("dl.tiles",
    tile("training loss", value(summary.loss, show.loss), `at step ${format.integer(summary.last.step)}`),
    tile("validation loss", value(last?.[2], show.loss), last ? `at step ${format.integer(last[0])}` : "not evaluated"),
    tile("tokens", value(summary.last.tokens, format.short), value(summary.hours, format.duration), " of steps"),
    tile("tokens per second", value(median.tokens_per_second, format.short), "median"),
    tile("MFU", value(median.mfu, show.percent), "median"),
    tile("seconds per step", value(median.step_seconds, show.seconds), planned(median.step_seconds, plan.seconds, show.seconds) ?? "median"),
    tile("peak memory", value(summary.peak_memory_bytes, show.memory), planned(summary.peak_memory_bytes, plan.memory, show.memory)),
    tile("interruptions", String(run.events.filter((e) => e.kind === "resume").length),
      summary.skipped ? h("span.bad", `${format.integer(summary.skipped)} steps skipped`) : "no step skipped"));
}

function comparison() {
  const cell = (v, text) => h("td", v === null || v === undefined ? "—" : text(v));
  const heads = ["run", "state", "step", "tokens", "loss", "validation", "tokens/s", "MFU", "s per step", "memory", "hours", "skipped"];
  return h("div.wide", h("table", h("thead", h("tr", heads.map((name, i) => h(i < 2 ? "th.left" : "th", { scope: "col" }, name)))),
    h("tbody", data.runs.map((run, i) => {
      const { summary: s } = run, m = s.median ?? {};
      return h("tr", h("td.left", swatch(i), run.title), h("td.left", status(run)[0]), cell(run.state.step, format.integer),
        cell(s.last?.tokens, format.short), cell(s.loss, show.loss), cell(run.validation.at(-1)?.[2], show.loss),
        cell(m.tokens_per_second, format.short), cell(m.mfu, show.percent), cell(m.step_seconds, (v) => format.digits(v, 4)),
        cell(s.peak_memory_bytes, show.memory), cell(s.hours, (v) => format.digits(v, 3)), cell(s.skipped, String));
    }))));
}

const swatch = (run) => h("i.key", { style: `background: var(${colour(run)})`, "aria-hidden": "true" });

// --- Curves ----------------------------------------------------------------------------------

function controls() {
  const pressed = (on) => (on ? "true" : "false");
  const choice = (values, current, pick) => h("span.group", { role: "group" }, values.map(([value, text, title]) =>
    h("button", { "aria-pressed": pressed(value === current), title, on: { click: () => { pick(value); refreshControls(); } } }, text)));
  const toggle = (name, text, title) => h("button", { "aria-pressed": pressed(view[name]), title,
    on: { click: () => { view.change({ [name]: !view[name] }); refreshControls(); } } }, text);
  return h("div.controls", { id: "controls" },
    h("span.aside.small", "by"),
    choice([["tokens", "tokens"], ["step", "steps"], ["hours", "time"]], view.axis, (axis) => view.change({ axis, range: null })),
    h("span.aside.small", "smoothing"),
    choice([[0, "none"], [0.01, "1%"], [0.05, "5%"]].map(([v, t]) => [v, t, v ? `running mean over ${t} of the run's steps` : "the curve as it was recorded"]),
      view.smooth, (smooth) => view.change({ smooth })),
    toggle("log", "log loss", "a logarithmic axis for loss and gradient norm"),
    toggle("whole", "whole range", "also what the first steps leave at once"),
    view.range ? h("button", { on: { click: () => view.change({ range: null }) } }, "show all") : null);
}

function refreshControls() {
  const focused = document.activeElement?.closest("#controls") ? document.activeElement.textContent : null;
  $("controls").replaceWith(controls());
  for (const button of document.querySelectorAll("#controls button")) if (button.textContent === focused) button.focus();
  $("legend").replaceWith(legend());
}

function legend() {
  const several = data.runs.length > 1;
  const band = data.runs.some((run) => run.curve.rows > run.curve.step.length);
  const smooth = view.smooth ? data.runs.map((run) => format.integer(smoothingSteps({ axes: run.curve }, view.smooth))) : null;
  return h("div.legend", { id: "legend" },
    several ? data.runs.map((run, i) => h("button", { "aria-pressed": view.hidden.has(i) ? "false" : "true", title: "show or hide this run",
      on: { click: () => { view.hidden.has(i) ? view.hidden.delete(i) : view.hidden.add(i); view.change({}); refreshControls(); } } }, swatch(i), run.title)) : null,
    h("span", line("solid"), smooth ? `training, smoothed: running mean over ${[...new Set(smooth)].join(" / ")} steps` : "training"),
    band ? h("span", h("i.band"), "least to greatest of the steps in a point") : null,
    data.runs.some((run) => run.validation.length) ? h("span", line("dashed"), "validation") : null,
    h("span", symbol("start"), "start"), h("span", symbol("resume"), "resume"), h("span", symbol("layout"), "changed layout"),
    h("span", symbol("save"), "save"), h("span", symbol("skipped"), "skipped step"), h("span", symbol("stop"), "stop"));
}

const line = (style) => h("i.line", { class: `line ${style}` });
function symbol(kind) {
  const canvas = h("canvas", { width: 32, height: 32, "aria-hidden": "true" });
  const c = canvas.getContext("2d");
  c.scale(2, 2);
  glyph(c, { kind: kind === "layout" ? "resume" : kind, before: kind === "layout" }, 8, 8, css("--muted"));
  return canvas;
}

function curveLine(run, i, name) {
  const { curve } = run, series = curve.series[name];
  if (!series) return null;
  return { name: data.runs.length > 1 ? run.title : name.replaceAll("_", " "), run: i, colour: colour(i), from: curve.from,
    axes: { step: curve.step, tokens: curve.tokens, hours: curve.hours }, ...series };
}

function validationLine(run, i) {
  if (!run.validation.length) return null;
  const step = run.validation.map((row) => row[0]);
  const hours = step.map((s) => run.curve.hours[nearest(run.curve.step, s)]);
  const prefix = data.runs.length > 1 ? `${run.title}, ` : "";
  return { name: `${prefix}validation loss`, run: i, colour: colour(data.runs.length > 1 ? i : 1), dots: true,
    axes: { step, hours, tokens: run.validation.some((row) => row[1] === null) ? null : run.validation.map((row) => row[1]) },
    mean: run.validation.map((row) => row[2]) };
}

/** What a task measured as a line, with a band of one standard error. */
function evaluationLine(run, i, name) {
  const found = run.evaluations.find((one) => evaluationName(one) === name);
  if (!found?.rows.length) return null;
  const column = (at) => found.rows.map((row) => row[at]);
  const [step, tokens, mean, error] = [0, 1, 2, 3].map(column), known = error.some((e) => e !== null);
  return { name: data.runs.length > 1 ? run.title : found.metric.replaceAll("_", " "), run: i, colour: colour(i), dots: true,
    axes: { step, tokens: tokens.includes(null) ? null : tokens, hours: step.map((s) => run.curve.hours[nearest(run.curve.step, s)]) },
    mean, ...(known ? { low: mean.map((v, at) => v - (error[at] ?? 0)), high: mean.map((v, at) => v + (error[at] ?? 0)) } : {}) };
}
const evaluationName = (one) => (one.task === one.metric ? one.task : `${one.task}: ${one.metric}`).replaceAll("_", " ");

/** The events of a run with their places on every axis. */
function placed(run, events) {
  const { curve } = run;
  return events.map((event) => {
    const i = nearest(curve.step, event.step);
    return { ...event, tokens: event.tokens ?? (event.step ? curve.tokens?.[i] : 0),
      hours: event.step && i >= 0 ? curve.hours[i] : 0 };
  });
}

function drawCharts(main, side, tasks) {
  charts.forEach((chart) => chart.dispose());
  const events = data.runs.map((run, i) => ({ run: i, colour: colour(i), events: placed(run, run.events),
    skipped: placed(run, run.skipped.map((step) => ({ kind: "skipped", step }))) }));
  const lossLines = data.runs.flatMap((run, i) => [curveLine(run, i, "loss"), validationLine(run, i)]).filter(Boolean);
  charts = [new Chart(main, view, { title: "Loss", height: 400, lines: lossLines, marks: events, events, log: true, show: show.plain })];
  const known = data.runs.flatMap((run) => Object.keys(run.curve.series)).filter((name) => name !== "loss");
  const names = [...new Set([...Object.keys(TITLES).filter((name) => known.includes(name)), ...known])];
  side.replaceChildren(...names.map((name) => {
    const [title, text] = TITLES[name] ?? [name.replaceAll("_", " "), show.plain];
    const host = h("div"), lines = data.runs.map((run, i) => curveLine(run, i, name)).filter(Boolean);
    const plan = { step_seconds: "seconds", peak_memory_bytes: "memory" }[name];
    const levels = plan ? data.runs.flatMap((run, i) => (run.planned[plan]
      ? [{ run: i, name: `planned ${text(run.planned[plan])}`, value: run.planned[plan], colour: data.runs.length > 1 ? colour(i) : "--muted" }] : [])) : [];
    const figure = h("figure", h("figcaption", title, save(title, () => host)), host);
    queueMicrotask(() => charts.push(new Chart(host, view, { title, height: 210, lines, levels, events,
      log: name === "grad_norm", zero: name === "lr",
      robust: ["tokens_per_second", "mfu", "step_seconds"].includes(name), show: text })));
    return figure;
  }));
  const measured = [...new Set(data.runs.flatMap((run) => run.evaluations.map(evaluationName)))];
  tasks.replaceChildren(...measured.map((title) => {
    const host = h("div"), lines = data.runs.map((run, i) => evaluationLine(run, i, title)).filter(Boolean);
    queueMicrotask(() => charts.push(new Chart(host, view, { title, height: 210, lines, events, show: show.plain })));
    return h("figure", h("figcaption", title, save(title, () => host)), host);
  }));
}

function save(title, host) {
  return h("button.quiet", { title: `save “${title}” as a picture`, on: { click: () => {
    const from = host().querySelector("canvas"), to = document.createElement("canvas");
    [to.width, to.height] = [from.width, from.height];
    const c = to.getContext("2d");
    c.fillStyle = css("--paper");
    c.fillRect(0, 0, to.width, to.height);
    c.drawImage(from, 0, 0);
    h("a", { href: to.toDataURL("image/png"), download: `${title.toLowerCase().replace(/\W+/g, "-")}.png` }).click();
  } } }, "PNG");
}

// --- Page ------------------------------------------------------------------------------------

function render() {
  const open = new Set([...document.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  const loss = h("div"), side = h("div.charts"), tasks = h("div.charts");
  const single = data.runs.length === 1;
  const main = h("main", notes(), single ? tiles(data.runs[0]) : comparison(),
    h("section", h("h2", "Loss", save("loss", () => loss)), controls(), loss, legend()),
    h("section", h("h2", "Optimization, speed and memory"), side, measures()),
    data.runs.some((run) => run.evaluations.length) ? h("section", h("h2", "Tasks"),
      h("p.aside.small", "What `llamac eval` and the spec's [eval] tasks measured; the band is one standard error either way."), tasks) : null,
    single ? null : specDifferences(),
    single ? null : runPicker(),
    h("div", { id: "details" }, details(data.runs[chosen])));
  $("page").replaceChildren(head(), main);
  for (const one of document.querySelectorAll("details")) if (open.has(one.dataset.key)) one.open = true;
  drawCharts(loss, side, tasks);
  document.dispatchEvent(new Event("rendered"));
}

function runPicker() {
  return h("div.controls.picker", { role: "group", "aria-label": "run whose details are shown" }, h("span.aside", "details of"),
    data.runs.map((run, i) => h("button", { "aria-pressed": i === chosen ? "true" : "false", on: { click: (event) => {
      chosen = i;
      for (const one of event.currentTarget.parentElement.querySelectorAll("button")) {
        one.setAttribute("aria-pressed", one === event.currentTarget ? "true" : "false");
      }
      $("details").replaceChildren(...details(run));
      writeAddress();
    } } }, swatch(i), run.title)));
}

view.changed = () => {
  writeAddress();
  if ($("controls")) refreshControls();
};
readAddress();
addEventListener("hashchange", () => { readAddress(); render(); });
document.addEventListener("themechange", () => { if (charts.length) { view.change({}); refreshControls(); } });
document.addEventListener("DOMContentLoaded", render);
