// The page of one room, over one WebSocket.
//
// The rows on the server are the truth, and the socket brings the news of them. `last` is the id up
// to which this page has every line; after any silence it asks for what came since. A typed line
// waits in the outbox until the server has shown it to us, and is sent again if we cannot know:
// the nonce makes sure that it is kept only once.

const $ = (id) => document.getElementById(id);
const room = document.querySelector("[data-room]").dataset.room;
const log = $("log"); // scrolls, and holds the lines
const lines = $("lines");
const text = $("text");
const title = document.title;

const HEARTBEAT = 25_000;
const ANSWER_WITHIN = 10_000;
const ONE_BREATH = 5 * 60_000; // lines of one person within this time stand together
const KEPT = 1_000; // lines on the page
const REJOIN = 100; // heartbeats, about 40 minutes: layers forget members after a day without a join

let name = sessionStorage.getItem("name") || ""; // as the server knows us
let wish = name; // as we would like to be known
const visitor = (localStorage.visitor ??= newNonce()); // all tabs of this browser
let socket = null;
let joined = false;
let last = null;
let pause = 250;
let retry = 0;
let deadline = 0;
let beats = 0;
let unread = 0;
let following = true; // the newest line is in sight
const outbox = new Map(); // nonce → the item that waits in the list

// The socket

function connect() {
  clearTimeout(retry);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws/chat/${encodeURIComponent(room)}`);
  socket.onopen = join;
  socket.onmessage = (event) => {
    clearTimeout(deadline);
    const message = JSON.parse(event.data);
    receive[message.type](message);
  };
  socket.onclose = () => {
    clearTimeout(deadline);
    joined = false;
    showStatus("away", "Connecting again…");
    retry = setTimeout(connect, pause * (0.5 + Math.random()));
    pause = Math.min(pause * 2, 5_000);
  };
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function join() {
  send({ type: "join", name: wish, visitor, after: last });
}

function catchUp() {
  send({ type: "catch_up", after: last });
}

// A socket whose other end has vanished stays open for minutes. So ask, and expect an answer.
function heartbeat() {
  if (!joined) return;
  if (++beats % REJOIN) catchUp();
  else join();
  clearTimeout(deadline);
  deadline = setTimeout(() => socket.close(), ANSWER_WITHIN);
}

const receive = {
  welcome(message) {
    joined = true;
    pause = 250;
    name = wish = message.name;
    sessionStorage.setItem("name", name);
    localStorage.setItem("name", name);
    showStatus("here", `Online: process ${message.process}`);
    for (const [nonce, item] of outbox) say(nonce, item.words);
  },

  lines(message) {
    if (last !== null && message.newest < last) {
      location.reload(); // the server has another database than before
      return;
    }
    const first = last === null;
    for (const line of message.lines) show(line);
    last = Math.max(last ?? 0, ...message.lines.map((line) => line.id));
    if (message.more) {
      catchUp();
      return;
    }
    log.setAttribute("aria-busy", "false");
    if (first) {
      toBottom();
      $("earlier").hidden = !message.earlier;
    }
    $("empty").hidden = lines.childElementCount > 0;
  },

  // Insert above the lines being read, which stay in place. A screen reader skips old lines.
  earlier(message) {
    const below = log.scrollHeight - log.scrollTop;
    log.setAttribute("aria-live", "off");
    following = false;
    for (const line of message.lines) show(line);
    $("earlier").hidden = !message.more;
    log.scrollTop = log.scrollHeight - below;
    if (document.activeElement === document.body) log.focus({ preventScroll: true });
    setTimeout(() => log.removeAttribute("aria-live"));
  },

  line(message) {
    show(message.line);
    if (message.previous > last) catchUp();
    else last = Math.max(last, message.line.id);
    if (document.hidden && message.line.name !== name) {
      unread += 1;
      document.title = `(${unread}) ${title}`;
    }
  },

  people(message) {
    $("count").textContent = message.names.length;
    $("people").replaceChildren(
      ...message.names.map((person) =>
        element("li", { data: { name: person } }, avatar(person), element("bdi", {}, person), person === name ? small("you") : "")
      )
    );
  },

  refused(message) {
    const item = outbox.get(message.nonce);
    if (item) {
      outbox.delete(message.nonce);
      item.remove();
      text.value = [item.words, text.value].filter(Boolean).join("\n");
      fit();
      notice(message.reason);
      text.focus();
    } else if (message.about === "name") {
      if (!joined) name = "";
      askName(message.reason);
    } else {
      notice(message.reason);
    }
  },

  summary(message) {
    showSummary(message.summary);
  },
};

// Lines

function show(line) {
  let item = outbox.get(line.nonce);
  if (item) {
    outbox.delete(line.nonce);
    item.classList.remove("waiting");
  } else if (document.querySelector(`#lines > [data-id="${line.id}"]`)) {
    return;
  } else {
    item = lineItem(line.name, line.text);
  }
  const when = new Date(line.at);
  item.dataset.id = line.id;
  item.dataset.at = when.getTime();
  item.dataset.date = when.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
  const time = item.querySelector("time");
  time.dateTime = line.at;
  time.textContent = when.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
  time.title = when.toLocaleString();
  place(item);
}

function lineItem(person, words) {
  return element(
    "li",
    { className: person === name ? "line mine" : "line", data: { name: person } },
    avatar(person),
    element(
      "div",
      { className: "bubble" },
      element("p", { className: "who", hue: hue(person) }, element("b", { dir: "auto" }, person), " ", element("time", {})),
      element("p", { className: "words", dir: "auto" }, words)
    )
  );
}

// In the order of ids; lines that still wait stand at the end.
function place(item) {
  const id = Number(item.dataset.id ?? Infinity);
  let after = item.isConnected ? item.previousElementSibling : lines.lastElementChild;
  while (after && Number(after.dataset.id ?? Infinity) > id) after = after.previousElementSibling;
  const place = after ? after.nextElementSibling : lines.firstElementChild;
  if (place !== item) lines.insertBefore(item, place);
  $("empty").hidden = true;
  group(item);
  if (item.nextElementSibling) group(item.nextElementSibling);
  if (following || item.classList.contains("waiting")) {
    while (lines.childElementCount > KEPT) {
      lines.firstElementChild.remove();
      group(lines.firstElementChild);
      $("earlier").hidden = false;
    }
    toBottom();
  } else if (id > last && id !== Infinity && !item.classList.contains("mine")) {
    $("newer").hidden = false;
  }
}

// Show the day once, and the name once for lines of one person that follow each other quickly.
function group(item) {
  const before = item.previousElementSibling;
  const near = (item.dataset.at ?? Date.now()) - (before?.dataset.at ?? 0) < ONE_BREATH;
  item.classList.toggle("follows", near && before?.dataset.name === item.dataset.name);
  const day = item.dataset.date;
  if (day && day !== before?.dataset.date) item.dataset.day = day;
  else delete item.dataset.day;
}

const atBottom = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

function toBottom() {
  following = true;
  log.scrollTop = log.scrollHeight;
  $("newer").hidden = true;
}

// Writing

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words) {
    notice("There is nothing in this line yet. Write a word or two.");
    text.focus();
    return;
  }
  if (!name) {
    askName();
    return;
  }
  const nonce = newNonce();
  const item = lineItem(name, words);
  item.classList.add("waiting");
  item.querySelector("time").textContent = "on its way…";
  item.words = words;
  outbox.set(nonce, item);
  place(item);
  if (joined) say(nonce, words);
  text.value = "";
  notice("");
  fit();
});

function say(nonce, words) {
  send({ type: "say", nonce, text: words });
}

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

text.addEventListener("input", () => {
  notice("");
  fit();
});

// As high as its content, and near the limit the number of characters that are left.
function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  const left = Number(text.dataset.max) - [...text.value].length;
  $("left").textContent = left < 100 ? left : "";
  $("left").classList.toggle("over", left < 0);
}

// crypto.randomUUID() exists on https and localhost only; a phone in the LAN comes by http.
function newNonce() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

// The name

function askName(why = "") {
  $("name").value = wish || localStorage.getItem("name") || "";
  $("naming-notice").textContent = why;
  $("naming-notice").hidden = !why;
  if (!$("naming").open) $("naming").showModal();
  $("name").select();
}

$("naming").addEventListener("submit", () => {
  wish = $("name").value.trim();
  $("join").hidden = true;
  if (!socket) connect();
  else join();
  text.focus();
});
$("naming").addEventListener("cancel", () => {
  wish = name;
  $("join").hidden = Boolean(name); // the way back in, if we have none yet
});
$("rename").addEventListener("click", () => askName());
$("join").addEventListener("click", () => askName());

// The summary: the answer comes from a worker, if one runs

let patience = 0;

$("summarise").addEventListener("click", () => {
  $("summary-body").replaceChildren(element("p", {}, "Counting…"));
  $("summary").showModal();
  send({ type: "summarise" });
  clearTimeout(patience);
  patience = setTimeout(() => {
    $("summary-body").replaceChildren(
      element("p", {}, "No answer yet. Is a worker running? This command, in another terminal, starts one:"),
      element("p", {}, element("code", {}, $("summary-body").dataset.worker))
    );
  }, 5_000);
});

function showSummary(summary) {
  clearTimeout(patience);
  const most = Math.max(1, ...summary.talkers.map((talker) => talker.lines));
  const count = summary.lines === 1 ? "1 line" : `${summary.lines} lines`;
  const since = summary.first ? ` since ${new Date(summary.first).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}` : "";
  $("summary-body").replaceChildren(
    element("p", {}, element("strong", {}, count), `${since}.`),
    element(
      "ul",
      { className: "talkers" },
      ...summary.talkers.map((talker) =>
        element("li", { hue: hue(talker.name), share: talker.lines / most }, element("span", { dir: "auto" }, talker.name), " ", small(talker.lines))
      )
    ),
    element("ul", { className: "words-used" }, ...summary.words.map((word) => element("li", { dir: "auto" }, word))),
    element("p", { className: "fine" }, `Counted by the worker, process ${summary.process}.`)
  );
}

// Elements. Text goes in as text and never as markup.

function element(tag, { className, dir, data, hue, share }, ...children) {
  const made = document.createElement(tag);
  if (dir) made.dir = dir;
  if (className) made.className = className;
  Object.assign(made.dataset, data);
  if (hue !== undefined) made.style.setProperty("--hue", hue);
  if (share !== undefined) made.style.setProperty("--share", share);
  made.append(...children);
  return made;
}

const small = (words) => element("small", {}, words);

function avatar(person) {
  const made = element("span", { className: "avatar", hue: hue(person) }, [...person][0].toUpperCase());
  made.setAttribute("aria-hidden", "true");
  return made;
}

function hue(person) {
  let sum = 0;
  for (const character of person) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return (sum * 137) % 360;
}

function showStatus(state, words) {
  if ($("status").textContent === words) return; // said once is enough for a screen reader
  $("status").dataset.state = state;
  $("status").textContent = words;
}

// The rest of the page

$("people-toggle").addEventListener("click", () => showAside($("people-toggle").ariaExpanded !== "true"));
$("newer").addEventListener("click", toBottom);
$("earlier").addEventListener("click", () => {
  send({ type: "earlier", before: lines.querySelector("[data-id]").dataset.id });
});
log.addEventListener("scroll", () => {
  following = atBottom();
  if (following) $("newer").hidden = true;
});
// A phone's keyboard takes half of the list away: keep the newest line in sight.
new ResizeObserver(() => following && toBottom()).observe(log);

function showAside(open) {
  $("people-toggle").ariaExpanded = String(open);
  $("aside").classList.toggle("open", open);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("people-toggle").ariaExpanded === "true") {
    showAside(false);
    $("people-toggle").focus();
  }
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  heartbeat();
});
window.addEventListener("online", () => {
  if (socket?.readyState === WebSocket.CLOSED) connect();
});

// A browser may keep a page that was left, socket and all, for the way back. To the others it is gone.
window.addEventListener("pagehide", () => {
  if (!socket) return;
  socket.onclose = null;
  socket.close();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted && socket) connect();
});
setInterval(heartbeat, HEARTBEAT);

if (name) connect();
else askName();
