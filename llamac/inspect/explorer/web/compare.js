// Two specs or layouts: what their plans say, and where their texts differ.

function compareView() {
  const { plan, texts } = DATA.comparison, [a, b] = DATA.sides;
  const at = Math.max(0, texts.findIndex((one) => one.title === state.text));
  const text = texts[at], inline = inlineDiff();
  return h("section", {}, h("div", { class: "bar" }, h("h2", {}, `A: ${a.title}, B: ${b.title}`)),
    plan ? [plan.verdict.map((line) => h("p", { class: "verdict" }, line)), h("ul", {}, plan.reasons.map((reason) => h("li", {}, reason))),
      h("div", { class: "columns" }, plan.tables.map((one) => h("div", {}, h("h3", {}, one.title), table(one.head, one.rows))))]
      : h("p", { class: "aside" }, "Plans are compared once all passes have run."),
    h("div", { class: "bar" }, choice("Text", texts.map((one) => [one.title, `${one.title} (${one.hunks.length})`]), text.title,
      (title) => set({ text: title })), choice("Form of the difference", [["beside", "side by side"], ["inline", "inline"]],
      inline ? "inline" : "beside", (mode) => set({ mode }))),
    text.hunks.length ? diffView(text.hunks, text.lines[0], text.lines[1], { inline, whole: state.whole === "1",
      language: ["toml", "ir", "python"][at], label: `Differences of ${text.title}` })
      : h("p", { class: "aside" }, "They do not differ."));
}
