// The middle of the page: the tools above the graph, and what the panes show of a step.

function drawToolbar(viewer) {
  const { step, state, comparison } = viewer;
  const altered = isAltered(step);
  byId("hide-same").checked = state.hideSame;
  byId("hide-same").disabled = !altered;
  const remark = step.index && !altered ? [element("span", { class: "more" }, "this pass changed nothing")] : [];
  const scale = errorLegend(viewer);
  byId("legend").replaceChildren(...(scale.length ? scale : altered ? drawLegend(comparison.counts) : remark));
  for (const button of byId("view-choice").children) {
    const { view } = button.dataset;
    button.setAttribute("aria-pressed", String(view === state.view));
    button.hidden = view === "code" ? !step.code : !altered && view !== "after" && view !== "text" && view !== state.view;
  }
  const isText = viewer.showsText || viewer.showsCode;
  byId("text").hidden = !isText;
  byId("panes").hidden = isText;
  for (const id of ["collapse", "expand", "fit", "export"]) byId(id).hidden = isText;
  byId("expand-changes").hidden = isText || !altered;
  byId("errors-toggle").hidden = isText || !step.node_errors;
  byId("errors").checked = state.errors;
}

/** Whether a step's graph after differs from that before, be it undone or not. */
function isAltered(step) {
  return step.graphBefore !== step.graphAfter;
}

function drawPanes(viewer) {
  const { step, state, comparison, panes } = viewer;
  const altered = isAltered(step);
  const isOpen = (group) => viewer.expanded.has(group.key);
  const level = layoutTree(comparison.tree, comparison.edges, isOpen, visibleItems(viewer));
  const sides = !altered ? ["after"] : { split: ["before", "after"], overlay: ["both"], after: ["after"] }[state.view];
  const titles = {
    before: `before ${step.name}`,
    after: step.index === 0 ? step.name : `after ${step.name}`,
    both: `${step.name}: before and after in one`,
  };
  panes.show(level, sides, sides.map((side) => shown(titles[side], 90)), errorsShown(viewer));
}

/** Which items are drawn: all, or with "hide unchanged" those that differ and what holds them. */
function visibleItems({ step, state, comparison }) {
  if (!state.hideSame || !isAltered(step)) return () => true;
  const nothingDiffers = comparison.leaves.every((leaf) => leaf.status === "same");
  return (item) => (item.isGroup ? item.altered + item.counts.rewired > 0 : item.status !== "same" || (item.kind && nothingDiffers));
}
