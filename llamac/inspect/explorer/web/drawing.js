// The drawing of one region: whole, or one direction of it, at a size that can be read.

const LEGEND = [["box matmul", "matmul"], ["box attention", "attention"], ["box plain", "memory-bound"],
  ["box view", "view, no data of its own"], ["box kept", "saved for the backward pass"],
  ["box again", "recomputed"], ["flow value", "value"], ["flow kept", "saved value"],
  ["flow recomputed", "recomputed value"], ["flow gradient", "gradient"]];

const drawnRegion = () => (side().drawings[state.region] ? state.region : side().layers.runs[0][0]);
const drawnPart = () => (side().drawings[drawnRegion()][state.part] ? state.part : "all");

// The node of a box: `f.` and `b.` name it, `k.` a saved value, `out.` a result of the graph.
function boxNode(key, region) {
  const [kind, ...rest] = key.split("."), name = rest.join(".");
  if (kind === "f" || kind === "b") return makerOf(region, kind, name);
  if (kind === "k") return makerOf(region, "f", name);
  return makerOf(region, "f", name) === `${region}.f.return` ? `${region}.f.return` : returned(region, name);
}
function makerOf(region, way, name) {
  const direct = `${region}.${way}.${name}`;
  if (nodeOf(direct)) return direct;
  const found = Object.entries(side().nodes).find(([key, node]) => key.startsWith(`${region}.${way}.`)
    && node.values.some((value) => value.name === name));
  return found?.[0] ?? direct;
}
function returned(region, name) {
  const reads = (way) => nodeOf(`${region}.${way}.return`)?.reads.includes(makerOf(region, way, name));
  return `${region}.${reads("f") ? "f" : "b"}.return`;
}

function drawnSvg(region, part) {
  const holder = h("div", { class: "canvas", tabindex: "0", role: "region", "aria-label": `Drawing of ${region}` });
  holder.innerHTML = side().drawings[region][part];
  const drawing = holder.firstElementChild;
  for (const group of drawing.querySelectorAll("g[data-key]")) {
    const key = boxNode(group.dataset.key, region);
    const titled = group.querySelector("title"), words = [...group.querySelectorAll("text")].map((t) => t.textContent);
    titled?.remove();
    Object.assign(group.dataset, { node: key });
    group.setAttribute("role", "button");
    group.setAttribute("tabindex", "0");
    group.setAttribute("aria-label", words.join(", "));
    group.addEventListener("keydown", (event) => { if (event.key === "Enter") pin(key); });
  }
  return holder;
}

// Lines that end in the pinned node's boxes.
function lightLines() {
  const canvas = document.querySelector(".canvas");
  if (!canvas) return;
  const keys = new Set([...canvas.querySelectorAll("g[data-key].pinned")].map((g) => g.dataset.key));
  canvas.classList.toggle("chosen", keys.size > 0);
  for (const line of canvas.querySelectorAll("g[data-from]")) {
    line.classList.toggle("joined", keys.has(line.dataset.from) || keys.has(line.dataset.to));
  }
}

function zoomDrawing(zoom) {
  const drawing = document.querySelector(".canvas > svg");
  if (!drawing) return;
  const [, , width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
  const room = drawing.parentElement.clientWidth - 2;
  const scale = zoom === "fit" ? room / width : Number(zoom) || Math.min(1.25, Math.max(1, room / width));
  drawing.setAttribute("width", (width * scale).toFixed(1));
  drawing.setAttribute("height", (height * scale).toFixed(1));
}
function zoomBy(factor) {
  const drawing = document.querySelector(".canvas > svg");
  const now = drawing.getAttribute("width") / drawing.getAttribute("viewBox").split(" ")[2];
  set({ zoom: Math.min(4, Math.max(0.25, now * factor)).toFixed(2) });
}

function layerStrip() {
  const { runs, stages } = side().layers;
  const total = runs.reduce((sum, [, count]) => sum + count, 0);
  let first = 0;
  const parts = runs.map(([region, count], at) => {
    const range = count > 1 ? `layers ${first}–${first + count - 1}` : `layer ${first}`;
    first += count;
    return h("button", { type: "button", class: `run run-${at % 4}`, style: `flex-grow: ${count}`,
      "aria-pressed": String(region === drawnRegion()), data: { region },
      on: { click: () => set({ region }) } }, h("b", {}, region), ` ${range}`);
  });
  const even = stages.every((count) => count === stages[0]) ? stages[0] : stages.join(", ");
  return [h("div", { class: "layers", role: "group", "aria-label": `${total} layers` }, parts),
    stages.length > 1 && h("p", { class: "aside small" }, `${stages.length} pipeline stages of ${even} layers`)];
}

function drawingView() {
  const region = drawnRegion(), part = drawnPart(), parts = Object.keys(side().drawings[region]);
  const kept = side().about.kept[region], layers = side().layers.runs.filter(([name]) => name === region)
    .reduce((sum, [, count]) => sum + count, 0);
  const button = (text, label, act) => h("button", { type: "button", "aria-label": label, title: label,
    data: { zoom: label }, on: { click: act } }, text);
  const sbh = (nbytes) => `${binary(nbytes)} = ${(nbytes / side().about.sbh).toFixed(2)} sbh`;
  return h("section", {},
    layerStrip(),
    h("div", { class: "bar" },
      choice("Region", side().regions.map((name) => [name, name]), region, (one) => set({ region: one })),
      parts.length > 1 && choice("Direction", parts.map((one) => [one, one === "all" ? "both" : one]), part,
        (one) => set({ part: one })),
      h("div", { class: "choice", role: "group", "aria-label": "Size" }, button("−", "Smaller", () => zoomBy(0.8)),
        button("fit", "Fit the width", () => set({ zoom: "fit" })), button("1:1", "Full size", () => set({ zoom: "1" })),
        button("+", "Larger", () => zoomBy(1.25)))),
    h("p", { class: "small" }, layers > 1 && `one of ${layers} identical layers; `, kept
      ? `saves ${sbh(kept.saved)} for the backward pass; without recomputation, ${sbh(kept.everything)}`
      : "forward only"),
    h("ul", { class: "legend" }, LEGEND.map(([css, words]) => h("li", {}, h("span", { class: css }), words))),
    drawnSvg(region, part));
}
