// The passes one after the other, and what each changed.

const changes = (one) => one.hunks.length > 0;
const inlineDiff = () => (state.mode ? state.mode === "inline" : innerWidth < 1100);

function matchesPass(one, index) {
  const words = state.find.toLowerCase();
  if (!words) return true;
  if (one.name.includes(words)) return true;
  if (!index) return one.lines.some((line) => LINES[line].toLowerCase().includes(words));
  const before = side().passes[index - 1].lines;
  const has = (numbers, number) => number >= 0 && LINES[numbers[number]].toLowerCase().includes(words);
  return one.hunks.some((hunk) => hunk[4].some(([a, b]) => has(before, a) || has(one.lines, b)));
}

// Numbers of the passes that the list shows: the first, those that changed something, those found.
function shownPasses() {
  return side().passes.map((_, index) => index).filter((index) => {
    const one = side().passes[index];
    return (state.hide !== "1" || !index || changes(one)) && matchesPass(one, index);
  });
}

function chosenPass() {
  const named = side().passes.findIndex((one) => one.name === state.pass);
  if (named >= 0) return named;
  return shownPasses().find((index) => index > 0 && changes(side().passes[index])) ?? 0;
}

function stepPass(by) {
  const shown = shownPasses(), at = shown.indexOf(chosenPass());
  const next = shown[at < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, at + by))];
  if (next !== undefined) set({ pass: side().passes[next].name });
}

function passList(shown, chosen) {
  const list = h("ol", { class: "passes", "aria-label": "Passes" }, shown.map((index) => {
    const one = side().passes[index];
    const pairs = one.hunks.flatMap((hunk) => hunk[4]);
    const added = pairs.filter(([a, b]) => b >= 0).length, removed = pairs.filter(([a]) => a >= 0).length;
    const size = !index ? plural(one.lines.length, "line") : changes(one) ? `+${added} −${removed}` : "no change";
    return h("li", {}, h("button", { type: "button", data: { pass: one.name },
      class: index && !changes(one) ? "still" : null,
      "aria-current": index === chosen ? "step" : null,
      on: { click: () => set({ pass: one.name }) } },
    h("span", {}, one.name), h("span", { class: "aside small" }, size)));
  }));
  return shown.length ? list : h("p", { class: "aside" }, "No pass has that.");
}

// One row per graph: changes of op counts and of saved values.
function passTables(one) {
  const count = ([op, [was, now]]) => h("span", {}, h("code", {}, op), ` ${was} → `,
    h("b", { class: now > was ? "good" : "bad" }, now));
  const names = (words, list) => list.length > 0 && h("span", {}, words, " ", h("code", {}, list.join(", ")));
  const rows = one.graphs.map((graph) => [`${graph.region}.${graph.direction}`, h("div", { class: "counts" },
    Object.entries(graph.ops).map(count), names("now saved:", graph.newly_kept),
    names("no longer saved:", graph.no_longer_kept))]).filter(([, cell]) => cell.childElementCount);
  const sizes = Object.entries(one.bytes).flatMap(([region, { count: layers, activations, saved }]) => {
    const pair = (words, [was, now]) => was !== now && h("span", {}, `${words} ${binary(was)} → `, h("b", {}, binary(now)));
    const cell = h("div", { class: "counts" }, shownOf([pair("computed", activations), pair("saved", saved)]));
    return cell.childElementCount ? [[layers > 1 ? `${region}, one of ${layers}` : region, cell]] : [];
  });
  return h("div", { class: "tables" }, rows.length > 0 && table(["graph", "ops, and saved values"], rows, [0, 1]),
    sizes.length > 0 && table(["region", "bytes of activations"], sizes, [0, 1]));
}

function passView() {
  const passes = side().passes, index = chosenPass(), one = passes[index], shown = shownPasses();
  const inline = inlineDiff(), before = index ? passes[index - 1].lines : one.lines;
  const hidden = passes.length - side().passes.filter((p, at) => !at || changes(p)).length;
  const toggle = (key, text) => h("label", {}, h("input", { type: "checkbox", data: { key },
    checked: state[key] === "1", on: { change: (e) => set({ [key]: e.target.checked ? "1" : "" }) } }), " ", text);
  const find = h("input", { type: "search", id: "find-pass", value: state.find, placeholder: "find in the passes",
    "aria-label": "Find passes by name or by the lines they change" });
  find.addEventListener("input", () => set({ find: find.value }));
  const step = (by, text, label) => h("button", { type: "button", "aria-label": label, title: label,
    data: { step: by }, on: { click: () => stepPass(by) } }, text);
  const rail = h("nav", { class: "rail", "aria-label": "Pipeline" },
    h("div", { class: "line" }, step(-1, "◀ k", "Previous pass (k)"), step(1, "j ▶", "Next pass (j)")),
    find, passList(shown, index), toggle("hide", `hide ${hidden} without changes`));
  return h("div", { class: "split" }, rail, h("section", { class: "pass" },
    h("div", { class: "bar" }, h("h2", {}, one.name),
      choice("Form of the difference", [["beside", "side by side"], ["inline", "inline"]],
        inline ? "inline" : "beside", (mode) => set({ mode })),
      toggle("whole", "unchanged lines")),
    h("p", {}, one.about), h("ul", { class: "notes" }, one.notes.map((note) => h("li", {}, note))),
    passTables(one),
    index && !changes(one) ? h("p", { class: "aside" }, "This pass changed nothing here.")
      : diffView(one.hunks, before, one.lines, { inline, whole: state.whole === "1" || !index,
        find: state.find, language: "ir", label: `What ${one.name} changed` })));
}
