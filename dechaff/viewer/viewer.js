// The viewer: its state, and what is drawn when it changes.

const VIEWS = [
  ["split", "before | after"],
  ["overlay", "overlay"],
  ["after", "after"],
  ["text", "text"],
  ["code", "code"],
];
const NARROW = 820;

class Viewer {
  constructor(trace) {
    this.trace = trace;
    this.steps = stepsOf(trace);
    this.sizes = new Map(symbolsOf(this.steps).map((name) => [name, Number(Object.hasOwn(trace.sizes, name) ? trace.sizes[name] : 1)]));
    this.expanded = new Set();
    this.values = new WeakMap();
    this.comparisons = new Map();
    this.panes = new Panes(byId("panes"), (item, toggles) => this.pick(item, toggles));
    const changed = this.steps.find((step) => step.changed);
    this.state = {
      step: changed ? changed.index : 0,
      node: null,
      view: innerWidth < NARROW ? "overlay" : "split",
      hideSame: false,
      changedOnly: false,
      errors: false,
    };
  }

  get step() {
    return this.steps[this.state.step];
  }

  get showsCode() {
    return this.state.view === "code" && Boolean(this.step.code);
  }

  /** Whether the graph is shown as text; also where code was asked for and the step has none. */
  get showsText() {
    return this.state.view === "text" || (this.state.view === "code" && !this.step.code);
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

  /** The selected operator, module or graph input, where the current step has it. */
  get selected() {
    const { node } = this.state;
    return node === null ? null : this.comparison.byId.get(node) || this.comparison.tree.groupsByKey.get(node) || null;
  }

  /** Changes the state and draws what depends on it. */
  set(change) {
    const before = this.state;
    this.state = { ...before, ...change };
    const other = (key) => before[key] !== this.state[key];
    if (other("step") || other("changedOnly")) this.drawTimeline();
    if (other("step") || other("view") || other("hideSame") || other("errors")) this.drawStage(other("step") || other("view"));
    else if (other("node")) this.markSelected(true);
    this.drawDetails();
    writeAddress(this);
  }

  drawTimeline() {
    byId("changed-only").checked = this.state.changedOnly;
    drawTimeline(byId("steps"), this.steps, this.state, this.sizes, (index) => this.set({ step: index }));
  }

  drawStage(refit = false) {
    drawToolbar(this);
    if (this.showsCode) {
      drawCode(byId("text"), this.step);
    } else if (this.showsText) {
      drawText(byId("text"), this.comparison, this);
    } else {
      drawPanes(this);
      if (refit) this.panes.fit();
    }
    this.markSelected(false);
  }

  drawDetails() {
    const { step, comparison, selected } = this;
    let content;
    if (!selected) content = passDetails(this, step, comparison);
    else if (selected.isGroup) content = groupDetails(this, step, selected);
    else if (selected.kind) content = interfaceDetails(selected);
    else content = nodeDetails(this, step, selected);
    byId("details").replaceChildren(...content.flat(Infinity).filter(Boolean));
    byId("details").scrollTop = 0;
  }

  /** Producer, consumers and type of each value of a graph. */
  valuesOf(graph) {
    return entry(this.values, graph, () => {
      const values = new Map(graph.inputs.map(([name, type]) => [name, { type, producer: null, consumers: [] }]));
      for (const [id, node] of graph.nodes) for (const [name, type] of node.outputs || []) values.set(name, { type, producer: id, consumers: [] });
      for (const [id, node] of graph.nodes) for (const name of new Set(node.inputs || [])) if (values.has(name)) values.get(name).consumers.push(id);
      return values;
    });
  }

  /** Selects a node wherever it is: in this step, else in the nearest one that has it. */
  select(id) {
    if (id !== null && !this.comparison.byId.has(id) && !this.comparison.tree.groupsByKey.has(id)) {
      const distance = (step) => Math.abs(step.index - this.state.step);
      const [near] = this.steps.filter((step) => step.graphBefore.nodes.has(id) || step.graphAfter.nodes.has(id)).sort((a, b) => distance(a) - distance(b));
      if (near) this.go(near.index, id);
      return;
    }
    openAround(this, id);
    this.set({ node: id });
  }

  go(step, id = null) {
    this.set({ step, node: id });
    openAround(this, id);
    this.markSelected(true);
  }

  markSelected(reveal) {
    const { selected } = this;
    if (this.showsCode) return;
    if (this.showsText) {
      markLine(byId("text"), this.state.node);
      return;
    }
    this.panes.mark(selected);
    if (reveal && selected) this.panes.reveal(selected);
  }

  pick(item, toggles) {
    if (item && item.isGroup && toggles) toggleModule(this, item);
    this.set({ node: item ? (item.isGroup ? item.key : item.id) : null });
  }

  zoom(factor) {
    const { width, height } = this.panes.viewSize();
    this.panes.zoomAt(factor, width / 2, height / 2);
  }
}
