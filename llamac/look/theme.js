// The button with the id `theme`, which switches between the reader's system setting, light and
// dark. The choice is kept in this browser, where it allows that, for all pages of llamac. A page
// that makes the button itself dispatches `rendered` afterwards.
(() => {
  const root = document.documentElement;
  const store = {
    get: () => { try { return localStorage.getItem("llamac-theme"); } catch { return null; } },
    set: (v) => { try { localStorage.setItem("llamac-theme", v); } catch { /* file:// may refuse */ } },
  };
  const label = () => {
    const button = document.getElementById("theme");
    if (button) button.textContent = `theme: ${root.dataset.theme ?? "auto"}`;
  };
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    label();
    document.dispatchEvent(new Event("themechange"));
  };
  apply(store.get());
  document.addEventListener("DOMContentLoaded", label);
  document.addEventListener("rendered", label);
  document.addEventListener("click", (event) => {
    if (event.target.id !== "theme") return;
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme ?? "auto"];
    store.set(next);
    apply(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new Event("themechange")));
})();
