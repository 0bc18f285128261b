// Puts a newer page in place of what is shown, node by node: focus, scrolling and open parts stay.
"use strict";

const EVERY_MS = 3000;
// What is open, and which line stands out, is the reader's.
const THEIRS = new Set(["open", "data-on"]);
let mark = "";

// The token came with the first address; a cookie has it now, and neither history nor bookmarks shall.
if (new URLSearchParams(location.search).has("token")) {
  history.replaceState(null, "", location.pathname);
}

function localise(root) {
  const style = { dateStyle: "medium", timeStyle: "short" };
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.textContent = moment.toLocaleString([], style);
  }
}

function morph(was, is) {
  if (was.isEqualNode(is)) return;
  if (was.nodeName !== is.nodeName || was.nodeType !== Node.ELEMENT_NODE) {
    was.replaceWith(document.importNode(is, true));
    return;
  }
  for (const { name } of [...was.attributes]) {
    if (!is.hasAttribute(name) && !THEIRS.has(name)) was.removeAttribute(name);
  }
  for (const { name, value } of is.attributes) {
    if (was.getAttribute(name) !== value) was.setAttribute(name, value);
  }
  const [before, after] = [[...was.childNodes], [...is.childNodes]];
  after.forEach((node, at) => {
    if (at < before.length) morph(before[at], node);
    else was.append(document.importNode(node, true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

async function update() {
  if (document.hidden) return;
  const alarm = document.getElementById("alarm");
  try {
    const answer = await fetch(location.pathname, { headers: { "If-None-Match": mark } });
    alarm.hidden = answer.status === 200 || answer.status === 304;
    if (answer.status !== 200) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    localise(page);
    for (const part of ["header", "main"]) {
      morph(document.querySelector(part), page.querySelector(part));
    }
    mark = answer.headers.get("ETag") ?? "";
  } catch {
    alarm.hidden = false;
  }
}

// The line of the member whose row is pointed at, or has the focus, stands out.
function highlight(event) {
  const member = event.target.closest?.("tr[data-member]")?.dataset.member;
  for (const line of document.querySelectorAll("polyline[data-member]")) {
    line.toggleAttribute("data-on", line.dataset.member === member);
  }
}

async function follow() {
  await update();
  setTimeout(follow, EVERY_MS);
}

localise(document);
document.addEventListener("pointerover", highlight);
document.addEventListener("focusin", highlight);
document.addEventListener("visibilitychange", update);
setTimeout(follow, EVERY_MS);
