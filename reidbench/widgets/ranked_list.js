// One query and its ranked list, right and wrong framed; the maps of the same crops beneath.
function render(context) {
  const ui = frame(context), { get } = ui;
  const place = h("span.number"), rows = h("div"), note = h("span.caption");
  const step = (by) => { const all = get("sequence"), at = all.indexOf(get("query")) + by; if (at >= 0 && at < all.length) ui.set("query", all[at]); };
  const back = h("button", { onclick: () => step(-1) }, "‹ prev"), next = h("button", { onclick: () => step(1) }, "next ›");
  const choice = (trait, label, all) => { const s = h("select", { ariaLabel: label, onchange: () => ui.set(trait, typeof get(trait) === "number" ? +s.value : s.value) }); ui.watch([trait], () => s.replaceChildren(...options(all(), get(trait)))); return labelled(label, s); };
  const bar = h("div.bar", {}, back, next, place);
  if (ui.live) bar.append(choice("order", "order", () => get("orders")), choice("k", "first", () => [5, 10, 20]));
  if (get("models").length > 1) bar.append(choice("model", "model", () => get("models")), choice("other", "beside", () => ["–", ...get("models")]));
  const junk = h("input", { type: "checkbox", onchange: () => ui.set("junk", junk.checked) });
  if (ui.live) bar.append(labelled("same camera too", junk));
  const maps = h("button", { onclick: () => ui.set("maps", !get("maps")), title: "key m" }, "activation maps");
  bar.append(maps);
  ui.body.append(bar, rows, note);
  ui.root.addEventListener("keydown", (e) => { if (e.key === "m" && !maps.hidden && !e.ctrlKey && !e.metaKey) { e.preventDefault(); e.stopPropagation(); maps.click(); } });

  const key = (model) => [model, get("query"), get("k"), +get("junk"), get("turn")].join("|");
  const camera = (c) => (c === null || c === undefined ? "" : "camera " + c);
  function crop(first, name, caption, kind, props, mark) {
    const src = get("pictures")[name], map = first && get("maps") && get("pictures")["m" + name]; // the maps are the first model's
    const img = src === "" ? h("span.lost", {}, "unreadable") : h("img.crop", { alt: caption[0], ...(src && { src }) });
    return h("figure.figure" + kind, props, h("span.pad", {}, img, mark), map ? h("img.crop", { alt: "activation", src: map }) : null, ...caption.map((c) => h("span.caption", {}, c)));
  }
  function row(model, first) {
    const found = get("lists")[key(model)], q = get("query"), box = h("div.row.list", { role: "listbox", ariaLabel: model || "ranked list" });
    box.append(crop(first, "q" + q, ["query " + q, camera(found?.camera)], "", {}));
    if (!found) return box;
    found.rows.forEach(([g, distance, right, cam], i) => {
      const kind = right > 0 ? ["right", "✓"] : right === 0 ? ["wrong", "✗"] : right > -2 ? ["junk", "–"] : ["open", "?"], picked = get("chosen") === g;
      const props = { tabIndex: first && i === 0 ? 0 : -1, role: "option", ariaSelected: String(picked), ariaLabel: `${i + 1}: ${["", "same camera, not counted", "wrong", "right"][right + 2]}, distance ${number(distance)}`,
        onclick: () => ui.set("chosen", picked ? -1 : g), onkeydown: keyed };
      box.append(crop(first, "g" + g, [number(distance), camera(cam)], `.hit.${kind[0]}${picked ? ".picked" : ""}`, props, h("b.mark", {}, kind[1])));
    });
    const nobody = found.rows[0]?.[2] === -2, say = nobody ? "nobody told who this is" : found.valid ? `AP ${number(found.ap)}, first right at rank ${found.first}, ${found.valid} to find` : "0 valid matches for this query after removing same-camera images";
    return h("div", {}, h("span.caption", {}, (model ? model + ": " : "") + say), box);
  }
  const hits = () => [...rows.querySelectorAll(".rb-hit")];
  function keyed(event) {
    const all = hits(), at = all.indexOf(event.currentTarget);
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); event.currentTarget.click(); }
    else if (event.key === "Escape") ui.set("chosen", -1);
    else stepped(event, at, all.length - 1, (i) => all[i].focus());
  }
  function draw() {
    const all = get("sequence"), at = all.indexOf(get("query")), focused = hits().indexOf(document.activeElement);
    back.disabled = at <= 0; next.disabled = at >= all.length - 1; junk.checked = get("junk");
    place.textContent = `${at + 1} of ${all.length}`;
    maps.hidden = !(ui.live ? get("mappable") : Object.keys(get("pictures")).some((n) => n[0] === "m"));
    maps.setAttribute("aria-pressed", get("maps"));
    note.textContent = get("note");
    rows.replaceChildren(...[get("model"), get("other")].filter((m) => m !== "–").map((m, i) => row(m, !i)));
    hits()[focused]?.focus();
  }
  ui.watch(["query", "sequence", "lists", "pictures", "model", "other", "maps", "chosen", "note", "k", "junk", "turn"], draw);
  return ui.close;
}
export default { render };
