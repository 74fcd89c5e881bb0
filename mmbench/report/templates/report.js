"use strict";
// Draws the report from the JSON in #data. Names come from plugins and data: they only ever become text nodes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE_SIZES = [25, 50, 100, 500];
  const MAX_DOTS = 2000;
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const main = document.getElementById("main");

  // Elements

  function el(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }
  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }
  function bdi(text) {
    return el("bdi", null, text);
  }

  // Numbers

  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size && size < 10 ** -(digits + 1)) return value.toExponential(digits - 1);
    return value.toFixed(size < 10 ? digits : size < 100 ? digits - 1 : size < 1000 ? 1 : 0);
  }
  function signed(value) {
    return value === null || value === undefined ? "–" : (value < 0 ? "" : "+") + number(value);
  }
  function three(value) {
    const size = Math.abs(value);
    return value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
  }
  function scaled(value, steps) {
    for (const [factor, unit] of steps) if (Math.abs(value) >= factor) return `${three(value / factor)} ${unit}`;
    const [factor, unit] = steps[steps.length - 1];
    return `${three(value / factor)} ${unit}`;
  }
  const KINDS = {
    s: (value) => scaled(value, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]),
    bytes: (value) => (value < 1024 ? `${value} B` : scaled(value, [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])),
    count: (value) =>
      Math.abs(value) < 1000 ? (Number.isInteger(value) ? String(value) : three(value)) : scaled(value, [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]),
    number: (value) => number(value),
    plain: (value) => String(Number(value.toPrecision(3))),
    whole: (value) => (Number.isInteger(value) ? String(value) : ""),
  };
  function shown(value, kind) {
    return value === null || value === undefined ? "–" : KINDS[kind](value);
  }

  // Data

  function readBoard(board, index) {
    const fields = data.rowFields;
    board.id = `board-${index}`;
    board.rows = board.rows.map((values, place) => {
      const row = { place };
      fields.forEach((field, at) => (row[field] = values[at]));
      row.numbers = Object.fromEntries(board.columns.map((column, at) => [column.key, values[fields.length + at]]));
      row.encoders = row.encoders.map(([modality, encoder]) => [board.names[modality], board.names[encoder]]);
      row.fusion = board.names[row.fusion];
      row.objective = board.names[row.objective];
      row.single = row.encoders.length === 1;
      row.label = row.encoders.map(([modality, encoder]) => `${modality}:${encoder}`).join(" + ");
      row.name = [row.label, row.single && row.fusion === "single" ? "" : row.fusion, row.objective === "supervised" ? "" : row.objective]
        .filter(Boolean)
        .join(", ");
      row.found = row.name.toLowerCase();
      return row;
    });
    board.better = board.direction === "min" ? (a, b) => a < b : (a, b) => a > b;
    const fusions = new Map();
    for (const row of board.rows) if (!row.single) fusions.set(row.fusion, (fusions.get(row.fusion) || 0) + 1);
    const common = [...fusions].sort((a, b) => b[1] - a[1]).map(([name]) => name);
    board.colours = new Map(common.slice(0, 7).map((name, at) => [name, `var(--c${at})`]));
    board.colour = (row) => (row.single ? "var(--ink)" : board.colours.get(row.fusion) || "var(--c7)");
    board.hasOthers = common.length > 7;
    return board;
  }
  function describe(board, row) {
    const lines = [row.name, `${board.metric}: ${score(row)}`];
    if (row.low !== null) lines.push(`95 % interval ${number(row.low)} to ${number(row.high)}`);
    if (row.gain !== null) lines.push(`gain ${signed(row.gain)} over ${board.names[row.over[0]]}`);
    if (row.rank !== null) lines.push(`rank ${row.rank}${row.group === null ? "" : `, group ${row.group}`}`);
    return lines;
  }
  function score(row) {
    if (row.mean === null) return "no result";
    return number(row.mean) + (row.std === null ? "" : ` ± ${number(row.std)}`);
  }

  // The tip

  function showTip(lines, x, y) {
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 18}px`;
  }
  function hideTip() {
    tip.hidden = true;
  }

  // Charts

  function ticks(low, high, count, log) {
    if (log) {
      const found = [];
      const steps = Math.log10(high / low) > 2.5 ? [1] : Math.log10(high / low) > 1.2 ? [1, 3] : [1, 2, 5];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        for (const step of steps) {
          const value = step * 10 ** power;
          if (value >= low && value <= high) found.push(value);
        }
      if (found.length > 1) return found;
    }
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) * power;
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
    return found;
  }
  function scale(values, from, to, log) {
    let low = Math.min(...values), high = Math.max(...values);
    if (log) {
      const pad = Math.max((high / low) ** 0.06, 1.05);
      low /= pad;
      high *= pad;
    } else {
      const pad = (high - low || Math.abs(high) || 1) * 0.06;
      low -= pad;
      high += pad;
    }
    const at = log ? Math.log : (value) => value;
    const map = (value) => from + ((at(value) - at(low)) / (at(high) - at(low))) * (to - from);
    return Object.assign(map, { low, high, log });
  }
  function axes(x, y, frame, xKind, yKind, xTitle, yTitle) {
    const parts = [];
    for (const value of ticks(x.low, x.high, frame.width < 500 ? 4 : 7, x.log)) {
      const at = x(value);
      parts.push(svg("line", { class: "grid", x1: at, x2: at, y1: frame.top, y2: frame.bottom }));
      parts.push(svg("text", { x: at, y: frame.bottom + 16, "text-anchor": "middle" }, shown(value, xKind)));
    }
    for (const value of ticks(y.low, y.high, 6, y.log)) {
      const at = y(value);
      parts.push(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: at, y2: at }));
      parts.push(svg("text", { x: frame.left - 7, y: at + 4, "text-anchor": "end" }, yKind === "number" ? String(Number(value.toPrecision(4))) : shown(value, yKind)));
    }
    parts.push(svg("text", { x: (frame.left + frame.right) / 2, y: frame.bottom + 34, "text-anchor": "middle" }, xTitle));
    parts.push(svg("text", { x: frame.left, y: 13 }, yTitle));
    return parts;
  }
  function frameOf(holder, ratio) {
    const width = Math.max(300, Math.round(holder.clientWidth - 20));
    const height = Math.round(Math.min(Math.max(width * ratio, 280), 460));
    return { width, height, left: 52, right: width - 12, top: 26, bottom: height - 42 };
  }
  const arrow = (direction) => (direction === "min" ? "less is better" : "more is better");

  function paretoFront(points, xDirection, yDirection) {
    const xSign = xDirection === "min" ? 1 : -1, ySign = yDirection === "min" ? 1 : -1;
    const sorted = [...points].sort((a, b) => xSign * (a.x - b.x) || ySign * (a.y - b.y));
    let best = Infinity;
    return sorted.filter((point) => {
      if (ySign * point.y >= best) return false;
      best = ySign * point.y;
      return true;
    });
  }

  function paretoChart(board) {
    const yOptions = [{ key: "", words: board.metric, kind: "number", direction: board.direction }];
    const xOptions = [];
    for (const column of board.columns) (column.kind === "number" && !column.key.startsWith("energy") ? yOptions : xOptions).push(column);
    if (!xOptions.length) return null;
    const value = (row, column) => (column.key === "" ? row.mean : row.numbers[column.key]);
    const pick = (options, label) =>
      el("label", null, label, el("select", { "aria-label": `${label} axis`, onchange: draw }, options.map((option, at) => el("option", { value: at }, option.words))));
    const xPick = pick(xOptions, "across"), yPick = pick(yOptions, "up");
    const onlyFront = el("input", { type: "checkbox", onchange: draw });
    const holder = el("div", { class: "panel" });
    const summary = el("p", { class: "note", "aria-live": "polite" });
    let dots = [];

    function draw() {
      const xColumn = xOptions[xPick.lastChild.value], yColumn = yOptions[yPick.lastChild.value];
      let points = [];
      for (const row of board.rows) {
        const x = value(row, xColumn), y = value(row, yColumn);
        if (row.rank !== null && x !== null && x !== undefined && y !== null && y !== undefined) points.push({ row, x, y });
      }
      hideTip();
      if (!points.length) {
        holder.replaceChildren(el("p", { class: "note" }, "No ranked row has both numbers."));
        dots = [];
        return;
      }
      // A disturbed time, or one of a few calls, is drawn and has no part in the front.
      const doubtful = (row) => [xColumn, yColumn].some((column) => row.doubtful.includes(column.key));
      const front = paretoFront(points.filter((point) => !doubtful(point.row)), xColumn.direction, yColumn.direction);
      const onFront = new Set(front.map((point) => point.row));
      const total = points.length, unsure = points.filter((point) => doubtful(point.row)).length;
      if (onlyFront.checked && front.length) points = front;
      if (points.length > MAX_DOTS) points = [...points.slice(0, MAX_DOTS), ...front.filter((point) => point.row.place >= MAX_DOTS)];
      summary.textContent =
        (unsure ? `${unsure} of ${total} rows, drawn hollow, have no part in the front: measured while others computed on the machine, or on too few calls. ` : "") +
        (front.length
          ? `${front.length} of ${total - unsure} rows are on the front: no other row's value is better in both. ` +
            (points.length < total && !onlyFront.checked ? `Drawn are the first ${MAX_DOTS} rows and the front. ` : "") +
            `Cheapest on it: ${front[0].row.name}. Best on it: ${front[front.length - 1].row.name}.`
          : "So there is no front; `mmbench profile` measures rows one at a time.");
      const frame = frameOf(holder, 0.52);
      const xs = points.map((point) => point.x), ys = points.map((point) => point.y);
      const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 8;
      const showFloor = yColumn.key === "" && board.floor !== null;
      // Rows that lie closer together than one of them is known to are not drawn apart over the whole height.
      const best = front.length ? front[front.length - 1].row : board.rows[0];
      const known = yColumn.key === "" && best.low !== null ? [best.low, best.high] : [];
      const x = scale(xs, frame.left, frame.right, log), y = scale([...ys, ...known], frame.bottom, frame.top, false);
      const drawn = svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}`, role: "img", "aria-label": `${yColumn.words} against ${xColumn.words}` });
      drawn.append(...axes(x, y, frame, xColumn.kind, "number", `${xColumn.words}, ${arrow(xColumn.direction)}`, `${yColumn.words}, ${arrow(yColumn.direction)}`));
      if (showFloor && board.floor > y.low && board.floor < y.high)
        drawn.append(svg("line", { class: "floor", x1: frame.left, x2: frame.right, y1: y(board.floor), y2: y(board.floor) }));
      drawn.append(svg("path", { class: "front", d: front.map((point, at) => `${at ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`).join("") }));
      dots = [...points].reverse().map((point) => {
        const px = x(point.x), py = y(point.y), first = onFront.has(point.row);
        const radius = first ? 6 : points.length > 300 ? 3 : 4.5;
        if (first && yColumn.key === "" && point.row.low !== null)
          drawn.append(svg("line", { class: "whisker", stroke: board.colour(point.row), x1: px, x2: px, y1: clamp(y(point.row.low), frame), y2: clamp(y(point.row.high), frame) }));
        const shape = point.row.single
          ? svg("rect", { x: px - radius, y: py - radius, width: 2 * radius, height: 2 * radius, transform: `rotate(45 ${px} ${py})` })
          : svg("circle", { cx: px, cy: py, r: radius });
        fill(shape, { class: "dot", fill: board.colour(point.row), "fill-opacity": first ? 1 : doubtful(point.row) ? 0.1 : 0.55, style: doubtful(point.row) ? `stroke:${board.colour(point.row)}` : null, tabindex: first ? 0 : null, "aria-label": first ? point.row.name : null }, []);
        const lines = [...describe(board, point.row), `${xColumn.words}: ${shown(point.x, xColumn.kind)}${point.row.disturbed.includes(xColumn.key) ? "*" : ""}`];
        if (yColumn.key) lines.push(`${yColumn.words}: ${number(point.y)}`);
        if (first) {
          shape.addEventListener("focus", () => mark({ shape, lines, px, py }, drawn));
          shape.addEventListener("blur", unmark);
        }
        drawn.append(shape);
        return { shape, lines, px, py };
      });
      let marked = null;
      function mark(dot, host) {
        unmark();
        marked = dot;
        dot.shape.classList.add("on");
        const box = host.getBoundingClientRect();
        showTip(dot.lines, box.left + (dot.px * box.width) / frame.width, box.top + (dot.py * box.height) / frame.height);
      }
      function unmark() {
        if (marked) marked.shape.classList.remove("on");
        marked = null;
        hideTip();
      }
      drawn.addEventListener("pointermove", (event) => {
        const box = drawn.getBoundingClientRect();
        const mx = ((event.clientX - box.left) * frame.width) / box.width, my = ((event.clientY - box.top) * frame.height) / box.height;
        let nearest = null, least = 22 ** 2;
        for (const dot of dots) {
          const distance = (dot.px - mx) ** 2 + (dot.py - my) ** 2;
          if (distance <= least) [nearest, least] = [dot, distance];
        }
        if (nearest === null) unmark();
        else if (nearest !== marked || tip.hidden) mark(nearest, drawn);
      });
      drawn.addEventListener("pointerleave", unmark);
      holder.replaceChildren(drawn, legend(board));
    }
    const section = el(
      "section",
      { class: "pareto" },
      el("h3", null, "Quality against cost"),
      el("div", { class: "bar" }, xPick, yPick, el("label", null, onlyFront, "front only")),
      holder,
      summary,
    );
    return { section, draw };
  }
  function clamp(at, frame) {
    return Math.min(Math.max(at, frame.top), frame.bottom);
  }
  function legend(board) {
    const items = [...board.colours].map(([name, colour]) => el("span", null, el("i", { style: `background:${colour}` }), bdi(name)));
    if (board.hasOthers) items.push(el("span", null, el("i", { style: "background:var(--c7)" }), "other fusions"));
    if (board.rows.some((row) => row.single)) items.push(el("span", null, el("i", { class: "single", style: "background:var(--ink)" }), "one modality"));
    return el("div", { class: "legend" }, items);
  }

  // The leaderboard

  // All parameters, beside the trainable ones, where some stand still.
  function standing(row, key) {
    const all = row.numbers.num_parameters_registered;
    return key === "num_parameters_trainable" && all && all !== row.numbers[key] ? ` of ${shown(all, "count")}` : "";
  }
  function leaderboard(board) {
    const cost = (key, label) => {
      const column = board.columns.find((candidate) => candidate.key === key);
      return column && { key, label, sort: (row) => row.numbers[key], up: column.direction === "min", text: (row) => shown(row.numbers[key], column.kind) + standing(row, key) + (row.disturbed.includes(key) ? "*" : "") };
    };
    const objectives = board.rows.some((row) => row.objective !== "supervised" && row.objective !== "");
    const grouped = board.rows.some((row) => row.group !== null);
    const columns = [
      { key: "rank", label: "#", sort: (row) => row.rank, up: true, text: (row) => (row.rank === null ? "" : String(row.rank)) + (row.chosen ? " ►" : "") },
      grouped && { key: "group", label: "group", sort: (row) => row.group, up: true, node: groupCell },
      { key: "encoders", label: "encoders", sort: (row) => row.label, up: true, words: true, node: encodersCell },
      { key: "fusion", label: "fusion", sort: (row) => row.fusion, up: true, words: true, node: (row) => (row.single && row.fusion === "single" ? "" : bdi(row.fusion)) },
      objectives && { key: "objective", label: "objective", sort: (row) => row.objective, up: true, words: true, node: (row) => bdi(row.objective) },
      { key: "mean", label: board.metric, sort: (row) => row.mean, up: board.direction === "min", node: scoreCell },
      { key: "gain", label: "gain", sort: (row) => row.gain, up: false, node: gainCell },
      { key: "val", label: "val", sort: (row) => row.val, up: board.direction === "min", text: (row) => (row.val === null ? "" : number(row.val)) },
      { key: "seeds", label: "seeds", sort: (row) => row.scores.length, up: false, text: (row) => `${row.scores.length}/${board.seeds.length}` },
      cost("throughput_samples_per_s", "samples/s"),
      cost("latency_p50_s", "latency"),
      cost("num_parameters_trainable", "parameters"),
      cost("train_time_s", "training"),
    ].filter(Boolean);
    let least = 0, most = 0;
    const state = { sort: "rank", up: true, words: "", page: 0, size: PAGE_SIZES[0], only: "all" };
    let rows = board.rows;

    function groupCell(row) {
      return row.group === null ? "" : el("span", { class: "group", title: row.outOfOrder ? "not told apart from the first of its group, although a row above it is" : "rows of one group cannot be told apart from its first" }, String(row.group) + (row.outOfOrder ? " ‡" : ""));
    }
    function encodersCell(row) {
      return row.encoders.flatMap(([modality, encoder], at) => [at ? " + " : "", el("bdi", null, el("span", { class: "modality" }, `${modality}:`), encoder)]);
    }
    function scoreCell(row) {
      if (row.mean === null) return row.status ? row.status.map(([status, count]) => el("span", { class: `chip ${status}` }, `${count} ${status}`)) : "–";
      const parts = [score(row)];
      if (row.low !== null && most > least) {
        const at = (value) => `${(100 * (Math.min(Math.max(value, least), most) - least)) / (most - least)}%`;
        const bar = el("span", { class: "ci", title: `95 % interval ${number(row.low)} to ${number(row.high)}` }, el("i"), el("b"));
        bar.firstChild.style.left = at(row.low);
        bar.firstChild.style.right = `calc(100% - ${at(row.high)})`;
        bar.lastChild.style.left = at(row.mean);
        parts.push(bar);
      }
      return el("span", null, parts);
    }
    function gainCell(row) {
      if (row.gain === null) return "";
      const incomplete = row.over[1] < row.over[2];
      const title = `over ${board.names[row.over[0]]}` + (incomplete ? `; only ${row.over[1]} of ${row.over[2]} single-modality rows have these seeds` : "");
      const sure = row.gainLow === null || row.gainLow > 0 || row.gainHigh < 0;
      return el("span", { class: !sure ? null : row.gain > 0 ? "up" : "down", title }, signed(row.gain) + (incomplete ? " †" : ""));
    }

    const filter = el("input", { type: "search", placeholder: "filter: words in encoders, fusion, objective", "aria-label": "Filter rows", oninput: () => update({ words: filter.value, page: 0 }) });
    const only = el("select", { "aria-label": "Which rows", onchange: () => update({ only: only.value, page: 0 }) },
      [["all", "all rows"], ["fusions", "several modalities"], ["single", "one modality"], ["incomplete", "lacking seeds"]].map(([value, label]) => el("option", { value }, label)));
    const size = el("select", { "aria-label": "Rows on a page", onchange: () => update({ size: Number(size.value), page: 0 }) },
      PAGE_SIZES.map((count) => el("option", { value: count }, `${count} a page`)));
    const body = el("tbody");
    const heads = columns.map((column) =>
      el("th", { class: column.words ? null : "n", scope: "col" },
        el("button", { type: "button", onclick: () => update({ sort: column.key, up: state.sort === column.key ? !state.up : column.up, page: 0 }) }, column.label)));
    const where = el("span", { "aria-live": "polite" });
    const back = el("button", { type: "button", onclick: () => update({ page: state.page - 1 }) }, "‹ previous");
    const next = el("button", { type: "button", onclick: () => update({ page: state.page + 1 }) }, "next ›");

    function update(change) {
      Object.assign(state, change);
      const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
      rows = board.rows.filter((row) => words.every((word) => row.found.includes(word)));
      if (state.only !== "all") rows = rows.filter((row) => ({ fusions: !row.single, single: row.single, incomplete: !row.complete })[state.only]);
      const column = columns.find((candidate) => candidate.key === state.sort);
      const sign = state.up ? 1 : -1;
      const compare = column.words ? (a, b) => a.localeCompare(b) : (a, b) => a - b;
      rows = rows
        .map((row) => [column.sort(row), row])
        .sort(([a, first], [b, second]) => {
          // What has no value stays last, whichever way the others are sorted.
          const [emptyA, emptyB] = [a === null || a === undefined, b === null || b === undefined];
          return emptyA || emptyB ? emptyA - emptyB || first.place - second.place : sign * compare(a, b) || first.place - second.place;
        })
        .map(([, row]) => row);
      heads.forEach((head, at) => {
        if (columns[at] === column) head.setAttribute("aria-sort", state.up ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      const pages = Math.max(1, Math.ceil(rows.length / state.size));
      state.page = Math.min(Math.max(state.page, 0), pages - 1);
      const from = state.page * state.size;
      const part = rows.slice(from, from + state.size);
      // Intervals are drawn on the scale of this page: on that of all rows the best would look alike.
      const bounds = part.filter((row) => row.mean !== null).flatMap((row) => [row.low ?? row.mean, row.high ?? row.mean]);
      [least, most] = [Math.min(...bounds), Math.max(...bounds)];
      where.textContent = rows.length ? `${from + 1}–${from + part.length} of ${rows.length}` : "no row matches";
      back.disabled = state.page === 0;
      next.disabled = state.page >= pages - 1;
      body.replaceChildren(...part.map((row, at) => line(row, grouped && state.sort === "rank" && at > 0 && part[at - 1].group !== row.group)));
    }
    function line(row, split) {
      const made = el("tr", { class: ["row", row.chosen && "first", row.rank === null && "unranked", row.single && "single", split && "split"].filter(Boolean).join(" "), tabindex: 0, "aria-expanded": "false" });
      for (const column of columns) {
        const cell = column.node ? column.node(row) : column.text(row);
        const empty = cell === "" || cell === null;
        // One child, so that a card on a phone sets label and content side by side.
        made.append(el("td", { class: column.words ? column.key : "n", "data-label": column.label }, empty ? null : el("span", null, cell)));
      }
      const toggle = () => {
        if (made.getAttribute("aria-expanded") === "true") made.nextSibling.remove();
        else made.after(el("tr", { class: "more" }, el("td", { colspan: columns.length }, details(row))));
        made.setAttribute("aria-expanded", made.getAttribute("aria-expanded") !== "true");
      };
      made.addEventListener("click", () => {
        if (!String(getSelection())) toggle();
      });
      made.addEventListener("keydown", (event) => {
        if (event.target !== made || (event.key !== "Enter" && event.key !== " ")) return;
        event.preventDefault();
        toggle();
      });
      return made;
    }
    function details(row) {
      const facts = [];
      if (row.low !== null) facts.push(["95 % interval", `${number(row.low)} to ${number(row.high)}`]);
      if (row.gain !== null) facts.push([`gain over ${board.names[row.over[0]]}`, signed(row.gain) + (row.gainLow === null ? "" : ` (${signed(row.gainLow)} to ${signed(row.gainHigh)})`)]);
      for (const [seed, value] of row.scores) facts.push([`seed ${seed}`, number(value)]);
      for (const column of board.columns) if (row.numbers[column.key] !== null) facts.push([column.words, shown(row.numbers[column.key], column.kind) + (row.disturbed.includes(column.key) ? "*" : "")]);
      return [
        row.tuned && el("p", null, "Tuned on val: ", bdi(row.tuned)),
        row.status && el("p", null, row.status.map(([status, count]) => el("span", { class: `chip ${status}` }, `${count} ${status}`)), " ", bdi(row.reason || "")),
        el("div", { class: "facts" }, facts.map(([name, text]) => el("div", null, el("span", null, bdi(name)), el("span", null, text)))),
        row.command && el("pre", { class: "command" }, el("code", null, row.command)),
        el("p", { class: "note" }, `cells ${row.cells.join(", ")}`),
      ];
    }
    update({});
    return el(
      "section",
      { class: "board" },
      el("h3", null, "Leaderboard"),
      el("div", { class: "bar" }, el("span", { class: "grow" }, filter), only, size),
      el("table", { class: "cards" }, el("thead", null, el("tr", null, heads)), body),
      el("div", { class: "bar" }, back, next, where),
    );
  }

  // Encoder x fusion

  function heatMap(board) {
    const modalities = [...new Set(board.rows.filter((row) => !row.single).flatMap((row) => row.encoders.map(([modality]) => modality)))];
    const fusions = [...new Set(board.rows.filter((row) => !row.single).map((row) => row.fusion))];
    if (!modalities.length || !fusions.length) return null;
    const holder = el("div", { class: "scroll" });
    const select = el("select", { "aria-label": "Modality", onchange: draw }, modalities.map((modality) => el("option", { value: modality }, modality)));
    function draw() {
      const modality = select.value;
      const cells = new Map();
      const encoders = new Set();
      for (const row of board.rows) {
        const found = row.encoders.find(([name]) => name === modality);
        if (row.single || !found) continue;
        encoders.add(found[1]);
        const key = JSON.stringify([found[1], row.fusion]);
        const cell = cells.get(key) || { values: [], planned: 0 };
        cell.planned += 1;
        if (row.rank !== null) cell.values.push(row.mean);
        cells.set(key, cell);
      }
      const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
      const all = [...cells.values()].filter((cell) => cell.values.length).map((cell) => mean(cell.values));
      const low = Math.min(...all), high = Math.max(...all);
      const share = (value) => (high === low ? 0.5 : board.direction === "min" ? (high - value) / (high - low) : (value - low) / (high - low));
      holder.replaceChildren(
        el("table", { class: "heat" },
          el("thead", null, el("tr", null, el("th", null, modality), fusions.map((fusion) => el("th", { scope: "col" }, bdi(fusion))))),
          el("tbody", null, [...encoders].sort().map((encoder) =>
            el("tr", null, el("th", { scope: "row" }, bdi(encoder)), fusions.map((fusion) => {
              const cell = cells.get(JSON.stringify([encoder, fusion]));
              if (!cell || !cell.values.length) return el("td", { class: "cell none" }, "–");
              const value = mean(cell.values), partial = cell.values.length < cell.planned;
              const title = `mean of ${cell.values.length} of ${cell.planned} rows with ${encoder} and ${fusion}`;
              return el("td", { class: "cell", title, style: `background: rgb(var(--heat) / ${(0.05 + 0.5 * share(value)).toFixed(3)})` }, number(value) + (partial ? "°" : ""));
            }))))),
      );
    }
    return {
      section: el("section", { class: "heatmap" }, el("h3", null, "Encoder × fusion"),
        el("p", { class: "note" }, `Mean ${board.metric} over the encoders of the other modalities; ° marks means that lack rows.`),
        el("div", { class: "bar" }, el("label", null, "modality", select)), holder),
      draw,
    };
  }

  // Learning curves

  function learningCurves(board) {
    if (!board.curves.length) return null;
    const holder = el("div", { class: "panel" });
    const which = el("select", { "aria-label": "Which curve", onchange: draw }, el("option", { value: "values" }, board.curves[0].what), el("option", { value: "train" }, "objective on train"));
    const places = [...new Set(board.curves.map((curve) => curve.row))];
    const colour = (curve) => `var(--c${places.indexOf(curve.row) % 8})`;
    function draw() {
      const key = which.value;
      const curves = board.curves.filter((curve) => curve[key].some((value) => value !== null));
      if (!curves.length) return;
      const frame = frameOf(holder, 0.42);
      const longest = Math.max(...curves.map((curve) => curve[key].length));
      const x = scale([1, Math.max(longest, 2)], frame.left, frame.right, false);
      const y = scale(curves.flatMap((curve) => curve[key].filter((value) => value !== null)), frame.bottom, frame.top, false);
      const drawn = svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}`, role: "img", "aria-label": "Learning curves" });
      drawn.append(...axes(x, y, frame, "count", "number", "epoch", which.selectedOptions[0].textContent));
      const paths = curves.map((curve) => {
        const dashed = places.indexOf(curve.row) >= 8 ? "5 4" : null;
        const path = svg("path", { class: "curve", stroke: colour(curve), "stroke-dasharray": dashed, d: curve[key].map((value, at) => (value === null ? "" : `${at ? "L" : "M"}${x(at + 1).toFixed(1)} ${y(value).toFixed(1)}`)).join("") });
        drawn.append(path);
        return { path, curve };
      });
      drawn.addEventListener("pointermove", (event) => {
        const box = drawn.getBoundingClientRect();
        const epoch = Math.round(x.low + ((((event.clientX - box.left) * frame.width) / box.width - frame.left) / (frame.right - frame.left)) * (x.high - x.low));
        const my = ((event.clientY - box.top) * frame.height) / box.height;
        let nearest = null, least = 26;
        for (const item of paths) {
          const value = item.curve[key][epoch - 1];
          if (value === null || value === undefined) continue;
          const distance = Math.abs(y(value) - my);
          if (distance < least) [nearest, least] = [item, distance];
        }
        for (const item of paths) item.path.classList.toggle("dim", nearest !== null && item !== nearest);
        if (nearest === null) return hideTip();
        showTip([board.rows[nearest.curve.row].name, `seed ${nearest.curve.seed}, epoch ${epoch}: ${number(nearest.curve[key][epoch - 1])}`], event.clientX, event.clientY);
      });
      drawn.addEventListener("pointerleave", () => {
        hideTip();
        for (const item of paths) item.path.classList.remove("dim");
      });
      holder.replaceChildren(drawn, el("div", { class: "legend" }, places.map((place, at) => el("span", null, el("i", { style: `background:var(--c${at % 8})` }), bdi(board.rows[place].name)))));
    }
    return { section: el("section", { class: "curves" }, el("h3", null, "Learning curves"), el("div", { class: "bar" }, el("label", null, "show", which)), holder), draw };
  }

  // Where the time of a step goes

  function stages(board) {
    if (!board.stages.rows.length) return null;
    const colour = (at) => `var(--c${at % 8})`;
    const totals = board.stages.rows.map((item) => item.values.reduce((sum, value) => sum + (value || 0), 0));
    const most = Math.max(...totals);
    return el("section", { class: "stages" }, el("h3", null, "Where the time of a training step goes"),
      el("div", { class: "panel" },
        el("div", { class: "stack" }, board.stages.rows.flatMap((item, at) => [
          el("span", { class: "name" }, bdi(board.rows[item.row].name)),
          el("span", { class: "segments" }, item.values.map((value, stage) =>
            value ? el("i", { style: `width:${((100 * value) / most).toFixed(2)}%;background:${colour(stage)}`, title: `${board.stages.names[stage]}: ${shown(value, "s")}` }) : null)),
          el("span", null, shown(totals[at], "s")),
        ])),
        el("div", { class: "legend" }, board.stages.names.map((name, at) => el("span", null, el("i", { style: `background:${colour(at)}` }), bdi(name))))));
  }

  // Modalities: what each is worth, what gaps and noise cost, where the best row is wrong

  function conditions(board) {
    if (!board.conditions.rows.length) return null;
    return el("section", { class: "conditions" }, el("h3", null, "Missing modalities"),
      el("p", { class: "note" }, `Scores (${board.metric}) on the same test samples with modalities taken away, in the words of the export; the darker, the closer to the row's own clean score.`),
      el("div", { class: "scroll" }, el("table", { class: "heat" },
        el("thead", null, el("tr", null, el("th", null, "row"), el("th", { class: "n" }, "clean"), board.conditions.names.map((name) => el("th", { class: "n" }, bdi(name))))),
        el("tbody", null, board.conditions.rows.map((item) => {
          const clean = board.rows[item.row].mean;
          return el("tr", null, el("td", null, bdi(board.rows[item.row].name)), el("td", { class: "n" }, number(clean)), item.values.map((value) => shaded(value, keptShare(board, clean, value))));
        })))));
  }
  // 1 for a score as good as the clean one, 0 for the floor's.
  function keptShare(board, clean, value) {
    if (value === null || clean === null) return null;
    const floor = board.floor === null ? (board.direction === "min" ? 2 * clean : 0) : board.floor;
    return clean === floor ? 0 : Math.min(Math.max((value - floor) / (clean - floor), 0), 1);
  }
  function shaded(value, share, title) {
    return el("td", { class: "cell", title: title || null, style: share === null ? null : `background: rgb(var(--heat) / ${(0.04 + 0.46 * share).toFixed(3)})` }, number(value));
  }

  function portraits(board) {
    const found = board.modalities;
    if (!found || !found.portraits.length) return null;
    const told = found.portraits.filter((item) => item.gap !== null || item.solved || item.shares.some((value) => value !== null));
    if (!told.length) return null;
    const most = Math.max(...told.flatMap((item) => item.shares.map((value) => value || 0)), 1e-12);
    const heads = [["fusion", false], [board.metric, true], ["gain", true], ["interactions add", true], ...found.names.map((name) => [name, true]), ["only fusion right", true], ["lost by fusion", true]];
    const total = (solved) => Math.round(solved.reduce((sum, value) => sum + value, 0));
    const whole = (value) => (Number.isInteger(value) ? String(value) : number(value, 1));
    return el("section", { class: "portraits" }, el("h3", null, "Modalities"),
      el("p", { class: "note" }, "Interactions add: the EMAP gap, what the model's score is above that of its best additive approximation, on some of the test samples, with its 95 % interval over them. Columns named like a modality hold its Shapley share: they divide the score above the majority floor. Only fusion right: test samples that no modality's best row alone gets right; lost: those that one does and the fusion does not" + (board.numTest ? `; of ${board.numTest}, mean over seeds.` : ".")),
      el("table", { class: "cards" },
        el("thead", null, el("tr", null, heads.map(([head, right]) => el("th", { class: right ? "n" : null, scope: "col" }, bdi(head))))),
        el("tbody", null, told.map((item) => {
          const row = board.rows[item.row];
          const cells = [
            [bdi(row.name), "encoders"],
            [score(row), "n"],
            [row.gain === null ? "" : signed(row.gain), "n"],
            [item.gap === null ? "–" : el("span", { class: item.gap > 0 ? "up" : "", title: `additive part alone: ${number(item.emap)}` }, item.gapWords + (item.gapSamples ? `, ${item.gapSamples} samples` : "")), "n"],
            ...item.shares.map((value) => [value === null ? "–" : el("span", { class: "share" }, el("i", { style: `width:${(60 * Math.max(value, 0)) / most}px` }), signed(value)), "n"]),
            [item.solved ? el("span", { title: `of ${total(item.solved)}` }, whole(item.solved[0])) : "–", "n"],
            [item.solved ? whole(item.solved[1]) : "–", "n"],
          ];
          return el("tr", { class: "row" }, cells.map(([cell, kind], at) => el("td", { class: kind, "data-label": heads[at][0] }, cell === "" ? null : el("span", null, cell))));
        }))));
  }

  // Lines over a few points each; `series` = [{ name, colour, points: [[x, y]] }].
  function lineChart(holder, series, xKind, xTitle, yTitle, ratio) {
    const frame = frameOf(holder, ratio);
    const all = series.flatMap((item) => item.points.filter(([, y]) => y !== null));
    const x = scale(all.map(([at]) => at), frame.left, frame.right, false);
    const y = scale(all.map(([, at]) => at), frame.bottom, frame.top, false);
    const drawn = svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}`, role: "img", "aria-label": `${yTitle} by ${xTitle}` });
    drawn.append(...axes(x, y, frame, xKind, "number", xTitle, yTitle));
    const dots = [];
    const paths = series.map((item) => {
      const known = item.points.filter(([, value]) => value !== null);
      const path = svg("path", { class: "curve", stroke: item.colour, "stroke-dasharray": item.dashed ? "5 4" : null, d: known.map(([at, value], place) => `${place ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") });
      drawn.append(path);
      for (const [at, value] of known) {
        drawn.append(svg("circle", { cx: x(at), cy: y(value), r: 2.6, fill: item.colour }));
        dots.push({ item, path, at, value, px: x(at), py: y(value) });
      }
      return path;
    });
    const clear = () => {
      hideTip();
      for (const path of paths) path.classList.remove("dim");
    };
    drawn.addEventListener("pointermove", (event) => {
      const box = drawn.getBoundingClientRect();
      const mx = ((event.clientX - box.left) * frame.width) / box.width, my = ((event.clientY - box.top) * frame.height) / box.height;
      let nearest = null, least = 30 ** 2;
      for (const dot of dots) {
        const distance = (dot.px - mx) ** 2 + (dot.py - my) ** 2;
        if (distance < least) [nearest, least] = [dot, distance];
      }
      if (nearest === null) return clear();
      for (const path of paths) path.classList.toggle("dim", path !== nearest.path);
      showTip([nearest.item.name, `${xTitle} ${shown(nearest.at, xKind)}: ${number(nearest.value)}`], event.clientX, event.clientY);
    });
    drawn.addEventListener("pointerleave", clear);
    holder.replaceChildren(drawn, el("div", { class: "legend" }, series.map((item) => el("span", null, el("i", { style: `background:${item.colour}` }), bdi(item.name)))));
  }
  function selector(label, options, draw) {
    return el("select", { "aria-label": label, onchange: draw }, options.map((name) => el("option", { value: name }, name)));
  }

  function robustness(board) {
    const curves = board.modalities ? board.modalities.curves : [];
    if (!curves.length) return null;
    const units = new Map(board.modalities.units);
    const places = [...new Set(curves.map((curve) => curve.row))];
    const holder = el("div", { class: "panel" }), unit = el("p", { class: "note" }), areas = el("div", { class: "scroll" });
    const which = selector("Which disturbance", [...new Set(curves.map((curve) => curve.what))], draw);
    function draw() {
      const chosen = curves.filter((curve) => curve.what === which.value);
      const series = chosen.map((curve) => ({ name: board.rows[curve.row].name, colour: board.rows[curve.row].single ? "var(--ink)" : `var(--c${places.indexOf(curve.row) % 8})`, dashed: board.rows[curve.row].single, points: curve.points }));
      lineChart(holder, series, "plain", "severity s", `${board.metric}, ${arrow(board.direction)}`, 0.42);
      unit.textContent = units.has(which.value) ? `What s means: ${units.get(which.value)}. At s = 0 the inputs are clean; the other modalities stay clean throughout.` : "";
      areas.replaceChildren(el("table", null,
        el("thead", null, el("tr", null, el("th", null, "row"), el("th", { class: "n" }, "clean"), el("th", { class: "n" }, "relative"), el("th", { class: "n" }, "effective"))),
        el("tbody", null, chosen.map((curve) => {
          const late = curve.late === null ? "the run has no late fusion of these encoders" : `against ${board.rows[curve.late].name}`;
          return el("tr", null, el("td", null, bdi(board.rows[curve.row].name)), el("td", { class: "n" }, number(curve.points[0][1])), el("td", { class: "n" }, number(curve.relative)), el("td", { class: "n", title: late }, signed(curve.effective)));
        }))));
    }
    return {
      section: el("section", { class: "robustness" }, el("h3", null, "Robustness"), el("div", { class: "bar" }, el("label", null, "disturbance", which)), holder, unit, areas,
        el("p", { class: "note" }, "Relative: the area under the curve. Effective: how much more of its clean score a row keeps than the late fusion of the same encoders in this run, as the area between both curves from one start (MultiBench's two measures).")),
      draw,
    };
  }

  function gradients(board) {
    const lines = board.modalities ? board.modalities.portraits.filter((item) => item.gradients.length) : [];
    if (!lines.length) return null;
    const holder = el("div", { class: "panel" });
    const which = el("select", { "aria-label": "Which row", onchange: draw }, lines.map((item, at) => el("option", { value: at }, board.rows[item.row].name)));
    function draw() {
      const series = lines[which.value].gradients.map(([name, values], at) => ({ name, colour: `var(--c${at % 8})`, points: values.map((value, epoch) => [epoch + 1, value]) }));
      lineChart(holder, series, "whole", "epoch", "norm of the encoder's gradient", 0.34);
    }
    return {
      section: el("section", { class: "gradients" }, el("h3", null, "Which modality learns"),
        el("p", { class: "note" }, "Norm of each encoder's gradient in the last step of an epoch, first seed. A modality whose curve lies far below the others' is hardly trained."),
        el("div", { class: "bar" }, el("label", null, "row", which)), holder),
      draw,
    };
  }

  function classes(board) {
    const found = board.classes;
    if (!found) return null;
    const what = found.what;
    const estimate = (value, low, high) => el("td", null, value === null ? "–" : low === null ? number(value) : `${number(value)} [${number(low)}, ${number(high)}]`);
    const lines = found.rows.map(([name, support, precision, recall, f1]) =>
      el("tr", null, el("th", { scope: "row" }, bdi(name)), el("td", null, String(support)), estimate(...precision), estimate(...recall), estimate(...f1)));
    const head = el("tr", null, [what, "support", "precision", "recall", "F1"].map((title) => el("th", { scope: "col" }, title)));
    const left = found.numClasses - found.rows.length;
    return el("section", { class: "classes" }, el("h3", null, what === "label" ? "Each label" : "Each class"),
      el("p", { class: "note" }, `On test under the row that is best on val; mean over seeds with the 95 % interval over ${found.over}. `, bdi(board.rows[found.row].name)),
      el("div", { class: "scroll" }, el("table", null, el("thead", null, head), el("tbody", null, lines))),
      left ? el("p", { class: "note" }, `${left} others with a higher F1, or without test samples, are not shown.`) : null);
  }

  function subgroups(board) {
    if (!board.subgroups.length) return null;
    const estimate = (value, low, high) => el("td", null, value === null ? "–" : low === null ? number(value) : `${number(value)} [${number(low)}, ${number(high)}]`);
    const head = () => el("tr", null, ["subgroup", "samples", board.metric, "gap to the rest", "p"].map((title) => el("th", { scope: "col" }, title)));
    const parts = board.subgroups.map((table) => el("div", null,
      el("p", { class: "note" }, bdi(board.rows[table.row].name), ": ", bdi(table.words)),
      el("div", { class: "scroll" }, el("table", null, el("thead", null, head()), el("tbody", null, table.groups.map(([name, samples, score, gap, p], at) =>
        el("tr", null, el("th", { scope: "row" }, at === table.worst ? el("mark", null, bdi(name)) : bdi(name)), el("td", null, String(samples)), estimate(...score), estimate(...gap), el("td", null, p === null ? "–" : p))))))));
    return el("section", { class: "subgroups" }, el("h3", null, "Subgroups"),
      el("p", { class: "note" }, "On the test samples of each subgroup; the gap is by how much the column's other samples do better, with 95 % intervals; p is adjusted over the row's subgroups (Holm)."), parts);
  }

  function errors(board) {
    const found = board.modalities && board.modalities.errors;
    if (!found) return null;
    const known = found.bins.filter(([count]) => count);
    const size = 300, left = 44, right = 290, top = 12, bottom = 258;
    const x = (value) => left + value * (right - left), y = (value) => bottom - value * (bottom - top);
    const drawn = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Reliability diagram" });
    for (const value of [0, 0.25, 0.5, 0.75, 1])
      drawn.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }), svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)), svg("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, String(value)));
    drawn.append(svg("line", { class: "floor", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }), svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, "confidence"), svg("text", { x: left + 4, y: top + 10 }, "share right"));
    const most = Math.max(...known.map(([count]) => count), 1);
    for (const [count, mean, share] of known) {
      const bin = found.bins.length;
      const at = Math.min(Math.floor(mean * bin), bin - 1) / bin;
      const bar = svg("rect", { x: x(at) + 1, y: y(share), width: (right - left) / bin - 2, height: Math.max(bottom - y(share), 1), fill: "var(--accent)", "fill-opacity": (0.15 + 0.6 * Math.sqrt(count / most)).toFixed(3) });
      bar.append(svg("title", null, `${Math.round(count)} predictions, ${number(mean)} sure, ${number(share)} right`));
      drawn.append(bar, svg("circle", { cx: x(mean), cy: y(share), r: 2.6, fill: "var(--ink)" }));
    }
    const parts = [el("figure", null, el("div", { class: "panel" }, drawn), el("figcaption", { class: "note" }, "Reliability: bars on the diagonal mean that the model is as sure as it is right; the paler, the fewer predictions."))];
    if (found.confusion.length) {
      const largest = found.confusion.map((line) => Math.max(line.reduce((sum, count) => sum + count, 0), 1));
      const cell = (count, at, said) => {
        const colour = at === said ? "var(--heat)" : "var(--wrong)";
        const style = count ? `background: rgb(${colour} / ${(0.08 + 0.5 * (count / largest[at])).toFixed(3)})` : null;
        return el("td", { class: "cell", title: `${found.classes[at]} taken for ${found.classes[said]}: ${count}`, style }, count ? String(count) : "");
      };
      const head = el("tr", null, el("th", null, "true \\ said"), found.classes.map((name) => el("th", { scope: "col", title: name }, bdi(short(name)))));
      const lines = found.confusion.map((line, at) =>
        el("tr", null, el("th", { scope: "row", title: found.classes[at] }, bdi(short(found.classes[at]))), line.map((count, said) => cell(count, at, said))));
      parts.push(el("figure", null,
        el("div", { class: "scroll" }, el("table", { class: "heat confusion" }, el("thead", null, head), el("tbody", null, lines))),
        el("figcaption", { class: "note" }, "Confusion: test samples by true class (rows) and predicted class (columns), all seeds together.")));
    }
    return el("section", { class: "errors" }, el("h3", null, "Where the best row is wrong"), el("p", { class: "note" }, bdi(board.rows[found.row].name)), el("div", { class: "pair" }, parts));
  }
  // What the best row looked at in a few samples

  function lookedAt(board) {
    if (!board.lookedAt.length) return null;
    const values = board.lookedAt.every((found) => found.samples.every((sample) => sample.of === null));
    const names = [...new Set(board.lookedAt.flatMap((found) => found.samples.flatMap((sample) => sample.modalities.map((item) => item.name))))];
    // Not the first two: they are what speaks for and against.
    const colour = (name) => `var(--c${[2, 3, 6, 4, 5, 7][names.indexOf(name) % 6]})`;
    const what = values ? "the prediction" : "the log probability of what the row says";
    return el("section", { class: "looked" }, el("h3", null, "What it looked at"),
      el("p", { class: "note" }, `A few test samples. Evidence: by how much a sample's features raise ${what} over the mean features of training samples, all modalities together, by integrated gradients (Sundararajan et al. 2017). Parts of an input, on a scale of their own: `,
        el("i", { class: "swatch for" }), values ? "raise it, " : "speak for what the row says, ", el("i", { class: "swatch against" }), values ? "lower it." : "against it.", " All this tells what the model used, not what is so."),
      board.lookedAt.map((found) => [
        el("p", { class: "whose" }, bdi(board.rows[found.row].name), el("span", { class: "amount" }, `, seed ${found.seed}`)),
        el("div", { class: "looks" }, found.samples.map((sample) => look(sample, names, colour, values ? "" : " nat"))),
      ]).flat());
  }
  function look(sample, names, colour, unit) {
    const total = sample.modalities.reduce((sum, item) => sum + Math.abs(item.evidence || 0), 0);
    const percent = (item) => (total ? (100 * Math.abs(item.evidence || 0)) / total : 0);
    const mark = sample.right === null ? "" : sample.right ? "up" : "down";
    const shares = sample.modalities.filter((item) => item.evidence);
    const known = sample.from !== null && sample.to !== null;
    const gained = known ? sample.to - sample.from : 0;
    const summed = sample.modalities.reduce((sum, item) => sum + (item.evidence || 0), 0);
    // Votes and other steps change a prediction where no gradient sees it.
    const missed = known && Math.abs(summed - gained) > 0.1 * Math.max(Math.abs(gained), 0.05);
    return el("div", { class: "look panel", role: "group", "aria-label": `${sample.why}: ${sample.id}` },
      el("p", { class: "verdict" }, el("span", { class: "chip" }, sample.why), " says ", el("strong", { class: mark }, bdi(sample.predicted)),
        sample.confidence === null ? null : ` (${number(sample.confidence, 2)})`, sample.right === true ? null : [", true ", el("strong", null, bdi(sample.true))]),
      shares.length < 2 ? null : el("div", { class: "evidence", role: "img", "aria-label": `Share of evidence: ${shares.map((item) => `${item.name} ${Math.round(percent(item))} %`).join(", ")}` },
        shares.map((item) => el("i", { class: item.evidence < 0 ? "minus" : null, style: `width:${percent(item).toFixed(2)}%;background-color:${colour(item.name)}`, title: `${item.name} ${signed(item.evidence)}${unit}` }))),
      sample.modalities.map((item) =>
        el("div", { class: "sense" },
          el("h4", null, el("i", { class: "swatch", style: `background:${colour(item.name)}` }), bdi(item.name), " ",
            el("span", { class: "amount" }, item.present ? (item.evidence === null ? "" : `${signed(item.evidence)}${unit}${shares.length > 1 ? `, ${Math.round(percent(item))} %` : ""}`) : "missing")),
          item.present ? senses(item) : null)),
      el("p", { class: "note" }, bdi(sample.id), known ? `: ${unit ? "log probability" : "predicted"} ${number(sample.from, 2)} → ${number(sample.to, 2)}` : "", missed ? `; gradients account for ${signed(summed)} of ${signed(gained)}` : ""));
  }
  function senses(item) {
    const parts = [];
    const timed = item.kind === "audio" || item.kind === "sequence";
    if (item.steps) parts.push(...strip(item));
    if (item.picture && timed) parts.push(el("img", { class: "track", src: `data:image/png;base64,${item.picture.png}`, alt: item.kind === "audio" ? "Spectrogram, low pitches at the bottom" : "Features (rows) by step" }));
    if (timed) parts.push(el("p", { class: "scale" }, el("span", null, "0"), el("span", null, item.kind === "audio" ? shown(item.seconds, "s") : item.length ? `${item.length} steps` : "")));
    if (item.picture && !timed) {
      const { width, height, png } = item.picture;
      const plain = (alt) => el("img", { class: width <= 48 ? "coarse" : null, src: `data:image/png;base64,${png}`, width, height, alt });
      parts.push(el("div", { class: "views" }, el("span", { class: "view" }, plain("What the model was given")), !item.grid ? null : el("span", { class: "view heated" }, plain(""), heat(item.grid))));
    }
    if (item.words) parts.push(el("p", { class: "words", dir: "auto" }, item.words.map(([text, part]) =>
      part ? el("span", { style: `background: rgb(var(--${part > 0 ? "for" : "against"}) / ${((0.55 * Math.abs(part)) / 100).toFixed(3)})` }, text) : text)));
    if (item.columns) parts.push(el("div", { class: "columns" }, item.columns.flatMap(([name, value, part]) => [
      el("span", null, name), el("span", { class: "n" }, value === null ? "missing" : KINDS.plain(value)),
      el("span", { class: "both" }, el("i", { class: part < 0 ? "against" : "for", style: `width:${Math.abs(part) / 2}%` }))]),
      item.length > item.columns.length ? el("span", { class: "rest" }, `… of ${item.length} columns`) : null));
    return parts;
  }
  function strip(item) {
    const steps = item.steps;
    const what = item.kind === "text" ? "tokens" : item.kind === "video" ? "frames" : item.kind === "image" ? "tokens" : "time";
    const drawn = svg("svg", { class: "strip", viewBox: `0 0 ${steps.length} 40`, preserveAspectRatio: "none", role: "img", "aria-label": `Evidence along ${what}` });
    steps.forEach((part, at) => {
      const size = Math.max(Math.abs(part) / 5, part ? 0.6 : 0);
      drawn.append(svg("rect", { class: part < 0 ? "against" : "for", x: at + 0.06, width: 0.88, y: part < 0 ? 20 : 20 - size, height: size }));
    });
    drawn.append(svg("line", { class: "axis", x1: 0, x2: steps.length, y1: 20, y2: 20, "vector-effect": "non-scaling-stroke" }));
    return what === "time" ? [drawn] : [el("p", { class: "scale" }, el("span", null, `by ${what}`)), drawn];
  }
  function heat(grid) {
    const canvas = el("canvas", { width: grid[0].length, height: grid.length, role: "img", "aria-label": "Which places spoke for and against" });
    const style = getComputedStyle(document.documentElement);
    const colours = ["--for", "--against"].map((name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number));
    const paint = canvas.getContext("2d");
    const pixels = paint.createImageData(canvas.width, canvas.height);
    grid.flat().forEach((part, at) => {
      const [red, green, blue] = colours[part < 0 ? 1 : 0];
      pixels.data.set([red, green, blue, Math.round(2.3 * Math.abs(part))], 4 * at);
    });
    paint.putImageData(pixels, 0, 0);
    return canvas;
  }

  function short(name) {
    return name.length > 12 ? `${name.slice(0, 11)}…` : name;
  }

  // Methods over datasets

  function across(found) {
    const heads = ["mean rank", "win rate", "IQM", ...found.datasets];
    const cell = (value, digits) => el("td", { class: "n" }, number(value, digits));
    const shade = (value) => el("td", { class: "cell", style: value === null ? null : `background: rgb(var(--heat) / ${(0.5 * Math.min(Math.max(value, 0), 1)).toFixed(3)})` }, number(value));
    const section = el("section", { id: "across" }, el("h2", null, "Across datasets"),
      el("p", { class: "note" }, "Each method by its row that is best on val; 0 is the majority floor, 1 the dataset's best row. Ranks and win rates are among the methods with a result on every dataset; IQM is the interquartile mean over all runs."),
      el("div", { class: "scroll" }, el("table", { class: "heat" },
        el("thead", null, el("tr", null, el("th", null, "method"), heads.map((head) => el("th", { class: "n" }, bdi(head))))),
        el("tbody", null, found.methods.map((method) => {
          const [value, low, high] = method.iqm;
          const iqm = el("td", { class: "n", title: low === null ? null : `95 % interval ${number(low)} to ${number(high)}` }, number(value));
          return el("tr", null, el("th", { scope: "row" }, bdi(method.name)), cell(method.rank, 2), cell(method.wins, 2), iqm, method.scores.map(shade));
        })))),
      el("p", { class: "note" }, bdi(found.words)));
    return found.critical ? fill(section, {}, [diagram(found)]) : section;
  }
  function diagram(found) {
    // A critical-difference diagram: mean ranks on a line, bars over those that are not told apart.
    const methods = found.methods.filter((method) => method.rank !== null);
    const bars = found.critical.groups;
    const most = Math.ceil(Math.max(...methods.map((method) => method.rank)));
    const width = 900, left = 260, right = 640, top = 40 + 10 * bars.length;
    const x = (rank) => left + ((rank - 1) / Math.max(most - 1, 1)) * (right - left);
    const half = Math.ceil(methods.length / 2);
    const height = top + 24 + 18 * half;
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Critical-difference diagram" });
    drawn.append(svg("line", { x1: left, x2: right, y1: top, y2: top, stroke: "var(--ink)" }));
    for (let rank = 1; rank <= most; rank++)
      drawn.append(svg("line", { x1: x(rank), x2: x(rank), y1: top - 5, y2: top, stroke: "var(--ink)" }), svg("text", { x: x(rank), y: top - 9, "text-anchor": "middle" }, String(rank)));
    methods.forEach((method, at) => {
      const first = at < half;
      const y = top + 20 + 18 * (first ? at : methods.length - 1 - at);
      drawn.append(
        svg("polyline", { points: `${x(method.rank)},${top} ${x(method.rank)},${y} ${first ? left - 8 : right + 8},${y}`, fill: "none", stroke: "var(--soft)" }),
        svg("text", { x: first ? left - 12 : right + 12, y: y + 4, "text-anchor": first ? "end" : "start" }, `${method.name} (${number(method.rank, 2)})`));
    });
    bars.forEach((group, at) => {
      const ranks = group.map((place) => found.methods[place].rank);
      const y = 16 + 10 * at;
      drawn.append(svg("line", { x1: x(Math.min(...ranks)) - 3, x2: x(Math.max(...ranks)) + 3, y1: y, y2: y, stroke: "var(--accent)", "stroke-width": 4, "stroke-linecap": "round" }));
    });
    return el("div", { class: "panel scroll" }, drawn);
  }

  // The page

  const redraw = [];
  const shownBoards = new Set();

  function boardSection(board) {
    const pareto = paretoChart(board), heat = heatMap(board), curves = learningCurves(board);
    const noise = robustness(board), learns = gradients(board);
    const title = board.first ? board.dataset : `${board.dataset}: ${board.task}`;
    const facts = [`${board.numDone} of ${board.numPlanned} cells have a result.`];
    if (board.floor !== null) facts.push(`Predicting without looking at the sample gives ${number(board.floor)}.`);
    for (const [name, value] of board.ceilings) facts.push(`Best possible on average with ${name}: ${number(value)}.`);
    facts.push(...board.footnotes);
    const section = el("article", { id: board.id, "aria-label": title },
      el("h2", null, bdi(title)),
      board.summary && el("p", { class: "note" }, bdi(board.summary)),
      data.boards.length > 1 && el("p", null, bdi(board.answer)),
      board.cautions.length && el("ul", { class: "cautions", "aria-label": "Be careful" }, board.cautions.map((caution) => el("li", null, bdi(caution)))),
      el("p", { class: "note" }, bdi(facts.join(" "))),
      pareto && pareto.section,
      leaderboard(board),
      heat && heat.section,
      portraits(board),
      conditions(board),
      noise && noise.section,
      subgroups(board),
      classes(board),
      errors(board),
      lookedAt(board),
      curves && curves.section,
      learns && learns.section,
      stages(board),
    );
    for (const node of [...section.childNodes]) if (node.nodeType === 3 && ["false", "0", ""].includes(node.data)) node.remove();
    const draw = () => {
      for (const part of [pareto, heat, noise, curves, learns]) if (part) part.draw();
    };
    redraw.push(() => section.isConnected && !section.hidden && draw());
    return { section, draw };
  }
  const sections = new Map();
  function show(board) {
    let made = sections.get(board);
    if (!made) {
      made = boardSection(board);
      sections.set(board, made);
      main.append(made.section);
    }
    made.section.hidden = false;
    made.draw();
  }
  function select(board) {
    for (const made of sections.values()) made.section.hidden = true;
    show(board);
    for (const button of nav.children) button.setAttribute("aria-selected", button.dataset.board === board.id);
    shownBoards.clear();
    shownBoards.add(board);
  }

  const boards = data.boards.map(readBoard);
  const nav = document.getElementById("boards");
  if (boards.length > 1)
    nav.append(...boards.map((board) =>
      el("button", { type: "button", role: "tab", "data-board": board.id, onclick: () => select(board) }, bdi(board.first ? board.dataset : `${board.dataset}: ${board.task}`))));
  for (const line of document.querySelectorAll("#overview tr.row"))
    line.addEventListener("click", () => {
      select(boards.find((board) => board.id === line.dataset.board));
      nav.scrollIntoView();
    });
  if (boards.length) select(boards[0]);

  if (data.across) main.after(across(data.across));

  let pending = 0;
  addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(() => redraw.forEach((draw) => draw()), 120);
  });
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  // On paper every dataset is shown.
  addEventListener("beforeprint", () => boards.forEach(show));
  addEventListener("afterprint", () => {
    for (const [board, made] of sections) made.section.hidden = !shownBoards.has(board);
  });
})();
