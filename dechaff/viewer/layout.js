// The layout of what is visible: every expanded group is a layered level of its own, laid out from
// the inside out. A wire keeps its place where it crosses a group's border.
//
// Why no library: a wire must enter a module at the very place where it goes on inside, and both
// panes share one layout. dagre (MIT) knows no such ports, and lays out nested groups as one flat
// graph, all of it anew whenever a module opens: 1.1 s of CPU for the 1,405 operators of a spelled-out
// BERT, where these files and the drawing of both panes take 0.4 s. ELK (EPL-2.0) has ports, and 1.5 MB.

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

/**
 * The wires of every visible level, by group: collected from the edges between leaves. A wire's
 * targets know on which sides (1 before, 2 after) they are reached.
 */
function wiresByLevel(edges, isOpen) {
  const levels = new Map();
  const lead = (group, edge, from, target) => {
    if (!isOpen(group)) return;
    const wires = entry(levels, group, () => new Map());
    const key = `${edge.source.id}\u0000${edge.value}`;
    const made = entry(wires, key, () => ({ key, from, value: edge.value, type: edge.type, targets: new Map(), leaves: new Set() }));
    made.targets.set(target, (made.targets.get(target) || 0) | edge.sides);
    made.leaves.add(edge.source).add(edge.target);
  };
  for (const edge of edges) {
    const above = ancestry(edge.source);
    const below = ancestry(edge.target);
    let shared = 0;
    while (above[shared] === below[shared]) shared += 1;
    for (let depth = above.length - 2; depth >= shared; depth -= 1) lead(above[depth], edge, above[depth + 1], "exit");
    lead(above[shared - 1], edge, above[shared], below[shared]);
    for (let depth = shared; depth < below.length - 1; depth += 1) lead(below[depth], edge, "entry", below[depth + 1]);
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
    const exitSides = wire.targets.get("exit");
    const reached = [...wire.targets].filter(([item]) => byItem.has(item)).map(([item, sides]) => ({ vertex: byItem.get(item), sides }));
    let source = byItem.get(wire.from);
    if (!(reached.length || exitSides) || (!source && wire.from !== "entry")) continue;
    if (!source) {
      source = { isEntry: true, width: 2, height: 0, key: wire.key };
      vertices.push(source);
    }
    if (exitSides) {
      const exit = { isExit: true, width: 2, height: 0, key: wire.key };
      vertices.push(exit);
      reached.push({ vertex: exit, sides: exitSides });
    }
    wires.push({ ...wire, source, reached, targets: reached.map(({ vertex }) => vertex) });
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
  for (const wire of wires) wire.paths = wirePaths(wire);
  return level;
}

/** The parts of a wire that exist on the same sides, as SVG paths by sides: 1, 2 or 3 for both. */
function wirePaths(wire) {
  const parts = new Map();
  const add = (sides, text) => parts.set(sides, (parts.get(sides) || "") + text);
  for (const segment of wire.segments) add(segment.sides, segmentPath(segment, wire));
  for (const { vertex, sides } of wire.loose) {
    const { source } = wire;
    add(sides, curve(source.x + exitOffset(source, wire), source.y + source.height, vertex.x + entryOffset(vertex, wire), vertex.y));
  }
  return parts;
}

function round(number) {
  return Math.round(10 * number) / 10;
}

function curve(x0, y0, x1, y1) {
  const start = `M${round(x0)} ${round(y0)}`;
  if (Math.abs(x0 - x1) < 0.5) return `${start}L${round(x1)} ${round(y1)}`;
  const bend = round((y0 + y1) / 2);
  return `${start}C${round(x0)} ${bend} ${round(x1)} ${bend} ${round(x1)} ${round(y1)}`;
}

/** Straight down past the vertices of a layer, curved between layers. */
function segmentPath({ from, to }, wire) {
  const x0 = from.x + exitOffset(from, wire);
  const x1 = to.x + entryOffset(to, wire);
  const start = from.isDummy ? from.bottom : from.y + from.height;
  const end = to.isDummy ? to.top : to.y;
  const leaves = Math.max(start, from.bottom);
  const arrives = Math.min(end, to.top);
  const parts = [];
  if (from.bottom > start) parts.push(`M${round(x0)} ${round(start)}V${round(from.bottom)}`);
  parts.push(curve(x0, leaves, x1, arrives));
  if (end > arrives) parts.push(`V${round(end)}`);
  if (to.isDummy && to.bottom > to.top) parts.push(`V${round(to.bottom)}`);
  return parts.join("");
}

/** The layout of a comparison's tree. */
function layoutTree(root, edges, isOpen, isShown) {
  const open = (group) => group.parent === null || isOpen(group);
  return layoutGroup(root, wiresByLevel(edges, open), open, isShown);
}
