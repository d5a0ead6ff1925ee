"use strict";
(() => {
  const board = JSON.parse(document.getElementById("leaderboard").textContent);
  const byId = (id) => document.getElementById(id);

  // Theme: automatic, light, dark; remembered where the browser lets a file remember.
  const themes = ["automatic", "light", "dark"];
  const button = byId("theme");
  const remember = (value) => { try { localStorage.setItem("frbench-theme", value); } catch { /* not from a file */ } };
  const remembered = () => { try { return localStorage.getItem("frbench-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = themes.includes(remembered()) ? remembered() : "automatic";
  setTheme(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
    remember(theme);
  });

  // Sorting: numbers begin with the largest, rows without a value always come last.
  const valueOf = (row, place) => row.children[place].dataset.value;
  const compare = (kind, sign, place) => (a, b) => {
    const x = valueOf(a, place), y = valueOf(b, place);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (kind === "number" ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
  };
  for (const head of document.querySelectorAll(".leaderboard thead th")) {
    const sorter = head.querySelector("button");
    sorter.addEventListener("click", () => {
      const table = head.closest("table"), body = table.tBodies[0];
      const place = [...head.parentNode.children].indexOf(head);
      const first = place < 2 || sorter.textContent === "Rank" ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const th of head.parentNode.children) th.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort(compare(sorter.dataset.kind, sign, place)));
    });
  }

  // Filters.
  for (const form of document.querySelectorAll(".filters")) {
    const rows = [...byId(`${form.dataset.for}-table`).tBodies[0].rows];
    const apply = () => {
      const wanted = form.elements.text.value.trim().toLowerCase();
      const selects = [...form.querySelectorAll("select")].filter((s) => s.value);
      let shown = 0;
      for (const row of rows) {
        const text = row.querySelector("th").textContent.toLowerCase();
        row.hidden = !(text.includes(wanted) && selects.every((s) => row.dataset[s.name] === s.value));
        shown += !row.hidden;
      }
      form.querySelector("output").textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
  }

  // A row and its points in the charts light up together.
  for (const row of document.querySelectorAll(".leaderboard tbody tr")) {
    const section = row.closest("section");
    const light = (on) => {
      for (const point of section.querySelectorAll(`[id$="-row-${row.dataset.chart}"]`)) point.classList.toggle("lit", on);
    };
    row.addEventListener("mouseenter", () => light(true));
    row.addEventListener("mouseleave", () => light(false));
    row.addEventListener("focusin", () => light(true));
    row.addEventListener("focusout", () => light(false));
  }

  // Where a number came from. Text is set as text, so no name can become markup.
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const show = (value) => {
    if (Array.isArray(value)) return value.join(", ");
    if (typeof value === "number") return Number(value.toPrecision(9)).toLocaleString("en", { maximumSignificantDigits: 6, useGrouping: value >= 10000 });
    return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
  };
  const words = (name) => name.replaceAll("_", " ");
  const list = (facts, named = words) => {
    const made = element("dl");
    for (const [name, value] of facts) {
      if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) continue;
      made.append(element("dt", named(name)), element("dd", show(value)));
    }
    return made;
  };
  const headline = (score) => {
    const bound = score.at_most ? "≤ " : "";
    let detail = "";
    if (score.sd !== null) detail = `± ${score.sd.toFixed(2)} over ${score.seeds} seeds`;
    else if (score.low !== null) detail = `95 % interval ${score.low.toFixed(2)} to ${score.high.toFixed(2)}`;
    return [`${bound}${score.accuracy.toFixed(2)} %`, detail];
  };
  const scoreFacts = (score) => [
    ["correct", score.correct === null ? null : `${score.correct.toLocaleString("en")} of ${score.n.toLocaleString("en")} images`],
    ["images", score.correct === null ? score.n : null],
    ["stages", score.stages],
    ["stages done", score.at_most ? score.stages_done : null],
  ];
  const cellFacts = (ref) => {
    const { versions, provenance, ...own } = ref;
    const libraries = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
    return [
      ["cell", own.key], ["images", `${own.start} to ${own.stop - 1}`], ["attack seed", own.seed], ["images a batch", own.batch],
      ["seconds", own.seconds.toFixed(2)], ["finished", own.updated], ["versions", libraries],
      ...Object.entries(provenance).filter(([, value]) => typeof value !== "object"),
    ];
  };
  const modelFacts = (row) => {
    const { cost, name, ...model } = row.model;
    const costs = Object.entries(cost).map(([key, value]) => `${key.replaceAll("_", " ")} ${show(value)}`);
    return [
      ...Object.entries(model), ["seeds", row.seeds.length > 1 ? row.seeds : null],
      ["training cost", row.members.length ? [`mean over seeds: ${Object.entries(row.cost).map(([k, v]) => `${k.replaceAll("_", " ")} ${show(v)}`).join(", ")}`] : costs],
    ];
  };
  const dialog = byId("dialog");
  const open = (table, row, key) => {
    const column = table.columns.find((c) => c.key === key);
    const score = column ? row.scores[key] : row.worst_case;
    const body = byId("dialog-body");
    byId("dialog-h").textContent = `${row.label}: ${column ? column.label : "worst case"}`;
    const [big, detail] = headline(score);
    const parts = [element("p", big, "big"), element("p", detail), list(scoreFacts(score))];
    if (row.members.length) {
      parts.push(element("h3", "Seed by seed"), list(row.members.map((member) => {
        const own = column ? member.scores[key] : member.worst_case;
        return [member.label, own ? headline(own).join(", ") : "-"];
      }), String));
    }
    if (column) parts.push(element("h3", "Attack"), list([["settings", column.settings], ...Object.entries(column.attack)]));
    else parts.push(element("p", `An image counts as correct when it withstood every attack of the row: ${table.columns.filter((c) => row.scores[c.key]).map((c) => c.label).join(", ")}.`));
    parts.push(element("h3", "Data"), list([
      ["dataset", `${table.dataset}, ${table.split} split`], ["images", `${table.start} to ${table.stop - 1}`],
      ["SHA-256", table.data_sha256], ["precision", table.precision], ["threat model", table.threat_model],
    ]));
    parts.push(element("h3", "Model"), list(modelFacts(row)));
    const cells = column ? score.cells : Object.values(row.scores).flatMap((s) => s.cells);
    cells.forEach((ref, i) => parts.push(element("h3", cells.length > 1 ? `Cell ${i + 1} of ${cells.length}: ${ref.attack}` : "Cell"), list(cellFacts(ref))));
    body.replaceChildren(...parts);
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  document.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const table = board.tables[cell.dataset.table];
    open(table, table.rows[cell.dataset.row], cell.dataset.key);
  });
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // On paper, the numbers behind the charts are open.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll(".chart details")) details.open = true;
  });
})();
