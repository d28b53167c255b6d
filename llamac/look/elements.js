// Building elements, and keeping what is shown in the address. All scripts of a page share one
// scope; this is the first of them.
"use strict";

const $ = (id) => document.getElementById(id);

/** h("p.aside", { title: "…" }, "text", child) → an element of HTML or SVG. Attributes may be left
 *  out: `text`, `on` (event → handler), `data` (a dataset), others as they are. Attributes and
 *  children that are false, null or undefined are left out; lists of children are flattened. */
function h(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  const element = h.svg.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  const attributes = rest[0]?.constructor === Object ? rest.shift() : {};
  for (const [key, value] of Object.entries(attributes)) {
    if (!given(value)) continue;
    if (key === "text") element.textContent = value;
    else if (key === "on") for (const [e, f] of Object.entries(value)) element.addEventListener(e, f);
    else if (key === "data") Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...shownOf(rest));
  return element;
}
h.svg = new Set(["svg", "g", "path", "rect", "line", "circle", "text", "title", "defs", "pattern"]);
const given = (value) => value !== null && value !== undefined && value !== false;
const shownOf = (children) => children.flat(Infinity).filter(given);

/** What is shown, in the fragment of the address: a view can be shared with the file. Values are
 *  strings; those that are as in `defaults` are left out. */
const address = {
  read(defaults) {
    const fragment = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.entries(defaults).map(([key, value]) => [key, fragment.get(key) ?? value]));
  },
  write(values, defaults) {
    const fragment = new URLSearchParams();
    for (const [key, value] of Object.entries(values)) if (value !== defaults[key]) fragment.set(key, value);
    const text = fragment.toString().replaceAll("%3A", ":").replaceAll("%2C", ",").replaceAll("%40", "@");
    if (text !== location.hash.slice(1)) history.replaceState(null, "", `#${text}`);
  },
};
