// The sections of one run below its curves: data, evaluations, samples, events, surroundings.
"use strict";

const left = (text) => h("td.left", text);
const table = (heads, rows, named = 1) => h("div.wide", h("table",
  h("thead", h("tr", heads.map((name, i) => h(i < named ? "th.left" : "th", { scope: "col" }, name)))),
  h("tbody", rows)));
const fold = (key, title, about, ...content) => h("details", { "data-key": key },
  h("summary", title, about ? h("span.aside", ` ${about}`) : null), content);

function details(run) {
  return [sources(run), evaluations(run), samples(run), happenings(run), surroundings(run), config(run)].filter(Boolean);
}

/** What MFU is of, and what the plan is for, of each run. */
function measures() {
  return h("div.small.aside", data.runs.map((run, i) => {
    const { mfu, planned: plan } = run, parts = [];
    if (mfu.flops_per_token) {
      const attention = mfu.attention_flops_per_token;
      const how = attention ? ` = 6 · ${format.integer((mfu.flops_per_token - attention) / 6)} + ${format.integer(attention)}` : "";
      parts.push(`MFU = tokens per second × FLOPs per token ÷ peak. FLOPs per token = 6N + 12·L·d·s (PaLM, appendix B)${how} = ${format.integer(mfu.flops_per_token)}`);
    } else parts.push("MFU = tokens per second × (6N + 12·L·d·s) ÷ peak (PaLM, appendix B)");
    if (mfu.peak_flops) parts.push(`; peak ${format.digits(mfu.peak_flops / 1e12, 4)} TFLOP/s on all devices, ${mfu.given ? "as the spec gives it" : "measured by matrix products at the start"}`);
    const about = plan.compared ? `Planned for ${plan.device ?? "this hardware"}.`
      : plan.seconds ? `Planned for ${plan.device}, which nobody has measured: a rough guess.` : "There is no plan to compare with.";
    return h("p", data.runs.length > 1 ? [swatch(i), h("b", `${run.title}: `)] : null, `${parts.join("")}. ${about}`);
  }));
}

function sources(run) {
  const { rows, counted, total, problem } = run.sources;
  if (problem) return h("section", h("h2", "Data"), h("p.warn", `Tokens of each source are not known: ${problem}`));
  if (!rows) return null;
  const drawn = rows.reduce((sum, row) => sum + row.consumed, 0), shares = rows.reduce((sum, row) => sum + row.share, 0);
  const most = Math.max(...rows.map((row) => Math.max(row.share / shares, drawn ? row.consumed / drawn : 0)));
  const epochs = (v) => (v === null ? "—" : v.toFixed(2));
  const bar = (value, kind) => h("span", { class: `bar ${kind}`, style: `width: ${((100 * value) / (most || 1)).toFixed(2)}%` });
  return h("section", h("h2", "Data"),
    h("p.aside.small", counted ? "Tokens that were drawn, as the prepared data says." : "Tokens by the spec's shares: the prepared data is not here."),
    table(["source", "share of the spec, and drawn", "share", "drawn", "tokens drawn", "tokens planned", "unique tokens", "epochs", "epochs planned"],
      rows.map((row) => h("tr", left(row.name),
        h("td.left", h("div.bars", bar(row.share / shares, "spec"), bar(drawn ? row.consumed / drawn : 0, "drawn"))),
        h("td", show.percent(row.share / shares)), h("td", drawn ? show.percent(row.consumed / drawn) : "—"),
        h("td", format.short(row.consumed, 4)), h("td", format.short(row.planned, 4)), h("td", row.unique === null ? "—" : format.short(row.unique, 4)),
        h("td", { class: row.epochs_consumed > 4 ? "warn" : "" }, epochs(row.epochs_consumed)), h("td", epochs(row.epochs)))), 2),
    h("p.aside.small", `${format.short(drawn, 4)} of ${format.short(total, 4)} tokens.`));
}

function evaluations(run) {
  return [validations(run), tasksMeasured(run)].filter(Boolean);
}

function tasksMeasured(run) {
  if (!run.evaluations.length) return null;
  const shown = (value, error) => `${format.digits(value, 4)}${error === null ? "" : ` ± ${format.digits(error, 2)}`}`;
  const rows = run.evaluations.filter((one) => one.rows.length).map(({ task, metric, questions, rows: found }) => {
    const [step, , value, error] = found.at(-1), values = found.map((row) => row[2]);
    return h("tr", left(task), left(metric.replaceAll("_", " ")), h("td", shown(value, error)), h("td", format.integer(step)),
      h("td", format.digits(Math.min(...values), 4)), h("td", format.digits(Math.max(...values), 4)), h("td", questions === null ? "—" : format.integer(questions)), h("td", String(found.length)));
  });
  return h("section", h("h2", "Tasks"), table(["task", "metric", "last", "at step", "least", "greatest", "questions", "times"], rows, 2));
}

function validations(run) {
  if (!run.validation.length) return null;
  const rows = run.validation.map(([step, tokens, loss, training]) => h("tr", h("td", format.integer(step)),
    h("td", tokens === null ? "—" : format.short(tokens, 4)), h("td", format.exact(loss)), h("td", format.digits(Math.exp(loss), 4)),
    h("td", training === null ? "—" : format.exact(training))));
  const best = run.validation.reduce((a, b) => (b[2] < a[2] ? b : a));
  return h("section", h("h2", "Evaluations"),
    h("p.aside.small", `Loss on held-out text, in nats per token; least at step ${format.integer(best[0])}: ${format.exact(best[2])}.`),
    rows.length > 12 ? fold("evaluations", `${rows.length} evaluations`, "", evaluationTable(rows)) : evaluationTable(rows));
}
const evaluationTable = (rows) => table(["step", "tokens", "validation loss", "perplexity", "training loss of the step"], rows, 0);

const SAMPLES_SHOWN = 3; // the newest; the others are folded

function samples(run) {
  if (!run.samples.length) return null;
  const one = (sample) => h("figure.sample", h("figcaption", `after step ${format.integer(sample.step)}`), h("pre", sample.text));
  const newest = run.samples.slice(-SAMPLES_SHOWN), before = run.samples.slice(0, -SAMPLES_SHOWN);
  return h("section", h("h2", "Samples"), before.length ? fold("samples", `${before.length} earlier`, "", before.map(one)) : null, newest.map(one));
}

function happenings(run) {
  const skipped = run.skipped.map((step) => ({ kind: "skipped", step }));
  const notable = run.events.filter((e) => e.kind !== "save");
  const saves = run.events.filter((e) => e.kind === "save");
  for (const event of skipped) { // in the process that took the step: the last that began before it
    let at = notable.findLastIndex((e) => (e.kind === "start" || e.kind === "resume") && e.step < event.step) + 1;
    while (at < notable.length && notable[at].step < event.step) at++;
    notable.splice(at, 0, event);
  }
  if (!notable.length && !saves.length) return null;
  const names = { start: "start", resume: "resume", stop: "stop", skipped: "skipped" };
  const rows = notable.map((event) => h("tr", left(event.before ? "resume, other layout" : names[event.kind]), left(eventText(event))));
  return h("section", h("h2", "Events"), table(["event", "what happened"], rows.slice(-60), 2),
    rows.length > 60 ? h("p.aside.small", `The newest 60 of ${format.integer(rows.length)}.`) : null,
    saves.length ? h("p.aside.small", `${format.integer(saves.length)} saves, after steps ${saves.slice(-8).map((e) => format.integer(e.step)).join(", ")}${saves.length > 8 ? " (the newest 8)" : ""}.`) : null);
}

function surroundings(run) {
  const { start } = run, { hardware = {}, versions = {}, git } = start, rows = [];
  const add = (name, value) => {
    if (value !== null && value !== undefined && value !== "") rows.push(h("tr", h("th.left", { scope: "row" }, name), left(String(value))));
  };
  add("directory", run.directory);
  add("host", start.host);
  if (hardware.gpu) add("GPU", `${hardware.gpu}, ${format.digits(hardware.gpu_memory_bytes / 1e9, 3)} GB, ${hardware.gpus_here} here`);
  if (hardware.cpu) add("CPU", `${hardware.cpu}, ${hardware.cores} cores${hardware.memory_bytes ? `, ${format.digits(hardware.memory_bytes / 1e9, 3)} GB` : ""}`);
  if (start.layout) add("layout", Object.entries(start.layout).map(([axis, n]) => `${axis} ${n}`).join(" × ") || `1 rank of ${start.device}`);
  add("computation", start.compute);
  add("tokens per step", start.tokens_per_step && format.integer(start.tokens_per_step));
  if (git) add("git", `${git.commit}${git.changed ? ", with changes" : ""}`);
  for (const [name, version] of Object.entries({ llamac: run.llamac, ...versions })) add(name, version);
  return h("section", h("h2", "Hardware and versions"),
    run.state.recorded ? null : h("p.aside.small", "This run recorded no events.jsonl: an older trainer wrote it."),
    h("div.wide", h("table", h("tbody", rows))));
}

function config(run) {
  const rows = Object.entries(run.spec).map(([key, value]) => h("tr", left(key), h("td.left.mono", value)));
  return rows.length ? h("section", h("h2", "Spec"), fold("spec", `${rows.length} values`, "as they were resolved", table(["key", "value"], rows, 2))) : null;
}

function specDifferences() {
  const rows = data.differences.map(({ key, values }) => h("tr", left(key), values.map((value) => h("td.left.mono", value ?? "—"))));
  const heads = ["key", ...data.runs.map((run) => run.title)];
  return h("section", h("h2", "What differs between the specs"),
    rows.length ? table(heads, rows, heads.length) : h("p.aside", "Nothing: all runs have the same spec."));
}
