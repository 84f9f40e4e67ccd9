"use strict";
(() => {
  const main = document.getElementById("overview");
  const stale = document.getElementById("stale");
  const live = document.getElementById("live");
  const every = 2000, patience = 10000;
  let since = null, timer = 0, asking = false;

  // Existing nodes are changed, not replaced. So open details, focus, selection and scroll position stay.
  function patch(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name, value } of fresh.attributes)
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes])
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    patchChildren(old, fresh);
  }

  function patchChildren(old, fresh) {
    const named = new Map([...old.children].filter((node) => node.id).map((node) => [node.id, node]));
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const found = next.id ? named.get(next.id) : at && !at.id ? at : null;
      if (!found || found.nodeName !== next.nodeName) {
        old.insertBefore(next, at);
        continue;
      }
      if (found === at) at = at.nextSibling;
      else if (old.moveBefore) old.moveBefore(found, at);
      else old.insertBefore(found, at);
      patch(found, next);
    }
    while (at) {
      const removed = at;
      at = at.nextSibling;
      removed.remove();
    }
  }

  function show(text) {
    const fresh = document.createElement("template");
    fresh.innerHTML = text;
    const focused = document.activeElement;
    patchChildren(main, fresh.content);
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  function say(trouble) {
    if (trouble) {
      since = since || new Date();
      const text = `Stale since ${since.toLocaleTimeString()}: ${trouble}`;
      if (stale.textContent !== text) stale.textContent = text;
    } else since = null;
    stale.hidden = !trouble;
    main.classList.toggle("old", !!trouble);
    live.textContent = trouble ? "stale" : "live";
  }

  async function update() {
    if (asking || document.hidden) return;
    asking = true;
    const abort = new AbortController();
    const late = setTimeout(() => abort.abort(), patience);
    try {
      const answer = await fetch("-/overview", { cache: "no-store", signal: abort.signal });
      if (answer.ok) {
        show(await answer.text());
        say("");
      } else say(`the exporter answers ${answer.status}`);
    } catch {
      say("the exporter does not answer");
    }
    clearTimeout(late);
    asking = false;
    clearTimeout(timer);
    timer = setTimeout(update, every);
  }

  document.addEventListener("visibilitychange", update);
  live.textContent = "live";
  timer = setTimeout(update, every);
})();
