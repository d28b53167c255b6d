// Search of nodes, over all views: hits are marked wherever they stand.

const FIELDS = {
  op: (node) => [node.op],
  name: (node) => [node.name, node.parameter ?? "", ...node.values.map((value) => value.name)],
  shape: (node) => node.values.flatMap((value) => [...value.shape.map(String), value.type.replace(/@.*/, "")]),
  layout: (node) => node.values.flatMap((value) => value.chips.map((chip) => chip[1])),
  axis: (node) => [...node.values.flatMap((value) => value.type.match(/@.*/)?.[0].match(/\w+(?=:)/g) ?? []),
    (node.attributes?.axis ?? "").replaceAll("'", "")],
  is: (node) => [node.kind, node.again ? "recomputed" : "", ...node.values.map((value) => value.status ?? "")],
};
const EXACT = new Set(["layout", "axis", "is"]);

function matcher(query) {
  const terms = query.trim().split(/\s+/).filter(Boolean).map((term) => {
    const [, field, value] = term.match(/^(\w+):(.*)$/) ?? [];
    return field in FIELDS ? { field, value: value.toLowerCase() } : { value: term.toLowerCase() };
  });
  const has = (node, { field, value }) => {
    const texts = (field ? FIELDS[field](node) : [...FIELDS.name(node), node.op]).map((t) => t.toLowerCase());
    const whole = EXACT.has(field) || (field === "shape" && /^[\w/]+$/.test(value));
    return texts.some((text) => (whole ? text === value : text.includes(value)));
  };
  return (node) => terms.every((term) => has(node, term));
}

function hits() {
  if (!state.q.trim()) return [];
  const matches = matcher(state.q);
  return Object.keys(side().nodes).filter((key) => matches(nodeOf(key)) && nodeOf(key).op !== "return");
}

function markHits() {
  const found = hits(), keys = new Set(found);
  document.body.classList.toggle("searching", state.q.trim() !== "");
  for (const element of document.querySelectorAll("#body [data-node]")) {
    element.classList.toggle("hit", keys.has(element.dataset.node));
  }
  $("found").textContent = state.q.trim() ? plural(found.length, "node") : "";
}

function stepHit(by) {
  const found = hits(), at = found.indexOf(state.node);
  if (!found.length) return;
  const next = at < 0 ? (by > 0 ? 0 : found.length - 1) : (at + by + found.length) % found.length;
  const shows = ["links", "drawing"].includes(state.view);
  set({ node: found[next], region: nodeOf(found[next]).region, ...(shows ? {} : { view: "links" }) });
}
