// Two texts beside each other or one in the other. Hunks were found by the compiler's own pages'
// Python: [from, to, from, to, pairs], a pair [-1, n] or [n, -1] where a line stands alone.

const NEAR = 3; // unchanged lines shown around a change

// Rows: {kind, a, b}, of line numbers; unchanged stretches as {kind: "gap", count, rows}.
function diffRows(hunks, before, after, whole) {
  const rows = [];
  const same = (a, b, count, first, last) => {
    const all = Array.from({ length: count }, (_, at) => ({ kind: "same", a: a + at, b: b + at }));
    const head = first ? 0 : NEAR, tail = last ? 0 : NEAR;
    if (whole || count <= head + tail + 1) return rows.push(...all);
    rows.push(...all.slice(0, head));
    rows.push({ kind: "gap", rows: all.slice(head, count - tail) });
    return rows.push(...all.slice(count - tail));
  };
  let a = 0, b = 0;
  for (const [from, to, start, end, pairs] of hunks) {
    same(a, b, from - a, a === 0, false);
    for (const [one, other] of pairs) {
      rows.push({ kind: one < 0 ? "add" : other < 0 ? "remove" : "change", a: one, b: other });
    }
    [a, b] = [to, end];
  }
  same(a, b, before.length - a, hunks.length === 0, true);
  return rows;
}

// Where two lines differ: [begin, end] of each, by words.
function changedPart(one, other) {
  const [a, b] = [one, other].map((text) => text.match(/\w+|\W/g) ?? []);
  let head = 0, tail = 0;
  while (head < Math.min(a.length, b.length) && a[head] === b[head]) head += 1;
  while (tail < Math.min(a.length, b.length) - head
    && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const length = (parts) => parts.join("").length;
  return [a, b].map((parts) => [length(parts.slice(0, head)),
    length(parts.slice(0, parts.length - tail))]);
}

// A line with its changed part and what was searched for; painted where it has neither.
function diffText(text, part, find, language) {
  const at = find ? text.toLowerCase().indexOf(find) : -1;
  const ranges = [["b", ...(part ?? [0, 0])], ["mark", at, at < 0 ? at : at + find.length]]
    .filter(([, begin, end]) => end > begin);
  if (!ranges.length) return painted(text, language);
  const edges = [...new Set([0, ...ranges.flatMap(([, begin, end]) => [begin, end]), text.length])].sort((x, y) => x - y);
  return edges.slice(1).map((end, index) => ranges.reduce((inner, [tag, from, to]) =>
    (from <= edges[index] && end <= to ? h(tag, {}, inner) : inner), text.slice(edges[index], end)));
}

// Lines that left beside lines that came where they left.
function abreast(rows) {
  const found = [];
  let open = -1; // the first line that left and has none beside it
  for (const row of rows) {
    if (row.kind === "add" && open >= 0 && open < found.length) {
      found[open] = { kind: "replace", a: found[open].a, b: row.b };
      open += 1;
    } else {
      if (row.kind === "remove" && !(open >= 0 && found[open]?.kind === "remove")) open = found.length;
      else if (row.kind !== "remove") open = -1;
      found.push(row);
    }
  }
  return found;
}

const SIGNS = { add: "+", remove: "−", change: "±", same: " " };
const SPOKEN = { add: "added: ", remove: "removed: ", was: "before: ", now: "now: " };

// options: inline, whole, find (words to mark), language, label.
function diffView(hunks, before, after, options) {
  const texts = [before, after].map((numbers) => numbers.map((number) => LINES[number]));
  const find = options.find?.toLowerCase() ?? "";
  const cell = (which, number, kind, part) => (number < 0
    ? [h("span", { class: "n" }), h("code", { class: "void" })]
    : [h("span", { class: "n" }, number + 1), h("code", { class: kind },
      SPOKEN[kind] && h("span", { class: "hidden" }, SPOKEN[kind]),
      diffText(texts[which][number], part, find, options.language))]);
  const row = ({ kind, a, b }) => {
    const parts = kind === "change" ? changedPart(texts[0][a], texts[1][b]) : [];
    const was = { change: "was", remove: "remove", replace: "remove", same: "same" }[kind];
    const now = { change: "now", add: "add", replace: "add", same: "same" }[kind];
    if (!options.inline) return h("div", { class: "row" }, cell(0, a, was, parts[0]), cell(1, b, now, parts[1]));
    const lines = [];
    if (kind === "same") lines.push([1, b, "same"]);
    if (a >= 0 && kind !== "same") lines.push([0, a, was, parts[0]]);
    if (b >= 0 && kind !== "same") lines.push([1, b, now, parts[1]]);
    return lines.map(([which, number, sort, part]) => h("div", { class: "row" },
      h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[{ was: "remove", now: "add" }[sort] ?? sort]),
      cell(which, number, sort, part)));
  };
  const rows = diffRows(hunks, before, after, options.whole);
  const made = (options.inline ? rows : abreast(rows)).map((one) => {
    if (one.kind !== "gap") return row(one);
    const button = h("button", { type: "button", class: "gap" }, `⋯ ${plural(one.rows.length, "unchanged line")}`);
    button.addEventListener("click", () => button.replaceWith(...one.rows.map(row).flat()));
    return button;
  });
  const css = `diff ${options.inline ? "inline" : "beside"}`;
  return h("div", { class: css, role: "region", "aria-label": options.label, tabindex: "0" }, made);
}
