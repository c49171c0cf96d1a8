// What all pages of the dashboard share, and the session list: it stays current, sends, copies and deletes.
"use strict";

(() => {
  const words = document.getElementById("words").dataset;
  const toasts = document.getElementById("toasts");

  /** Says something for a few seconds, to eyes and to screen readers. */
  const toast = (text, kind = "good") => {
    const made = document.createElement("p");
    made.className = `toast ${kind}`;
    made.textContent = text;
    toasts.append(made);
    while (toasts.children.length > 3) toasts.firstChild.remove();
    setTimeout(() => made.remove(), 6000);
  };

  /** Times in the reader's own zone and language. */
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const date = new Date(time.dateTime);
      if (Number.isNaN(date.getTime())) continue;
      const today = date.toDateString() === new Date().toDateString();
      const form = today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
      time.textContent = new Intl.DateTimeFormat(document.documentElement.lang, form).format(date);
      time.title = date.toLocaleString(document.documentElement.lang);
    }
  };

  const list = document.getElementById("sessions");
  /** What the gateway said of a card. The name that a new session is offered is another one each time. */
  const said = (card) => (card.dataset.card ? card.outerHTML : card.className);
  // Before the times are rewritten: what was said is compared, not what is shown.
  let known = new Map([...(list?.children ?? [])].map((card) => [card.dataset.card ?? "", said(card)]));
  localTimes(document);

  // A form that starts something says so and is sent once.
  document.addEventListener("submit", (event) => {
    const button = event.target.matches("main form[method=post]") && event.target.querySelector("button[type=submit]");
    if (!button) return;
    setTimeout(() => {
      button.disabled = true;
      if (event.target.action.endsWith("/create")) button.textContent = words.starting;
    });
  });
  // Back from the browser's memory the button works again.
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  if (!list) return;
  // Milliseconds until the next look: a long list is looked at less often.
  const pause = () => Math.max(3000, 30 * list.children.length);
  const sending = document.getElementById("send-text");
  const deleting = document.getElementById("delete-session");

  /** Takes the cards of a fresh page: what is the same stays, so that focus and selection do too. */
  const take = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("sessions");
    if (!fresh) return location.reload();
    list.dataset.csrf = fresh.dataset.csrf;
    const old = new Map([...list.children].map((card) => [card.dataset.card ?? "", card]));
    const next = new Map();
    [...fresh.children].forEach((card, at) => {
      const id = card.dataset.card ?? "";
      let here = old.get(id);
      old.delete(id);
      next.set(id, said(card));
      if (!here || known.get(id) !== next.get(id)) {
        const focused = here?.contains(document.activeElement) && Object.keys(document.activeElement.dataset)[0];
        const was = here?.dataset.status;
        const made = document.importNode(card, true);
        localTimes(made);
        if (here) here.replaceWith(made);
        here = made;
        if (focused) made.querySelector(`[data-${focused}]:not([hidden])`)?.focus();
        if (was && was !== card.dataset.status) {
          toast(`${id}: ${words[card.dataset.status]}`, card.dataset.status === "disconnected" ? "bad" : "good");
        }
      }
      if (list.children[at] !== here) list.insertBefore(here, list.children[at] ?? null);
    });
    for (const gone of old.values()) gone.remove();
    known = next;
  };

  let away = false;
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(10000) });
        if (answer.redirected) return location.reload();
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        take(await answer.text());
        away = false;
      } catch {
        if (!away) toast(words.offline, "bad");
        away = true;
      }
    }
    setTimeout(look, pause());
  };
  setTimeout(look, pause());

  const open = (dialog, id, button) => {
    dialog.dataset.of = id;
    dialog.querySelector("[data-of]").textContent = id;
    dialog.querySelector(".error").textContent = "";
    dialog.showModal();
    // The card may be another one when the dialog ends: its button is found again by name.
    const name = Object.keys(button.dataset)[0];
    dialog.addEventListener(
      "close",
      () => {
        const same = [...list.querySelectorAll(`[data-${name}]`)].find((other) => other.dataset[name] === id);
        (same ?? list.querySelector("a"))?.focus();
      },
      { once: true },
    );
  };

  /** Runs what a dialog's button does: once at a time, and an error stays in the dialog. */
  const submit = (dialog, busy, act) =>
    dialog.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = dialog.querySelector("[data-submit]");
      if (button.disabled) return;
      const error = dialog.querySelector(".error");
      const label = button.textContent;
      error.textContent = "";
      button.disabled = true;
      if (busy) button.textContent = busy;
      try {
        const problem = await act(dialog.dataset.of, new FormData(event.target));
        if (problem === undefined) dialog.close();
        else error.textContent = problem;
      } catch {
        error.textContent = words.failed;
      } finally {
        button.disabled = false;
        button.textContent = label;
      }
    });

  const reason = async (answer) => {
    const body = await answer.json().catch(() => ({}));
    return body.error ?? body.message ?? words.failed;
  };

  submit(sending, words.sending, async (session, form) => {
    const answer = await fetch("/dashboard/messages/send-text-api", {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": list.dataset.csrf },
      body: JSON.stringify({ session, to: form.get("to"), message: form.get("message") }),
    });
    if (answer.redirected) return location.reload();
    if (!answer.ok) return reason(answer);
    toast(words.sent);
    document.getElementById("send-message").value = "";
  });

  submit(deleting, null, async (id) => {
    const answer = await fetch("/dashboard/sessions/delete", {
      method: "POST",
      headers: { "x-csrf-token": list.dataset.csrf },
      body: new URLSearchParams({ id }),
    });
    if (answer.url.endsWith("/auth/login")) return location.reload();
    if (!answer.ok) return reason(answer);
    toast(words.deleted);
    take(await answer.text());
  });

  for (const dialog of [sending, deleting]) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without TLS browsers have no clipboard for pages: the old way still works.
      const field = document.createElement("textarea");
      field.value = text;
      field.className = "visually-hidden";
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      if (!done) return toast(words.failed, "bad");
    }
    toast(words.copied);
  };

  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { session, copy: text, delete: id } = button.dataset;
    if (session !== undefined) open(sending, session, button);
    else if (text !== undefined) copy(text);
    else if (id !== undefined) open(deleting, id, button);
  });
})();
