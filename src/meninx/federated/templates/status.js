"use strict";
// Fetches the page again every second and replaces the parts that changed. Values arrive as the server
// escaped them, the parser runs no script, and the policy of the page allows none. Focus, scroll position and
// selection outside a changed part stay as they are.
(() => {
  const EVERY = 1000; // milliseconds
  const PATIENCE = 5; // failures before the page says that it is out of date
  let tag = "";
  let failures = 0;

  function replaceChanged(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.getElementById(part.id);
      if (other && other.innerHTML !== part.innerHTML) {
        part.replaceChildren(...other.childNodes);
      }
    }
    document.title = fresh.title;
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        const answer = await fetch("/", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.ok) {
          tag = answer.headers.get("ETag") || "";
          replaceChanged(await answer.text());
        } else if (answer.status !== 304) {
          throw new Error(String(answer.status));
        }
        failures = 0;
      } catch {
        failures += 1;
      }
      document.getElementById("stale").hidden = failures < PATIENCE;
    }
    setTimeout(refresh, EVERY);
  }

  setTimeout(refresh, EVERY);
})();
