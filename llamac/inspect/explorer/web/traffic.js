// Communication: every kind of transfer of a step, the most exposed first.

const COLUMNS = [["what", (one) => one.where], ["collective", (one) => one.kind], ["axis", (one) => one.axis],
  ["ranks", (one) => one.ranks], ["link", (one) => one.link], ["each", (one) => one.nbytes],
  ["times", (one) => one.count], ["in all", (one) => one.count * one.seconds],
  ["exposed", (one) => one.count * one.exposed]];

function trafficRows() {
  const name = state.sort.replace(/^-/, "") || "exposed", falling = !state.sort.startsWith("-");
  const [, of] = COLUMNS.find(([title]) => title === name) ?? COLUMNS.at(-1);
  const order = (a, b) => (typeof a === "number" ? b - a : a.localeCompare(b));
  return [...side().step.transfers].sort((a, b) => (falling ? 1 : -1) * order(of(a), of(b)));
}

function trafficView() {
  if (!side().step) return noStep();
  const { step } = side(), rows = trafficRows(), most = Math.max(...rows.map((one) => one.count * one.exposed), 1e-12);
  const total = (of) => rows.reduce((sum, one) => sum + one.count * of(one), 0);
  const sorted = state.sort.replace(/^-/, "") || "exposed";
  const head = COLUMNS.map(([title]) => h("button", { type: "button", class: "sort", data: { sort: title },
    on: { click: () => set({ sort: state.sort === title || (title === "exposed" && !state.sort) ? `-${title}` : title }) } }, title,
  title === sorted && h("span", { "aria-hidden": "true" }, state.sort.startsWith("-") ? " ▴" : " ▾")));
  const content = rows.map((one) => [
    one.node ? h("button", { type: "button", class: "link", data: { node: one.node }, on: { click: () => pin(one.node) } }, one.where) : one.where,
    one.kind, h("span", { class: "chip" }, one.axis), grouped(one.ranks), one.link, decimal(one.nbytes), grouped(one.count),
    duration(one.count * one.seconds), h("span", { class: "exposure" },
      h("i", { style: `width: ${((100 * one.count * one.exposed) / most).toFixed(1)}%` }), duration(one.count * one.exposed))]);
  const view = table(head, content, [0, 1, 2, 4], { class: "traffic" });
  view.querySelectorAll("th").forEach((cell, at) => cell.setAttribute("aria-sort",
    COLUMNS[at][0] !== sorted ? "none" : state.sort.startsWith("-") ? "ascending" : "descending"));
  return h("section", {}, h("div", { class: "bar" }, h("h2", {}, "Communication of one rank in a step"), downloadButton()),
    rows.length ? [h("p", { class: "small" }, `${decimal(total((one) => one.nbytes))} sent, ${duration(total((one) => one.seconds))} of transfers, of which `,
      h("b", {}, `${duration(total((one) => one.exposed))} exposed`), `: compute waits for them (${percent(total((one) => one.exposed) / step.seconds)} of the step).`), view]
      : h("p", { class: "aside" }, "Nothing passes between ranks."));
}
