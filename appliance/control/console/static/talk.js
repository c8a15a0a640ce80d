// Talk: the answers as they come. Without this script the page waits and shows the same cards.
(() => {
  "use strict";

  const form = document.querySelector("form[data-talk]");
  if (!form) return;
  const answers = form.querySelector("[data-answers]");
  const section = document.getElementById("answers");
  const stop = form.querySelector("[data-stop]");
  const announce = (text) => {
    const place = document.getElementById("live");
    if (place) place.textContent = text;
  };
  const fields = (submitter) => new URLSearchParams(new FormData(form, submitter));
  const put = (place, html) => {
    const made = document.createRange().createContextualFragment(html);
    const first = made.firstElementChild;
    place.replaceWith(made);
    // The console's own script looks after what is new.
    first?.dispatchEvent(new CustomEvent("htmx:afterSwap", { bubbles: true }));
  };
  const element = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  let leaving = null;

  const begin = () => {
    const chosen = [...form.querySelectorAll("select[name=model]")].filter((one) => one.value);
    answers.replaceChildren(...chosen.map((one, side) => {
      const column = element("section", "card column");
      const header = element("header", "");
      const says = element("div", "says");
      const text = element("div", "text");
      column.dataset.side = side;
      column.setAttribute("aria-busy", "true");
      header.append(element("h3", "", one.selectedOptions[0].textContent));
      text.dir = "auto";
      says.append(text);
      column.append(header, says);
      return column;
    }));
    section.hidden = false;
    section.scrollIntoView({ block: "nearest" });
  };
  const side = (number) => answers.querySelector(`[data-side="${number}"]`);
  const fail = (message, next) => {
    for (const column of answers.querySelectorAll("[aria-busy]")) {
      column.removeAttribute("aria-busy");
      const error = element("div", "error");
      error.setAttribute("role", "alert");
      error.append(element("p", "title", message), element("p", "next", next));
      column.querySelector(".says").append(error);
    }
  };
  const hear = (said) => {
    if (said.asked) form.elements.namedItem("asked").value = said.asked;
    if (said.text) side(said.side).querySelector(".text").append(said.text);
    if (said.card) put(side(said.side), said.card);
  };
  const refused = async (response) => {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const error = page.querySelector(".error");
    if (!error) return "The console did not answer; load the page again.";
    return [...error.querySelectorAll("p:not(.title)")].map((one) => one.textContent).join(" ");
  };
  const ask = async (submitter) => {
    const body = fields(submitter);
    leaving = new AbortController();
    stop.hidden = false;
    submitter.setAttribute("aria-disabled", "true");
    begin();
    try {
      const response = await fetch(form.dataset.talk, { method: "POST", body, signal: leaving.signal });
      // The session has ended: the page that says so shows what was typed.
      if (response.status === 401) return form.submit();
      if (!response.ok || response.redirected) {
        fail(await refused(response), "");
        return;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) hear(JSON.parse(event.slice(6)));
      }
      fail("The answer broke off: the control plane ended.", "Ask again.");
      announce("Answered");
    } catch (error) {
      const stopped = error.name === "AbortError";
      fail(stopped ? "Stopped." : "The control plane does not answer.", stopped ? "" : "Ask again in a moment.");
    } finally {
      leaving = null;
      stop.hidden = true;
      submitter.removeAttribute("aria-disabled");
    }
  };
  const run = async (submitter) => {
    const place = submitter.closest(".says").querySelector("[data-ran]");
    place.textContent = "Running…";
    try {
      const response = await fetch(submitter.formAction, { method: "POST", body: fields(submitter), headers: { "x-part": "1" } });
      if (!response.ok) {
        place.textContent = await refused(response);
        return;
      }
      place.replaceChildren(document.createRange().createContextualFragment(await response.text()));
    } catch {
      place.textContent = "The control plane does not answer.";
    }
  };
  form.addEventListener("submit", (event) => {
    const submitter = event.submitter ?? form.querySelector("button[name=do][value=ask]");
    const asks = submitter.name === "do" && submitter.value === "ask";
    if (!asks && submitter.dataset.part === undefined) return;
    event.preventDefault();
    if (leaving) return;
    if (asks) ask(submitter);
    else run(submitter);
  });
  stop.addEventListener("click", () => leaving?.abort());
})();
