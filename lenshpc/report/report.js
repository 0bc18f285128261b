"use strict";
const SECONDS = { d: 86400, h: 3600, min: 60, s: 1 };
const collator = new Intl.Collator(undefined, { numeric: true });

// What a cell begins with: 1,200; 0.98 [0.97, 0.99]; < 0.001; 3 min 12 s. NaN of words and of a dash.
function readNumber(text) {
  const durations = [...text.matchAll(/(\d+) (d|h|min|s)\b/g)];
  if (durations.length) return durations.reduce((sum, [, number, unit]) => sum + number * SECONDS[unit], 0);
  const found = text.replaceAll(",", "").replace("−", "-").match(/^[<>]?\s*([+-]?\d+(\.\d+)?(e[+-]?\d+)?)/i);
  return found ? Number(found[1]) : NaN;
}

function readCell(row, at) { return row.cells[at].textContent.trim(); }

function compareRows(at, isWords, sign) {
  return (one, other) => {
    const [a, b] = [readCell(one, at), readCell(other, at)];
    if (isWords) return sign * collator.compare(a, b);
    const [x, y] = [readNumber(a), readNumber(b)];
    // What has no number comes last, whichever way the rest is turned.
    return isNaN(x) - isNaN(y) || (isNaN(x) ? 0 : sign * (x - y));
  };
}

function sortBy(table, head, written) {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort];
  for (const one of table.tHead.rows[0].cells) one.ariaSort = one === head ? next : "none";
  const at = head.cellIndex;
  const filled = written.map((row) => readCell(row, at)).filter((text) => text !== "–");
  const isWords = head.classList.contains("text") || filled.some((text) => isNaN(readNumber(text)));
  const sorted = next === "none" ? written
    : written.toSorted(compareRows(at, isWords, next === "ascending" ? 1 : -1));
  table.tBodies[0].append(...sorted);
}

for (const table of document.querySelectorAll("table:not(.pairs)")) {
  const written = [...table.tBodies[0].rows];
  if (written.length < 2) continue;
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.ariaSort = "none";
    button.addEventListener("click", () => sortBy(table, head, written));
  }
}

const sections = [...document.querySelectorAll("main > section > details")];
const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));

function setOpen(details, isOpen) { for (const one of details) one.open = isOpen; }

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  setOpen(target?.querySelectorAll(":scope > details") ?? [], true);
}

const fold = document.querySelector("#fold");
fold.hidden = sections.length === 0;
fold.addEventListener("click", () => {
  const isOpen = !sections.some((one) => one.open);
  setOpen(sections, isOpen);
  fold.textContent = isOpen ? "Fold all" : "Unfold all";
});
addEventListener("hashchange", openTarget);
for (const link of links.values()) link.addEventListener("click", () => setTimeout(openTarget));
openTarget();

// What is folded would be missing on paper.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  setOpen(folded, true);
});
addEventListener("afterprint", () => setOpen(folded, false));

const seen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
  const first = [...links.keys()].find((id) => seen.has(id));
  if (!first) return;
  for (const [id, link] of links) {
    if (id === first) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    if (id === first) link.closest("ol").scrollLeft = link.offsetLeft - link.closest("ol").offsetLeft;
  }
}, { rootMargin: "-10% 0px -60% 0px" });
for (const id of links.keys()) observer.observe(document.getElementById(id));
