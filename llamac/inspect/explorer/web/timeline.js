// A step on lanes: compute, and each group of ranks that exchange something. Drawn on a canvas,
// for a step may have tens of thousands of events; lists beside it hold the same in words.

const THIN = 0.5; // pixels
const LANE = { height: 44, gap: 12, left: 84, top: 26 };

function timelineModel() {
  const { graphs, time: view } = side().step;
  if (view.boxes) return view;
  const lanes = new Set(["compute"]), boxes = [];
  for (const event of eventsOf(view)) {
    lanes.add(event.lane);
    boxes.push({ ...event, title: eventTitle(event) });
    if (!runsGraph(event)) continue;
    const [region, way] = [event.name, event.kind[0]];
    for (const [name, lane, begin, end, exposed] of graphs[graphKey(event)].spans) {
      lanes.add(lane);
      const node = `${region}.${way}.${name}`;
      boxes.push({ kind: lane === "compute" ? "op" : "collective", lane, title: name, node, inside: event,
        begin: event.begin + begin, end: event.begin + end, exposed });
      if (exposed) {
        boxes.push({ kind: "exposed", lane: "compute", title: `waits for ${name}`, node, inside: event,
          begin: event.begin + end - exposed, end: event.begin + end });
      }
    }
  }
  const order = ["compute", "tp", "cp", "data", "pipeline"];
  view.lanes = [...lanes].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  view.boxes = boxes;
  return view;
}

// The part of the axis that is shown, 0 to 1 each.
function shownSpan() {
  const [from, to] = state.span.split(",").map(Number);
  return to > from ? [from, to] : [0, 1];
}
function showSpan(from, to) {
  const wide = Math.max(2e-5, Math.min(1, to - from)), begin = Math.max(0, Math.min(1 - wide, from));
  set({ span: wide >= 1 ? "" : `${begin.toFixed(6)},${(begin + wide).toFixed(6)}` });
}
function zoomTimeline(factor, centre = 0.5) {
  const [from, to] = shownSpan(), middle = from + (to - from) * centre;
  showSpan(middle - (middle - from) * factor, middle + (to - middle) * factor);
}
function panTimeline(share) {
  const [from, to] = shownSpan();
  showSpan(from + (to - from) * share, to + (to - from) * share);
}

// Colours of the theme by name, as a canvas takes them.
function themeColours(canvas) {
  const style = getComputedStyle(canvas), known = {};
  return (name) => {
    if (!known[name]) {
      canvas.style.color = `var(--${name})`;
      known[name] = style.color;
    }
    return known[name];
  };
}

function paintTimeline(canvas) {
  const model = timelineModel(), width = canvas.clientWidth, colour = themeColours(canvas);
  const height = LANE.top + model.lanes.length * (LANE.height + LANE.gap);
  const sharp = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * sharp, height * sharp];
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  pen.font = "11px system-ui, sans-serif";
  const plot = width - LANE.left, [from, to] = shownSpan(), axis = timeAxis(model, plot / (to - from));
  const x = (seconds) => LANE.left + axis.x(seconds) - (from * plot) / (to - from);
  const fills = { forward: "matmul-fill", backward: "backward-fill", op: "card", update: "attention-fill",
    wait: "soft", bubble: "soft", exposed: "remove", collective: "again-fill", gather: "again-fill",
    reduce: "again-fill", send: "again-fill" };
  const lines = { forward: "matmul", backward: "gradient", update: "attention", exposed: "bad", wait: "bad",
    bubble: "bad", op: "line" };
  const shown = [];
  paintGrid(pen, model, axis, x, width, height, colour);
  const dimmed = state.q.trim() ? new Set(hits()) : null;
  for (const box of model.boxes) {
    const left = Math.max(LANE.left, x(box.begin)), right = Math.min(width, x(box.end));
    const wide = right - left;
    if (right < LANE.left || left > width || (box.kind === "op" && wide < 3)) continue;
    const lane = model.lanes.indexOf(box.lane), inner = box.kind === "op" || box.kind === "exposed";
    const top = LANE.top + lane * (LANE.height + LANE.gap) + (inner ? 15 : 0), tall = LANE.height - (inner ? 15 : 0);
    pen.globalAlpha = dimmed && box.node && !dimmed.has(box.node) ? 0.3 : 1;
    if (wide < THIN) { // many in a pixel: each as dense as it is wide
      pen.globalAlpha *= Math.max(0.3, wide / THIN);
      pen.fillStyle = colour(box.exposed ? "bad" : lines[box.kind] ?? "again");
      pen.fillRect(left, top, THIN, tall);
      continue;
    }
    pen.fillStyle = colour(fills[box.kind]);
    pen.fillRect(left, top, wide, tall);
    if (["wait", "bubble", "exposed"].includes(box.kind)) hatch(pen, left, top, wide, tall, colour("bad"));
    if (box.exposed && box.kind === "collective") {
      const begin = Math.max(left, x(box.end - box.exposed));
      pen.fillStyle = colour("bad");
      pen.fillRect(begin, top, Math.max(0.3, right - begin), tall);
    }
    if (wide > 2) {
      pen.strokeStyle = box.node && box.node === state.node ? colour("focus") : colour(lines[box.kind] ?? "again");
      pen.lineWidth = box.node && box.node === state.node ? 2.5 : 0.75;
      pen.strokeRect(left + 0.5, top + 0.5, wide - 1, tall - 1);
    }
    if (wide > 26) label(pen, box.title, left + 4, top + (inner ? tall - 5 : 11), wide - 6,
      colour(box.exposed && box.kind === "collective" ? "card" : "ink"));
    shown.push({ box, left, right, top, bottom: top + tall });
  }
  pen.globalAlpha = 1;
  paintNames(pen, model, axis, x, height, colour);
  canvas.shown = shown;
}

function paintGrid(pen, model, axis, x, width, height, colour) {
  const begin = axis.seconds(axis.x(0) + (LANE.left - x(0))), end = axis.seconds(axis.x(0) + (width - x(0)));
  for (const [at, text] of axisTicks(axis, model, begin, end)) {
    const left = x(at);
    pen.fillStyle = colour("muted");
    pen.fillText(text, left + 3, 12);
    pen.fillStyle = colour("line");
    pen.fillRect(left, 4, 1, height - 4);
  }
}

function paintNames(pen, model, axis, x, height, colour) {
  pen.fillStyle = colour("paper");
  pen.fillRect(0, 0, LANE.left - 1, height);
  pen.fillStyle = colour("ink");
  model.lanes.forEach((lane, at) => pen.fillText(lane, 4, LANE.top + at * (LANE.height + LANE.gap) + 26));
  if (axis.fold) {
    const left = x(model.fold[0]), wide = x(model.fold[1]) - left;
    pen.fillStyle = colour("soft");
    pen.fillRect(left, 0, wide, height);
    label(pen, `${grouped(axis.fold.hidden)} more`, left + 4, LANE.top + 22, wide, colour("muted"));
    label(pen, "alike", left + 4, LANE.top + 36, wide, colour("muted"));
  }
}

function hatch(pen, left, top, wide, tall, colour) {
  pen.save();
  pen.beginPath();
  pen.rect(left, top, wide, tall);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.globalAlpha *= 0.55;
  for (let at = left - tall; at < left + wide; at += 6) {
    pen.beginPath();
    pen.moveTo(at, top + tall);
    pen.lineTo(at + tall, top);
    pen.stroke();
  }
  pen.restore();
}

function label(pen, text, left, base, wide, colour) {
  let shown = text;
  while (shown.length > 2 && pen.measureText(shown).width > wide) shown = `${shown.slice(0, -2)}…`;
  if (shown.length < 3 && shown !== text) return;
  pen.fillStyle = colour;
  pen.fillText(shown, left, base);
}

const boxAt = (canvas, event) => {
  const bounds = canvas.getBoundingClientRect(), x = event.clientX - bounds.left, y = event.clientY - bounds.top;
  return canvas.shown?.findLast(({ left, right, top, bottom }) => x >= left - 1 && x <= right + 1 && y >= top && y <= bottom)?.box;
};
const boxText = (box) => `${box.title}: ${duration(box.end - box.begin)} from ${duration(box.begin)}`
  + (box.exposed ? `, ${duration(box.exposed)} exposed` : "") + (box.inside ? `, in ${eventTitle(box.inside)}` : "");

function timelineCanvas() {
  const canvas = h("canvas", { class: "timeline", tabindex: "0", role: "img", "aria-describedby": "pointed",
    "aria-label": "Timeline of a step: compute, and transfers by group of ranks. The tables have it in words." });
  const pointed = h("p", { id: "pointed", class: "small", role: "status" }, "Point at something; click an op to pin it.");
  canvas.addEventListener("mousemove", (event) => {
    const box = boxAt(canvas, event);
    canvas.style.cursor = box?.node ? "pointer" : "grab";
    if (box) pointed.textContent = boxText(box);
    if (event.buttons === 1) panTimeline(-event.movementX / (canvas.clientWidth - LANE.left));
  });
  let pressed = 0;
  canvas.addEventListener("mousedown", (event) => { pressed = event.clientX; });
  canvas.addEventListener("click", (event) => {
    const box = boxAt(canvas, event);
    if (Math.abs(event.clientX - pressed) < 4 && box?.node) pin(box.node);
  });
  canvas.addEventListener("dblclick", (event) => {
    const box = boxAt(canvas, event), axis = timeAxis(timelineModel(), 1);
    if (box) showSpan(axis.x(box.inside?.begin ?? box.begin), axis.x(box.inside?.end ?? box.end));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const bounds = canvas.getBoundingClientRect(), centre = (event.clientX - bounds.left - LANE.left) / (bounds.width - LANE.left);
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) panTimeline(event.deltaX / bounds.width);
    else zoomTimeline(event.deltaY > 0 ? 1.25 : 0.8, Math.max(0, Math.min(1, centre)));
  }, { passive: false });
  return [canvas, pointed];
}

function layerZoom() {
  const event = eventsOf(side().step.time).find((one) => one.kind === "backward" && one.layer >= 0)
    ?? eventsOf(side().step.time).find(runsGraph);
  const axis = timeAxis(side().step.time, 1);
  showSpan(axis.x(event.begin), axis.x(event.end));
}

function timelineView() {
  if (!side().step) return noStep();
  const { step } = side(), button = (text, title, act) => h("button", { type: "button", title, data: { zoom: title },
    on: { click: act } }, text);
  let sum = 0;
  const parts = step.taken.map(([key, words, seconds]) => { sum += seconds; return h("span", { class: `term term-${key}`,
    style: `flex-grow: ${(seconds / step.seconds).toFixed(4)}`, title: `${words}: ${duration(seconds)}` }); });
  const rank = step.time.ranks > 1 ? `, pipeline rank ${step.time.rank}, the slowest of ${step.time.ranks}` : "";
  return h("section", {},
    h("div", { class: "bar" }, h("h2", {}, "A step on one rank"), h("div", { class: "choice", role: "group", "aria-label": "Part of the step" },
      button("−", "Less of a detail (−)", () => zoomTimeline(2)), button("all", "The whole step (0)", () => set({ span: "" })),
      button("a layer", "One layer's backward pass", layerZoom), button("+", "More detail (+)", () => zoomTimeline(0.5)),
      button("◀", "Earlier (←)", () => panTimeline(-0.5)), button("▶", "Later (→)", () => panTimeline(0.5))), downloadButton()),
    h("p", { class: "small" }, `${step.device}${rank}: ${duration(step.seconds)} a step, predicted; `
      + `${grouped(step.tokens_per_second_per_gpu)} tokens/s/GPU, MFU ${percent(step.mfu)}`),
    h("div", { class: "terms", "aria-hidden": "true" }, parts),
    h("ul", { class: "legend" }, step.taken.map(([key, words, seconds]) => h("li", {}, h("span", { class: `swatch term-${key}` }),
      `${words} ${duration(seconds)} (${percent(seconds / step.seconds)})`))),
    timelineCanvas(),
    h("ul", { class: "legend" }, [["swatch run-f", "forward"], ["swatch run-b", "backward"], ["swatch hidden-time", "transfer under compute"],
      ["swatch exposed-time", "exposed: compute waits"]].map(([css, words]) => h("li", {}, h("span", { class: css }), words))),
    h("h3", {}, "Where compute spends the step"), table(["graph", "op", "shapes of a rank", "times", "each", "in all", "of the step", "bound by"],
      step.ops.map((one) => [`${one.region} ${one.direction}`, one.op, h("code", {}, one.shape), grouped(one.count),
        duration(one.seconds), duration(one.total), percent(one.total / step.seconds), one.bound]), [0, 1, 2, 7], { class: "ops" }));
}
