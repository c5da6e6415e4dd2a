"use strict";
// Tables sort by a click on a heading, or Enter or Space on it; a second click turns the order round.
// An address ending in #sort=TABLE:COLUMN:descending opens the page sorted so, for example #sort=table-0:3:descending.

const key = (row, column) => {
  const text = row.cells[column].dataset.value;
  const number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text : number;
};

const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });

const sort = (table, heading, order) => {
  const body = table.tBodies[0];
  const column = Number(heading.dataset.column);
  const sign = order === "descending" ? -1 : 1;
  const rows = Array.from(body.rows, (row) => [key(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // rows without a number stay last
    return sign * compare(a, b);
  });
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  body.append(...rows.map(([, row]) => row));
};

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.querySelectorAll("th[data-column]")) {
    heading.querySelector("button").addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const first = heading.dataset.first;
      const other = first === "descending" ? "ascending" : "descending";
      sort(table, heading, now === first ? other : first);
    });
  }
}

const asked = /^#sort=([\w-]+):(\d+)(?::(ascending|descending))?$/.exec(location.hash);
if (asked) {
  const heading = document.getElementById(asked[1])?.querySelector(`th[data-column="${asked[2]}"]`);
  if (heading) {
    heading.querySelector("button").click();
    if (asked[3] && heading.getAttribute("aria-sort") !== asked[3]) heading.querySelector("button").click();
  }
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
