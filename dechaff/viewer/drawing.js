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

function drawLevel(level, side, errors) {
  const wires = level.wires.map((wire) => drawWire(wire, side));
  const boxes = level.boxes.map((vertex) => drawItem(vertex, side, errors));
  return [shape("g", { class: "wires" }, wires), boxes];
}

const WIRE_STATUS = { 1: "removed", 2: "added", 3: "same" };
const SIDE_BITS = { before: 1, after: 2, both: 3 };

/** The parts of a wire that a pane's graph has; one that is in both graphs is the same. */
function drawWire(wire, side) {
  const kind = isIndexType(wire.type) ? "index" : "data";
  return [...wire.paths].filter(([sides]) => sides & SIDE_BITS[side]).map(([sides, d]) => {
    const path = shape("path", { class: `wire ${kind} ${WIRE_STATUS[sides]}`, d }, shape("title", null, `${shown(wire.value)}  ${shown(wire.type)}`));
    path.wire = wire;
    return path;
  });
}

function drawItem(vertex, side, errors) {
  const { item, x, y, width, height } = vertex;
  const place = `translate(${Math.round(10 * x) / 10} ${Math.round(10 * y) / 10})`;
  const made = item.isGroup ? drawGroup(vertex, side, errors) : drawLeaf(item, width, height, side);
  made.setAttribute("transform", place);
  made.item = item;
  if (errors) drawError(made, item, width, errors);
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

/** Colours an item by its error, and writes a sign; the place of the first divergence gets a flag. */
function drawError(made, item, width, errors) {
  if (made.classList.contains("ghost") || made.classList.contains("open")) return;
  const found = item.isGroup ? null : errors.byNode.get(item.id);
  const level = item.isGroup ? groupHeat(item, errors) : found ? heatLevel(errorRatio(found)) : -1;
  if (level < 0) return;
  made.classList.add(`heat-${level}`);
  const text = item.isGroup ? HEAT_SIGNS[level] : `${HEAT_SIGNS[level]} ${errorText(found)}`;
  const type = made.querySelector(".type");
  if (item.isGroup) type.textContent += `  ${text}`;
  else type.textContent = text;
  const isFirst = item.isGroup ? holdsFirst(item, errors) : item.id === errors.first;
  if (isFirst) made.append(shape("text", { class: "flag", x: width / 2, y: -4 }, "⚑ first"));
}

function drawMark(status, x, y = 0) {
  return shape(
    "g",
    { class: `mark ${status}`, transform: `translate(${x - 3} ${y + 3})` },
    shape("circle", { r: 8 }),
    shape("text", { y: 4 }, MARKS[status])
  );
}

function drawGroup(vertex, side, errors) {
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
  if (inner) made.append(shape("rect", { class: "handle", width, height: HEADER, rx: 9 }), ...drawLevel(inner, side, errors).flat());
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
