// What all widgets share: elements, the status line, exports. A widget's module is this text followed by its own.
function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const el = document.createElement(name);
  el.className = classes.map((c) => "rb-" + c).join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key in el && key !== "style") el[key] = value;
    else el.setAttribute(key, value);
  }
  if (/^(button|select|input)$/.test(name) || "tabIndex" in props) el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the arrows
  el.append(...children.flat().filter((c) => c !== null && c !== undefined)); // strings become text: nothing is ever parsed as HTML
  return el;
}

const options = (names, chosen) => names.map((n) => h("option", { value: n, selected: n === chosen }, n));
const labelled = (text, control) => h("label.field", {}, text, control);
const number = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

// Steps of a focused element: arrows 1, PageUp and PageDown 10, Home and End the ends. Returns true if the key was one of these.
function stepped(event, at, last, move, page = 10) {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return false;
  event.preventDefault();
  event.stopPropagation();
  move(Math.max(0, Math.min(last, at + step)));
  return true;
}

function download(name, parts, type) {
  const href = URL.createObjectURL(new Blob(parts, { type }));
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

// What can be seen of an element, drawn at twice its size: backgrounds, frames, pictures, text.
function drawn(root) {
  const box = root.getBoundingClientRect(), canvas = h("canvas", { width: 2 * box.width, height: 2 * box.height }), c = canvas.getContext("2d");
  let ground = root;
  while (ground.parentElement && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  c.scale(2, 2);
  for (const fill of ["#fff", getComputedStyle(ground).backgroundColor]) { c.fillStyle = fill; c.fillRect(0, 0, box.width, box.height); }
  c.textBaseline = "middle";
  for (const e of root.querySelectorAll("*:not(option)")) {
    const r = e.getBoundingClientRect(), s = getComputedStyle(e), x = r.x - box.x, y = r.y - box.y, line = parseFloat(s.borderTopWidth);
    if (!r.width || s.visibility === "hidden" || e.closest("select,input,button:not(.rb-key)")) continue;
    c.globalAlpha = +s.opacity;
    c.fillStyle = s.backgroundColor; c.fillRect(x, y, r.width, r.height);
    if (/IMG|CANVAS/.test(e.tagName)) { c.imageSmoothingEnabled = s.imageRendering !== "pixelated"; c.drawImage(e, x + line, y + line, r.width - 2 * line, r.height - 2 * line); }
    if (line && s.borderTopStyle !== "none") {
      c.strokeStyle = s.borderTopColor; c.lineWidth = line; c.setLineDash(s.borderTopStyle === "dashed" ? [5, 4] : []);
      c.strokeRect(x + line / 2, y + line / 2, r.width - line, r.height - line);
    }
    c.fillStyle = s.color; c.font = `${s.fontWeight} ${s.fontSize} ${s.fontFamily}`;
    for (const t of e.childNodes) if (t.nodeType === 3 && t.data.trim()) {
      const range = document.createRange(); range.selectNodeContents(t);
      const at = range.getClientRects()[0];
      if (at) c.fillText(t.data.trim(), at.x - box.x, at.y - box.y + at.height / 2);
    }
  }
  return canvas;
}

// The frame of a widget: title, `body` to fill, status line, exports. `ask` sends a question and resolves with the kernel's answer.
function frame({ model, el }) {
  const get = (name) => model.get(name), live = get("live"), waiting = new Map(), body = h("div.body"), heard = [], watchers = {};
  const demo = h("span.demo", {}, "demo data"), title = h("strong.title"), status = h("span.status", { role: "status" }), tools = h("span.tools");
  const copy = h("button.quiet", { onclick: () => navigator.clipboard?.writeText(get("details")) }, "copy details");
  const root = h("section.widget." + get("css"), {}, h("header.head", {}, title, demo), body, h("footer.foot", {}, status, copy, tools));
  const say = (state, text) => { status.dataset.state = state; status.textContent = text; copy.hidden = state !== "error" || !get("details"); };
  const on = (event, call) => { model.on(event, call); heard.push([event, call]); };
  const watch = (names, call) => { for (const n of names) { on("change:" + n, call); (watchers[n] ??= []).push(call); } call(); };
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const ask = (question) => new Promise((resolve) => {
    const id = Math.random(), late = setTimeout(say, 10000, "error", "no answer from the kernel for 10 s: it is busy, or stopped");
    waiting.set(id, (...answer) => { clearTimeout(late); resolve(answer); });
    model.send({ ...question, id });
  });
  on("msg:custom", (content, buffers) => {
    if (content.grow) { Object.assign(get(content.grow), content.items); for (const call of watchers[content.grow] ?? []) call(); }
    waiting.get(content.id)?.(content, buffers);
    waiting.delete(content.id);
  });
  on("comm_live_update", () => { if (live) say("error", "the kernel has gone: run the cell again"); });
  watch(["state", "status", "details"], () => say(get("state"), get("status")));
  watch(["title", "demo"], () => { title.textContent = get("title"); root.setAttribute("aria-label", get("title")); demo.hidden = !get("demo"); });
  const name = get("title").toLowerCase().replace(/\W+/g, "-"), button = (kind, call) => tools.append(h("button.quiet", { onclick: call, title: "save as " + kind }, kind));
  button("PNG", () => drawn(body).toBlob((blob) => download(name + ".png", [blob], "image/png")));
  for (const kind of get("exports")) button(kind.toUpperCase(), async () => {
    if (!live) return download(name + "." + kind, [get("csv")], "text/csv");
    const [content, buffers] = await ask({ save: kind });
    if (buffers?.length) download(`${name}.${kind}`, [buffers[0]], content.type);
  });
  el.append(root);
  model.send({ hello: true });
  return { body, get, set, on, watch, ask, live, root, close: () => { for (const [event, call] of heard) model.off(event, call); } };
}
