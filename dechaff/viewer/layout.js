// The layout of what is visible: every expanded group is a layered level of its own, laid out from
// the inside out. A wire keeps its place where it crosses a group's border.

const PADDING = 16;
const HEADER = 28;
const LEAF_HEIGHT = 42;
const LETTER = 6.7;
const SMALL_LETTER = 5.9;

function leafTitle(leaf) {
  return leaf.kind ? shown(leaf.name, 34) : shown(leaf.node.op, 34);
}

/** What stands under the title: the type of the first result. */
function leafSubtitle(leaf) {
  if (leaf.kind) return shown(leaf.type, 34);
  const [first] = leaf.node.outputs || [];
  return first ? shown(first[1], 34) : "";
}

function groupSubtitle(group) {
  return `${group.size} op${group.size === 1 ? "" : "s"}`;
}

function measureItem(item) {
  if (!item.isGroup) {
    const width = Math.max(LETTER * leafTitle(item).length + 34, SMALL_LETTER * leafSubtitle(item).length + 22);
    return { width: Math.ceil(Math.max(86, width)), height: item.kind ? 36 : LEAF_HEIGHT };
  }
  const marks = groupMarks(item);
  const wide = LETTER * shown(item.label, 40).length + 40;
  return { width: Math.ceil(Math.max(120, wide, SMALL_LETTER * (groupSubtitle(item).length + marks.length) + 40)), height: 46 };
}

function groupMarks({ counts }) {
  return ["added", "removed", "changed"].filter((status) => counts[status]).map((status) => `${MARKS[status]}${counts[status]}`).join(" ");
}

/** The wires of every visible level, by group: collected from the edges between leaves. */
function wiresByLevel(edges, isOpen) {
  const levels = new Map();
  const wire = (group, edge, from) => {
    const key = `${edge.source.id}\u0000${edge.value}`;
    const wires = entry(levels, group, () => new Map());
    const made = entry(wires, key, () => ({ key, from, value: edge.value, type: edge.type, sides: 0, targets: new Set(), leaves: new Set() }));
    made.sides |= edge.sides;
    made.leaves.add(edge.source).add(edge.target);
    return made;
  };
  for (const edge of edges) {
    const above = ancestry(edge.source);
    const below = ancestry(edge.target);
    let shared = 0;
    while (above[shared] === below[shared]) shared += 1;
    for (let depth = above.length - 2; depth >= shared; depth -= 1) {
      if (isOpen(above[depth])) wire(above[depth], edge, above[depth + 1]).targets.add("exit");
    }
    const level = above[shared - 1];
    if (isOpen(level)) wire(level, edge, above[shared]).targets.add(below[shared]);
    for (let depth = shared; depth < below.length - 1; depth += 1) {
      if (isOpen(below[depth])) wire(below[depth], edge, "entry").targets.add(below[depth + 1]);
    }
  }
  return levels;
}

/** Groups from the outermost to the leaf, which is last. */
function ancestry(leaf) {
  const chain = [];
  for (let item = leaf; item; item = item.parent) chain.push(item);
  return chain.reverse();
}

/** Lays out a group: size, placed children, wires with points, and where wires cross its border. */
function layoutGroup(group, levels, isOpen, isShown) {
  const vertices = [];
  const byItem = new Map();
  for (const item of group.children.filter(isShown)) {
    const inner = item.isGroup && isOpen(item) ? layoutGroup(item, levels, isOpen, isShown) : null;
    const size = inner || measureItem(item);
    const vertex = { item, inner, width: size.width, height: size.height, entries: inner && inner.entries, exits: inner && inner.exits, isPinned: item.kind === "inputs" };
    byItem.set(item, vertex);
    vertices.push(vertex);
  }
  const wires = levelWires(levels.get(group) || new Map(), byItem, vertices);
  rankVertices(vertices, wires);
  sinkOutputs(vertices);
  const layers = buildLayers(vertices, wires);
  neighbours(layers, wires);
  orderLayers(layers);
  const innerWidth = placeAcross(layers);
  const innerHeight = placeDown(layers);
  return finishLevel(group, vertices, wires, innerWidth, innerHeight);
}

function levelWires(known, byItem, vertices) {
  const wires = [];
  for (const wire of known.values()) {
    const targets = new Set([...wire.targets].map((item) => (item === "exit" ? item : byItem.get(item))).filter(Boolean));
    let source = byItem.get(wire.from);
    if (!targets.size || (!source && wire.from !== "entry")) continue;
    if (!source) {
      source = { isEntry: true, width: 2, height: 0, key: wire.key };
      vertices.push(source);
    }
    if (targets.delete("exit")) {
      const exit = { isExit: true, width: 2, height: 0, key: wire.key };
      vertices.push(exit);
      targets.add(exit);
    }
    wires.push({ ...wire, source, targets });
  }
  return wires;
}

/** Graph outputs stand in one row, below everything. */
function sinkOutputs(vertices) {
  const deepest = vertices.reduce((most, vertex) => Math.max(most, vertex.rank), 0);
  for (const vertex of vertices) if (vertex.item && vertex.item.kind === "outputs") vertex.rank = deepest;
}

function finishLevel(group, vertices, wires, innerWidth, innerHeight) {
  const isRoot = group.parent === null;
  const left = isRoot ? 0 : PADDING;
  const top = isRoot ? 0 : HEADER + 8;
  const label = isRoot ? 0 : LETTER * shown(group.label, 40).length + 90;
  const width = Math.max(innerWidth + 2 * left, label);
  const shift = left + (width - 2 * left - innerWidth) / 2;
  const level = { group, width, height: innerHeight + top + (isRoot ? 0 : PADDING), boxes: [], wires, entries: new Map(), exits: new Map() };
  const moved = new Set();
  const move = (vertex) => {
    if (moved.has(vertex)) return;
    moved.add(vertex);
    vertex.x += shift;
    for (const side of ["y", "top", "bottom"]) vertex[side] += top;
  };
  for (const vertex of vertices) {
    move(vertex);
    if (vertex.isEntry) level.entries.set(vertex.key, vertex.x + 1);
    else if (vertex.isExit) level.exits.set(vertex.key, vertex.x + 1);
    else level.boxes.push(vertex);
    if (vertex.isEntry) vertex.y = 0;
    if (vertex.isExit) vertex.y = level.height;
  }
  for (const wire of wires) for (const { from, to } of wire.segments) [from, to].forEach(move);
  for (const wire of wires) wire.path = wirePath(wire);
  return level;
}

/** The wire as an SVG path: straight down through dummies, curved between layers. */
function wirePath(wire) {
  const parts = [];
  const round = (number) => Math.round(10 * number) / 10;
  const curve = (x0, y0, x1, y1) => {
    const bend = Math.abs(x0 - x1) < 0.5 ? null : (y0 + y1) / 2;
    parts.push(`M${round(x0)} ${round(y0)}`);
    parts.push(bend === null ? `L${round(x1)} ${round(y1)}` : `C${round(x0)} ${round(bend)} ${round(x1)} ${round(bend)} ${round(x1)} ${round(y1)}`);
  };
  for (const { from, to } of wire.segments) {
    const x0 = from.x + exitOffset(from, wire);
    const x1 = to.x + entryOffset(to, wire);
    const start = from.isDummy ? from.bottom : from.y + from.height;
    const end = to.isDummy ? to.top : to.y;
    if (from.bottom > start) {
      parts.push(`M${round(x0)} ${round(start)}V${round(from.bottom)}`);
    }
    const from_y = Math.max(start, from.bottom);
    const to_y = Math.min(end, to.top);
    curve(x0, from_y, x1, to_y);
    if (end > to_y) parts.push(`V${round(end)}`);
    if (to.isDummy && to.bottom > to.top) parts.push(`V${round(to.bottom)}`);
  }
  for (const target of wire.loose) {
    const [x0, x1] = [wire.source.x + exitOffset(wire.source, wire), target.x + entryOffset(target, wire)];
    curve(x0, wire.source.y + wire.source.height, x1, target.y);
  }
  return parts.join("");
}

/** The layout of a comparison's tree. */
function layoutTree(root, edges, isOpen, isShown) {
  const open = (group) => group.parent === null || isOpen(group);
  return layoutGroup(root, wiresByLevel(edges, open), open, isShown);
}
