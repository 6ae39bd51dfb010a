// The panes: one or two views of the same layout, with one pan and zoom for all.

const MOST_ZOOM = 3;
const LEAST_ZOOM = 0.02;

/** Shows layouts; `onPick(item, toggles)` is called for a click on a node or a group. */
class Panes {
  constructor(place, onPick) {
    this.place = place;
    this.onPick = onPick;
    this.views = [];
    this.x = 0;
    this.y = 0;
    this.zoom = 1;
    this.size = { width: 1, height: 1 };
    place.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    place.addEventListener("pointerdown", (event) => this.press(event));
    place.addEventListener("click", (event) => this.click(event));
    place.addEventListener("dblclick", (event) => this.click(event, true));
    place.addEventListener("pointerover", (event) => this.hover(event));
    new ResizeObserver(() => this.move()).observe(place);
  }

  /** Draws a level in the given sides, such as before and after. */
  show(level, sides, titles, errors = null) {
    this.size = { width: level.width, height: level.height };
    this.views = sides.map((side, index) => {
      const scene = shape("g", { class: "scene" }, ...drawLevel(level, side, errors).flat());
      const svg = shape("svg", { class: "graph", role: "img", "aria-label": titles[index] }, scene);
      const frame = element("div", { class: `pane ${side}` }, element("p", { class: "pane-title" }, titles[index]), svg);
      return { side, scene, svg, frame };
    });
    this.place.replaceChildren(...this.views.map((view) => view.frame));
    this.indexElements();
    this.move();
  }

  indexElements() {
    this.elements = new Map();
    this.wires = [];
    for (const { scene } of this.views) {
      for (const made of scene.querySelectorAll(".leaf, .group")) entry(this.elements, made.item, () => []).push(made);
      this.wires.push(...scene.querySelectorAll(".wire"));
    }
  }

  viewSize() {
    const frame = this.views[0] && this.views[0].frame;
    return frame ? { width: frame.clientWidth, height: frame.clientHeight } : { width: 1, height: 1 };
  }

  move() {
    const place = `translate(${this.x.toFixed(2)} ${this.y.toFixed(2)}) scale(${this.zoom.toFixed(4)})`;
    for (const { scene, svg } of this.views) {
      scene.setAttribute("transform", place);
      svg.classList.toggle("far", this.zoom < 0.42);
    }
  }

  /** Shows everything, no larger than life; tall graphs fit their width and begin at the top. */
  fit() {
    const view = this.viewSize();
    const across = (view.width - 48) / this.size.width;
    const down = (view.height - 76) / this.size.height;
    const whole = Math.min(across, down);
    this.zoom = Math.min(1, Math.max(whole, Math.min(across, 0.55), LEAST_ZOOM));
    this.x = (view.width - this.zoom * this.size.width) / 2;
    this.y = Math.max(40, (view.height + 28 - this.zoom * this.size.height) / 2);
    this.move();
  }

  moveBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.move();
  }

  /** The middle of an item's upper edge on the screen, if it is drawn. */
  placeOf(item) {
    const made = (this.elements.get(item) || [])[0];
    const box = made && made.getBoundingClientRect();
    return box && { x: (box.left + box.right) / 2, y: box.top };
  }

  zoomAt(factor, x, y) {
    const zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.zoom * factor));
    const change = zoom / this.zoom;
    this.x = x - change * (x - this.x);
    this.y = y - change * (y - this.y);
    this.zoom = zoom;
    this.move();
  }

  wheel(event) {
    event.preventDefault();
    const svg = event.target.closest("svg");
    if (!svg) return;
    const area = svg.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey || !event.shiftKey && Math.abs(event.deltaY) > Math.abs(event.deltaX)) {
      this.zoomAt(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - area.left, event.clientY - area.top);
      return;
    }
    this.moveBy(-event.deltaX, -event.deltaY);
  }

  press(event) {
    if (event.button !== 0 || !event.target.closest("svg")) return;
    let last = [event.clientX, event.clientY];
    this.dragged = false;
    const drag = (moved) => {
      const [dx, dy] = [moved.clientX - last[0], moved.clientY - last[1]];
      if (!this.dragged && Math.hypot(dx, dy) < 4) return;
      this.dragged = true;
      this.place.classList.add("dragging");
      last = [moved.clientX, moved.clientY];
      this.moveBy(dx, dy);
    };
    const release = () => {
      this.place.classList.remove("dragging");
      removeEventListener("pointermove", drag);
      removeEventListener("pointerup", release);
      removeEventListener("pointercancel", release);
    };
    addEventListener("pointermove", drag);
    addEventListener("pointerup", release);
    addEventListener("pointercancel", release);
  }

  click(event, twice = false) {
    if (this.dragged) return;
    const made = event.target.closest(".leaf, .group");
    const opens = event.target.closest(".handle, .sign") || twice || (made && made.item.isGroup && !made.classList.contains("open"));
    if (twice && made && made.item.isGroup) return; // the first click has done it
    this.onPick(made ? made.item : null, Boolean(opens));
  }

  hover(event) {
    const made = event.target.closest(".leaf, .group:not(.open)");
    if (made === this.under) return;
    this.under = made;
    for (const path of this.wires) path.classList.toggle("near", Boolean(made) && touches(path.wire, made.item));
  }

  /** Marks the selected item, and the wires that touch it. */
  mark(selected) {
    for (const [item, made] of this.elements) for (const one of made) one.classList.toggle("selected", item === selected);
    for (const path of this.wires) path.classList.toggle("lit", selected !== null && touches(path.wire, selected));
  }

  /** Brings an item into the middle of the view, if it is not well inside it. */
  reveal(item) {
    const made = (this.elements.get(item) || [])[0];
    if (!made) return;
    const box = made.getBoundingClientRect();
    const area = made.ownerSVGElement.getBoundingClientRect();
    const inside = box.left > area.left + 20 && box.right < area.right - 20 && box.top > area.top + 50 && box.bottom < area.bottom - 20;
    if (inside && this.zoom > 0.45) return;
    const zoom = Math.max(this.zoom, 0.8);
    const change = zoom / this.zoom;
    const middle = [(box.left + box.right) / 2 - area.left, (box.top + box.bottom) / 2 - area.top];
    this.x = area.width / 2 - change * (middle[0] - this.x);
    this.y = area.height / 2 - change * (middle[1] - this.y);
    this.zoom = zoom;
    this.move();
  }

  /** The first pane that is alone or after, as an SVG document of its own. */
  exported(styles) {
    const view = this.views[this.views.length - 1];
    const copy = view.svg.cloneNode(true);
    const margin = 24;
    const [width, height] = [this.size.width + 2 * margin, this.size.height + 2 * margin];
    copy.querySelector(".scene").setAttribute("transform", `translate(${margin} ${margin})`);
    copy.classList.remove("far");
    for (const [name, value] of Object.entries({ xmlns: SVG_SPACE, width, height, viewBox: `0 0 ${width} ${height}` })) copy.setAttribute(name, value);
    copy.prepend(shape("style", null, styles));
    return new XMLSerializer().serializeToString(copy);
  }
}

/** Whether a wire begins or ends at an item, or inside it where it is a group. */
function touches(wire, item) {
  for (const leaf of wire.leaves) for (let at = leaf; at; at = at.parent) if (at === item) return true;
  return false;
}
