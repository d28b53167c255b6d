// All that is known of the pinned node.

const STATUS = { saved: "saved for the backward pass", recomputed: "recomputed",
  view: "a view", "not needed": "not needed" };

function nodeLink(key) {
  const node = nodeOf(key);
  const names = node.values.map((value) => value.name).join(", ") || node.name;
  return h("button", { type: "button", class: "link", data: { node: key }, title: `${node.op} · ${key}`,
    on: { click: () => set({ node: key, region: node.region }) } }, names);
}

const nodeLinks = (title, keys) => keys?.length > 0 && h("div", { class: "fact" }, h("h3", {}, title),
  h("p", { class: "links" }, keys.map(nodeLink)));

function chipView([axis, placement, meaning]) {
  return h("li", {}, h("span", { class: `chip axis-${axis}` }, h("b", {}, axis), ` ${placement}`), " ", meaning);
}

function sizesText(value) {
  const symbols = side().about.symbols;
  const sizes = value.shape.map((dim) => (typeof dim === "string" ? symbols[dim] ?? dim : dim));
  return sizes.length ? `${value.dtype} ${sizes.map(grouped).join(" × ")}` : value.dtype;
}

function valueView(value) {
  return h("div", { class: "value" },
    h("p", {}, h("b", { class: "mono" }, value.name), " ", h("code", {}, value.type)),
    h("p", { class: "small" }, `${sizesText(value)}: ${binary(value.bytes)} on a rank, `
      + `${(value.bytes / side().about.sbh).toFixed(2)} sbh`),
    value.chips.length > 0 && h("ul", { class: "chips" }, value.chips.map(chipView)),
    value.status && h("p", { class: "small" },
      h("span", { class: `status ${value.status.replace(" ", "-")}` }, STATUS[value.status]), " ", value.why));
}

function costView(key, node) {
  const [region, way] = key.split(".");
  const cost = side().step?.graphs[`${region}.${way}`]?.costs[node.name];
  if (!cost || cost.seconds === undefined) return null;
  const rows = [["time", duration(cost.seconds)], ["bound by", cost.bound]];
  if (cost.sent !== undefined) {
    rows.push(["a rank sends", `${decimal(cost.sent)} over ${cost.axis}`],
      ["exposed", cost.exposed ? h("span", { class: "bad" }, duration(cost.exposed)) : "nothing: under compute"]);
  } else {
    if (cost.flops) rows.push(["work", `${flops(cost.flops)}, ${flops(cost.flops / cost.seconds)}/s`]);
    rows.push(["memory traffic", `${decimal(cost.moved)}, ${decimal(cost.moved / cost.seconds)}/s`]);
  }
  return h("div", { class: "fact" }, h("h3", {}, "cost, predicted"), table(["", ""], rows, [0, 1], { class: "cost" }));
}

function nodePanel() {
  const panel = $("node");
  const target = state.node;
  panel.hidden = !target;
  if (!target) return panel.replaceChildren();
  const close = h("button", { type: "button", class: "close", "aria-label": "Let go of the node", title: "Let go (Esc)",
    on: { click: () => set({ node: "" }) } }, "✕");
  if (target.startsWith("@")) {
    const keys = nodesAt(target.slice(1));
    return panel.replaceChildren(...shownOf([close, h("h2", {}, target.slice(1)),
      nodeLinks(`${plural(keys.length, "node")} from this line`, keys)]));
  }
  const node = nodeOf(target);
  if (!node) return panel.replaceChildren(close, h("p", {}, `There is no node ${target} here.`));
  const facts = Object.entries(node.attributes ?? {}).map(([name, value]) => `${name} = ${value}`).join(", ");
  return panel.replaceChildren(...shownOf([close,
    h("h2", {}, node.op, node.parameter && ` ${node.parameter}`),
    h("p", { class: "aside small" }, `${node.region}, ${node.direction}`, node.again && ", recomputed",
      node.where && [", from ", h("button", { type: "button", class: "link", data: { place: node.where },
        on: { click: () => set({ node: `@${node.where}`, view: "links" }) } }, node.where)]),
    facts && h("p", { class: "small mono" }, facts),
    node.values.map(valueView), costView(target, node),
    nodeLinks("reads", node.reads), nodeLinks("users", node.users),
    nodeLinks(node.again ? "recomputes" : "comes from", node.origin && [node.origin]),
    nodeLinks("gives rise to", node.backward)]));
}
