// Drawing a layout as SVG, once per pane: what the pane's graph does not have stays as a ghost.

const FAMILIES = [
  ["product", /^(MatMul|Gemm|MatMulInteger|MatMulNBits|Conv|Einsum|FusedMatMul)$/],
  ["attention", /Attention|RotaryEmbedding/],
  ["normalization", /Norm|Softmax/],
  ["activation", /Gelu|Relu|Tanh|Erf|Sigmoid|Silu|Swish/],
  ["packing", /Pack|TokenLayout|NonZero|Scatter|Gather|Loop|If$/],
  ["layout", /^(Reshape|Transpose|Unsqueeze|Squeeze|Concat|Split|Slice|Shape|Expand|Cast|Identity|Constant.*|Range|Flatten|Size)$/],
];

function familyOf(op) {
  const found = FAMILIES.find(([, pattern]) => pattern.test(op));
  return found ? found[0] : "plain";
}

/** Whether a pane shows an item as present: the pane before lacks what was added, and so on. */
function presentIn(status, side) {
  return side === "both" || status !== (side === "before" ? "added" : "removed");
}

function drawLevel(level, side, onPick) {
  const wires = level.wires.map((wire) => drawWire(wire, side)).filter(Boolean);
  const boxes = level.boxes.map((vertex) => drawItem(vertex, side, onPick));
  return [shape("g", { class: "wires" }, wires), boxes];
}

function drawWire(wire, side) {
  if (side === "before" && !(wire.sides & 1)) return null;
  if (side === "after" && !(wire.sides & 2)) return null;
  const status = wire.sides === 3 ? "same" : wire.sides === 1 ? "removed" : "added";
  const kind = /^(u?int|bool)/.test(wire.type) ? "index" : "data";
  const path = shape("path", { class: `wire ${kind} ${status}`, d: wire.path });
  path.wire = wire;
  path.append(shape("title", null, `${shown(wire.value)}  ${shown(wire.type)}`));
  return path;
}

function drawItem(vertex, side, onPick) {
  const { item, x, y, width, height } = vertex;
  const place = `translate(${Math.round(10 * x) / 10} ${Math.round(10 * y) / 10})`;
  const made = item.isGroup ? drawGroup(vertex, side, onPick) : drawLeaf(item, width, height, side);
  made.setAttribute("transform", place);
  made.item = item;
  return made;
}

function drawLeaf(leaf, width, height, side) {
  const present = presentIn(leaf.status, side);
  const family = leaf.kind ? "interface" : familyOf(leaf.node.op);
  const node = !leaf.kind && side === "before" && leaf.before ? leaf.before : leaf.node;
  const now = leaf.kind ? leaf : { ...leaf, node };
  const made = shape("g", { class: `leaf ${leaf.status} ${family}${present ? "" : " ghost"}`, "data-id": leaf.id });
  made.append(shape("rect", { class: "box", width, height, rx: leaf.kind ? height / 2 : 6 }));
  if (!present) return made;
  if (!leaf.kind) made.append(shape("rect", { class: "strip", x: 0, y: 6, width: 4, height: height - 12, rx: 2 }));
  made.append(shape("text", { class: "name", x: width / 2, y: leaf.kind ? 15 : 18 }, leafTitle(now)));
  made.append(shape("text", { class: "type", x: width / 2, y: leaf.kind ? 28 : 33 }, leafSubtitle(now)));
  if (MARKS[leaf.status]) made.append(drawMark(leaf.status, width));
  return made;
}

function drawMark(status, x, y = 0) {
  return shape(
    "g",
    { class: `mark ${status}`, transform: `translate(${x - 3} ${y + 3})` },
    shape("circle", { r: 8 }),
    shape("text", { y: 4 }, MARKS[status])
  );
}

function drawGroup(vertex, side, onPick) {
  const { item: group, inner, width, height } = vertex;
  const altered = group.altered ? " altered" : "";
  const only = ["added", "removed"].find((status) => group.counts[status] === group.size);
  const present = !only || presentIn(only, side);
  const made = shape("g", { class: `group${altered}${only ? ` ${only}` : ""}${inner ? " open" : ""}${present ? "" : " ghost"}`, "data-id": group.key });
  made.append(shape("rect", { class: "box", width, height, rx: 9 }));
  if (!present && !inner) return made;
  made.append(shape("text", { class: "sign", x: 13, y: 19 }, inner ? "▾" : "▸"));
  made.append(shape("text", { class: "name", x: 26, y: 19 }, shown(group.label, 40)));
  const marks = groupMarks(group);
  const detail = `${groupSubtitle(group)}${marks ? "  " : ""}${marks}`;
  made.append(shape("text", { class: "type", x: inner ? width - 12 : 26, y: inner ? 19 : 35, "text-anchor": inner ? "end" : "start" }, detail));
  if (inner) made.append(shape("rect", { class: "handle", width, height: HEADER, rx: 9 }), ...drawLevel(inner, side, onPick).flat());
  return made;
}

/** The colour of every status, and what the mark is called. */
const LEGEND = [
  ["added", "added"],
  ["removed", "removed"],
  ["changed", "changed"],
  ["rewired", "other operands"],
];

function drawLegend(counts) {
  return LEGEND.filter(([status]) => counts[status]).map(([status, text]) =>
    element("span", { class: `key ${status}` }, element("i", { class: "mark-sign" }, MARKS[status]), `${counts[status]} ${text}`)
  );
}
