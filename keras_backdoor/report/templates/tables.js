"use strict";
// A table of the class "sortable" can be sorted by a click on a heading, and filtered; without this script it is a plain table.
// data-value of a cell is what its column is sorted by; data-choose of a heading offers the column's values to choose from.

function make(kind, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(kind), attributes);
  element.append(...children);
  return element;
}

function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent.trim());
  const count = make("output", { className: "soft" });
  const words = make("input", { type: "search" });
  const choices = new Map();

  function value(row, column) {
    const cell = row.cells[column];
    return (cell.dataset.value ?? cell.textContent).trim();
  }

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const chosen = [...choices].every(([column, choice]) => !choice.value || value(row, column) === choice.value);
      row.hidden = !(chosen && wanted.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  }

  function sort(column, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const keyed = rows.map((row) => [value(row, column), row]);
    const numbers = keyed.every(([key]) => key === "" || key === "–" || !Number.isNaN(Number(key)));
    keyed.sort(([a], [b]) => {
      const empty = (a === "" || a === "–") - (b === "" || b === "–"); // always last
      return empty || sign * (numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true })) || 0;
    });
    body.append(...keyed.map(([, row]) => row));
    heads.forEach((head, place) => (place === column ? head.setAttribute("aria-sort", direction) : head.removeAttribute("aria-sort")));
    order.value = `${column} ${direction}`;
  }

  const order = make("select", {}, make("option", { value: "", textContent: "as it is" }));
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    button.addEventListener("click", () =>
      sort(column, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending"));
    head.append(button);
    for (const direction of ["ascending", "descending"]) {
      order.append(make("option", { value: `${column} ${direction}`, textContent: `${names[column]}, ${direction}` }));
    }
    if ("choose" in head.dataset) {
      const values = [...new Set(rows.map((row) => value(row, column)))];
      if (values.length > 1) {
        const options = values.map((one) => make("option", { value: one, textContent: one }));
        choices.set(column, make("select", {}, make("option", { value: "", textContent: "all" }), ...options));
      }
    }
  });
  order.addEventListener("change", () => {
    if (order.value) {
      const [column, direction] = order.value.split(" ");
      sort(Number(column), direction);
    }
  });
  words.addEventListener("input", filter);
  const tools = make("div", { className: "tools" }, make("label", {}, "Rows with ", words));
  for (const [column, choice] of choices) {
    choice.addEventListener("change", filter);
    tools.append(make("label", {}, `${names[column]} `, choice));
  }
  tools.append(make("label", { className: "narrow" }, "Sort by ", order), count);
  table.before(tools);
  filter();
}

document.querySelectorAll("table.sortable").forEach(sortable);
