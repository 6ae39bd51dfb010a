// Light and dark, and the graph as a picture of its own.

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme === "dark" ? "dark" : "light";
  showTheme();
}

function switchTheme() {
  setTheme(isDark() ? "light" : "dark");
}

function showTheme() {
  byId("theme").textContent = isDark() ? "☾" : "☀";
  byId("theme").setAttribute("aria-label", isDark() ? "Dark; switch to light" : "Light; switch to dark");
}

/** Saves the pane on the right, the whole graph and not only what fits the window. */
function exportSvg(viewer) {
  const text = viewer.panes.exported(exportStyles());
  const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  element("a", { href: address, download: `${viewer.step.name.replace(/[^\w.-]+/g, "-").slice(0, 80)}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  byId("status").textContent = "The graph was saved as SVG.";
}

/** The page's rules for graphs with their colours filled in, for an SVG file of its own. */
function exportStyles() {
  const computed = getComputedStyle(document.documentElement);
  const rules = [];
  for (const rule of document.styleSheets[0].cssRules) {
    if (rule.selectorText && rule.selectorText.includes(".graph")) rules.push(rule.cssText);
  }
  return rules.join("\n").replace(/var\((--[\w-]+)\)/g, (_, name) => computed.getPropertyValue(name).trim());
}
