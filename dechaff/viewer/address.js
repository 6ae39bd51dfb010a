// Deep links: the address holds the pass, the node and the view, as #pass=3&node=MatMul_7&view=text.

/** Takes the state from the address, also when the reader changes it. */
function followAddress(viewer) {
  const text = location.hash.slice(1);
  if (viewer.drawn && text === address(viewer)) return;
  const given = new URLSearchParams(text);
  const step = Number.parseInt(given.get("pass"), 10);
  const view = given.get("view");
  const { state, expanded } = viewer;
  if (viewer.steps[step]) state.step = step;
  if (VIEWS.some(([name]) => name === view)) state.view = view;
  state.hideSame = given.get("hide") === "same";
  state.errors = given.has("errors");
  state.node = given.get("node");
  for (const key of given.getAll("open")) expanded.add(key);
  const opened = { all: allModules, changes: changedModules };
  const which = given.get("expand");
  for (const group of Object.hasOwn(opened, which) ? opened[which](viewer) : []) expanded.add(group.key);
  if (given.has("theme")) setTheme(given.get("theme"));
  if (!viewer.drawn) openSmall(viewer);
  openAround(viewer, state.node);
  viewer.drawTimeline();
  viewer.drawStage(true);
  viewer.drawDetails();
  viewer.markSelected(true);
  viewer.drawn = true;
}

/** The address of the state; what is as at first is left out. */
function address(viewer) {
  const { step, node, view, hideSame, errors } = viewer.state;
  const parts = new URLSearchParams({ pass: step });
  if (node !== null) parts.set("node", node);
  if (view !== "split") parts.set("view", view);
  if (hideSame) parts.set("hide", "same");
  if (errors) parts.set("errors", "");
  return parts.toString();
}

function writeAddress(viewer) {
  try {
    history.replaceState(null, "", `#${address(viewer)}`);
  } catch {
    // a page inside a sandboxed frame has no address of its own
  }
}
