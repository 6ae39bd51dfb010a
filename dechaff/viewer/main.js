// Wires the page's controls to the viewer, and starts it.

function setUpControls(viewer) {
  document.title = `dechaff: ${shown(viewer.trace.source, 80)}`;
  byId("title").replaceChildren(element("b", null, "dechaff"), element("span", null, shown(viewer.trace.source, 60)));
  drawSizes(byId("sizes"), viewer.sizes, (name, value) => {
    viewer.sizes.set(name, value);
    viewer.drawTimeline();
    viewer.drawDetails();
  });
  byId("view-choice").replaceChildren(...VIEWS.map(([view, text]) => element("button", { type: "button", "data-view": view, onclick: () => viewer.set({ view }) }, text)));
  const clicks = {
    collapse: () => setExpanded(viewer, []),
    expand: () => setExpanded(viewer, allModules(viewer)),
    "expand-changes": () => setExpanded(viewer, changedModules(viewer)),
    fit: () => viewer.panes.fit(),
    export: () => exportSvg(viewer),
    theme: switchTheme,
    "help-button": () => byId("help").showModal(),
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
  const toggles = { "changed-only": "changedOnly", "hide-same": "hideSame", errors: "errors" };
  for (const [id, key] of Object.entries(toggles)) byId(id).addEventListener("change", (event) => viewer.set({ [key]: event.target.checked }));
  const isSingle = viewer.steps.length === 1;
  byId("timeline").hidden = isSingle;
  document.body.classList.toggle("single", isSingle);
  drawHelp(byId("help"));
  setUpSearch(viewer);
  setUpKeyboard(viewer);
  showTheme();
}

function start(trace) {
  const viewer = new Viewer(trace);
  setUpControls(viewer);
  followAddress(viewer);
  addEventListener("hashchange", () => followAddress(viewer));
  window.viewer = viewer; // for the curious, in the browser's console
}

readTrace().then(start, (error) => byId("panes").append(element("p", { class: "alarm" }, `The trace in this page cannot be read: ${shown(error)}`)));
