// A chart of lines over a shared x axis, drawn on a canvas: raw values as a line, with the band
// between least and greatest where a point stands for several rows. No dependency.
"use strict";

const format = {
  integer: (v) => Math.round(v).toLocaleString("en"),
  short(v, digits = 3) { // 1234567 → "1.23M"
    if (v === 0) return "0";
    const size = Math.abs(v);
    for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= unit * 0.9995) return `${format.digits(v / unit, digits)}${name}`;
    }
    return format.digits(v, digits);
  },
  digits(v, digits = 4) {
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size < 1e-3 || size >= 1e7) return v.toExponential(Math.max(0, digits - 2)).replace("e+", "e");
    return String(Number(v.toPrecision(digits)));
  },
  exact: (v) => (Number.isInteger(v) ? format.integer(v) : format.digits(v, 7)),
  duration(hours) {
    if (hours >= 48) return `${format.digits(hours / 24, 3)} days`;
    if (hours >= 1) return `${format.digits(hours, 3)} h`;
    if (hours * 60 >= 1) return `${format.digits(hours * 60, 3)} min`;
    return `${format.digits(hours * 3600, 3)} s`;
  },
};

/** Round numbers from low to high, about `count` of them, and how many digits they need. */
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** What all charts of the page share. range: [from, to] on the x axis, or null for all of it. */
class View {
  constructor() {
    Object.assign(this, { axis: "tokens", range: null, smooth: 0, log: false, whole: false, cursor: null });
    this.hidden = new Set();
    this.charts = new Set();
  }
  change(values) {
    Object.assign(this, values);
    for (const chart of this.charts) chart.draw();
    if (!("cursor" in values) || Object.keys(values).length > 1) this.changed?.();
  }
}

const MARGIN = { left: 64, right: 14, top: 10, bottom: 38 };
const STRIP = 16; // pixels above the x axis for the marks of one run
const EARLY = 0.05; // of a run: what it leaves at once, as the first loss, sets no scale
const FEW = 100; // evaluations, up to which each is marked
const RARE = 0.01; // of the points of a robust chart: so many at either end set no scale

class Chart {
  /** spec: title, label (of the y axis), height, lines, levels [{name, value, colour}], marks, show
   *  (value → text). A line: name, colour, run, axes {tokens, step, hours}, from, mean, low, high;
   *  dots: whether its points are marked. */
  constructor(host, view, spec) {
    Object.assign(this, { host, view, spec });
    this.canvas = document.createElement("canvas");
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.live = document.createElement("div");
    this.live.className = "hidden";
    this.live.setAttribute("aria-live", "polite");
    host.classList.add("chart");
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", `${spec.title}. ${this.summary()} Arrow keys read values, ` +
      "plus and minus zoom, 0 shows all.");
    host.style.height = `${spec.height + this.strip}px`;
    host.replaceChildren(this.canvas, this.tip, this.live);
    this.canvas.setAttribute("aria-hidden", "true");
    this.listen();
    view.charts.add(this);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(host);
    this.draw();
  }

  dispose() {
    this.observer.disconnect();
    this.view.charts.delete(this);
  }

  get strip() { return STRIP * (this.spec.marks?.length ?? 0); }

  summary() {
    return this.spec.lines.map((line) => {
      const last = line.mean.findLast((v) => v !== null);
      return last === undefined ? `${line.name}: no value.` : `${line.name}: last ${this.spec.show(last)}.`;
    }).join(" ");
  }

  get lines() { return this.spec.lines.filter((line) => !this.view.hidden.has(line.run)); }
  xs(line) { return line.axes[this.view.axis] ?? line.axes.step; }

  /** The x axis' whole extent, of all lines that are shown. */
  extent() {
    const ends = this.lines.map((line) => this.xs(line).at(-1)).filter((x) => x !== undefined);
    return [0, ends.length ? Math.max(...ends) : 1];
  }
  get domain() { return this.view.range ?? this.extent(); }

  /** The lines as they are drawn: of each pixel column what lies in it, cut to the x range. */
  prepared(width) {
    const [from, to] = this.domain;
    return this.lines.map((line) => {
      const xs = this.xs(line);
      let begin = lowerBound(xs, from), end = lowerBound(xs, to);
      begin = Math.max(0, begin - 1);
      end = Math.min(xs.length, end + 1);
      const mean = line.dots || !this.view.smooth ? line.mean : smoothed(line, this.view.smooth);
      const each = Math.max(1, Math.ceil((end - begin) / (1.5 * width)));
      const points = [];
      for (let i = begin; i < end; i += each) {
        let sum = 0, count = 0, low = Infinity, high = -Infinity;
        const stop = Math.min(i + each, end);
        for (let k = i; k < stop; k++) {
          if (line.mean[k] === null || line.mean[k] === undefined) continue;
          low = Math.min(low, line.low?.[k] ?? line.mean[k]);
          high = Math.max(high, line.high?.[k] ?? line.mean[k]);
          sum += mean[k];
          count++;
        }
        if (count) points.push({ x: xs[stop - 1], y: sum / count, low, high });
        else points.push(null);
      }
      return { line, points, banded: Boolean(line.low) || each > 1 };
    });
  }

  /** From the least to the greatest value in sight. What comes early, or, in a robust chart, is rare,
   *  sets no scale, unless the whole range is asked for; `beyond` says how far it goes. */
  scale(prepared) {
    const [from, to] = this.domain;
    const early = this.view.whole || this.view.range ? -Infinity : from + EARLY * (to - from);
    const lows = [], highs = [];
    let least = Infinity, most = -Infinity;
    for (const { points } of prepared) {
      const seen = points.filter((p) => p && p.x >= from && p.x <= to);
      const later = seen.filter((p) => p.x >= early);
      for (const p of later.length > 4 ? later : seen) {
        lows.push(p.low);
        highs.push(p.high);
      }
      for (const p of seen) [least, most] = [Math.min(least, p.low), Math.max(most, p.high)];
    }
    const rare = this.spec.robust && !this.view.whole ? RARE : 0;
    let low = quantile(lows, rare), high = quantile(highs, 1 - rare);
    for (const level of this.levels) {
      low = Math.min(low, level.value);
      high = Math.max(high, level.value);
    }
    if (low === Infinity) [low, high] = [0, 1];
    if (this.spec.zero) low = Math.min(0, low);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    const ends = this.useLog && low > 0 ? [low / 1.03, Math.max(high * 1.03, low * 1.001)]
      : [this.spec.zero && low === 0 ? 0 : low - room, high + room];
    this.beyond = [least < ends[0] ? least : null, most > ends[1] ? most : null];
    return ends;
  }
  get useLog() { return this.view.log && this.spec.log; }
  get levels() { return (this.spec.levels ?? []).filter((one) => !this.view.hidden.has(one.run)); }

  draw() {
    const width = this.host.clientWidth, height = this.spec.height + this.strip;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const c = this.canvas.getContext("2d");
    c.scale(ratio, ratio);
    const box = { left: MARGIN.left, top: MARGIN.top, right: width - MARGIN.right,
      bottom: height - MARGIN.bottom - this.strip };
    const prepared = this.prepared(box.right - box.left);
    const [x0, x1] = this.domain, [y0, y1] = this.scale(prepared);
    const of = this.useLog && y0 > 0 ? Math.log : (v) => v;
    this.x = (v) => box.left + ((v - x0) / (x1 - x0 || 1)) * (box.right - box.left);
    this.inverse = (px) => x0 + ((px - box.left) / (box.right - box.left)) * (x1 - x0);
    this.y = (v) => box.bottom - ((of(v) - of(y0)) / (of(y1) - of(y0) || 1)) * (box.bottom - box.top);
    this.box = box;
    this.axes(c, box, [x0, x1], [y0, y1]);
    c.save();
    c.beginPath();
    c.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
    c.clip();
    this.verticals(c, box);
    for (const level of this.levels) this.level(c, box, level);
    for (const one of prepared) this.curve(c, one);
    this.crosshair(c, box);
    c.restore();
    this.outliers(c, box);
    this.marks(c, box);
    this.selection(c, box);
  }

  axes(c, box, [x0, x1], [y0, y1]) {
    c.font = `12px ${css("--sans")}`;
    c.lineWidth = 1;
    c.strokeStyle = css("--grid");
    c.fillStyle = css("--muted");
    c.textAlign = "right";
    c.textBaseline = "middle";
    const rows = ticks(y0, y1, Math.max(2, (box.bottom - box.top) / 44));
    for (const value of rows) {
      const y = Math.round(this.y(value)) + 0.5;
      if (y < box.top - 1 || y > box.bottom + 1) continue;
      stroke(c, [[box.left, y], [box.right, y]]);
      c.fillText(this.spec.show(value), box.left - 8, y);
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    const bottom = box.bottom + this.strip;
    const { unit, name } = axisUnit(this.view.axis, x1);
    for (const value of ticks(x0 / unit, x1 / unit, Math.max(2, (box.right - box.left) / 75))) {
      const x = Math.round(this.x(value * unit)) + 0.5;
      stroke(c, [[x, box.top], [x, box.bottom]]);
      c.fillText(value.toLocaleString("en", { maximumFractionDigits: 6 }), x, bottom + 6);
    }
    c.fillText(name, (box.left + box.right) / 2, bottom + 22);
    c.strokeStyle = css("--muted");
    stroke(c, [[box.left, box.bottom + 0.5], [box.right, box.bottom + 0.5]]);
    stroke(c, [[box.left + 0.5, box.top], [box.left + 0.5, box.bottom]]);
  }

  curve(c, { line, points, banded }) {
    const colour = css(line.colour);
    if (line.low || (banded && !line.dots)) {
      c.fillStyle = colour;
      c.globalAlpha = 0.2;
      for (const part of unbroken(points)) {
        c.beginPath();
        for (const p of part) c.lineTo(this.x(p.x), this.y(p.high));
        for (const p of part.toReversed()) c.lineTo(this.x(p.x), this.y(p.low));
        c.fill();
      }
      c.globalAlpha = 1;
    }
    c.strokeStyle = colour;
    const few = line.dots && points.length <= FEW;
    c.lineWidth = this.view.smooth || few ? 2 : 1.4;
    c.lineJoin = "round";
    c.setLineDash(few ? [5, 4] : []);
    for (const part of unbroken(points)) stroke(c, part.map((p) => [this.x(p.x), this.y(p.y)]));
    c.setLineDash([]);
    if (this.view.smooth && !line.dots && !banded) { // the raw curve stays in sight
      c.globalAlpha = 0.35;
      c.lineWidth = 1;
      const raw = this.xs(line).map((x, i) => (line.mean[i] === null ? null : { x, y: line.mean[i] }));
      for (const part of unbroken(raw)) stroke(c, part.map((p) => [this.x(p.x), this.y(p.y)]));
      c.globalAlpha = 1;
    }
    if (few || points.filter(Boolean).length === 1) {
      c.fillStyle = css("--card");
      c.lineWidth = 1.6;
      for (const p of points) {
        if (!p) continue;
        c.beginPath();
        c.arc(this.x(p.x), this.y(p.y), 3, 0, 7);
        c.fill();
        c.stroke();
      }
    }
  }

  level(c, box, { value, colour, name }) {
    const y = this.y(value);
    c.strokeStyle = c.fillStyle = css(colour);
    c.lineWidth = 1.2;
    c.setLineDash([2, 3]);
    stroke(c, [[box.left, y], [box.right, y]]);
    c.setLineDash([]);
    c.textAlign = "right";
    c.textBaseline = y - box.top > 20 ? "bottom" : "top";
    c.font = `12px ${css("--sans")}`;
    c.fillText(name, box.right - 4, y - box.top > 20 ? y - 3 : y + 3);
  }

  /** Say how far values go that the scale leaves out. */
  outliers(c, box) {
    const [least, most] = this.beyond, { show } = this.spec;
    const texts = [most === null ? "" : `↑ up to ${show(most)}`, least === null ? "" : `↓ down to ${show(least)}`];
    c.font = `12px ${css("--sans")}`;
    c.textAlign = "right";
    for (const [text, y, base] of [[texts[0], box.top + 2, "top"], [texts[1], box.bottom - 3, "bottom"]]) {
      c.textBaseline = base;
      c.lineWidth = 4;
      c.strokeStyle = css("--card");
      c.strokeText(text, box.right - 4, y);
      c.fillStyle = css("--muted");
      c.fillText(text, box.right - 4, y);
    }
  }

  /** Where the run began again, in every chart. */
  verticals(c, box) {
    for (const { run, colour, events } of this.spec.events ?? []) {
      if (this.view.hidden.has(run)) continue;
      c.strokeStyle = css(colour);
      for (const event of events) {
        if (event.kind !== "resume") continue;
        const x = this.x(eventX(event, this.view.axis));
        c.globalAlpha = event.before ? 0.9 : 0.5;
        c.setLineDash(event.before ? [] : [3, 3]);
        stroke(c, [[x, box.top], [x, box.bottom]]);
      }
      c.setLineDash([]);
      c.globalAlpha = 1;
    }
  }

  /** A strip under the curves for each run: when it started, resumed, saved, skipped and stopped. */
  marks(c, box) {
    this.placed = [];
    (this.spec.marks ?? []).forEach(({ run, colour, events, skipped }, row) => {
      if (this.view.hidden.has(run)) return;
      const y = box.bottom + STRIP * (row + 0.5);
      const all = [...events, ...skipped];
      for (const order of ["save", "stop", "start", "resume", "skipped"]) {
        for (const event of all.filter((e) => e.kind === order)) {
          const x = this.x(eventX(event, this.view.axis));
          if (x < box.left - 1 || x > box.right + 1) continue;
          glyph(c, event, x, y, css(colour));
          this.placed.push({ event, x, y });
        }
      }
    });
  }

  crosshair(c, box) {
    const at = this.view.cursor;
    if (at === null) return;
    c.strokeStyle = css("--muted");
    c.lineWidth = 1;
    const x = Math.round(this.x(at)) + 0.5;
    stroke(c, [[x, box.top], [x, box.bottom]]);
    for (const line of this.lines) {
      const i = nearest(this.xs(line), at), value = line.mean[i];
      if (value === null || value === undefined) continue;
      c.fillStyle = css(line.colour);
      c.beginPath();
      c.arc(this.x(this.xs(line)[i]), this.y(value), 3, 0, 7);
      c.fill();
    }
  }

  selection(c, box) {
    if (!this.drag || Math.abs(this.drag.to - this.drag.from) < 4) return;
    c.fillStyle = css("--accent");
    c.globalAlpha = 0.15;
    c.fillRect(Math.min(this.drag.from, this.drag.to), box.top,
      Math.abs(this.drag.to - this.drag.from), box.bottom - box.top);
    c.globalAlpha = 1;
  }

  // --- Reading values, and zooming ----------------------------------------------------------

  listen() {
    const at = (event) => {
      const { left, right } = this.box;
      const px = event.clientX - this.host.getBoundingClientRect().left;
      return Math.min(right, Math.max(left, px));
    };
    this.host.addEventListener("pointermove", (event) => {
      const px = at(event);
      if (this.drag) this.drag.to = px;
      this.view.change({ cursor: this.inverse(px) });
      this.point(px, event.clientY - this.host.getBoundingClientRect().top);
    });
    this.host.addEventListener("pointerleave", () => {
      if (this.drag) return;
      this.tip.hidden = true;
      this.view.change({ cursor: null });
    });
    this.host.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.host.setPointerCapture(event.pointerId);
      this.drag = { from: at(event), to: at(event) };
    });
    const finish = () => {
      const drag = this.drag;
      this.drag = null;
      if (drag && Math.abs(drag.to - drag.from) >= 4) {
        const ends = [this.inverse(drag.from), this.inverse(drag.to)].sort((a, b) => a - b);
        this.view.change({ range: ends });
      } else this.draw();
    };
    this.host.addEventListener("pointerup", finish);
    this.host.addEventListener("pointercancel", finish);
    this.host.addEventListener("dblclick", () => this.view.change({ range: null }));
    this.host.addEventListener("keydown", (event) => this.key(event));
    this.host.addEventListener("blur", () => { this.tip.hidden = true; });
  }

  key(event) {
    const line = this.lines[0];
    if (!line || event.ctrlKey || event.metaKey || event.altKey) return;
    const xs = this.xs(line), [from, to] = this.domain;
    const here = nearest(xs, this.view.cursor ?? to);
    const moves = { ArrowLeft: here - 1, ArrowRight: here + 1, PageUp: here - 20,
      PageDown: here + 20, Home: lowerBound(xs, from), End: lowerBound(xs, to) };
    if (event.key in moves) {
      const i = Math.max(0, Math.min(xs.length - 1, moves[event.key]));
      this.view.change({ cursor: xs[i] });
      this.live.textContent = this.point(this.x(xs[i]), this.box.top).join(", ");
    } else if (event.key === "+" || event.key === "=" || event.key === "-") {
      const middle = this.view.cursor ?? (from + to) / 2, factor = event.key === "-" ? 2 : 0.5;
      const [least, most] = this.extent();
      const range = [Math.max(least, middle - (middle - from) * factor),
        Math.min(most, middle + (to - middle) * factor)];
      this.view.change({ range: range[0] <= least && range[1] >= most ? null : range });
    } else if (event.key === "0" || event.key === "Escape") {
      this.tip.hidden = true;
      this.view.change({ range: null, cursor: null });
    } else return;
    event.preventDefault();
  }

  /** Show the values at a place, or the event there. Returns them as lines of text. */
  point(px, py) {
    const close = (this.placed ?? []).filter((m) => Math.abs(m.x - px) < 7 && Math.abs(m.y - py) < 9);
    const rows = close.length ? close.slice(0, 8).map((m) => [null, eventText(m.event)])
      : this.values(this.inverse(px));
    this.tip.replaceChildren(...rows.map(([colour, text]) => {
      const row = document.createElement("div");
      if (colour) {
        const key = document.createElement("i");
        key.style.background = `var(${colour})`;
        row.append(key);
      }
      row.append(text);
      return row;
    }));
    this.tip.hidden = false;
    const half = this.host.clientWidth / 2, right = px > half;
    this.tip.style.left = right ? "auto" : `${px + 14}px`;
    this.tip.style.right = right ? `${this.host.clientWidth - px + 14}px` : "auto";
    this.tip.style.top = `${this.box.top + 4}px`;
    return rows.map(([, text]) => text);
  }

  values(at) {
    const rows = [];
    for (const line of this.lines) {
      const i = nearest(this.xs(line), at), value = line.mean[i];
      if (i < 0) continue;
      const step = line.axes.step[i], first = line.from?.[i] ?? step, tokens = line.axes.tokens?.[i];
      const place = first === step ? `step ${format.integer(step)}`
        : `steps ${format.integer(first)}–${format.integer(step)}`;
      const where = tokens == null ? place : `${place}, ${format.short(tokens, 4)} tokens`;
      if (!rows.length || this.lines.length > 1) rows.push([null, where]);
      if (value === null || value === undefined) rows.push([line.colour, `${line.name}: none`]);
      else if (line.low && line.low[i] !== line.high[i]) {
        const [low, high] = [format.exact(line.low[i]), format.exact(line.high[i])];
        rows.push([line.colour, `${line.name}: ${low} to ${high}, mean ${format.exact(value)}`]);
      } else rows.push([line.colour, `${line.name}: ${format.exact(value)}`]);
    }
    return rows;
  }
}

function stroke(c, points) {
  c.beginPath();
  for (const [x, y] of points) c.lineTo(x, y);
  c.stroke();
}

function quantile(values, share) {
  if (!values.length) return share > 0.5 ? -Infinity : Infinity;
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.round(share * (sorted.length - 1))];
}

function lowerBound(xs, value) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(xs, value) {
  const i = lowerBound(xs, value);
  if (i === 0) return xs.length ? 0 : -1;
  if (i === xs.length) return i - 1;
  return value - xs[i - 1] < xs[i] - value ? i - 1 : i;
}

/** Runs of points without a gap. */
function unbroken(points) {
  const parts = [];
  let part = [];
  for (const p of points) {
    if (p) part.push(p);
    else if (part.length) [part] = [[], parts.push(part)];
  }
  if (part.length) parts.push(part);
  return parts;
}

/** The running mean over `share` of the line's steps, each point weighted by its number of rows. */
function smoothed(line, share) {
  const half = smoothingSteps(line, share) / 2, steps = line.axes.step, count = steps.length;
  const sums = [0], weights = [0];
  for (let i = 0; i < count; i++) {
    const known = line.mean[i] !== null, weight = known ? steps[i] - line.from[i] + 1 : 0;
    sums.push(sums[i] + (known ? line.mean[i] * weight : 0));
    weights.push(weights[i] + weight);
  }
  return line.mean.map((value, i) => {
    if (value === null) return null;
    const reach = Math.min(half, steps[i] - steps[0], steps[count - 1] - steps[i]);
    const begin = lowerBound(steps, steps[i] - reach), end = lowerBound(steps, Math.floor(steps[i] + reach) + 1);
    return (sums[end] - sums[begin]) / (weights[end] - weights[begin]);
  });
}

function smoothingSteps(line, share) {
  return Math.max(2, Math.round((line.axes.step.at(-1) ?? 0) * share));
}

function axisUnit(axis, most) {
  if (axis === "step") return { unit: 1, name: "step" };
  if (axis === "hours") return most > 72 ? { unit: 24, name: "days of training" }
    : most > 1 ? { unit: 1, name: "hours of training" } : { unit: 1 / 60, name: "minutes of training" };
  for (const [unit, name] of [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"], [1e3, "thousand"]]) {
    if (most >= unit) return { unit, name: `${name} tokens` };
  }
  return { unit: 1, name: "tokens" };
}

const eventX = (event, axis) => (axis === "step" ? event.step : event[axis] ?? event.step);

function glyph(c, event, x, y, colour) {
  c.strokeStyle = c.fillStyle = event.kind === "skipped" ? css("--bad") : colour;
  c.lineWidth = 1.6;
  c.beginPath();
  if (event.kind === "save") {
    c.globalAlpha = 0.55;
    stroke(c, [[x, y - 3], [x, y + 3]]);
  } else if (event.kind === "skipped") {
    stroke(c, [[x - 3.5, y - 3.5], [x + 3.5, y + 3.5]]);
    stroke(c, [[x - 3.5, y + 3.5], [x + 3.5, y - 3.5]]);
  } else if (event.kind === "stop") {
    c.fillStyle = event.error ? css("--bad") : colour;
    c.fillRect(x - 3.5, y - 3.5, 7, 7);
  } else if (event.before) { // another layout
    c.moveTo(x, y - 6); c.lineTo(x + 5, y); c.lineTo(x, y + 6); c.lineTo(x - 5, y);
    c.fill();
  } else {
    c.moveTo(x - 4, y - 5); c.lineTo(x + 5, y); c.lineTo(x - 4, y + 5); c.closePath();
    if (event.kind === "start") c.fill();
    else { c.fillStyle = css("--paper"); c.fill(); c.stroke(); }
  }
  c.globalAlpha = 1;
}

function eventText(event) {
  const step = `step ${format.integer(event.step)}`;
  const when = event.time ? ` · ${new Date(event.time * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}` : "";
  if (event.kind === "skipped") return `${step}: skipped, as loss or gradients were not finite`;
  if (event.kind === "save") return `after ${step}: saved${when}`;
  if (event.kind === "stop") return `after ${step}: stopped${event.error ? ` by an error: ${event.error}` : ""}${when}`;
  const parts = [event.kind === "start" ? "started" : `resumed after ${step}`];
  if (event.killed) parts.push("the process before it had been killed");
  if (event.dropped) parts.push(`${format.integer(event.dropped)} steps were repeated`);
  if (event.before) parts.push(`layout changed: ${event.before} → ${event.layout}`);
  return parts.join("; ") + when;
}
