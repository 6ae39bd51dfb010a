// Moving about by keys: through the passes, the views, and along the edges of the graph.

function stepBy(viewer, change) {
  const listed = viewer.steps.filter((step) => isListed(step, viewer.state));
  const place = listed.findIndex((step) => step.index === viewer.state.step);
  const next = listed[Math.max(0, Math.min(listed.length - 1, place + change))];
  if (next) viewer.set({ step: next.index });
}

function nextView(viewer) {
  const offered = [...byId("view-choice").children].filter((button) => !button.hidden).map((button) => button.dataset.view);
  viewer.set({ view: offered[(offered.indexOf(viewer.state.view) + 1) % offered.length] });
}

/** Moves the selection along the edges, or in the order of computation. */
function walk(viewer, direction) {
  const { edges, leaves, byId: known } = viewer.comparison;
  const leaf = viewer.state.node !== null && known.get(viewer.state.node);
  if (!leaf) {
    const first = leaves.find((item) => item.status !== "same") || leaves[0];
    if (first) viewer.select(first.id);
    return;
  }
  let next;
  if (direction === "above") next = edges.find((edge) => edge.target === leaf)?.source;
  else if (direction === "below") next = edges.find((edge) => edge.source === leaf)?.target;
  else next = leaves[leaves.indexOf(leaf) + (direction === "left" ? -1 : 1)];
  if (next) viewer.select(next.id);
}
