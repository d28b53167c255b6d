// The frame: views, search and keyboard; redraws the parts whose state changed.

const VIEWS = [["passes", "Passes", passView], ["links", "Spec · IR · Python", linksView],
  ["drawing", "Drawing", drawingView], ["memory", "Memory", memoryView], ["timeline", "Timeline", timelineView],
  ["traffic", "Communication", trafficView], ...(DATA.comparison ? [["compare", "Compare", compareView]] : [])];
// What a view depends on beside the side; a change of anything else leaves it as it is.
const DEPENDS = { passes: ["pass", "mode", "hide", "whole", "find"], links: [], drawing: ["region", "part"],
  memory: ["at"], timeline: [], traffic: ["sort"], compare: ["text", "mode", "whole"] };

const chosenView = () => VIEWS.find(([name]) => name === state.view) ?? VIEWS[0];

function renderHead() {
  const { about, step } = side(), mesh = Object.entries(about.mesh).map(([axis, ranks]) => `${axis} ${ranks}`).join(" × ");
  $("title").textContent = side().title === side().name ? side().name : `${side().name}: ${side().title}`;
  const run = about.ranks > 1 ? `${grouped(about.ranks)} ranks, ${mesh}` : "one rank";
  $("summary").textContent = [`${grouped(about.parameters)} parameters`, plural(side().layers.runs.reduce((sum, [, n]) => sum + n, 0), "layer"), run,
    step && `${duration(step.seconds)} a step and ${gigabytes(step.peak)} GB on ${step.device}, predicted`,
    step && !step.fits && "does not fit"].filter(Boolean).join(" · ");
  $("sides").hidden = DATA.sides.length < 2;
  $("sides").replaceChildren(choice("Side", DATA.sides.map((one, at) => [String(at), `${"AB"[at]}: ${one.title}`]), state.side,
    (value) => set({ side: value })));
  $("views").replaceChildren(...VIEWS.map(([name, title]) => h("button", { type: "button", role: "tab", id: `tab-${name}`,
    "aria-selected": String(name === chosenView()[0]), "aria-controls": "view", tabindex: name === chosenView()[0] ? "0" : "-1",
    on: { click: () => set({ view: name }) } }, title)));
  if (document.activeElement !== $("query")) $("query").value = state.q;
}

// A selector of the focused element that also finds it after a redraw.
function focusMark(element) {
  if (!element || element === document.body) return null;
  if (element.id) return `#${CSS.escape(element.id)}`;
  const data = Object.entries(element.dataset ?? {}).map(([key, value]) =>
    `[data-${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}="${CSS.escape(value)}"]`).join("");
  return data ? element.tagName.toLowerCase() + data : null;
}

function renderView() {
  const [name, , view] = chosenView(), focused = focusMark(document.activeElement);
  const caret = document.activeElement?.selectionStart;
  $("view").setAttribute("aria-labelledby", `tab-${name}`);
  document.body.dataset.view = name;
  $("view").replaceChildren(view());
  zoomDrawing(state.zoom);
  repaint();
  const again = focused && document.querySelector(focused);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (typeof caret === "number" && again.setSelectionRange) again.setSelectionRange(caret, caret);
  }
}
function repaint() {
  const canvas = document.querySelector("canvas.timeline");
  if (canvas) paintTimeline(canvas);
}

function render(changed) {
  const has = (...keys) => keys.some((key) => changed.has(key));
  if (has("view", "side", "q", "first")) renderHead();
  if (has("view", "side", "first", ...DEPENDS[chosenView()[0]])) renderView();
  else if (has("zoom")) zoomDrawing(state.zoom);
  if (has("node", "side", "first")) nodePanel();
  light(state.node, "pinned");
  lightLines();
  markHits();
  if (has("node", "view", "side", "region", "first") && state.node) showPinned();
  if (has("span", "node", "q")) repaint();
}

const KEYS = {
  j: () => chosenView()[0] === "passes" && stepPass(1), k: () => chosenView()[0] === "passes" && stepPass(-1),
  s: () => set({ mode: inlineDiff() ? "beside" : "inline" }), h: () => set({ hide: state.hide ? "" : "1" }),
  w: () => set({ whole: state.whole ? "" : "1" }), "/": () => $("query").focus(), "?": () => $("help").showModal(),
  n: () => stepHit(1), N: () => stepHit(-1), Escape: () => set({ node: "" }),
};
const VIEW_KEYS = {
  memory: { ArrowLeft: () => stepMoment(-1), ArrowRight: () => stepMoment(1) },
  timeline: { ArrowLeft: () => panTimeline(-0.25), ArrowRight: () => panTimeline(0.25), "+": () => zoomTimeline(0.5),
    "=": () => zoomTimeline(0.5), "-": () => zoomTimeline(2), 0: () => set({ span: "" }) },
  drawing: { "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8), 0: () => set({ zoom: "fit" }) },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const tab = event.target.getAttribute?.("role") === "tab" && { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (tab) {
    const at = VIEWS.findIndex(([name]) => name === chosenView()[0]);
    set({ view: VIEWS[(at + tab + VIEWS.length) % VIEWS.length][0] });
    $(`tab-${state.view}`).focus();
    return;
  }
  const numbered = VIEWS[Number(event.key) - 1];
  const act = VIEW_KEYS[chosenView()[0]]?.[event.key] ?? KEYS[event.key] ?? (numbered && (() => set({ view: numbered[0] })));
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("click", (event) => {
  const target = event.target.closest?.(".code .linked, .canvas g[data-node]");
  if (target && !getSelection().toString()) pin(targetOf(target));
});
$("query").addEventListener("input", () => set({ q: $("query").value }));
$("search").addEventListener("submit", (event) => { event.preventDefault(); stepHit(1); });
$("next-hit").addEventListener("click", () => stepHit(1));
$("previous-hit").addEventListener("click", () => stepHit(-1));
$("help-button").addEventListener("click", () => $("help").showModal());
addEventListener("hashchange", () => { readAddress(); render(new Set(["first"])); });
let resized = 0;
addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(() => { zoomDrawing(state.zoom); repaint(); }); });
document.addEventListener("themechange", repaint);

renderers.push(render);
readAddress();
render(new Set(["first"]));
document.body.dataset.ready = performance.now().toFixed(0); // milliseconds until the page is at work
