// The viewer: its state, and what happens when it changes.

const VIEWS = [
  ["split", "before | after"],
  ["overlay", "overlay"],
  ["after", "after"],
  ["text", "text"],
];
const NARROW = 820;
const AUTO_EXPAND = 60;

class Viewer {
  constructor(trace) {
    this.trace = trace;
    this.steps = stepsOf(trace);
    this.sizes = new Map(symbolsOf(this.steps).map((name) => [name, Number(Object.hasOwn(trace.sizes, name) ? trace.sizes[name] : 1)]));
    this.expanded = new Set();
    this.values = new WeakMap();
    this.comparisons = new Map();
    this.panes = new Panes(byId("panes"), (item, toggles) => this.pick(item, toggles));
    this.state = { step: this.firstStep(), node: null, view: innerWidth < NARROW ? "overlay" : "split", hideSame: false, changedOnly: false };
    this.setUpControls();
    this.followAddress();
    addEventListener("hashchange", () => this.followAddress());
  }

  firstStep() {
    const changed = this.steps.find((step) => step.changed);
    return changed ? changed.index : 0;
  }

  setUpControls() {
    document.title = `dechaff: ${shown(this.trace.source, 80)}`;
    byId("title").replaceChildren(element("b", null, "dechaff"), element("span", null, shown(this.trace.source, 60)));
    drawSizes(byId("sizes"), this.sizes, (name, value) => {
      this.sizes.set(name, value);
      this.drawTimeline();
      this.drawDetails();
    });
    byId("view-choice").replaceChildren(...VIEWS.map(([view, text]) => element("button", { type: "button", "data-view": view, onclick: () => this.set({ view }) }, text)));
    const clicks = {
      collapse: () => this.collapseAll(),
      expand: () => this.expandAll(),
      "expand-changes": () => this.expandChanges(),
      fit: () => this.panes.fit(),
      export: () => this.exportSvg(),
      theme: () => this.switchTheme(),
      "help-button": () => byId("help").showModal(),
    };
    for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
    byId("changed-only").addEventListener("change", (event) => this.set({ changedOnly: event.target.checked }));
    byId("hide-same").addEventListener("change", (event) => this.set({ hideSame: event.target.checked }));
    if (this.steps.length === 1) byId("timeline").hidden = true;
    document.body.classList.toggle("single", this.steps.length === 1);
    drawHelp(byId("help"));
    setUpSearch(this);
    setUpKeyboard(this);
    this.showTheme();
  }

  get step() {
    return this.steps[this.state.step];
  }

  /** The comparison of the current step, with its tree and edges; kept once made. */
  get comparison() {
    return entry(this.comparisons, this.state.step, () => {
      const made = compareGraphs(this.step.graphBefore, this.step.graphAfter);
      made.tree = moduleTree(made);
      made.edges = leafEdges(made, made.tree);
      made.byId = new Map([...made.leaves, ...made.tree.leaves].map((leaf) => [leaf.id, leaf]));
      return made;
    });
  }

  /** Changes the state and draws what depends on it. */
  set(change) {
    const before = this.state;
    this.state = { ...before, ...change };
    const other = (key) => before[key] !== this.state[key];
    if (other("step")) this.panes.level = null;
    if (other("step") || other("changedOnly")) this.drawTimeline();
    if (other("step") || other("view") || other("hideSame")) this.drawStage(other("step") || other("view"));
    else if (other("node")) this.markSelected(true);
    this.drawDetails();
    this.writeAddress();
  }

  drawTimeline() {
    byId("changed-only").checked = this.state.changedOnly;
    drawTimeline(byId("steps"), this.steps, this.state, this.sizes, (index) => this.set({ step: index }));
  }

  drawStage(refit = false) {
    const { view, hideSame } = this.state;
    const { counts, leaves, tree } = this.comparison;
    const altered = this.step.graphBefore !== this.step.graphAfter;
    byId("hide-same").checked = hideSame;
    byId("hide-same").disabled = !altered;
    byId("legend").replaceChildren(...(altered ? drawLegend(counts) : this.step.index ? [element("span", { class: "more" }, "this pass changed nothing")] : []));
    for (const button of byId("view-choice").children) {
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
      button.hidden = !altered && !["after", "text"].includes(button.dataset.view) && !(button.dataset.view === view);
    }
    byId("text").hidden = view !== "text";
    byId("panes").hidden = view === "text";
    for (const id of ["collapse", "expand", "expand-changes", "fit", "export"]) byId(id).hidden = view === "text" || (id === "expand-changes" && !altered);
    if (view === "text") {
      drawText(byId("text"), this.comparison, this);
      markLine(byId("text"), this.state.node);
      return;
    }
    const shownLeaves = leaves.filter((leaf) => leaf.status !== "same").length;
    const isShown = (item) => !hideSame || !altered || (item.isGroup ? item.altered + item.counts.rewired > 0 : item.status !== "same" || (item.kind && shownLeaves === 0));
    const level = layoutTree(tree, this.comparison.edges, (group) => this.expanded.has(group.key), isShown);
    const sides = !altered ? ["after"] : view === "split" ? ["before", "after"] : view === "overlay" ? ["both"] : ["after"];
    const titles = { before: `before ${this.step.name}`, after: this.step.index === 0 ? shown(this.step.name, 80) : `after ${this.step.name}`, both: `${this.step.name}: before and after in one` };
    this.panes.show(level, sides, sides.map((side) => shown(titles[side], 90)));
    if (refit) this.panes.fit();
    this.markSelected(false);
  }

  drawDetails() {
    const { step, comparison } = this;
    const item = this.state.node === null ? null : comparison.byId.get(this.state.node) || comparison.tree.groupsByKey.get(this.state.node);
    let content;
    if (!item) content = passDetails(this, step, comparison);
    else if (item.isGroup) content = groupDetails(this, step, item);
    else if (item.kind) content = interfaceDetails(item);
    else content = nodeDetails(this, step, item);
    byId("details").replaceChildren(...content.flat(Infinity).filter(Boolean));
    byId("details").scrollTop = 0;
  }

  /** Producer, consumers and type of each value of a graph. */
  valuesOf(graph) {
    if (this.values.has(graph)) return this.values.get(graph);
    const values = new Map(graph.inputs.map(([name, type]) => [name, { type, producer: null, consumers: [] }]));
    for (const [id, node] of graph.nodes) for (const [name, type] of node.outputs || []) values.set(name, { type, producer: id, consumers: [] });
    for (const [id, node] of graph.nodes) for (const name of new Set(node.inputs || [])) if (values.has(name)) values.get(name).consumers.push(id);
    this.values.set(graph, values);
    return values;
  }

  /** Selects a node wherever it is: in this step, else in the nearest one that has it. */
  select(id) {
    if (id !== null && !this.comparison.byId.has(id) && !this.comparison.tree.groupsByKey.has(id)) {
      const near = this.steps.filter((step) => step.graphBefore.nodes.has(id) || step.graphAfter.nodes.has(id)).sort((a, b) => Math.abs(a.index - this.state.step) - Math.abs(b.index - this.state.step))[0];
      if (near) this.go(near.index, id);
      return;
    }
    this.open(id);
    this.set({ node: id });
  }

  go(step, id = null) {
    this.set({ step, node: id });
    if (id !== null && this.open(id)) this.drawStage();
    this.markSelected(true);
  }

  /** Expands the modules around a node; gives whether any was closed. */
  open(id) {
    const leaf = id === null ? null : this.comparison.byId.get(id);
    const closed = leaf ? ancestry(leaf).filter((group) => group.isGroup && group.parent && !this.expanded.has(group.key)) : [];
    for (const group of closed) this.expanded.add(group.key);
    if (closed.length && this.state.view !== "text") this.drawStage();
    return closed.length > 0;
  }

  markSelected(reveal) {
    const { node, view } = this.state;
    if (view === "text") {
      markLine(byId("text"), node);
      return;
    }
    const item = node === null ? null : this.comparison.byId.get(node) || this.comparison.tree.groupsByKey.get(node);
    this.panes.mark(new Set(item ? [item] : []));
    if (reveal && item) this.panes.reveal(item);
  }

  pick(item, toggles) {
    if (item && item.isGroup && toggles) this.toggle(item);
    const id = item ? (item.isGroup ? item.key : item.id) : null;
    this.set({ node: id });
  }

  /** Opens or closes a module; its corner stays where it is on the screen. */
  toggle(group) {
    const corner = () => {
      const made = (this.panes.elements.get(group) || [])[0];
      const box = made && made.getBoundingClientRect();
      return box && { x: (box.left + box.right) / 2, y: box.top };
    };
    const before = corner();
    if (this.expanded.has(group.key)) this.expanded.delete(group.key);
    else this.expanded.add(group.key);
    this.drawStage();
    const after = corner();
    if (before && after) {
      this.panes.x += before.x - after.x;
      this.panes.y += before.y - after.y;
      this.panes.move();
    }
  }

  toggleSelected() {
    const group = this.state.node !== null && this.comparison.tree.groupsByKey.get(this.state.node);
    if (group) this.toggle(group);
  }

  setExpanded(keys) {
    this.expanded = new Set(keys);
    this.drawStage(true);
  }

  expandAll() {
    this.setExpanded(this.comparison.tree.groupsByKey.keys());
  }

  collapseAll() {
    this.setExpanded([]);
  }

  expandChanges() {
    const groups = [...this.comparison.tree.groupsByKey.values()].filter((group) => group.altered);
    this.setExpanded(groups.map((group) => group.key));
  }

  stepBy(change) {
    const allowed = this.steps.filter((step) => !this.state.changedOnly || step.changed || step.kind === "import" || step.undone);
    const place = allowed.findIndex((step) => step.index === this.state.step);
    const next = allowed[Math.max(0, Math.min(allowed.length - 1, place + change))];
    if (next) this.set({ step: next.index });
  }

  nextView() {
    const visible = [...byId("view-choice").children].filter((button) => !button.hidden).map((button) => button.dataset.view);
    this.set({ view: visible[(visible.indexOf(this.state.view) + 1) % visible.length] });
  }

  zoom(factor) {
    const { width, height } = this.panes.viewSize();
    this.panes.zoomAt(factor, width / 2, height / 2);
  }

  /** Moves the selection along the edges, or in the order of computation. */
  walk(direction) {
    const leaf = this.state.node !== null && this.comparison.byId.get(this.state.node);
    if (!leaf) {
      const [first] = this.comparison.leaves.filter((item) => item.status !== "same").concat(this.comparison.leaves);
      if (first) this.select(first.id);
      return;
    }
    let next = null;
    if (direction === "above") next = this.comparison.edges.find((edge) => edge.target === leaf)?.source;
    else if (direction === "below") next = this.comparison.edges.find((edge) => edge.source === leaf)?.target;
    else next = this.comparison.leaves[this.comparison.leaves.indexOf(leaf) + (direction === "left" ? -1 : 1)];
    if (next) this.select(next.id);
  }

  exportSvg() {
    const text = this.panes.exported(`${exportStyles()}`);
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })), download: `${this.step.name.replace(/[^\w.-]+/g, "-")}.svg` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    byId("status").textContent = "The graph was saved as SVG.";
  }

  switchTheme() {
    const root = document.documentElement;
    root.dataset.theme = this.isDark() ? "light" : "dark";
    this.showTheme();
  }

  isDark() {
    const { theme } = document.documentElement.dataset;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  showTheme() {
    byId("theme").textContent = this.isDark() ? "☾" : "☀";
  }

  /** State from the address: #pass=3&node=MatMul_7&view=text. */
  followAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const step = Number.parseInt(given.get("pass"), 10);
    const view = given.get("view");
    const node = given.get("node");
    if (this.drawn && location.hash.slice(1) === this.address()) return;
    for (const key of given.getAll("open")) this.expanded.add(key);
    if (Number.isInteger(step) && this.steps[step]) this.state.step = step;
    if (VIEWS.some(([name]) => name === view)) this.state.view = view;
    if (given.get("expand") === "all") for (const key of this.comparison.tree.groupsByKey.keys()) this.expanded.add(key);
    if (given.get("expand") === "changes") for (const group of this.comparison.tree.groupsByKey.values()) if (group.altered) this.expanded.add(group.key);
    if (given.has("theme")) document.documentElement.dataset.theme = given.get("theme") === "dark" ? "dark" : "light";
    this.state.hideSame = given.get("hide") === "same";
    this.state.node = node;
    this.showTheme();
    if (!this.drawn) this.openSmall();
    this.drawn = true;
    this.open(node);
    this.drawTimeline();
    this.drawStage(true);
    this.drawDetails();
    if (node !== null) this.markSelected(true);
  }

  /** A small model is shown as a whole; of a large one, modules that hold all there is are open. */
  openSmall() {
    const { tree, leaves } = this.comparison;
    const groups = [...tree.groupsByKey.values()];
    if (leaves.length <= AUTO_EXPAND) for (const group of groups) this.expanded.add(group.key);
    const largest = [...tree.groups.values()].sort((a, b) => b.size - a.size)[0];
    if (largest && largest.size > 0.5 * leaves.length && largest.children.length <= AUTO_EXPAND) this.expanded.add(largest.key);
  }

  address() {
    const { step, node, view, hideSame } = this.state;
    const parts = new URLSearchParams({ pass: step });
    if (node !== null) parts.set("node", node);
    if (view !== "split") parts.set("view", view);
    if (hideSame) parts.set("hide", "same");
    return parts.toString();
  }

  writeAddress() {
    try {
      history.replaceState(null, "", `#${this.address()}`);
    } catch {
      // a page inside a sandboxed frame has no address of its own
    }
  }
}

/** The page's rules for graphs with their colours filled in, for an SVG file of its own. */
function exportStyles() {
  const computed = getComputedStyle(document.documentElement);
  const rules = [];
  for (const rule of document.styleSheets[0].cssRules) {
    if (rule.selectorText && rule.selectorText.includes(".graph")) rules.push(rule.cssText);
  }
  return rules.join("\n").replace(/var\((--[\w-]+)\)/g, (_, name) => computed.getPropertyValue(name).trim());
}

readTrace().then(
  (trace) => (window.viewer = new Viewer(trace)),
  (error) => byId("panes").append(element("p", { class: "alarm" }, `The trace in this page cannot be read: ${shown(error)}`))
);
