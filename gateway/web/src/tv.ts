// Ten-foot pages: arrow keys, OK and Back. Made for the browsers of televisions from 2018 on.
import { getNextFocus } from "@bbc/tv-lrud-spatial";

// Back: Escape, Backspace, XF86Back, webOS and HbbTV (461), Tizen (10009).
const isBack = (event: KeyboardEvent): boolean =>
  /^(Escape|Esc|Backspace|GoBack|BrowserBack|XF86Back)$/.test(event.key || "") ||
  [8, 27, 166, 461, 10009].indexOf(event.keyCode) >= 0;
const isOk = (event: KeyboardEvent): boolean => event.key === "Enter" || event.keyCode === 13;
const sideways = (event: KeyboardEvent): number =>
  event.keyCode === 37 || event.keyCode === 412 ? -1 : event.keyCode === 39 || event.keyCode === 417 ? 1 : 0;

const LAST = "mantel-tv-last";
const remember = (id: string): void => {
  try {
    sessionStorage.setItem(LAST, id);
  } catch {
    // private browsing: the focus starts at the first tile
  }
};

function reveal(tile: HTMLElement): void {
  const line = tile.closest(".line");
  const shelves = document.querySelector(".shelves");
  if (line) {
    const box = tile.getBoundingClientRect();
    const frame = line.getBoundingClientRect();
    const edge = frame.width * 0.05;
    if (box.left < frame.left + edge) line.scrollLeft -= frame.left + edge - box.left;
    else if (box.right > frame.right - edge) line.scrollLeft += box.right - frame.right + edge;
  }
  const shelf = tile.closest(".shelf");
  if (shelves && shelf) {
    const frame = shelves.getBoundingClientRect();
    shelves.scrollTop += shelf.getBoundingClientRect().top - frame.top - frame.height * 0.02;
  }
}

function browse(): void {
  const tiles = document.querySelectorAll<HTMLElement>(".tile, .button");
  let first: HTMLElement | null = null;
  try {
    const last = sessionStorage.getItem(LAST);
    first = last ? document.getElementById(last) : null;
  } catch {
    first = null;
  }
  first = first || tiles[0] || null;
  if (first) {
    first.focus();
    reveal(first);
  }
  document.addEventListener("focusin", (event) => {
    const tile = event.target as HTMLElement;
    if (tile.id) remember(tile.id);
    reveal(tile);
  });
  document.addEventListener("keydown", (event) => {
    if (isBack(event)) {
      const back = document.querySelector<HTMLElement>("[data-back]");
      event.preventDefault();
      if (back) back.click();
      else if (tiles[0]) tiles[0].focus();
      return;
    }
    if (event.keyCode < 37 || event.keyCode > 40) return;
    event.preventDefault();
    const at = document.activeElement as HTMLElement | null;
    if (!at || at === document.body) {
      if (tiles[0]) tiles[0].focus();
      return;
    }
    const next = getNextFocus(at, event.keyCode);
    if (next) next.focus();
  });
}

const clock = (seconds: number): string => {
  const whole = Math.max(0, Math.floor(seconds));
  const pad = (n: number): string => (n < 10 ? "0" : "") + n;
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
};

function leave(): void {
  location.href = "/tv";
}

function watch(screen: HTMLElement): void {
  const media = document.getElementById("player") as HTMLElement;
  const osd = document.getElementById("osd") as HTMLElement;
  const fault = document.getElementById("fault") as HTMLElement;
  const press = (id: string): void => {
    const button = document.getElementById(id);
    if (button) button.click();
  };
  let hiding = 0;
  const show = (): void => {
    osd.classList.add("on");
    clearTimeout(hiding);
    hiding = window.setTimeout(() => {
      if (!(media instanceof HTMLMediaElement) || !media.paused) osd.classList.remove("on");
    }, 4000);
  };
  show();
  screen.addEventListener("click", show);
  if (!(media instanceof HTMLMediaElement)) {
    document.addEventListener("keydown", (event) => {
      if (isBack(event)) leave();
      else if (sideways(event) < 0) press("previous");
      else if (sideways(event) > 0) press("next");
      else show();
      event.preventDefault();
    });
    return;
  }
  const bar = document.getElementById("bar") as HTMLProgressElement;
  const here = document.getElementById("here") as HTMLElement;
  const end = document.getElementById("end") as HTMLElement;
  const sign = document.getElementById("sign") as HTMLElement;
  let wanted: number | null = null; // where left and right lead; taken when the keys rest
  let taking = 0;
  let step = 10;
  const draw = (): void => {
    const at = wanted === null ? media.currentTime : wanted;
    const length = isFinite(media.duration) ? media.duration : 0;
    bar.max = length || 1;
    bar.value = Math.min(at, bar.max);
    here.textContent = clock(at);
    end.textContent = length ? clock(length) : "";
    sign.textContent = media.paused ? "❚❚" : "▶";
  };
  for (const name of ["timeupdate", "durationchange", "play", "pause", "seeked"]) media.addEventListener(name, draw);
  media.addEventListener("pause", show);
  media.addEventListener("ended", leave);
  media.addEventListener("error", () => {
    fault.hidden = false;
  });
  const toggle = (): void => {
    if (media.paused) void media.play();
    else media.pause();
    show();
  };
  const seek = (direction: number): void => {
    const from = wanted === null ? media.currentTime : wanted;
    const length = isFinite(media.duration) ? media.duration : from;
    wanted = Math.min(Math.max(0, from + direction * step), Math.max(0, length - 1));
    step = Math.min(60, step + 5); // held down, it goes faster
    clearTimeout(taking);
    taking = window.setTimeout(() => {
      if (wanted !== null) media.currentTime = wanted;
      wanted = null;
      step = 10;
    }, 450);
    draw();
    show();
  };
  document.addEventListener("keydown", (event) => {
    const way = sideways(event);
    if (isBack(event) || event.key === "MediaStop" || event.keyCode === 413) leave();
    else if (way) seek(way);
    else if (isOk(event) || event.key === " " || /^MediaPlay/.test(event.key) || [415, 19, 179, 10252].indexOf(event.keyCode) >= 0)
      toggle();
    else show();
    event.preventDefault();
  });
  const started = media.play() as Promise<void> | undefined;
  if (started) started.catch(show); // autoplay with sound may need OK once
  draw();
}

// A television that is not let in yet asks now and then whether someone approved its code.
function wait(): void {
  const ask = (): void => {
    fetch("/tv/pair/poll", { method: "POST", credentials: "same-origin", headers: { Accept: "application/json" } })
      .then((answer) => answer.json())
      .then((answer: { state: string }) => {
        if (answer.state === "waiting") setTimeout(ask, 2000);
        else location.href = "/tv";
      })
      .catch(() => setTimeout(ask, 5000));
  };
  setTimeout(ask, 2000);
}

const screenElement = document.getElementById("screen");
if (document.getElementById("tv-code")) wait();
else if (screenElement) watch(screenElement);
else browse();
