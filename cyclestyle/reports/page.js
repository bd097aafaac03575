"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const grouped = (count) => (count < 10000 ? String(count) : String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f"));
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function make(name, attributes, parent, text) {
    const isSvg = ["svg", "path", "line", "rect", "circle", "text", "title", "g", "clipPath", "defs"].includes(name);
    const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }

  // ------------------------------------------------------------------------------------------------ light and dark

  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("cyclestyle-theme", root.dataset.theme); } catch { /* kept for this visit alone */ }
  });

  // ------------------------------------------------------------------------------------------------ films

  const films = data.films;
  let chosen = 0; // film
  let frame = films.length ? films[0].steps.length - 1 : 0;
  let timer = 0;

  const called = (film, row) => film.labels[row] || `${film.source} ${row + 1}`;

  function showFrame(index) {
    const film = films[chosen];
    frame = clamp(index, 0, film.steps.length - 1);
    all(`.film[data-film="${chosen}"] .translation`).forEach((image, row) => {
      image.src = film.frames[frame][row];
      image.alt = `${called(film, row)} as ${film.target} at step ${film.steps[frame]}`;
      image.parentElement.querySelector("small").textContent = film.captions[frame][row] || "";
    });
    const slider = $("step"), isBest = frame === film.best;
    slider.max = film.steps.length - 1;
    slider.value = frame;
    const words = `step ${grouped(film.steps[frame])}${isBest ? (film.steps[frame] === data.best ? ", best" : ", next to the best") : ""}`;
    slider.setAttribute("aria-valuetext", words);
    const output = $("step-words");
    output.textContent = words;
    if (film.notes[frame]) make("small", {}, output, film.notes[frame]);
    const mark = $("best-mark");
    mark.hidden = film.best === null || film.steps.length < 2;
    if (!mark.hidden) {
      const share = film.best / (film.steps.length - 1);
      mark.style.left = `calc(${8 - 16 * share}px + ${100 * share}%)`; // the middle of a thumb of 16 px
    }
  }

  function choose(index) {
    const step = films[chosen].steps[frame];
    chosen = index;
    all(".film").forEach((film) => { film.hidden = Number(film.dataset.film) !== chosen; });
    all('input[name="film-direction"], input[name="wipe-direction"]').forEach((radio) => { radio.checked = Number(radio.value) === chosen; });
    const steps = films[chosen].steps;
    showFrame(steps.reduce((best, each, i) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best), 0));
    fillWipe();
  }

  function play(on) {
    clearInterval(timer);
    timer = 0;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Pause" : "Play");
    if (!on) return;
    if (frame === films[chosen].steps.length - 1) showFrame(0);
    timer = setInterval(() => {
      showFrame(frame + 1);
      if (frame === films[chosen].steps.length - 1) play(false);
    }, clamp(8000 / films[chosen].steps.length, 180, 700));
  }

  if (films.length) {
    $("step").addEventListener("input", (event) => { play(false); showFrame(Number(event.target.value)); });
    $("play").addEventListener("click", () => play(!timer));
    all('input[name="film-direction"], input[name="wipe-direction"]').forEach((radio) =>
      radio.addEventListener("change", () => choose(Number(radio.value))));
    document.addEventListener("keydown", (event) => {
      const isFree = document.activeElement === document.body || document.activeElement === $("play");
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !isFree || event.ctrlKey || event.metaKey || event.altKey) return;
      const place = $("pictures").getBoundingClientRect();
      if (place.bottom < 0 || place.top > innerHeight) return;
      play(false);
      showFrame(frame + move);
    });
    showFrame(frame);
    startWipe();
  }

  // ------------------------------------------------------------------------------------------------ wipe

  function startWipe() {
    const box = $("wipe"), handle = $("handle");
    const set = (share) => {
      const percent = clamp(100 * share, 0, 100);
      box.style.setProperty("--x", `${percent}%`);
      handle.setAttribute("aria-valuenow", Math.round(percent));
      handle.setAttribute("aria-valuetext", `${Math.round(percent)} % source`);
    };
    const follow = (event) => {
      const place = box.getBoundingClientRect();
      set((event.clientX - place.left) / place.width);
    };
    box.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      box.setPointerCapture(event.pointerId);
      follow(event);
      handle.focus({ preventScroll: true, focusVisible: false });
      event.preventDefault();
    });
    box.addEventListener("pointermove", (event) => { if (box.hasPointerCapture(event.pointerId)) follow(event); });
    handle.addEventListener("keydown", (event) => {
      const now = Number(handle.getAttribute("aria-valuenow"));
      const next = { ArrowLeft: now - 5, ArrowDown: now - 5, ArrowRight: now + 5, ArrowUp: now + 5, PageDown: now - 20, PageUp: now + 20, Home: 0, End: 100 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      set(next / 100);
    });
    set(0.5);
    fillWipe();
  }

  function fillWipe() {
    const film = films[chosen], box = $("wipe");
    const steps = Object.keys(film.large).map(Number).sort((x, y) => y - x); // newest first
    const name = (index) => (index === film.steps.length - 1 ? (index === film.best ? "newest and best" : "newest") : "best");
    let step = film.best !== null && film.best in film.large ? film.best : steps[0];
    let picture = 0;
    const sides = $("wipe-step");
    const show = () => {
      box.querySelector(".before").src = film.largeSources[picture];
      box.querySelector(".before").alt = called(film, picture);
      box.querySelector(".after").src = film.large[step][picture];
      box.querySelector(".after").alt = `${called(film, picture)} as ${film.target}`;
      box.querySelector(".left").textContent = film.source;
      box.querySelector(".right").textContent = `as ${film.target}`;
      $("wipe-words").textContent = `step ${grouped(film.steps[step])}, ${name(step)}`;
      all("#thumbs button").forEach((button, index) => button.setAttribute("aria-pressed", index === picture));
    };
    all("label", sides).forEach((label) => label.remove());
    if (steps.length > 1) {
      steps.forEach((index) => {
        const label = make("label", {}, sides), radio = make("input", { type: "radio", name: "wipe-step", value: index }, label);
        radio.checked = index === step;
        radio.addEventListener("change", () => { step = index; show(); });
        make("span", {}, label, name(index));
      });
    }
    $("thumbs").replaceChildren(...film.largeSources.map((source, index) => {
      const button = make("button", { type: "button", "aria-label": called(film, index), title: called(film, index) });
      make("img", { src: source, alt: "" }, button);
      button.addEventListener("click", () => { picture = index; show(); });
      return button;
    }));
    show();
  }

  // ------------------------------------------------------------------------------------------------ charts

  const last = data.charts.reduce((most, chart) => Math.max(most, ...chart.series.map((s) => s.x[s.x.length - 1])), 1);
  const charts = [];
  let cursor = null;

  function words(value) {
    if (value === null || value === undefined) return "not finite";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
    return String(Number(value.toPrecision(3))).replace("-", "−");
  }

  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  }

  /** About `count` round numbers from low to high. */
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const unit = [1, 2, 2.5, 5, 10].find((each) => each * power >= raw) * power;
    const found = [];
    for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) found.push(Number((i * unit).toPrecision(12)));
    return found;
  }

  function range(chart) {
    let low = Infinity, high = -Infinity;
    for (const series of chart.series) {
      series.y.forEach((y, i) => {
        if (y === null) return;
        const error = (series.error && series.error[i]) || 0;
        low = Math.min(low, y - error);
        high = Math.max(high, y + error);
      });
    }
    if (low > high) [low, high] = [0, 1];
    const isCut = chart.top !== null && chart.top < high;
    const highest = high;
    if (isCut) high = chart.top;
    if (low >= 0 && low < 0.5 * high) low = 0;
    if (high === low) { const pad = Math.abs(low) * 0.1 || 0.5; low -= pad; high += pad; }
    if (low !== 0) low -= 0.05 * (high - low);
    return { low, high: isCut ? high : high + 0.04 * (high - low), cut: isCut ? highest : null };
  }

  const path = (xs, ys, x, y) => {
    let text = "", pen = "M";
    xs.forEach((step, i) => {
      if (ys[i] === null) { pen = "M"; return; }
      text += `${pen}${x(step).toFixed(1)} ${y(ys[i]).toFixed(1)}`;
      pen = "L";
    });
    return text;
  };

  function draw(chart) {
    const { plot, spec } = chart, width = plot.clientWidth, height = plot.clientHeight;
    if (!width || !height) return;
    const edge = { left: 44, right: 8, top: 12, bottom: 20 }, { low, high, cut } = range(spec);
    const x = (step) => edge.left + (step / last) * (width - edge.left - edge.right);
    const y = (value) => height - edge.bottom - ((clamp(value, low - 9 * (high - low), high + 9 * (high - low)) - low) / (high - low)) * (height - edge.top - edge.bottom);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    const clip = make("clipPath", { id: `clip-${chart.index}` }, make("defs", {}, svg));
    make("rect", { x: edge.left - 3, y: edge.top - 3, width: width - edge.left - edge.right + 6, height: height - edge.top - edge.bottom + 6 }, clip);
    for (const [start, end, title] of data.alarms) {
      const from = x(start), to = x(end === null ? last : end);
      const rect = make("rect", { class: "span", x: from, y: edge.top, width: Math.max(1.5, to - from), height: height - edge.top - edge.bottom }, svg);
      make("title", {}, rect, title);
    }
    for (const tick of ticks(low, high, 4)) {
      make("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) }, svg);
      make("text", { x: edge.left - 6, y: y(tick) + 4, "text-anchor": "end" }, svg, words(tick));
    }
    const steps = ticks(0, last, width < 380 ? 3 : 5);
    steps.forEach((tick, i) =>
      make("text", { x: x(tick), y: height - 4, "text-anchor": i === 0 ? "start" : x(tick) > width - 20 ? "end" : "middle" }, svg, i === 0 ? "step 0" : grouped(tick)));
    if (data.best !== null && data.best <= last) {
      make("line", { class: "best", x1: x(data.best), x2: x(data.best), y1: edge.top, y2: height - edge.bottom }, svg);
      make("text", { x: x(data.best), y: 9, "text-anchor": x(data.best) > width - 30 ? "end" : "middle" }, svg, "best");
    }
    const lines = make("g", { "clip-path": `url(#clip-${chart.index})` }, svg);
    const isSmooth = $("smooth").checked;
    for (const series of spec.series) {
      const looks = `hue-${series.hue || "none"} dash-${series.dash}`;
      if (series.error) {
        const known = series.x.map((_, i) => i).filter((i) => series.y[i] !== null && series.error[i] !== null);
        const upper = known.map((i) => `${x(series.x[i]).toFixed(1)} ${y(series.y[i] + series.error[i]).toFixed(1)}`);
        const lower = known.map((i) => `${x(series.x[i]).toFixed(1)} ${y(series.y[i] - series.error[i]).toFixed(1)}`).reverse();
        if (known.length > 1) make("path", { class: `band ${looks}`, d: `M${[...upper, ...lower].join("L")}Z` }, lines);
      }
      const smooth = isSmooth && series.smooth;
      make("path", { class: `line ${smooth ? "faint " : ""}${smooth ? looks.replace(/dash-\d/, "") : looks}`, d: path(series.x, series.y, x, y) }, lines);
      if (smooth) make("path", { class: `line ${looks}`, d: path(smooth.x, smooth.y, x, y) }, lines);
      if (series.x.length <= 40 && (series.dash === 0 || series.x.length === 1)) {
        series.x.forEach((step, i) => { if (series.y[i] !== null) make("circle", { class: `dot ${looks}`, cx: x(step), cy: y(series.y[i]), r: 3.4 }, lines); });
      }
      for (const step of series.bad) make("text", { class: "broken", x: x(step), y: height - edge.bottom - 3, "text-anchor": "middle" }, svg, "×");
    }
    chart.cursor = make("line", { class: "cursor", y1: edge.top, y2: height - edge.bottom, visibility: "hidden" }, svg);
    chart.x = x;
    chart.stepAt = (pixel) => clamp(((pixel - edge.left) / (width - edge.left - edge.right)) * last, 0, last);
    plot.replaceChildren(svg);
    const isBroken = spec.series.some((series) => series.bad.length);
    chart.note.textContent = [cut === null ? "" : `Peaks up to ${words(cut)} are cut off.`, isBroken ? "×: not finite there." : ""].join(" ").trim();
    read(chart);
  }

  /** Show the values at the cursor, or the newest ones. */
  function read(chart) {
    const main = chart.spec.series.reduce((most, series) => (series.x.length > most.x.length ? series : most));
    const step = cursor === null ? null : main.x[nearest(main.x, cursor)];
    const spoken = chart.spec.series.map((series, i) => {
      const at = step === null ? series.x.length - 1 : nearest(series.x, step);
      chart.values[i].textContent = words(series.y[at]);
      return `${series.group} ${series.label} ${words(series.y[at])}`.trim();
    });
    chart.steps.textContent = step === null ? "" : `step ${grouped(step)}`;
    chart.plot.setAttribute("aria-valuenow", step === null ? main.x[main.x.length - 1] : step);
    chart.plot.setAttribute("aria-valuetext", `step ${step === null ? main.x[main.x.length - 1] : step}: ${spoken.join("; ")}`);
    if (!chart.cursor) return;
    chart.cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) for (const end of ["x1", "x2"]) chart.cursor.setAttribute(end, chart.x(step));
  }

  function point(step) {
    cursor = step;
    charts.forEach(read);
  }

  all(".chart").forEach((figure, index) => {
    const spec = data.charts[index], legend = figure.querySelector(".legend");
    const chart = { spec, index, plot: figure.querySelector(".plot"), note: figure.querySelector(".cut"), values: [] };
    let item, group;
    for (const series of spec.series) {
      if (!item || series.group !== group || !group) {
        item = make("li", {}, legend);
        if (series.group) make("em", {}, item, series.group);
        group = series.group;
      }
      const entry = make("span", {}, item), key = make("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, entry);
      make("line", { class: `line hue-${series.hue || "none"} dash-${series.dash}`, x1: 0, x2: 20, y1: 4, y2: 4 }, key);
      entry.append(series.label);
      chart.values.push(make("b", {}, entry));
    }
    chart.steps = make("li", {}, legend);
    const move = (event) => { if (chart.stepAt) point(chart.stepAt(event.clientX - chart.plot.getBoundingClientRect().left)); };
    chart.plot.addEventListener("pointermove", move);
    chart.plot.addEventListener("pointerdown", move);
    chart.plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") point(null); });
    chart.plot.addEventListener("blur", () => point(null));
    chart.plot.addEventListener("keydown", (event) => {
      const main = spec.series.reduce((most, series) => (series.x.length > most.x.length ? series : most));
      const now = cursor === null ? main.x.length - 1 : nearest(main.x, cursor);
      const stride = Math.max(1, Math.round(main.x.length / 100));
      const next = { ArrowLeft: now - stride, ArrowDown: now - stride, ArrowRight: now + stride, ArrowUp: now + stride, Home: 0, End: main.x.length - 1 }[event.key];
      if (event.key === "Escape") point(null);
      if (next === undefined) return;
      event.preventDefault();
      point(main.x[clamp(next, 0, main.x.length - 1)]);
    });
    charts.push(chart);
    read(chart);
    new ResizeObserver(() => draw(chart)).observe(chart.plot);
  });
  if ($("smooth")) $("smooth").addEventListener("change", () => charts.forEach(draw));
})();
