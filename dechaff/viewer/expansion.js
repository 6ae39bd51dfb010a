// Opening and closing modules.

const AUTO_EXPAND = 60;

/** Expands the modules around a node. */
function openAround(viewer, id) {
  const leaf = id === null ? null : viewer.comparison.byId.get(id);
  const closed = leaf ? ancestry(leaf).filter((group) => group.isGroup && group.parent && !viewer.expanded.has(group.key)) : [];
  for (const group of closed) viewer.expanded.add(group.key);
  if (closed.length && viewer.state.view !== "text") viewer.drawStage();
}

/** Opens or closes a module; its upper edge stays where it is on the screen. */
function toggleModule(viewer, group) {
  const { panes, expanded } = viewer;
  const before = panes.placeOf(group);
  if (expanded.has(group.key)) expanded.delete(group.key);
  else expanded.add(group.key);
  viewer.drawStage();
  const after = panes.placeOf(group);
  if (before && after) panes.moveBy(before.x - after.x, before.y - after.y);
}

function toggleSelected(viewer) {
  if (viewer.selected && viewer.selected.isGroup) toggleModule(viewer, viewer.selected);
}

function setExpanded(viewer, groups) {
  viewer.expanded = new Set([...groups].map((group) => group.key));
  viewer.drawStage(true);
}

function allModules(viewer) {
  return [...viewer.comparison.tree.groupsByKey.values()];
}

function changedModules(viewer) {
  return allModules(viewer).filter((group) => group.altered);
}

/** A small model is shown as a whole; of a large one, modules that hold most of it are open. */
function openSmall(viewer) {
  const { tree, leaves } = viewer.comparison;
  if (leaves.length <= AUTO_EXPAND) for (const group of allModules(viewer)) viewer.expanded.add(group.key);
  for (let level = tree; level; ) {
    const [largest] = [...level.groups.values()].sort((a, b) => b.size - a.size);
    const holdsMost = largest && largest.size > 0.5 * leaves.length && largest.children.length <= AUTO_EXPAND;
    if (holdsMost) viewer.expanded.add(largest.key);
    level = holdsMost ? largest : null;
  }
}
