// The create page: asks how the session is and shows its current code, until it is connected; then it goes to the list.
"use strict";

(() => {
  const link = document.getElementById("link");
  if (!link || link.dataset.state === "new") return;
  const PAUSE = 1500; // milliseconds between two looks
  const FAREWELL = 2500; // milliseconds in which the page says that the account is linked
  const status = document.getElementById("status");
  const qr = document.getElementById("qr");
  const redirecting = document.getElementById("redirecting");
  const form = link.querySelector("form");
  const steps = link.querySelector(".steps");
  const renews = link.querySelector(".renews");
  const words = document.getElementById("words").dataset;
  let shown = null;

  const say = (text) => {
    if (status.textContent !== text) status.textContent = text;
  };

  const show = ({ status: state, qr: code, side, modules }) => {
    const pending = state === "pending";
    if (pending && code !== shown) {
      drawQr(qr, side, modules, link.dataset.label);
      qr.dataset.qr = code;
      shown = code;
    } else if (!pending) {
      qr.replaceChildren();
      delete qr.dataset.qr;
      shown = null;
    }
    if (state === "connected" && link.dataset.state !== state) {
      setTimeout(() => location.assign("/dashboard/sessions"), FAREWELL);
    }
    link.dataset.state = state;
    qr.classList.toggle("busy", state === "connecting");
    const waits = state === "connecting" && !code;
    say(waits ? link.dataset.waiting : link.dataset[state]);
    redirecting.hidden = state !== "connected";
    steps.hidden = state === "connected" || (state === "connecting" && Boolean(code));
    renews.hidden = !pending;
    form.hidden = state !== "disconnected";
  };

  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(`/dashboard/sessions/create/qr?id=${encodeURIComponent(link.dataset.id)}`, {
          headers: { accept: "application/json" },
          signal: AbortSignal.timeout(10000),
        });
        if (answer.redirected) return location.reload();
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        show(await answer.json());
      } catch {
        say(words.offline);
      }
    }
    setTimeout(look, PAUSE);
  };
  look();
})();
