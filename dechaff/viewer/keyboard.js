// Keys. Arrows walk the graph: up to what a node reads, down to what reads it.

const KEYS = [
  ["j, k", "next, previous pass"],
  ["/", "search"],
  ["↑ ↓", "to a producer, to a consumer"],
  ["← →", "to a neighbour in the order of computation"],
  ["Enter", "open or close a module"],
  ["Esc", "select nothing"],
  ["v", "next view: split, overlay, after, text"],
  ["h", "hide what is unchanged"],
  ["d", "errors of each value, where they were measured"],
  ["e, c, x", "expand all, collapse all, expand what changed"],
  ["0, +, −", "fit, zoom in, zoom out"],
  ["l", "light or dark"],
  ["?", "this list"],
];

function drawHelp(dialog) {
  const rows = KEYS.map(([keys, text]) => element("tr", null, element("th", { scope: "row" }, keys), element("td", null, text)));
  dialog.replaceChildren(
    element("h2", null, "Keyboard"),
    element("table", null, rows),
    element("p", null, "Drag to move, wheel to zoom, click a module to open it, its title to close it."),
    element("form", { method: "dialog" }, element("button", null, "close"))
  );
}

function setUpKeyboard(viewer) {
  const actions = {
    j: () => stepBy(viewer, 1),
    k: () => stepBy(viewer, -1),
    "/": () => byId("search").focus(),
    ArrowUp: () => walk(viewer, "above"),
    ArrowDown: () => walk(viewer, "below"),
    ArrowLeft: () => walk(viewer, "left"),
    ArrowRight: () => walk(viewer, "right"),
    Enter: () => toggleSelected(viewer),
    Escape: () => viewer.select(null),
    v: () => nextView(viewer),
    h: () => viewer.set({ hideSame: !viewer.state.hideSame }),
    d: () => viewer.step.node_errors && viewer.set({ errors: !viewer.state.errors }),
    e: () => setExpanded(viewer, allModules(viewer)),
    c: () => setExpanded(viewer, []),
    x: () => setExpanded(viewer, changedModules(viewer)),
    0: () => viewer.panes.fit(),
    "+": () => viewer.zoom(1.25),
    "=": () => viewer.zoom(1.25),
    "-": () => viewer.zoom(0.8),
    l: switchTheme,
    "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const target = event.target;
    if (target.closest("input, textarea, select")) return;
    if (event.key === "Enter" && target.closest("button, summary")) return;
    if (event.key.startsWith("Arrow") && target.closest("#details, #text")) return;
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}
