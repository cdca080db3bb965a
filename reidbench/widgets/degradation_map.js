// Every point is a picture. They are drawn pixel by pixel, so that 100,000 follow the hand; what moves with the mouse lies on a second canvas.
const W = 1200, H = 800, SIGNS = "●■◆✚▼",
  FORMS = [(x, y) => x * x + y * y < 1.1, (x, y) => x < 0.8 && y < 0.8, (x, y) => x + y < 1.1, (x, y) => x < 0.4 || y < 0.4, (x, y, v) => 2 * x < 1.1 + v];
function render(context) {
  const ui = frame(context), read = ui.get, write = ui.set, sprite = new Image(), fields = read("columns"), ids = fields[read("key")],
    words = (trait, Kind) => { const v = read(trait); return new Kind(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength)); },
    paint = words("palette", Uint32Array), pixels = new ImageData(W, H), out = new Uint32Array(pixels.data.buffer), tags = words("rows", Uint32Array), codes = words("values", Uint16Array), layer = (props) => h("canvas", { width: W, height: H, ...props });
  // `spots`: the pixel of each point, -1 out of sight; `trail`: of the mouse, from its press on.
  let places = [], amount = 0, taken = [], held = 0, spots = [], grown = 1, ox = 0, oy = 0, latest = 0, trail = 0;
  const choice = (trait, names) => labelled(trait, h("select", { onchange: (e) => write(trait, e.target.value) }, options(names, read(trait))));
  const dots = layer(), glass = layer({ tabIndex: 0, role: "application", ariaLabel: "map", onkeydown: keyed, onpointermove: moved, onpointerup: released,
    onpointerdown: (e) => { glass.setPointerCapture(e.pointerId); trail = [latest = place(e)]; }, onpointerleave: () => trail || hover(-1),
    onwheel: (e) => { if (glass.matches(":focus")) { e.preventDefault(); zoom(e.deltaY < 0 ? 1.25 : 0.8, place(e)); } } });
  const [bubble, legend, note, shown, gallery, ending] = ["card", "keys", "caption", "caption", "row", "caption"].map((name) => h("div." + name));
  ui.body.append(h("div.bar", {}, read("methods")[1] && choice("method", read("methods")), fields[1] && choice("colour", fields.map((c) => c.name)), choice("tool", ["box", "lasso", "move"]),
    labelled("size", h("input", { type: "range", min: 2, max: 14, value: read("size"), oninput: (e) => write("size", +e.target.value) })),
    ids && h("input", { type: "search", placeholder: "search " + ids.name, onchange: find }), h("button", { onclick: home }, "whole map")),
    h("div.row", {}, h("div.map", {}, [dots, glass], bubble), h("div.side", {}, shown, legend, gallery, ending)), note);

  const code = (k, i) => codes[k * amount + i], named = (k, v) => fields[k].names?.[v] ?? (v > 65279 ? "not known" : +(fields[k].low + v * fields[k].step).toPrecision(3)),
    place = (e) => { const r = glass.getBoundingClientRect(); return [(e.clientX - r.x) * W / r.width, (e.clientY - r.y) * W / r.width]; },
    xy = (i) => [spots[i] % W, spots[i] / W], hover = (i) => i !== read("hovered") && write("hovered", i),
    choose = (e, right) => write("chosen", taken.map((was, i) => (e.shiftKey && was) | (right(i) > 0))),
    again = () => { show(); list(); }, some = () => [...taken.keys()].filter((i) => !held || taken[i]),
    column = () => fields.findIndex((c) => c.name === read("colour")),
    look = (...view) => { [grown, ox, oy] = view; draw(); }, more = (count) => (count > 0 ? `and ${count} more` : ""),
    zoom = (f, [x, y]) => grown * f > 0.4 && grown * f < 90 && look(grown * f, x + (ox - x) * f, y + (oy - y) * f);
  function home() { look(1, 0, 0); }
  function find(e) {
    const v = ids.names.indexOf(e.target.value);
    choose({}, (i) => code(read("key"), i) === v);
    if (v < 0) requestAnimationFrame(() => { ending.textContent = "not found"; });
  }
  function near([x, y]) {
    let best = -1, gap = 700;
    for (let i = 0; i < amount; i++) { const s = spots[i], d = (s % W - x) ** 2 + (s / W - y) ** 2; if (s >= 0 && d < gap) { gap = d; best = i; } }
    return best;
  }
  function moved(e) {
    const p = place(e), [x, y] = p, [q] = trail || [], way = read("tool");
    if (!q) return hover(near(p));
    if (!trail[1] && Math.hypot(x - q[0], y - q[1]) < 6) return;
    trail = way === "box" ? [q, [x, q[1]], p, [q[0], y]] : way === "lasso" ? [...trail, p] : [q, p];
    if (way === "move") look(grown, ox + x - latest[0], oy + y - latest[1]);
    latest = p;
    trace();
  }
  function released(e) {
    if (!trail) return;
    const area = trail, hit = near(latest);
    trail = 0;
    if (!area[1]) choose(e, (i) => i === hit);
    else if (read("tool") !== "move") { const mask = trace(area).getImageData(0, 0, W, H).data; choose(e, (i) => mask[4 * spots[i] + 3]); }
    trace();
  }
  function keyed(e) {
    const now = read("hovered"), centre = now < 0 ? [W / 2, H / 2] : xy(now);
    const act = { Escape: () => choose({}, () => 0), Enter: () => choose(e, (i) => i === now), a: () => choose(e, (i) => spots[i] + 1), "+": () => zoom(1.5, centre), "-": () => zoom(0.67, centre), 0: home }[e.key];
    if (act && !(e.ctrlKey | e.metaKey)) return act();
    const order = some().sort((i, k) => places[2 * i] - places[2 * k]);
    stepped(e, order.indexOf(now), order.length - 1, (k) => { if (spots[order[k]] < 0) home(); hover(order[k]); });
  }
  // The outline of a selection, and rings around the point under the pointer and the query's; given an area, nothing but that.
  function trace(area) {
    const c = glass.getContext("2d", { willReadFrequently: true });
    c.clearRect(0, 0, W, H); c.beginPath(); c.lineWidth = 3; c.fillStyle = area ? "#000" : "#8884";
    for (const p of area || trail || []) c.lineTo(...p);
    c.fill();
    if (!area) ["hovered", "marked"].forEach((trait, k) => { const i = read(trait); if (spots[i] >= 0) { c.beginPath(); c.arc(...xy(i), read("size") + 7, 0, 7); c.strokeStyle = k ? "red" : "gray"; c.stroke(); } });
    return c;
  }
  function crop(i) {
    const k = read("tiles").indexOf(tags[i]), src = read("pictures")[tags[i]] ?? read("lack"), c = k >= 0 && h("canvas", { width: 48, height: 96 });
    c && c.getContext("2d").drawImage(sprite, 0, -96 * k);
    return c || (src.startsWith("data:") ? h("img", { src }) : h("span.lost", {}, src));
  }
  function show() {
    const i = read("hovered"), [x, y] = xy(i);
    trace();
    bubble.hidden = !(spots[i] >= 0);
    bubble.style = `left:${x / 12}%;bottom:calc(${100 - y / 8}% + 12px)`;
    if (!bubble.hidden) bubble.replaceChildren(crop(i), "row " + tags[i], ...fields.map((c, k) => h("div", {}, c.name + " " + named(k, code(k, i)))));
  }
  function draw() {
    const r = read("size"), k = column(), { names } = fields[k];
    out.fill(0);
    const stamps = FORMS.map((form) => { const all = []; for (let y = -r; y <= r; y++) for (let x = -r; x <= r; x++) if (form(Math.abs(x / r), Math.abs(y / r), y / r)) all.push(y * W + x); return all; });
    for (const pass of [0, 1]) for (let i = 0; i < amount; i++) if (taken[i] === pass) {
      const x = ox + grown * places[2 * i] | 0, y = oy + grown * places[2 * i + 1] | 0, v = code(k, i), s = spots[i] = Math.min(x, y, W - x, H - y) > r ? y * W + x : -1;
      let hue = paint[names ? v % 7 : 7 + (v >> 8)];
      if (held && !pass) hue &= 0x58ffffff;
      if (s >= 0) for (const d of stamps[names ? v % 5 : 0]) out[s + d] = hue;
    }
    dots.getContext("2d").putImageData(pixels, 0, 0);
    show();
  }
  function list() {
    const k = column(), picked = held ? some() : [], sums = {};
    for (let i = 0; i < amount; i++) { const s = (sums[code(k, i)] ??= [0, 0]); s[0]++; s[1] += taken[i]; }
    const order = Object.keys(sums).sort((v, w) => sums[w][+held] - sums[v][+held]);
    shown.textContent = `${amount} of ${read("total")} points shown, ${picked.length} selected`;
    legend.replaceChildren(...(fields[k].names ? [...order.slice(0, 12).map((v) => h("button.key", { onclick: (e) => choose(e, (i) => code(k, i) == v) },
      h("b", { style: `color:rgb(${new Uint8Array(paint.buffer, 4 * (v % 7), 3)})` }, SIGNS[v % 5]), named(k, v) + ": " + (held ? sums[v][1] + " of " : "") + sums[v][0])), more(order.length - 12)]
      : [h("span.scale", {}, named(k, 0), h("span.viridis"), named(k, 65279))]));
    gallery.replaceChildren(...picked.slice(0, 24).map((i) => h("span", { onmouseenter: () => hover(i), onclick: (e) => choose(e, (k) => k === i) }, crop(i))));
    ending.textContent = more(picked.length - 24);
    if (!ui.live) write("csv", read("head") + some().map((i) => tags[i] + "\n").join(""));
  }
  sprite.onload = again;
  ui.watch(["sheet"], () => { sprite.src = read("sheet"); });
  ui.watch(["points", "method"], () => {
    const k = Object.keys(read("layouts")).indexOf(read("method"));
    if (k >= 0) { amount = tags.length; places = Float32Array.from(words("points", Uint16Array).subarray(2 * amount * k), (v) => v * W / 65535); note.textContent = read("layouts")[read("method")]; }
  });
  ui.watch(["points", "method", "chosen", "colour", "size"], () => requestAnimationFrame(() => { taken = words("chosen", Uint8Array); held = taken.includes(1); draw(); list(); }));
  ui.watch(["hovered", "marked"], show);
  ui.watch(["pictures"], again);
  return ui.close;
}
export default { render };
