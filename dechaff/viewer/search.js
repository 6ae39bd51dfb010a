// Search by name, operator, module path and rule.

const MOST_FOUND = 100;

function findLeaves(comparison, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = [];
  for (const leaf of comparison.leaves) {
    const { node } = leaf;
    const hay = [leaf.id, operatorName(node), node.path, node.rule, leaf.status === "same" ? "" : leaf.status].join("\n").toLowerCase();
    if (words.every((word) => hay.includes(word))) found.push(leaf);
    if (found.length >= MOST_FOUND) break;
  }
  return found;
}

/** Wires the search field; chosen results are selected in the viewer. */
function setUpSearch(viewer) {
  const [field, list] = [byId("search"), byId("found")];
  let at = 0;
  const close = () => (list.hidden = true);
  const choose = (id) => {
    close();
    field.blur();
    viewer.select(id);
  };
  const draw = () => {
    const found = findLeaves(viewer.comparison, field.value);
    at = 0;
    list.hidden = !field.value.trim();
    const rows = found.map((leaf) =>
      element(
        "li",
        { "data-id": leaf.id, onpointerdown: (event) => (event.preventDefault(), choose(leaf.id)) },
        element("b", null, shown(operatorName(leaf.node), 40)),
        leaf.status !== "same" && element("i", { class: `mark-sign ${leaf.status}` }, MARKS[leaf.status]),
        element("span", null, shown(leaf.id, 60)),
        element("small", null, shown([leaf.node.path, leaf.node.rule].filter(Boolean).join(" · "), 80))
      )
    );
    list.replaceChildren(...(rows.length ? rows : [element("li", { class: "more" }, "nothing found")]));
    mark();
  };
  const mark = () => {
    [...list.children].forEach((row, index) => row.classList.toggle("chosen", index === at));
    if (list.children[at]) list.children[at].scrollIntoView({ block: "nearest" });
  };
  field.addEventListener("input", draw);
  field.addEventListener("focus", () => field.value && draw());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      at = Math.max(0, Math.min(list.children.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)));
      mark();
      event.preventDefault();
    } else if (event.key === "Enter" && list.children[at] && list.children[at].dataset.id) choose(list.children[at].dataset.id);
    else if (event.key === "Escape") field.blur();
  });
}
