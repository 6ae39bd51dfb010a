// The error overlay: how far each value is from what it was, by colour, sign and number.

const HEAT_LEVELS = 5;

/** Error over its limit: 1 is the most that the numerics allow; null in a trace is no number. */
function errorRatio([error, limit]) {
  if (error === null) return Infinity;
  if (error === 0) return 0;
  return limit ? error / limit : Infinity;
}

/** 0: equal; 1, 2: within the limit, below a tenth of it or above; 3 to 5: beyond, by powers of ten. */
function heatLevel(ratio) {
  if (ratio === 0) return 0;
  if (ratio <= 1) return ratio < 0.1 ? 1 : 2;
  return Math.min(HEAT_LEVELS, 3 + Math.floor(Math.log10(ratio) / 2));
}

const HEAT_SIGNS = ["=", "≈", "≈", "≠", "≠", "≠"];

function errorText([error]) {
  if (error === null) return "not comparable";
  return error === 0 ? "equal" : `off by ${error.toExponential(1)}`;
}

/** The errors of a step by node id, where they were measured and are to be shown; else null. */
function errorsShown({ step, state }) {
  if (!state.errors || !step.node_errors) return null;
  return { byNode: new Map(Object.entries(step.node_errors.errors)), first: step.node_errors.first };
}

/** The strongest heat among the operators of a module; -1 where none was measured. */
function groupHeat(group, errors) {
  let most = -1;
  for (const leaf of group.leaves) {
    if (errors.byNode.has(leaf.id)) most = Math.max(most, heatLevel(errorRatio(errors.byNode.get(leaf.id))));
  }
  for (const inner of group.groups.values()) most = Math.max(most, groupHeat(inner, errors));
  return most;
}

/** Whether the first diverging operator is inside a module. */
function holdsFirst(group, errors) {
  return group.leaves.some((leaf) => leaf.id === errors.first) || [...group.groups.values()].some((inner) => holdsFirst(inner, errors));
}

function errorLegend(viewer) {
  const errors = errorsShown(viewer);
  if (!errors) return [];
  const scale = ["equal", "within a tenth of the limit", "within the limit", "beyond", "× 100", "× 10⁴"].map((text, level) =>
    element("span", { class: `heat-key heat-${level}` }, `${HEAT_SIGNS[level]} ${text}`)
  );
  const { first } = errors;
  return [...scale, first ? element("button", { type: "button", class: "link", id: "first-error", onclick: () => viewer.select(first) }, `⚑ first: ${shown(first, 40)}`) : null].filter(Boolean);
}

/** Rows of the details panel for a node. */
function errorRows(step, id) {
  const errors = step.node_errors;
  if (!errors || !Object.hasOwn(errors.errors, id)) return [];
  const found = errors.errors[id];
  const limit = found[1] === null ? "" : ` (limit ${found[1].toExponential(1)})`;
  return [
    ["error", `${errorText(found)}${limit}`],
    ["case", errors.case],
    ["diverges", errors.first === id ? "⚑ here first" : ""],
  ];
}
