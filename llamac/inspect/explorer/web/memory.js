// Memory of a rank over a step, and who lives at a moment of it.

const HELD_COLOURS = { overhead: "hold-1", optimizer: "hold-2", parameters: "hold-3", gradients: "hold-4",
  communication: "hold-5" };
const MOVING = [["saved", "saved activations", "move-1"], ["working", "of the layer that runs", "move-2"],
  ["logits", "logits", "move-3"]];
const CHART = { width: 960, height: 400, left: 52, right: 12, top: 26, bottom: 62 };

function memoryModel() {
  const step = side().step, view = step.memory ?? step.time;
  const moments = momentsOf(view, step.graphs, (name) => view.kept[name] ?? 0);
  const held = Object.keys(HELD_COLOURS).map((key) => step.held.find((term) => term[0] === key)).filter(Boolean);
  const base = held.reduce((sum, [, , nbytes]) => sum + nbytes, 0);
  let peak = 0;
  moments.forEach((moment, at) => { if (moment.total > moments[peak].total) peak = at; });
  return { step, view, moments, held, base, peak };
}
const chosenMoment = (model) => (moments => (state.at !== "" && moments[state.at] ? Number(state.at) : model.peak))(model.moments);

// One column a pixel: the moment that holds most in it.
function columnsOf(model, axis) {
  const found = [];
  for (const moment of model.moments) {
    const x = Math.round(axis.x(moment.time) * 2) / 2, last = found[found.length - 1];
    if (last && last.x === x) { if (moment.total > last.most.total) last.most = moment; last.last = moment; }
    else found.push({ x, most: moment, last: moment });
  }
  return found;
}

function memoryChart(model) {
  const { width, height, left, right, top, bottom } = CHART;
  const plot = width - left - right, axis = timeAxis(model.view, plot);
  const high = model.base + model.moments[model.peak].total, capacity = model.step.capacity;
  const most = 1.06 * (capacity <= 3 * high ? Math.max(high, capacity) : high);
  const y = (nbytes) => top + (height - top - bottom) * (1 - nbytes / most);
  const chart = h("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Memory over a step: ${gigabytes(high)} of ${gigabytes(capacity)} GB at most` });
  for (const at of ticks(0, most / 1e9, 5)) {
    chart.append(h("line", { class: "rule", x1: left, x2: left + plot, y1: y(at * 1e9), y2: y(at * 1e9) }),
      h("text", { class: "end", x: left - 6, y: y(at * 1e9) + 4 }, at ? String(+at.toFixed(2)) : "0 GB"));
  }
  let floor = 0;
  for (const [key, words, nbytes] of model.held) {
    chart.append(h("rect", { class: HELD_COLOURS[key], x: left, width: plot, y: y(floor + nbytes),
      height: Math.max(0, y(floor) - y(floor + nbytes)) }, h("title", {}, `${words}: ${gigabytes(nbytes)} GB`)));
    floor += nbytes;
  }
  const columns = columnsOf(model, axis);
  let below = columns.map(({ most: moment }) => model.base - moment.lacking);
  for (const [key, words, css] of MOVING) {
    const above = below.map((bytes, at) => bytes + columns[at].most[key]);
    const stairs = (levels) => levels.flatMap((bytes, at) => [[columns[at].x, bytes],
      [columns[at + 1]?.x ?? plot, bytes]]);
    const points = [...stairs(above), ...stairs(below).reverse()];
    chart.append(h("path", { class: css, d: `M${points.map(([x, bytes]) => `${(left + x).toFixed(1)} ${y(bytes).toFixed(1)}`).join("L")}Z` },
      h("title", {}, words)));
    below = above;
  }
  if (capacity <= 3 * high) {
    chart.append(h("line", { class: "limit", x1: left, x2: left + plot, y1: y(capacity), y2: y(capacity) }),
      h("text", { class: "end limit", x: left + plot, y: y(capacity) - 6 }, `${gigabytes(capacity)} GB: all that there is`));
  }
  chart.append(...turnStrip(model, axis, left, height - bottom + 6), ...timeTicks(model.view, axis, left, height - bottom + 28));
  const chosen = model.moments[chosenMoment(model)], worst = model.moments[model.peak];
  const mark = (moment, css) => {
    const at = left + axis.x(moment.time), level = y(model.base + moment.total);
    return [h("line", { class: css, x1: at, x2: at, y1: top, y2: height - bottom }),
      h("circle", { class: css, cx: at, cy: level, r: 4.5 })];
  };
  chart.append(...mark(worst, "peak"), h("text", { class: "peak", y: y(high) - 8,
    x: left + axis.x(worst.time) + (axis.x(worst.time) > plot / 2 ? -8 : 8), "text-anchor": axis.x(worst.time) > plot / 2 ? "end" : "start" }, `peak ${gigabytes(high)} GB`));
  if (chosen !== worst) chart.append(...mark(chosen, "chosen"));
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const seconds = axis.seconds(((event.clientX - box.left) / box.width) * width - left);
    const near = axis.x(seconds);
    let best = 0; // of the moments under the pointer, the one that holds most
    model.moments.forEach((moment, at) => {
      const far = (index) => Math.max(2, Math.abs(axis.x(model.moments[index].time) - near));
      if (far(at) < far(best) || (far(at) === far(best) && moment.total > model.moments[best].total)) best = at;
    });
    set({ at: String(best) });
  });
  return chart;
}

function turnStrip(model, axis, left, top) {
  const turns = new Map();
  for (const event of eventsOf(model.view).filter(runsGraph)) {
    const key = `${event.kind} ${event.batch + 1}`, found = turns.get(key);
    if (found && event.begin - found.end < model.view.seconds / 50) found.end = event.end;
    else turns.set(found ? `${key} ${event.begin}` : key, { name: key, kind: event.kind, begin: event.begin, end: event.end });
  }
  const parts = [...turns.values()].flatMap(({ name, kind, begin, end }) => {
    const x = left + axis.x(begin), wide = axis.x(end) - axis.x(begin);
    return [h("rect", { class: `turn ${kind}`, x, y: top, width: Math.max(0.5, wide), height: 16 }, h("title", {}, name)),
      wide > 8 * name.length && h("text", { class: "turn", x: x + wide / 2, y: top + 12 }, name)];
  });
  return parts.filter(Boolean);
}

function timeTicks(view, axis, left, top) {
  const parts = axisTicks(axis, view, 0, view.seconds).map(([seconds, text]) =>
    h("text", { class: "middle", x: left + axis.x(seconds), y: top + 12 }, text));
  if (axis.fold) {
    parts.push(h("rect", { class: "fold", x: left + axis.fold.left, width: axis.fold.right - axis.fold.left,
      y: CHART.top, height: top - CHART.top - 6 }, h("title", {}, `${grouped(axis.fold.hidden)} micro-batches alike`)),
    h("text", { class: "middle", x: left + (axis.fold.left + axis.fold.right) / 2, y: CHART.top - 8 },
      `… ${grouped(axis.fold.hidden)} micro-batches alike …`));
  }
  return parts;
}

// Memory at a moment: constant terms, saved activations by layer, and values of the running region.
function livingAt(model, moment) {
  const event = moment.event, nodes = side().nodes;
  const valueRow = (region, way, name) => {
    const key = makerOf(region, way, name), value = nodes[key]?.values.find((one) => one.name === name);
    return [nodes[key] ? nodeLink(key) : name, value?.bytes ?? 0];
  };
  const along = model.held.map(([key, words, nbytes]) => [words, key === "gradients" ? nbytes - moment.lacking : nbytes])
    .filter(([, nbytes]) => Math.abs(nbytes) > 5e5);
  const kept = model.view.regions.map((region, at) => ({ region, runs: event.runs[at], each: model.view.kept[region] ?? 0 }))
    .filter(({ runs, each }) => runs > 0 && each > 0);
  const keptView = kept.map(({ region, runs, each }) => {
    const values = Object.entries(nodes).filter(([key]) => key.startsWith(`${region}.f.`))
      .flatMap(([key, node]) => node.values.filter((value) => value.status === "saved").map((value) => [nodeLink(key), binary(value.bytes)]));
    return h("details", { open: kept.length === 1 || region === side().layers.runs[0][0] },
      h("summary", {}, `${gigabytes(runs * each)} GB: ${region}, ${plural(runs, "run")} of ${binary(each)}`),
      table(["value", "a run"], values));
  });
  const way = event.kind?.[0], running = moment.values.map((name) => ({ name, row: runsGraph(event) && valueRow(event.name, way, name) }))
    .filter(({ name }) => way !== "b" || nodeOf(`${event.name}.b.${name}`)?.op !== "saved");
  const rows = running.map(({ row }) => row).sort((a, b) => b[1] - a[1]).map(([link, nbytes]) => [link, binary(nbytes)]);
  const unseen = moment.working - running.reduce((sum, { row }) => sum + row[1], 0);
  const total = model.base + moment.total;
  return h("section", { class: "living", "aria-live": "polite" },
    h("h3", {}, `${gigabytes(total)} GB at ${duration(moment.time)}`),
    h("p", { class: "small aside" }, eventTitle(event), runsGraph(event) && `, micro-batch ${event.batch + 1}`),
    h("h4", {}, "all along"), table(["", "GB"], along.map(([words, nbytes]) => [words, gigabytes(nbytes)])),
    h("h4", {}, `saved for the backward pass: ${gigabytes(moment.saved)} GB`), keptView,
    runsGraph(event) && [h("h4", {}, `alive in ${event.name} ${event.kind}: ${gigabytes(moment.working + moment.logits)} GB`),
      table(["value", "bytes"], rows), moment.logits > 0 && h("p", { class: "small" }, `logits of a chunk: ${binary(moment.logits)}`),
      unseen > 1e6 && h("p", { class: "small aside" }, `and ${binary(unseen)} that kernels write for themselves`)]);
}

function stepMoment(by) {
  const model = memoryModel();
  set({ at: String(Math.max(0, Math.min(model.moments.length - 1, chosenMoment(model) + by))) });
}

function memoryView() {
  if (!side().step) return noStep();
  const model = memoryModel(), moment = model.moments[chosenMoment(model)];
  const rank = model.view.ranks > 1 ? `, pipeline rank ${model.view.rank} of ${model.view.ranks}` : "";
  const button = (text, label, act) => h("button", { type: "button", title: label, data: { moment: text }, on: { click: act } }, text);
  return h("section", {},
    h("div", { class: "bar" }, h("h2", {}, "Memory of one rank over a step"),
      h("div", { class: "choice", role: "group", "aria-label": "Moment" },
        button("◀", "Earlier moment (←)", () => stepMoment(-1)), button("peak", "The worst moment", () => set({ at: "" })),
        button("▶", "Later moment (→)", () => stepMoment(1))), downloadButton()),
    h("p", { class: "small" }, `${model.step.device}${rank}: ${gigabytes(model.step.peak)} of `
      + `${gigabytes(model.step.capacity)} GB, predicted. Click the chart to see who lives then.`),
    h("div", { class: "memory" }, h("div", {}, memoryChart(model), h("ul", { class: "legend" },
      [...MOVING.map(([, words, css]) => [words, css]), ...model.held.map(([key, words]) => [words, HELD_COLOURS[key]]).reverse()]
        .map(([words, css]) => h("li", {}, h("span", { class: `swatch ${css}` }), words)))),
    livingAt(model, moment)));
}

const noStep = () => h("p", { class: "aside" }, "A step is foreseen once all passes have run: leave out --after.");

// The step as a file for ui.perfetto.dev.
function downloadButton() {
  const save = async () => {
    const packed = Uint8Array.from(atob(side().step.trace), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(await new Response(stream).blob());
    h("a", { href: url, download: `${side().name}-step.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  return h("button", { type: "button", id: "perfetto", title: "Time and memory of a step, for ui.perfetto.dev",
    on: { click: save } }, "Perfetto trace ⤓");
}
