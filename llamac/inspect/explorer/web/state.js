// What is shown, stored in the address: a view can be shared with the file.

const DEFAULTS = {
  view: "passes", side: "0", pass: "", mode: "", hide: "", whole: "", find: "", q: "",
  region: "", part: "", zoom: "", node: "", at: "", span: "", text: "", sort: "",
};
const state = { ...DEFAULTS };
const renderers = []; // called after each change with the names of what changed

function readAddress() {
  Object.assign(state, address.read(DEFAULTS));
  if (!DATA.sides[state.side]) state.side = "0";
}
const writeAddress = () => address.write(state, DEFAULTS);

function set(changes) {
  const changed = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  if (!changed.length) return;
  Object.assign(state, changes);
  writeAddress();
  for (const render of renderers) render(new Set(changed));
}

const side = () => DATA.sides[state.side];
const nodeOf = (key) => side().nodes[key];

// The nodes by the place in the spec that they come from; made once for each side.
const placed = new Map();
function nodesAt(place) {
  const found = placed.get(side()) ?? new Map();
  if (!placed.has(side())) {
    for (const [key, node] of Object.entries(side().nodes)) {
      if (node.where) found.set(node.where, [...(found.get(node.where) ?? []), key]);
    }
    placed.set(side(), found);
  }
  return found.get(place) ?? [];
}

// What is pinned or pointed at: the key of a node, or `@` and a place in the spec.
function reach(target) {
  if (target.startsWith("@")) {
    return { keys: new Set(nodesAt(target.slice(1))), places: new Set([target.slice(1)]), kin: new Set() };
  }
  const node = nodeOf(target);
  if (!node) return { keys: new Set(), places: new Set(), kin: new Set() };
  const kin = new Set([...(node.origin ? [node.origin] : []), ...(node.backward ?? [])]);
  return { keys: new Set([target]), places: new Set(node.where ? [node.where] : []), kin };
}

// Light what belongs to a node in every pane. Elements say which by data-node or data-place.
function light(target, name) {
  const { keys, places, kin } = target ? reach(target) : { keys: new Set(), places: new Set(), kin: new Set() };
  for (const element of document.querySelectorAll("#body [data-node], #body [data-place]")) {
    const on = keys.has(element.dataset.node) || places.has(element.dataset.place);
    element.classList.toggle(name, on);
    if (name === "pinned") {
      element.classList.toggle("kin", !on && kin.has(element.dataset.node));
      if (element.getAttribute("role") === "option") element.setAttribute("aria-selected", String(on));
    }
  }
}
const targetOf = (element) => {
  const found = element?.closest?.("[data-node], [data-place]");
  if (!found || !$("body").contains(found)) return "";
  return found.dataset.node || `@${found.dataset.place}`;
};
function pin(target) { set({ node: state.node === target ? "" : target }); }

document.addEventListener("mouseover", (event) => light(targetOf(event.target), "lit"));
document.addEventListener("focusin", (event) => light(targetOf(event.target), "lit"));
