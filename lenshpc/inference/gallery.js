"use strict";
const KEYS = new Map([["a", "A"], ["b", "B"], ["c", "C"], ["n", "no"]]);
const KEPT = `lenshpc-grades-${document.body.dataset.digest}`;
const byId = (id) => document.getElementById(id);
const list = byId("cards");
const cards = [...list.children].map((element) => ({
  element,
  rank: Number(element.dataset.rank),
  key: JSON.parse(element.dataset.key),
  cell: JSON.parse(element.dataset.cell),
  // What each column says, with all its digits; text has none.
  numbers: new Map([...element.querySelectorAll("dl div")].map((line) =>
    [line.firstChild.textContent, line.lastChild.dataset.number ?? ""])),
}));
const grades = new Map();  // by id, so they outlive another number of candidates
const history = [];  // of [card, its grade before], for undo
let shown = cards;
let selected = cards[0];
let filter = "all";
let ascending = true;

function readGrades() {
  grades.clear();
  try {
    for (const [key, grade] of JSON.parse(localStorage.getItem(KEPT)) ?? []) {
      if ([...KEYS.values()].includes(grade)) grades.set(key, grade);
    }
  } catch { /* none, or not ours */ }
}

function keepGrades() {
  try {
    localStorage.setItem(KEPT, JSON.stringify([...grades]));
  } catch {
    byId("unkept").hidden = false;
  }
}

function say(text) { byId("said").textContent = text; }

function setGrade(card, grade) {
  if (grade) grades.set(card.key, grade); else grades.delete(card.key);
  keepGrades();
}

function gradeSelected(grade) {
  if (!selected) return;
  history.push([selected, grades.get(selected.key)]);
  const [card, next] = [selected, shown[shown.indexOf(selected) + 1]];
  setGrade(card, grade);
  selected = next ?? card;  // the next one as it lay there, before the filter takes this one away
  arrange();
  select(selected);
  say(`Candidate ${card.rank}: ${grade}`);
}

function undo() {
  if (!history.length) return say("Nothing to undo");
  const [card, before] = history.pop();
  setGrade(card, before);
  selected = card;
  if (filter !== "all" && filter !== (before ?? "ungraded")) filter = "all";
  arrange();
  select(selected);
  say(`Candidate ${card.rank}: ${before ?? "not graded"} again`);
}

function valueOf(card, column) {
  const text = column === "rank" ? card.rank : card.numbers.get(column);
  return text === "" || text === undefined ? NaN : Number(text);
}

function compare(column) {
  const sign = ascending ? 1 : -1;
  return (one, other) => {
    const [a, b] = [valueOf(one, column), valueOf(other, column)];
    // What has no number comes last, whichever way the rest is turned; ties by rank.
    return isNaN(a) - isNaN(b) || (isNaN(a) ? 0 : sign * (a - b)) || one.rank - other.rank;
  };
}

function arrange() {
  const column = byId("sort").value;
  cards.sort(compare(column));
  shown = cards.filter((card) => filter === "all" || filter === (grades.get(card.key) ?? "ungraded"));
  list.append(...cards.map((card) => card.element));
  for (const card of cards) {
    const grade = grades.get(card.key) ?? "";
    card.element.hidden = !shown.includes(card);
    card.element.dataset.grade = grade;
    card.element.querySelector(".grade").textContent = grade;
    card.element.querySelector(".value").textContent = showValue(card, column === "rank" ? "score" : column);
  }
  byId("none").hidden = shown.length > 0;
  byId("direction").textContent = ascending ? "smallest first" : "largest first";
  count();
  show(shown.includes(selected) ? selected : shown[0]);
}

function startOver() {
  arrange();
  select(shown[0]);
}

function showValue(card, column) {
  const line = [...card.element.querySelectorAll("dl div")].find((one) => one.firstChild.textContent === column);
  return line?.lastChild.textContent ?? "";
}

function count() {
  const graded = cards.filter((card) => grades.has(card.key)).length;
  byId("count").textContent = `${graded}/${cards.length} graded`;
  byId("progress").value = graded;
  for (const button of document.querySelectorAll("[data-filter]")) {
    const name = button.dataset.filter;
    button.setAttribute("aria-pressed", name === filter);
    button.lastChild.textContent = cards.filter((card) =>
      name === "all" || name === (grades.get(card.key) ?? "ungraded")).length;
  }
}

function show(card) {
  for (const one of cards) one.element.setAttribute("aria-selected", one === card);
  selected = card;
  const stage = document.querySelector(".stage");
  stage.hidden = !card;
  if (!card) return;
  const image = card.element.querySelector("img");
  Object.assign(byId("large"), { src: image.src, alt: image.alt });
  byId("rank").textContent = card.rank;
  byId("id").textContent = card.element.querySelector(".id").textContent;
  byId("values").replaceChildren(...[...card.element.querySelectorAll("dl div")].map((line) => line.cloneNode(true)));
  for (const button of stage.querySelectorAll("[data-grade]")) {
    button.setAttribute("aria-pressed", button.dataset.grade === grades.get(card.key));
  }
  list.setAttribute("aria-activedescendant", card.element.id);
}

function select(card) {
  show(card);
  card?.element.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const last = shown.length - 1;
  const at = Math.min(Math.max(shown.indexOf(selected) + step, 0), last);
  if (at >= 0) select(shown[at]);
}

function columns() {
  const top = shown[0]?.element.offsetTop;
  return shown.filter((card) => card.element.offsetTop === top).length;
}

function quote(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save() {
  const graded = cards.filter((card) => grades.has(card.key)).sort((one, other) => one.rank - other.rank);
  const lines = graded.map((card) =>
    [card.rank, quote(card.cell), card.numbers.get("score"), grades.get(card.key)].join(","));
  const text = ["rank,id,score,grade", ...lines, ""].join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "grades.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`Saved ${graded.length} grades as grades.csv`);
}

const ACTIONS = new Map([
  ["arrowleft", () => move(-1)], ["arrowright", () => move(1)],
  ["arrowup", () => move(-columns())], ["arrowdown", () => move(columns())],
  ["home", () => move(-cards.length)], ["end", () => move(cards.length)],
  ["u", undo], ["s", save],
  ...[...KEYS].map(([key, grade]) => [key, () => gradeSelected(grade)]),
]);

document.addEventListener("keydown", (event) => {
  const action = ACTIONS.get(event.key.toLowerCase());
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  event.preventDefault();
  // A key that is held moves on, but must not grade all that comes.
  if (!event.repeat || event.key.startsWith("Arrow")) action();
});
list.addEventListener("click", (event) => {
  const element = event.target.closest(".card");
  if (element) select(cards.find((card) => card.element === element));
});
for (const button of document.querySelectorAll(".stage [data-grade]")) {
  button.addEventListener("click", () => gradeSelected(button.dataset.grade));
}
for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => { filter = button.dataset.filter; startOver(); });
}
byId("undo").addEventListener("click", undo);
byId("save").addEventListener("click", save);
byId("direction").addEventListener("click", () => { ascending = !ascending; startOver(); });
byId("sort").addEventListener("change", (event) => {
  ascending = event.target.value === "rank";  // of any number the largest are looked at first
  event.target.blur();  // so that the next key grades
  startOver();
});
// Another tab with this page graded something.
window.addEventListener("storage", (event) => { if (event.key === KEPT) { readGrades(); arrange(); } });
window.addEventListener("beforeunload", (event) => { if (!byId("unkept").hidden) event.preventDefault(); });

readGrades();
arrange();
