// Of `llamac report --watch`: asks the server for newer data, and draws it in place.
"use strict";

const EVERY = 3000; // milliseconds
let version = $("live")?.dataset.version;

async function ask() {
  const state = $("liveness");
  try {
    const answer = await fetch(`data.json?since=${encodeURIComponent(version)}`, { cache: "no-store" });
    if (answer.status === 200) {
      version = answer.headers.get("ETag");
      data = await answer.json();
      render();
    }
    $("liveness").textContent = " · live";
  } catch {
    if (state) state.textContent = " · llamac report is no longer running";
  }
  setTimeout(ask, EVERY);
}
if (version !== undefined) setTimeout(ask, EVERY);
