// What the pages gain with JavaScript; every page works without. A module: strict, and nothing of it is global.

const all = (selector, root = document) => [...(root.matches?.(selector) ? [root] : []), ...root.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const { dataset, attributes, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, dataset);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const draw = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const picture = (name) => draw("svg", { class: "icon", "aria-hidden": "true" }, draw("use", { href: `/static/icons.svg#${name}` }));
const announce = (text) => {
  const place = document.getElementById("live");
  if (place) place.textContent = text;
};
const shown = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;
const typing = (element) => element?.matches?.("input:not([type=checkbox], [type=radio]), textarea, select");
// Storage may be switched off; then nothing is remembered.
const remember = (store, key, value) => { try { value === null ? store.removeItem(key) : store.setItem(key, value); } catch { /* off */ } };
const recall = (store, key) => { try { return store.getItem(key); } catch { return null; } };

// Times: relative, the absolute one in the title; "t" turns them round.
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
let absolute = recall(localStorage, "times") === "absolute";
const ago = (seconds) => {
  const size = Math.abs(seconds);
  if (size < 45) return seconds > 0 ? "in a moment" : "just now";
  for (const [unit, length, limit] of [["minute", 60, 3600], ["hour", 3600, 86400], ["day", 86400, 2592000]]) {
    if (size < limit) return relative.format(Math.round(seconds / length), unit);
  }
  return null;
};
const tellTimes = (root = document) => {
  for (const time of all("time[data-relative]", root)) {
    const at = Date.parse(time.dateTime);
    if (Number.isNaN(at)) continue;
    const text = (!absolute && ago((at - Date.now()) / 1000)) || time.title;
    if (time.textContent !== text) time.textContent = text;
  }
};
const turnTimes = () => {
  absolute = !absolute;
  remember(localStorage, "times", absolute ? "absolute" : null);
  tellTimes();
  announce(absolute ? "Times are absolute" : "Times are relative");
};

// Copy buttons.
const copyText = async (text) => {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, className: "vh" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("copy refused");
};
const addCopies = (root) => {
  for (const source of all("[data-copy]", root)) {
    if (source.nextElementSibling?.classList.contains("copy")) continue;
    const button = make("button", { type: "button", className: "copy", dataset: { tip: source.dataset.copy }, attributes: { "aria-label": `Copy ${source.dataset.copy}` } }, picture("copy"));
    button.addEventListener("click", async () => {
      try {
        await copyText(source.dataset.copy);
        button.classList.add("done");
        button.replaceChildren(picture("ok"));
        announce("Copied");
        setTimeout(() => { button.classList.remove("done"); button.replaceChildren(picture("copy")); }, 1500);
      } catch {
        announce("Could not copy");
      }
    });
    source.after(button);
  }
};

// A tip for keyboard users: what the pointer finds in the title.
const tip = make("div", { id: "tip", hidden: true, attributes: { role: "tooltip" } });
const hideTip = () => { tip.hidden = true; };
document.addEventListener("focusin", ({ target }) => {
  hideTip();
  const text = target.dataset?.tip ?? target.getAttribute?.("title");
  if (!text || !target.matches(":focus-visible")) return;
  tip.textContent = text;
  tip.hidden = false;
  const box = target.getBoundingClientRect();
  const above = box.bottom + tip.offsetHeight + 8 > innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${above ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
});
document.addEventListener("focusout", hideTip);
document.addEventListener("scroll", hideTip, { capture: true, passive: true });

// Tokens: hover, or focus the block and walk with the arrows.
const addReadouts = (root) => {
  for (const block of all("[data-tokens]", root)) {
    const run = block.querySelector(".run");
    if (!run || block.querySelector(".readout")) continue;
    const readout = make("p", { className: "readout", textContent: "Point at a token, or focus the text and walk with the arrow keys.", attributes: { "aria-live": "polite" } });
    block.append(readout);
    const tokens = all(".tok", run);
    let at = -1;
    const show = (index) => {
      tokens[at]?.classList.remove("at");
      at = index;
      tokens[at].classList.add("at");
      tokens[at].scrollIntoView?.({ block: "nearest" });
      readout.textContent = `${at + 1} of ${tokens.length}: “${tokens[at].textContent}” ${tokens[at].title}`;
    };
    const steps = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, Home: () => 0, End: () => tokens.length - 1 };
    run.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey || !tokens.length) return;
      event.preventDefault();
      show(Math.max(0, Math.min(tokens.length - 1, steps[event.key]())));
    });
    run.addEventListener("mouseover", ({ target }) => {
      const index = tokens.indexOf(target.closest(".tok"));
      if (index >= 0 && index !== at) show(index);
    });
  }
};

// Charts: drawn from the table in the figure. Lines differ by dash as well as by colour.
const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [1, 4]];
const drawn = new Map();
const colourOf = (name) => {
  const probe = document.body.appendChild(make("i"));
  probe.style.color = `var(${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
};
const readTable = (figure) => {
  const rows = all("tbody tr", figure);
  const names = all("thead th", figure).map((cell) => cell.textContent.trim());
  const value = (cell) => (cell?.dataset.value === undefined ? null : Number(cell.dataset.value));
  const columns = names.map((_, column) => rows.map((row) => value(row.cells[column])));
  const words = rows.map((row) => row.cells[0].textContent.trim());
  if (columns[0]?.some(Number.isNaN)) columns[0] = columns[0].map((_, index) => index);
  else words.length = 0;
  return { names, columns, words };
};
const keyList = (names) => make("ul", { className: "keys" }, ...names.slice(1).map((name, index) => make("li", {},
  draw("svg", { class: `s${(index % 6) + 1}`, viewBox: "0 0 28 10", "aria-hidden": "true" },
    draw("path", { d: "M0 5H28", "stroke-dasharray": dashes[index % 6].join(" ") })),
  `${name} `, make("b"))));
const drawChart = (figure) => {
  drawn.get(figure)?.destroy();
  const place = figure.querySelector(".plot");
  const { names, columns, words } = readTable(figure);
  if (!window.uPlot || !place || columns.length < 2 || !columns[0].length || !place.clientWidth) return;
  figure.querySelector(".keys")?.remove();
  const keys = keyList(names);
  place.before(keys);
  const values = all("b", keys);
  const [ink, line, ground] = ["--muted", "--line", "--surface"].map(colourOf);
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  // Clocks of the console are UTC; the day stands under the first mark and under each midnight.
  const stamp = (seconds) => new Date(seconds * 1000).toISOString();
  const clock = (_, marks, __, ___, step) => marks.map((at, index) => {
    const [day, time] = [stamp(at).slice(5, 10), stamp(at).slice(11, 16)];
    return step >= 86400 ? day : index && time !== "00:00" ? time : `${time}\n${day}`;
  });
  const timed = figure.hasAttribute("data-time") && !words.length;
  const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
  const tell = (plot) => values.forEach((place, index) => {
    const value = plot.cursor.idx == null ? null : columns[index + 1][plot.cursor.idx];
    place.textContent = value == null ? "" : String(Math.round(value * 1e4) / 1e4);
  });
  drawn.set(figure, new window.uPlot({
    width: place.clientWidth,
    height: 220,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    scales: { x: { time: timed } },
    axes: [
      { ...axis, grid: { show: false }, size: timed ? 44 : 30, ...(timed && { values: clock }), ...(words.length && { splits: () => columns[0], values: (_, at) => at.map((index) => words[index] ?? "") }) },
      { ...axis, size: 52 },
    ],
    series: [{}, ...names.slice(1).map((name, index) => {
      const stroke = colourOf(`--s${(index % 6) + 1}`);
      return { label: name, stroke, width: 2, dash: dashes[index % 6], spanGaps: !timed, points: { show: columns[0].length < 40, size: 7, width: 2, fill: index % 2 ? ground : stroke, stroke } };
    })],
    hooks: { setCursor: [tell] },
  }, columns, place));
  sizes.observe(place);
};
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const figure = target.closest("[data-chart]");
    const plot = drawn.get(figure);
    if (!plot && target.clientWidth) drawChart(figure);
    else if (plot && target.clientWidth && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: 220 });
  }
});
const drawCharts = (root) => {
  for (const [figure, plot] of drawn) if (!figure.isConnected) { plot.destroy(); drawn.delete(figure); }
  for (const figure of all("[data-chart]", root)) {
    drawChart(figure);
    const place = figure.querySelector(".plot");
    if (place) sizes.observe(place);
  }
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(document));

// Forms: sent once; drafts are kept in this tab until they are sent.
const release = () => {
  for (const form of all("form[data-sent]")) {
    delete form.dataset.sent;
    for (const button of all("button[aria-disabled]", form)) button.removeAttribute("aria-disabled");
  }
};
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.target === "_blank") return;
  if (form.dataset.sent !== undefined) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "";
  setTimeout(() => all("button", form).forEach((button) => button.setAttribute("aria-disabled", "true")));
  // A form that answers with a file does not leave the page.
  setTimeout(release, 10000);
  for (const field of all("[data-keep]", form)) {
    remember(sessionStorage, `sent:${draftKey(field)}`, field.value || null);
    remember(sessionStorage, draftKey(field), null);
    field.dataset.clean = "";
  }
  if (new URL(form.action, location.href).pathname === "/sign-out") {
    try { sessionStorage.clear(); } catch { /* off */ }
  }
});
addEventListener("pageshow", release);
document.addEventListener("htmx:afterRequest", release);
const draftKey = (field) => `draft:${location.pathname}:${field.dataset.keep}`;
const restoreDrafts = (root) => {
  const failed = document.querySelector(".problem, .notice.error, .error[role=alert]");
  for (const field of all("[data-keep]", root)) {
    const key = draftKey(field);
    const draft = recall(sessionStorage, key) ?? (failed && recall(sessionStorage, `sent:${key}`));
    remember(sessionStorage, `sent:${key}`, null);
    if (draft && !field.value) field.value = draft;
  }
};
const dirty = (field) => field.dataset.clean === undefined && field.value !== field.defaultValue && field.value.trim() !== "";
document.addEventListener("input", ({ target }) => {
  if (!target.matches?.("[data-keep]")) return;
  delete target.dataset.clean;
  remember(sessionStorage, draftKey(target), target.value || null);
});
addEventListener("beforeunload", (event) => {
  if (all("[data-keep]").some(dirty)) event.preventDefault();
});

// Live sections: a swap takes neither focus, scroll, nor what is open; one with the reader's cursor in it waits.
const before = new Map();
const waiting = new Set();
const focusable = "a[href], button, input, select, textarea, summary, [tabindex]";
const nameOf = (element) => element.id || element.getAttribute("href") || element.getAttribute("aria-label") || element.textContent.trim();
const busy = (section) => {
  const selection = getSelection();
  return (typing(document.activeElement) && section.contains(document.activeElement))
    || (selection && !selection.isCollapsed && section.contains(selection.anchorNode));
};
const flush = () => {
  for (const id of waiting) {
    const section = document.getElementById(id);
    if (section && busy(section)) continue;
    waiting.delete(id);
    if (section) refresh(section);
  }
};
const refresh = (section) => {
  const topic = section.getAttribute("hx-trigger")?.split(" ")[0];
  if (topic) window.htmx?.trigger(section, topic);
};
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const section = detail.target;
  if (!section.matches?.("[data-live]")) return;
  if (busy(section)) {
    detail.shouldSwap = false;
    waiting.add(section.id);
    return;
  }
  const active = section.contains(document.activeElement) && document.activeElement !== section ? document.activeElement : null;
  before.set(section.id, {
    focus: active && { name: nameOf(active), tag: active.tagName, index: all(focusable, section).indexOf(active) },
    open: all("details", section).map((one) => [nameOf(one.querySelector("summary") ?? one), one.open]),
    scrolls: all(".scroll, [data-scroll]", section).map((one) => [one.scrollLeft, one.scrollTop]),
    said: all("[data-announce]", section).map((one) => one.textContent.trim()),
  });
});
const restore = (section) => {
  const state = before.get(section.id);
  if (!state) return;
  before.delete(section.id);
  all("details", section).forEach((one, index) => {
    const [name, open] = state.open[index] ?? [];
    if (name === nameOf(one.querySelector("summary") ?? one)) one.open = open;
  });
  all(".scroll, [data-scroll]", section).forEach((one, index) => {
    [one.scrollLeft, one.scrollTop] = state.scrolls[index] ?? [0, 0];
  });
  if (state.focus && !section.contains(document.activeElement)) {
    const { name, tag, index } = state.focus;
    const candidates = all(focusable, section);
    const same = (one) => one?.tagName === tag && nameOf(one) === name;
    const next = same(candidates[index]) ? candidates[index] : candidates.find(same) ?? candidates[Math.min(index, candidates.length - 1)];
    next?.focus({ preventScroll: true });
  }
  const news = all("[data-announce]", section).map((one) => one.textContent.trim()).filter((text, index) => text && text !== state.said[index]);
  if (news.length) announce(news.join(". "));
};
document.addEventListener("focusout", () => setTimeout(flush, 200));
document.addEventListener("selectionchange", () => { if (waiting.size && getSelection()?.isCollapsed) setTimeout(flush, 200); });

// Whether the wire to the server is up; after a gap everything live is asked for again.
let cut = false;
const tools = document.querySelector("[data-tools]");
const wire = make("span", { className: "wire" });
const tellWire = (up) => {
  wire.className = up ? "wire" : "wire off";
  wire.textContent = up ? "Live" : "Not live, trying again";
  if (!wire.isConnected) tools?.prepend(wire);
};
document.addEventListener("htmx:sseOpen", () => {
  tellWire(true);
  if (cut) { announce("Live again"); all("[data-live]").forEach(refresh); }
  cut = false;
});
document.addEventListener("htmx:sseError", () => {
  tellWire(false);
  if (!cut) announce("Live updates are interrupted");
  cut = true;
});

// Keys: those that elements on the page declare with data-key, listed by "?"; they can be switched off.
let keysOn = recall(localStorage, "keys") !== "off";
const keyed = () => all("[data-key]").filter(shown);
const help = () => {
  const toggle = make("input", { type: "checkbox", id: "keys-on", checked: keysOn });
  toggle.addEventListener("change", () => { keysOn = toggle.checked; remember(localStorage, "keys", keysOn ? null : "off"); });
  const row = (key, text) => make("tr", {}, make("th", { scope: "row" }, make("kbd", { textContent: key })), make("td", { textContent: text }));
  const rows = [...keyed().map((one) => row(one.dataset.key, one.dataset.keyLabel ?? one.textContent.trim())),
    row("t", "Times relative or absolute"), row("?", "This help")];
  const close = make("button", { type: "submit", className: "button", textContent: "Close" });
  const dialog = make("dialog", { attributes: { "aria-labelledby": "help-title" } },
    make("h2", { id: "help-title", textContent: "Keys on this page" }),
    make("table", {}, make("tbody", {}, ...rows)),
    make("form", { method: "dialog" },
      make("div", { className: "field check" }, toggle, make("label", { htmlFor: "keys-on", textContent: "Single keys act (? always opens this help)" })), close));
  dialog.addEventListener("close", () => { dialog.remove(); release(); });
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    hideTip();
    const open = document.activeElement?.closest(".person[open], .menu[open], .pop[open], .decide details[open]");
    if (open) { open.open = false; open.querySelector("summary").focus(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
  if (typing(event.target) || document.querySelector("dialog[open]")) return;
  if (event.key === "?") { event.preventDefault(); help(); return; }
  if (!keysOn) return;
  if (event.key === "t") { turnTimes(); return; }
  const target = keyed().find((one) => one.dataset.key === event.key);
  if (!target) return;
  event.preventDefault();
  target.focus();
  if (typing(target)) return;
  target.click();
  if (target.matches("summary") && target.parentElement.open) target.parentElement.querySelector("textarea, input:not([type=hidden])")?.focus();
});
document.addEventListener("click", ({ target }) => {
  for (const open of all(".person[open], .menu[open], .pop[open]")) if (!open.contains(target)) open.open = false;
});

const enhance = (root) => {
  tellTimes(root);
  addCopies(root);
  addReadouts(root);
  drawCharts(root);
  restoreDrafts(root);
};
// For a section that was replaced, these events come at the new element, before it is painted.
for (const event of ["htmx:afterSwap", "htmx:oobAfterSwap"]) {
  document.addEventListener(event, ({ target }) => {
    if (!target.isConnected) return;
    enhance(target);
    if (target.matches("[data-live]")) restore(target);
  });
}
document.body.append(tip);
enhance(document);
setInterval(tellTimes, 30000);
if (tools && !document.body.classList.contains("alone")) {
  const button = make("button", { type: "button", className: "as-link", attributes: { "aria-haspopup": "dialog" } }, "Keys ", make("kbd", { textContent: "?" }));
  button.addEventListener("click", help);
  tools.append(button);
}
