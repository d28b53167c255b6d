// The time of a step on an axis, with turns alike in its middle folded away; and its moments.

const FOLD_SHARE = 0.05; // of the axis

function timeAxis(view, width) {
  const [begin, end, hidden] = view.fold;
  const gap = hidden ? width * FOLD_SHARE : 0, shown = view.seconds - (hidden ? end - begin : 0);
  const scale = (width - gap) / shown;
  const x = (seconds) => {
    if (!hidden || seconds <= begin) return seconds * scale;
    if (seconds >= end) return begin * scale + gap + (seconds - end) * scale;
    return begin * scale + (gap * (seconds - begin)) / (end - begin);
  };
  const seconds = (at) => {
    if (!hidden || at <= begin * scale) return at / scale;
    if (at >= begin * scale + gap) return end + (at - begin * scale - gap) / scale;
    return begin + ((at - begin * scale) / gap) * (end - begin);
  };
  return { x, seconds, scale, fold: hidden ? { left: begin * scale, right: begin * scale + gap, hidden } : null };
}

// Round numbers between two, about so many.
function ticks(from, to, count) {
  const rough = (to - from) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step * 1e-9; at += step) found.push(at);
  return found;
}
// Of an axis, from one time to another, none in the fold: [seconds, text].
function axisTicks(axis, view, from, to) {
  const at = ticks(from, to, Math.max(2, ((to - from) * axis.scale) / 90)), step = at[1] - at[0];
  return at.filter((one) => !axis.fold || one <= view.fold[0] || one >= view.fold[1])
    .map((one) => [one, tickText(one, step)]);
}
const tickText = (seconds, step) => (seconds === 0 ? "0" : step >= 0.1 ? `${+seconds.toFixed(2)} s`
  : step >= 1e-4 ? `${+(seconds * 1e3).toFixed(2)} ms` : `${+(seconds * 1e6).toFixed(2)} µs`);

// An event of a view by name: see `_events` in llamac/plan/render/step_data.py.
function eventsOf(view) {
  view.named ??= view.events.map(([kind, name, begin, end, lane, layer, batch, saved, lacking, runs]) => ({
    kind: view.words[kind], name: view.words[name], begin, end, lane: view.words[lane], layer, batch,
    saved, lacking, runs,
  }));
  return view.named;
}
const runsGraph = (event) => event.kind === "forward" || event.kind === "backward";
const graphKey = (event) => `${event.name}.${event.kind[0]}`;
const eventTitle = (event) => {
  if (!runsGraph(event)) return event.kind === event.name ? event.name : `${event.kind}: ${event.name}`;
  return `${event.kind} of ${event.layer < 0 ? `the ${event.name}` : `layer ${event.layer}`}`;
};

// Memory over time: saved activations, those of the running region, logits.
function momentsOf(view, graphs, kept) {
  if (view.moments) return view.moments;
  const found = [];
  for (const event of eventsOf(view)) {
    if (runsGraph(event)) {
      const own = event.kind === "backward" ? kept(event.name) : 0;
      graphs[graphKey(event)].levels.forEach(([time, live, logits, values], level) => {
        const working = Math.max(0, live - own);
        found.push({ time: event.begin + time, saved: event.saved, working, logits, lacking: event.lacking,
          event, level, values, total: event.saved + working + logits - event.lacking });
      });
    } else if (event.lane === "compute") {
      found.push({ time: event.begin, saved: event.saved, working: 0, logits: 0, lacking: event.lacking, event,
        level: 0, values: [], total: event.saved - event.lacking });
    }
  }
  view.moments = found;
  return found;
}
