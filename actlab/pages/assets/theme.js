// Runs before the first paint, so that the page never flashes in the other theme.
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  let kept = null;
  try { kept = localStorage.getItem("actlab-theme"); } catch { /* storage may be closed to files */ }
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const choose = () => { root.dataset.theme = kept ?? (dark.matches ? "dark" : "light"); };
  choose();
  dark.addEventListener("change", () => {
    if (kept === null && root.dataset.chosen === undefined) {
      choose();
      root.dispatchEvent(new Event("themechange"));
    }
  });
})();
