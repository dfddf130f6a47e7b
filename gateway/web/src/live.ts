// Live progress on the household's pages. Everything works without it; then a reload shows the same.
//
// The server sends one event per area: {version, items}. An element with data-live="area" shows that area; when its
// data-version differs from the event's, its part of the page is fetched again. Between such changes only figures move.

interface Item {
  id: string;
  percent?: number;
  at_s?: number;
  text?: string;
}
interface News {
  version: string;
  items?: Item[];
}

const regions = (area: string): HTMLElement[] =>
  [].slice.call(document.querySelectorAll(`[data-live~="${area}"]`));
const shown = (region: Element, area: string): string | null => region.getAttribute(`data-version-${area}`);

let stale = false;
let busy = false;

function typingInside(): boolean {
  const at = document.activeElement;
  return !!at && /^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName) && !!at.closest("[data-live]");
}

async function refresh(): Promise<void> {
  if (busy || typingInside()) {
    stale = true;
    return;
  }
  busy = true;
  stale = false;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (answer.ok && !answer.redirected) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of [].slice.call(document.querySelectorAll("[data-live]")) as HTMLElement[]) {
        const next = fresh.getElementById(old.id);
        if (next && !old.contains(document.activeElement)) old.replaceWith(document.importNode(next, true));
        else if (next && !typingInside()) old.replaceWith(document.importNode(next, true));
      }
    }
  } catch {
    stale = true; // the gateway is away: the next event asks again
  }
  // At most one refresh a second.
  setTimeout(() => {
    busy = false;
    if (stale) void refresh();
  }, 1000);
}

function move(area: string, items: Item[]): void {
  for (const item of items) {
    const rows = document.querySelectorAll(`[data-row="${area}:${CSS.escape(item.id)}"]`);
    for (const row of [].slice.call(rows) as HTMLElement[]) {
      const bar = row.querySelector("progress");
      if (bar && item.percent !== undefined) bar.value = item.percent;
      const place = row.querySelector<HTMLInputElement>("input[name=position]");
      if (place && item.at_s !== undefined && place !== document.activeElement) place.value = String(item.at_s);
      const words = row.querySelector("[data-words]");
      if (words && item.text !== undefined && words.textContent !== item.text) words.textContent = item.text;
    }
  }
}

function listen(): void {
  if (!document.querySelector("[data-live]") || !window.EventSource) return;
  const source = new EventSource("/events");
  for (const area of ["orders", "playing", "imports", "library", "listings", "devices", "homes", "link", "recordings", "updates"]) {
    source.addEventListener(area, (event) => {
      const news = JSON.parse((event as MessageEvent).data as string) as News;
      if (regions(area).some((region) => shown(region, area) !== news.version)) void refresh();
      else move(area, news.items || []);
    });
  }
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => {
    if ((event as PageTransitionEvent).persisted) location.reload();
  });
}

// Forms marked data-quiet (pause, volume …) are sent without leaving the page.
document.addEventListener("submit", (event) => {
  const form = event.target as HTMLFormElement;
  if (!form.hasAttribute("data-quiet")) return;
  event.preventDefault();
  // Not form.action: that is the field named "action".
  const fields = new URLSearchParams();
  new FormData(form).forEach((value, key) => fields.append(key, String(value)));
  fetch(form.getAttribute("action") || location.href, {
    method: "POST",
    body: fields,
    headers: { Accept: "application/json" },
    credentials: "same-origin",
  })
    .then((answer) => answer.json())
    .then((answer: { ok: boolean; what?: string; next?: string }) => {
      if (answer.ok) return;
      const words = form.closest("[data-live], section, main")?.querySelector("[data-refused]");
      if (words) {
        words.textContent = [answer.what, answer.next].filter(Boolean).join(" ");
        (words as HTMLElement).hidden = false;
      }
    })
    .catch(() => location.reload());
});
document.addEventListener("change", (event) => {
  const field = event.target as HTMLInputElement;
  if (field.type !== "range" && !field.hasAttribute("data-send")) return;
  const form = field.form;
  field.blur(); // from now on it follows what plays again
  if (form) form.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }));
});
// The first page tells the box in which time zone it stands.
const zone = document.querySelector<HTMLInputElement>("input[data-zone]");
if (zone && window.Intl) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
// Sliders are sent when let go: their buttons are for pages without this script.
document.documentElement.classList.add("js");
document.addEventListener("focusout", () => {
  if (stale && !busy) void refresh();
});
listen();

// A camera's picture is fetched again every few seconds while the page is looked at.
setInterval(() => {
  if (document.hidden) return;
  for (const old of [].slice.call(document.querySelectorAll("img[data-still]")) as HTMLImageElement[]) {
    const next = new Image();
    next.onload = () => {
      old.src = next.src;
    };
    next.src = old.src.split("?")[0] + "?at=" + Date.now();
  }
}, 5000);
