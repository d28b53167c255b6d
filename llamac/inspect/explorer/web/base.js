// Data of the page, and writing numbers, tables and texts.

const DATA = JSON.parse($("data").textContent);
const LINES = DATA.lines;

const fixed = (value, digits = 3) => {
  if (!value) return "0";
  const whole = Math.floor(Math.log10(Math.abs(value))) + 1;
  const places = Math.max(0, Math.min(12, digits - whole)), scale = 10 ** places;
  const exact = Math.abs(value) * scale, half = exact % 1 === 0.5 && Math.floor(exact) % 2 === 0;
  return half ? (Math.sign(value) * Math.floor(exact) / scale).toFixed(places) : value.toFixed(places);
}; // halves to even, as Python has it
const grouped = (value) => Math.round(value).toLocaleString("en-US");
const scaled = (value, step, units) => {
  let at = 0;
  while (Math.abs(value) >= step && at < units.length - 1) { value /= step; at += 1; }
  return `${at ? fixed(value) : Math.round(value)} ${units[at]}`;
};
const binary = (nbytes) => scaled(nbytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const decimal = (nbytes) => scaled(nbytes, 1000, ["B", "kB", "MB", "GB", "TB"]);
const flops = (count) => scaled(count, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"]);
const gigabytes = (nbytes) => (nbytes / 1e9).toFixed(2);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
function duration(seconds) {
  if (!seconds) return "0";
  if (seconds >= 1) return `${fixed(seconds)} s`;
  return seconds >= 1e-3 ? `${fixed(seconds * 1e3)} ms` : `${fixed(seconds * 1e6)} µs`;
}
const plural = (count, one, many = `${one}s`) => `${grouped(count)} ${count === 1 ? one : many}`;

// A table. head: titles; rows: of cells, text or elements; left: numbers of left-aligned columns.
function table(head, rows, left = [0], attributes = {}) {
  const side = (at) => (left.includes(at) ? "left" : null);
  return h("div", { class: "wide" }, h("table", attributes,
    h("thead", {}, h("tr", {}, head.map((text, at) => h("th", { class: side(at), scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) =>
      h("td", { class: side(at) }, cell)))))));
}

// Buttons of which one is pressed. choices: [value, label, title].
function choice(label, choices, chosen, choose) {
  return h("div", { class: "choice", role: "group", "aria-label": label }, choices.map(
    ([value, text, title]) => h("button", { type: "button", title, data: { value },
      "aria-pressed": String(value === chosen), on: { click: () => choose(value) } }, text)));
}

// Text of a language in which comments and names stand out: `ir`, `python` or `toml`.
const PATTERNS = {
  ir: /(#.*$)|(\{save[^}]*\})|(%[\w.]+)|\b(?<== )([a-z_0-9]+)(?=\()/g,
  python: /(#.*$)|("(?:[^"\\]|\\.)*")|\b(def|return|class|from|import|if|else|for|in|None)\b/g,
  toml: /(#.*$)|("(?:[^"\\]|\\.)*")|^(\s*\[+[^\]]*\]+|\s*[\w.]+(?= *=))/g,
};
const CLASSES = { ir: ["note", "keeps", "name", "op"], python: ["note", "string", "word"],
  toml: ["note", "string", "word"] };
function painted(text, language) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(PATTERNS[language])) {
    if (match.index > end) parts.push(text.slice(end, match.index));
    const group = match.slice(1).findIndex((part) => part !== undefined);
    parts.push(h("span", { class: `p-${CLASSES[language][group]}` }, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}
