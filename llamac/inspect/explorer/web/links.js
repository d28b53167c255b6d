// Three texts beside each other: the spec, the IR of the last pass, the Python that is emitted.

function codePane(title, lines, language, about) {
  const rows = lines.map((line, at) => {
    const node = about.node?.(at) ?? "", place = about.place?.(at) ?? "";
    return h("div", { class: `l${node || place ? " linked" : ""}`, role: "option",
      id: `${title}-${at}`, "aria-selected": "false",
      data: { ...(node && { node }), ...(place && { place }) } },
    h("span", { class: "n", "aria-hidden": "true" }, about.number ? about.number(at) : at + 1),
    h("code", {}, painted(line, language)));
  });
  const list = h("div", { class: "code", role: "listbox", tabindex: "0", "aria-label": title,
    data: { pane: title } }, rows);
  list.addEventListener("keydown", (event) => moveCursor(event, list, rows));
  return h("section", { class: `pane ${language}` }, h("h2", {}, title, " ",
    h("span", { class: "aside small" }, about.note ?? "")), list);
}

function moveCursor(event, list, rows) {
  const now = rows.findIndex((row) => row.classList.contains("cursor"));
  const linked = (row) => row.classList.contains("linked");
  if (event.key === "Enter" && now >= 0 && linked(rows[now])) pin(targetOf(rows[now]));
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  let next = now + by;
  while (rows[next] && !linked(rows[next])) next += by;
  if (!rows[next]) return;
  rows[now]?.classList.remove("cursor");
  rows[next].classList.add("cursor");
  rows[next].scrollIntoView({ block: "nearest" });
  list.setAttribute("aria-activedescendant", rows[next].id);
  light(targetOf(rows[next]), "lit");
}

function specPane() {
  const lines = [], places = [], numbers = [];
  for (const { file, lines: text } of side().spec) {
    const inFile = file.endsWith(".toml");
    lines.push(`# ${"─".repeat(3)} ${file}`);
    places.push("");
    numbers.push("");
    text.forEach((line, at) => {
      const place = inFile ? `${file}:${at + 1}` : line;
      lines.push(line);
      places.push(nodesAt(place).length ? place : "");
      numbers.push(inFile ? at + 1 : "");
    });
  }
  return codePane("spec", lines, "toml", { place: (at) => places[at], number: (at) => numbers[at],
    note: side().spec.map((one) => one.file).join(", ") });
}

function linksView() {
  const { ir, emitted } = side();
  return h("div", { class: "linked-panes" }, specPane(),
    codePane("IR", ir.lines.map((at) => LINES[at]), "ir", { node: (at) => ir.nodes[at],
      note: `after ${side().stage}` }),
    codePane("Python", emitted.lines.map((at) => LINES[at]), "python",
      { node: (at) => emitted.nodes[at + 1], note: emitted.file }));
}

// Bring a pinned node into sight where it is not, but not in the text that was clicked.
function showPinned() {
  for (const pane of document.querySelectorAll(".code")) {
    const rows = pane.querySelectorAll(".pinned");
    const box = pane.getBoundingClientRect();
    const seen = (row) => { const r = row.getBoundingClientRect(); return r.top >= box.top && r.bottom <= box.bottom; };
    if (rows.length && ![...rows].some(seen)) {
      pane.scrollTop += rows[0].getBoundingClientRect().top - box.top - box.height / 3;
    }
  }
  const drawn = document.querySelector(".canvas .pinned");
  drawn?.scrollIntoView({ block: "center", inline: "nearest" });
}
