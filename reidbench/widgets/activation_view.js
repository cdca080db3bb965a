// What a layer answers to, laid over the pictures; the colours are mixed here, so opacity and known layers cost nothing.
const STOPS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
function viridis(level) {
  const at = Math.max(0, Math.min(0.9999, level)) * 5, i = Math.floor(at);
  return STOPS[i].map((v, k) => v + (at - i) * (STOPS[i + 1][k] - v));
}
function render(context) {
  const ui = frame(context), { get } = ui, row = h("div.row"), said = h("span.caption");
  const opacity = h("input", { type: "range", min: 0, max: 100, value: 60, ariaLabel: "opacity", oninput: draw });
  const beside = h("input", { type: "checkbox", checked: true, onchange: draw });
  const known = (layer, method) => get("maps")[layer + "|" + method];
  const choice = (trait, all) => {
    const s = h("select", { ariaLabel: trait, onchange: () => ui.set(trait, s.value) });
    ui.watch([trait, trait + "s"], () => s.replaceChildren(...options(all(), get(trait))));
    return labelled(trait, s);
  };
  const layers = () => get("layers").filter((l) => ui.live || get("methods").some((m) => known(l, m)));
  const methods = () => get("methods").filter((m) => ui.live || get("layers").every((l) => known(l, m) || !layers().includes(l)));
  ui.body.append(row, h("div.bar", {}, choice("layer", layers), choice("method", methods), labelled("opacity", opacity), labelled("picture beside", beside),
    h("span.scale", {}, "0", h("span.viridis"), "1")), said);
  let pictures = [];
  function load() {
    pictures = get("images").map((src) => { const img = new Image(); img.onload = draw; img.src = src; return [img, h("canvas", { role: "img", ariaLabel: "activation map" }), h("img", { src, alt: "picture", height: 256 })]; });
    row.replaceChildren(...pictures.map(([, canvas, plain], i) => h("figure.figure", {}, h("div.two", {}, plain, canvas), h("span.caption", {}, get("names")[i] ?? ""))));
    draw();
  }
  function draw() {
    const found = known(get("layer"), get("method"));
    said.textContent = found ? `${found.rows} x ${found.cols} places; 1 is the largest of each picture` : "";
    pictures.forEach(([img, canvas, plain], n) => {
      plain.hidden = !beside.checked;
      if (!img.naturalWidth) return;
      canvas.width = (img.naturalWidth * 512) / img.naturalHeight; canvas.height = 512; canvas.style.height = "256px";
      const c = canvas.getContext("2d");
      c.drawImage(img, 0, 0, canvas.width, 512);
      if (!found) return;
      const { rows, cols } = found, small = h("canvas", { width: cols, height: rows }), x = small.getContext("2d"), pixels = x.createImageData(cols, rows);
      found.values[n].forEach((v, i) => pixels.data.set([...viridis(v / 255), 255], 4 * i));
      x.putImageData(pixels, 0, 0);
      c.globalAlpha = opacity.value / 100;
      c.drawImage(small, 0, 0, canvas.width, 512);
      c.globalAlpha = 1;
    });
  }
  ui.watch(["images"], load);
  ui.watch(["maps", "layer", "method"], draw);
  return ui.close;
}
export default { render };
