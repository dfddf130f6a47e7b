// Sends many files to the library, each in pieces that are taken up again (tus 1.0): after a lost connection, a restart
// of the gateway, and, once the same files are chosen again, after a reload of this page. Without this script the form
// sends one file as any form does.

interface Row {
  file: File;
  item: HTMLElement;
  bar: HTMLProgressElement;
  words: HTMLElement;
  button: HTMLButtonElement;
  url: string | null;
  sent: number;
  state: "waiting" | "sending" | "paused" | "over";
  xhr: XMLHttpRequest | null;
  vain: number;
}

const PIECE = 8 * 1024 * 1024;
const AT_ONCE = 2;
const MOST_FILES = 2000;
const STORE = "mantel-uploads";

const form = document.getElementById("upload-form") as HTMLFormElement | null;
const rows: Row[] = [];
let list: HTMLElement;
let all: HTMLElement;
let allBar: HTMLProgressElement;

const size = (bytes: number): string =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;

// Which file belongs to which upload, for a page that is loaded again.
const mark = (file: File): string => `${file.name}/${file.size}/${file.lastModified}`;
function kept(): { [mark: string]: string } {
  try {
    return JSON.parse(localStorage.getItem(STORE) || "{}") as { [mark: string]: string };
  } catch {
    return {};
  }
}
function keep(file: File, url: string | null): void {
  const store = kept();
  if (url) store[mark(file)] = url;
  else delete store[mark(file)];
  try {
    localStorage.setItem(STORE, JSON.stringify(store));
  } catch {
    // no room or no leave: a reload begins again
  }
}

const base64 = (text: string): string => btoa(unescape(encodeURIComponent(text)));

function ask(row: Row, method: string, url: string, headers: { [name: string]: string }, body?: Blob): Promise<XMLHttpRequest> {
  return new Promise((answered, failed) => {
    const xhr = new XMLHttpRequest();
    row.xhr = xhr;
    xhr.open(method, url);
    xhr.setRequestHeader("Tus-Resumable", "1.0.0");
    xhr.setRequestHeader("Accept", "application/json");
    for (const name of Object.keys(headers)) xhr.setRequestHeader(name, headers[name]!);
    if (body) xhr.upload.onprogress = (event) => show(row, row.sent + event.loaded);
    xhr.onload = () => answered(xhr);
    xhr.onerror = xhr.onabort = xhr.ontimeout = () => failed(new Error("lost"));
    xhr.send(body || null);
  });
}

function show(row: Row, sent: number, words?: string): void {
  row.bar.value = row.file.size ? sent / row.file.size : 0;
  row.words.textContent = words || `${size(sent)} of ${size(row.file.size)}`;
  const bytes = rows.reduce((sum, one) => sum + one.file.size, 0);
  const done = rows.reduce((sum, one) => sum + (one === row ? sent : one.sent), 0);
  const over = rows.filter((one) => one.state === "over").length;
  allBar.value = bytes ? done / bytes : 0;
  all.textContent = `${over} of ${rows.length} files · ${size(done)} of ${size(bytes)}`;
}

function end(row: Row, words: string, title?: string | null): void {
  row.state = "over";
  row.button.hidden = true;
  keep(row.file, null);
  show(row, row.sent, words);
  row.item.setAttribute("data-upload", title ? "done" : "refused");
  if (!title) return;
  const link = document.createElement("a");
  link.href = `/library/${title}`;
  link.textContent = words;
  row.words.textContent = "";
  row.words.appendChild(link);
}

// The gateway refused: its own words, if it has any.
function refused(row: Row, xhr: XMLHttpRequest): void {
  let words = "The gateway refused this file.";
  try {
    const said = JSON.parse(xhr.responseText) as { what?: string; next?: string };
    words = [said.what || words, said.next].filter(Boolean).join(" ");
  } catch {
    // no words
  }
  end(row, words);
}

const passing = (status: number): boolean => status === 0 || status === 408 || status === 423 || status === 429 || (status >= 500 && status !== 507);

async function begin(row: Row): Promise<boolean> {
  const made = await ask(row, "POST", "/library/uploads", {
    "Upload-Length": String(row.file.size),
    "Upload-Metadata": `filename ${base64(row.file.name)},filetype ${base64(row.file.type)}`,
  });
  if (passing(made.status)) throw new Error("busy");
  if (made.status !== 201) {
    refused(row, made);
    return false;
  }
  row.url = made.getResponseHeader("Location");
  keep(row.file, row.url);
  return true;
}

function finished(row: Row, xhr: XMLHttpRequest): boolean {
  const title = xhr.getResponseHeader("Mantel-Title");
  if (!title) return false;
  row.sent = row.file.size;
  end(row, xhr.getResponseHeader("Mantel-Was-There") === "1" ? "Already in the library" : "In the library", title);
  return true;
}

// One step of a file; whether there is another.
async function step(row: Row, asked: boolean): Promise<boolean> {
  if (!row.url && !(await begin(row))) return false;
  if (asked) {
    const at = await ask(row, "HEAD", row.url!, {});
    if (passing(at.status)) throw new Error("busy");
    if (at.status === 404) {
      row.url = null; // too old: from the beginning
      row.sent = 0;
      return true;
    }
    if (at.status !== 200) return refused(row, at), false;
    if (finished(row, at)) return false;
    row.sent = Number(at.getResponseHeader("Upload-Offset")) || 0;
  }
  const piece = row.file.slice(row.sent, Math.min(row.file.size, row.sent + PIECE));
  const sent = await ask(row, "PATCH", row.url!, { "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(row.sent) }, piece);
  if (finished(row, sent)) return false;
  if (sent.status === 404 || sent.status === 409 || passing(sent.status)) throw new Error("again");
  if (sent.status !== 204) return refused(row, sent), false;
  row.sent = Number(sent.getResponseHeader("Upload-Offset")) || 0;
  row.vain = 0;
  show(row, row.sent);
  return true;
}

async function send(row: Row): Promise<void> {
  row.state = "sending";
  let asked = true;
  try {
    while (row.state === "sending" && (await step(row, asked))) asked = !row.url;
  } catch {
    row.xhr = null;
    if (row.state === "sending") {
      row.vain += 1;
      show(row, row.sent, "Waiting for the connection. Goes on by itself.");
      setTimeout(() => {
        if (row.state === "sending") row.state = "waiting";
        next();
      }, Math.min(30000, 500 * Math.pow(2, row.vain)));
      return;
    }
  }
  next();
}

function next(): void {
  const busy = rows.filter((row) => row.state === "sending").length;
  rows.filter((row) => row.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy)).forEach((row) => void send(row));
}

function pause(row: Row): void {
  if (row.state === "paused") {
    row.state = "waiting";
    row.button.textContent = "Pause";
    next();
    return;
  }
  row.state = "paused";
  row.button.textContent = "Go on";
  if (row.xhr) row.xhr.abort();
  show(row, row.sent, `Paused at ${size(row.sent)} of ${size(row.file.size)}`);
  next();
}

function add(file: File): void {
  if (rows.some((row) => row.state !== "over" && mark(row.file) === mark(file))) return;
  const item = document.createElement("li");
  item.className = "row wrap";
  item.setAttribute("data-upload", "open");
  const text = document.createElement("div");
  text.className = "grow";
  const name = document.createElement("h3");
  name.className = "one";
  name.textContent = file.name;
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", file.name);
  const words = document.createElement("p");
  words.className = "soft small num";
  words.setAttribute("role", "status");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tight";
  button.textContent = "Pause";
  [name, bar, words].forEach((part) => text.appendChild(part));
  [text, button].forEach((part) => item.appendChild(part));
  list.appendChild(item);
  const row: Row = { file, item, bar, words, button, url: kept()[mark(file)] || null, sent: 0, state: "waiting", xhr: null, vain: 0 };
  button.addEventListener("click", () => pause(row));
  rows.push(row);
  show(row, 0, "Waiting for the others");
}

function start(form: HTMLFormElement): void {
  const field = form.querySelector<HTMLInputElement>("input[type=file]")!;
  list = document.getElementById("upload-list")!;
  all = document.getElementById("upload-all")!;
  allBar = document.getElementById("upload-bar") as HTMLProgressElement;
  field.multiple = true;
  field.required = false;
  form.querySelector("button")!.hidden = true; // choosing sends
  const unfinished = Object.keys(kept()).length;
  const left = document.getElementById("upload-left")!;
  left.hidden = !unfinished;
  left.textContent = `${unfinished === 1 ? "One file was" : `${unfinished} files were`} not sent whole. Choose the same files again: what is here already is not sent again.`;
  const choose = (files: FileList | null): void => {
    [].slice.call(files || [], 0, MOST_FILES).forEach((file: File) => add(file));
    document.getElementById("upload-rows")!.hidden = rows.length === 0;
    left.hidden = true;
    next();
  };
  field.addEventListener("change", () => {
    choose(field.files);
    field.value = "";
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("online", next);
  window.addEventListener("beforeunload", (event) => {
    if (rows.some((row) => row.state === "sending")) event.returnValue = "Files are being sent.";
  });
}

if (form) start(form);
