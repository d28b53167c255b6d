// Text that stands out too little from what is under it, in HTML, in SVG and on canvases: WCAG 2's
// contrast of less than 4.5, or 3 for large text. Loaded before a page's own scripts.
(() => {
  const drawn = new Map(); // canvas → its texts since it was last cleared
  const prototype = CanvasRenderingContext2D.prototype;
  const wrap = (name, after) => {
    const original = prototype[name];
    prototype[name] = function (...given) { after(this, given); return original.apply(this, given); };
  };
  const clear = (canvas) => drawn.set(canvas, []);
  wrap("clearRect", (c, [x, y, width]) => { if (x <= 0 && y <= 0 && width >= c.canvas.clientWidth) clear(c.canvas); });
  for (const side of ["width", "height"]) {
    const own = Object.getOwnPropertyDescriptor(HTMLCanvasElement.prototype, side);
    Object.defineProperty(HTMLCanvasElement.prototype, side, { ...own, set(value) { clear(this); own.set.call(this, value); } });
  }
  wrap("fillText", (c, [text, x, y]) => {
    const m = c.measureText(text), t = c.getTransform();
    const corners = [[-m.actualBoundingBoxLeft, -m.actualBoundingBoxAscent], [m.actualBoundingBoxRight, m.actualBoundingBoxDescent]]
      .map(([dx, dy]) => t.transformPoint({ x: x + dx, y: y + dy }));
    if (!drawn.has(c.canvas)) clear(c.canvas);
    drawn.get(c.canvas).push({ text: String(text), colour: c.fillStyle, alpha: c.globalAlpha, corners });
  });

  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const seen = new Map();
  function rgba(colour) { // of any colour that CSS knows
    if (!seen.has(colour)) {
      brush.clearRect(0, 0, 1, 1);
      brush.fillStyle = colour;
      brush.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
      seen.set(colour, [r, g, b, a / 255]);
    }
    return seen.get(colour);
  }
  const over = ([r, g, b, a], ground) => [r, g, b].map((part, at) => part * a + ground[at] * (1 - a));
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = (colour) => colour.reduce((sum, part, at) => sum + linear(part / 255) * [0.2126, 0.7152, 0.0722][at], 0);
  function ratio(one, two) {
    const [high, low] = [light(one), light(two)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  }
  function behind(element) { // the colour under an element's text
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((ground, layer) => over(layer, ground), [255, 255, 255]);
  }
  function opacity(element) {
    let found = 1;
    for (let one = element; one; one = one.parentElement) found *= Number(getComputedStyle(one).opacity);
    return found;
  }
  const enough = (style) => {
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    return size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  };

  function inHtml(report) {
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      if (!own || element.closest("svg") || !element.offsetParent || element.matches(":disabled")) continue;
      const style = getComputedStyle(element), ground = behind(element), [r, g, b, a] = rgba(style.color);
      report(element.textContent, over([r, g, b, a * opacity(element)], ground), ground, enough(style));
    }
  }
  function painted(fill) { // a pattern counts as its lines, the worst of it
    const pattern = fill.startsWith("url") && document.getElementById(fill.match(/#([^")]+)/)[1]);
    if (pattern) {
      const style = getComputedStyle(pattern.querySelector("rect")), [r, g, b, a] = rgba(style.fill);
      return [r, g, b, a * Number(style.fillOpacity)];
    }
    return fill === "none" ? [0, 0, 0, 0] : rgba(fill);
  }
  function inDrawings(report) {
    for (const svg of document.querySelectorAll("svg")) {
      if (!svg.getBoundingClientRect().width) continue;
      const under = behind(svg), shapes = [];
      for (const one of svg.querySelectorAll("rect, path, circle, polygon, text")) {
        const style = getComputedStyle(one);
        if (one.closest("defs") || style.visibility === "hidden") continue;
        const box = one.getBoundingClientRect();
        if (one.tagName !== "text") {
          const [r, g, b, a] = painted(style.fill);
          const alpha = a * Number(style.fillOpacity) * opacity(one);
          if (alpha > 0) shapes.push({ one, box, colour: [r, g, b, alpha], way: one.getScreenCTM().inverse() });
          continue;
        }
        if (!one.textContent.trim() || !box.width) continue;
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        const ground = shapes.filter((s) => s.box.left <= x && x <= s.box.right && s.box.top <= y && y <= s.box.bottom
          && s.one.isPointInFill(new DOMPoint(x, y).matrixTransform(s.way))).reduce((g, s) => over(s.colour, g), under);
        const [r, g, b, a] = rgba(style.fill);
        report(one.textContent, over([r, g, b, a * opacity(one)], ground), ground, 4.5);
      }
    }
  }
  function onCanvases(report) {
    for (const [canvas, texts] of drawn) {
      if (!canvas.isConnected || !canvas.clientWidth || !texts.length) continue;
      const under = behind(canvas), all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (const { text, colour, alpha, corners } of texts) {
        const [xs, ys] = ["x", "y"].map((side) => corners.map((c) => Math.round(c[side])).sort((a, b) => a - b));
        const counts = new Map();
        for (let y = Math.max(0, ys[0] - 1); y <= Math.min(all.height - 1, ys[1] + 1); y++) {
          for (let x = Math.max(0, xs[0] - 1); x <= Math.min(all.width - 1, xs[1] + 1); x++) {
            const at = 4 * (y * all.width + x), [r, g, b, a] = all.data.subarray(at, at + 4);
            const key = over([r, g, b, a / 255], under).map(Math.round).join();
            counts.set(key, (counts.get(key) ?? 0) + 1);
          }
        }
        if (!counts.size) continue; // off the canvas
        const most = [...counts].reduce((one, two) => (two[1] > one[1] ? two : one))[0];
        const ground = most.split(",").map(Number), [r, g, b, a] = rgba(colour);
        report(text, over([r, g, b, a * alpha], ground), ground, 4.5);
      }
    }
  }

  window.contrast = () => {
    const found = { html: 0, svg: 0, canvas: 0, faint: [] };
    const into = (kind) => (text, one, two, least) => {
      if (one.join() === two.join()) return; // hidden until it is pointed at
      found[kind] += 1;
      const value = ratio(one, two);
      if (value < least) found.faint.push([kind, text.slice(0, 60), one.map(Math.round), two.map(Math.round), Number(value.toFixed(2))]);
    };
    inHtml(into("html"));
    inDrawings(into("svg"));
    onCanvases(into("canvas"));
    return found;
  };
})();
