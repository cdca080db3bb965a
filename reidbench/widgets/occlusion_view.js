// A picture covered piece by piece: the heat map arrives row by row, the patch under the mouse is drawn with what it costs.
const STOPS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
function viridis(level) {
  const at = Math.max(0, Math.min(0.9999, level)) * 5, i = Math.floor(at);
  return STOPS[i].map((v, k) => v + (at - i) * (STOPS[i + 1][k] - v));
}
function render(context) {
  const ui = frame(context), { get } = ui, image = new Image();
  const canvas = h("canvas", { tabIndex: 0, role: "img", onmousemove: moved, onmouseleave: () => ui.set("hovered", -1), onkeydown: keyed });
  const other = h("img", { alt: "compared with", height: 256 }), said = h("span.caption"), top = h("span"), best = h("div"), high = h("span");
  const opacity = h("input", { type: "range", min: 0, max: 100, value: 65, ariaLabel: "opacity", oninput: draw }), bar = h("div.bar");
  const choice = (trait, label, all) => {
    const s = h("select", { ariaLabel: label, onchange: () => ui.set(trait, typeof get(trait) === "number" ? +s.value : s.value) });
    ui.watch([trait], () => s.replaceChildren(...options(all(), get(trait))));
    bar.append(labelled(label, s));
  };
  if (ui.live) {
    choice("side", "covered", () => get("sides"));
    choice("patch", "patch", () => get("patches"));
    choice("stride", "stride", () => get("strides"));
    choice("fill", "fill", () => ["mean", "black", "blur"]);
  } else if (Object.keys(get("grids")).length > 1) {
    const made = h("select", { ariaLabel: "computed", onchange: () => made.value.split("|").forEach((v, i) => ui.set(["side", "patch", "stride", "fill"][i], i % 3 ? +v : v)) });
    made.append(...options(Object.keys(get("grids")), key()));
    bar.append(labelled("computed", made));
  }
  const cancel = h("button", { onclick: () => ui.ask({ cancel: true }) }, "cancel");
  bar.append(labelled("opacity", opacity), cancel);
  const figure = (...parts) => h("figure.figure", {}, ...parts);
  const pair = figure(other, h("figcaption.caption", {}, "compared with"));
  ui.body.append(h("div.row", {}, figure(canvas, said), pair, figure(h("span.scale", {}, "0", h("span.viridis"), high), h("span.caption", {}, "distance gained by covering"), best)), bar);

  function key() { return ["side", "patch", "stride", "fill"].map(get).join("|"); }
  const grid = () => get("grids")[key()];
  const corner = (cell) => [(cell % grid().cols) * get("stride"), Math.floor(cell / grid().cols) * get("stride")];
  function moved(event) {
    const g = grid(), r = canvas.getBoundingClientRect();
    if (!g) return;
    const at = (v, size, px, count) => Math.max(0, Math.min(count - 1, Math.round(((v / size) * px - get("patch") / 2) / get("stride"))));
    ui.set("hovered", at(event.clientY - r.y, r.height, image.naturalHeight, g.rows) * g.cols + at(event.clientX - r.x, r.width, image.naturalWidth, g.cols));
  }
  function keyed(event) {
    const g = grid(), at = get("hovered"), down = { ArrowUp: -1, ArrowDown: 1 }[event.key], move = (i) => ui.set("hovered", i);
    if (event.key === "Escape") move(-1);
    else if (g) stepped(event, at, g.rows * g.cols - 1, (i) => move(down ? Math.max(at % g.cols, Math.min(at + down * g.cols, g.rows * g.cols - 1)) : i));
  }
  function draw() {
    const g = grid(), w = image.naturalWidth, z = w ? 512 / image.naturalHeight : 0, c = canvas.getContext("2d"), p = get("patch"), s = get("stride");
    if (!w) return;
    canvas.width = w * z; canvas.height = 512; canvas.style.height = "256px";
    c.drawImage(image, 0, 0, canvas.width, 512);
    cancel.hidden = !ui.live || !get("busy");
    best.replaceChildren();
    if (!g) return;
    const peak = Math.max(1e-9, ...g.values), small = h("canvas", { width: g.cols, height: g.rows }), x = small.getContext("2d"), pixels = x.createImageData(g.cols, g.rows);
    for (let i = 0; i < g.values.length; i++) pixels.data.set([...viridis(g.values[i] / peak), 255], 4 * i);
    x.putImageData(pixels, 0, 0);
    high.textContent = number(peak, 4);
    c.globalAlpha = opacity.value / 100;
    c.drawImage(small, ((p - s) / 2) * z, ((p - s) / 2) * z, g.cols * s * z, g.rows * s * z);
    c.globalAlpha = 1; c.lineWidth = 3; c.font = "bold 22px system-ui";
    const framed = [];
    for (const [v, i] of g.values.map((v, i) => [v, i]).sort((a, b) => b[0] - a[0])) {
      const [left, up] = corner(i), n = framed.length;
      if (n > 2) break;
      if (framed.some(([l, u]) => Math.abs(l - left) < p && Math.abs(u - up) < p)) continue;
      framed.push([left, up]);
      c.strokeStyle = "#fff"; c.strokeRect(left * z, up * z, p * z, p * z);
      c.fillStyle = "#fff"; c.fillText(n + 1, left * z + 5, up * z + 22);
      best.append(h("div.caption", {}, `${n + 1}. row ${Math.floor(i / g.cols) + 1}, column ${(i % g.cols) + 1}: ${number(v, 4)}`));
    }
    const cell = get("hovered"), value = g.values[cell];
    said.textContent = value === undefined ? `${number(g.clean)} apart, nothing covered` : `row ${Math.floor(cell / g.cols) + 1}, column ${(cell % g.cols) + 1}: ${number(g.clean)} ${value < 0 ? "−" : "+"} ${number(Math.abs(value), 4)}`;
    if (value === undefined) return;
    const [left, up] = corner(cell).map((v) => v * z);
    c.save(); c.beginPath(); c.rect(left, up, p * z, p * z); c.clip();
    if (get("fill") === "blur") { c.filter = "blur(16px)"; c.drawImage(image, 0, 0, canvas.width, 512); } else { c.fillStyle = g.colour; c.fillRect(0, 0, canvas.width, 512); }
    c.restore(); c.strokeStyle = "#fff"; c.setLineDash([6, 4]); c.strokeRect(left, up, p * z, p * z); c.setLineDash([]);
  }
  image.onload = draw;
  ui.watch(["images", "side"], () => { const i = get("sides").indexOf(get("side")); image.src = get("images")[i] ?? ""; other.src = get("images")[1 - i] ?? ""; pair.hidden = get("images").length < 2; });
  ui.watch(["grids", "hovered", "patch", "stride", "fill", "side", "busy"], draw);
  return ui.close;
}
export default { render };
